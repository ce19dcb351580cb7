"""The error of a training run."""

from __future__ import annotations


class TrainingError(RuntimeError):
    """Training cannot go on; the message names the step or the field."""
