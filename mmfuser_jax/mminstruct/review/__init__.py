"""Correction by people: what they look at, what they say of it, and how far they agree."""
