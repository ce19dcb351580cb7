"""Pure scorers: predictions → numbers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mmfuser_jax.evaluate.runner import Prediction


def exact_match(predictions: Sequence[Prediction]) -> dict[str, Any]:
    """Share of answers equal to the truth, overall, by `type` tag and by true answer.

    Returns:
      {"accuracy", "count", "by_type": {type: {"accuracy", "count"}}, "by_answer": {answer: {"accuracy", "count"}}}.

    Raises:
      ValueError: there are no predictions.
    """
    if not predictions:
        raise ValueError("nothing to score: no predictions")
    return {
        **_share(predictions),
        "by_type": _by(predictions, lambda prediction: prediction.tags.get("type", "all")),
        "by_answer": _by(predictions, lambda prediction: prediction.truth),
    }


def _by(predictions: Iterable[Prediction], key: Any) -> dict[str, Mapping[str, float]]:
    groups = defaultdict(list)
    for prediction in predictions:
        groups[key(prediction)].append(prediction)
    return {name: _share(group) for name, group in sorted(groups.items())}


def _share(predictions: Sequence[Prediction]) -> dict[str, float]:
    correct = sum(prediction.correct for prediction in predictions)
    return {"accuracy": correct / len(predictions), "count": len(predictions)}
