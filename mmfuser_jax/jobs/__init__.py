"""Whole jobs, made of training and evaluating."""
