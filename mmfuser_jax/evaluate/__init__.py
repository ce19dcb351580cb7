"""Benchmarks: prompts → answers → scores, tables and pictures."""

from mmfuser_jax.evaluate.runner import Prediction, predict
from mmfuser_jax.evaluate.scorers import exact_match

__all__ = ["Prediction", "exact_match", "predict"]
