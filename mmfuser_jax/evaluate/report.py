"""Scores as eval.json and as a table on the screen."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from mmfuser_jax import files
from mmfuser_jax.evaluate.runner import Prediction


def write_eval(path: Path, scores: Mapping[str, Any]) -> None:
    """Writes scores as JSON."""
    files.write_text(path, json.dumps(scores, indent=2) + "\n")


def write_predictions(path: Path, predictions: Sequence[Prediction]) -> None:
    """Writes one JSON line per question: record, question, truth, answer, correct."""
    with path.open("w") as file:
        for p in predictions:
            row = {
                "record": p.record,
                "question": p.question,
                "truth": p.truth,
                "answer": p.answer,
                "correct": p.correct,
            }
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def print_table(scores: Mapping[str, Any], title: str) -> None:
    """Prints accuracy and count, overall and by group."""
    table = Table(title=title)
    table.add_column("group")
    table.add_column("accuracy", justify="right")
    table.add_column("questions", justify="right")
    _add_row(table, "all", scores)
    for group in ("by_type", "by_answer"):
        table.add_section()
        for name, share in scores[group].items():
            _add_row(table, name, share)
    Console(width=60).print(table)


def _add_row(table: Table, name: str, share: Mapping[str, Any]) -> None:
    table.add_row(name, f"{100 * share['accuracy']:.2f} %", f"{share['count']:,}")
