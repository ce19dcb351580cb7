"""Questions of benchmarks, which no data set may hold: a model that has learnt them is not measured by them."""

from __future__ import annotations

import json
from pathlib import Path

from mmfuser_jax.mminstruct.project import Project, ProjectError
from mmfuser_jax.mminstruct.questions.items import plain


def benchmark_questions(project: Project) -> frozenset[str]:
    """`plain` questions of the files that the config names: lines, JSON lines, or a JSON list.

    Raises:
      ProjectError: a file is not there, or holds no question.
    """
    return frozenset(
        plain(question) for text in project.config.generate.benchmarks for question in _questions(project.path(text))
    )


def _questions(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ProjectError(f"{path}: generate.benchmarks: {error.strerror}") from None
    try:
        if path.suffix == ".json":
            rows = json.loads(text)
        else:
            lines = [line for line in text.splitlines() if line.strip()]
            rows = [json.loads(line) for line in lines] if path.suffix == ".jsonl" else lines
        found = [_question(row) for row in (rows.values() if isinstance(rows, dict) else rows)]
    except (ValueError, TypeError, KeyError) as error:
        raise ProjectError(f"{path}: not questions ({type(error).__name__}: {error})") from None
    if not found:
        raise ProjectError(f"{path}: no question in it")
    return found


def _question(row: object) -> str:
    """Of a row; its first line, as others ask for the answer's format."""
    if isinstance(row, dict):
        row = row["question"] if "question" in row else row["text"]
    if not isinstance(row, str):
        raise TypeError(f"a question is {type(row).__name__}")
    lines = [line for line in row.replace("<image>", "").splitlines() if line.strip()]
    return lines[0] if lines else ""
