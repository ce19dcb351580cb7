"""Reads the words in pictures, which the model that describes them is told."""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from mmfuser_jax.data.images import open_image
from mmfuser_jax.mminstruct import store
from mmfuser_jax.mminstruct.ledger import Ledger
from mmfuser_jax.mminstruct.project import Project, ProjectError
from mmfuser_jax.mminstruct.schema import Texts
from mmfuser_jax.prepare.progress import shown
from mmfuser_jax.processes import in_order

SURE = 0.6
"""Scores, of 0 to 1, below which a line is not passed on."""

BATCH = 8
"""Pictures after which what was read is written to the ledger."""


def read_texts(project: Project, ledger: Ledger, workers: int = 1) -> None:
    """Reads the words of every kept picture that was not read yet; `workers` processes.

    Raises:
      ProjectError: the reader is not installed.
    """
    sql = "SELECT sha FROM images WHERE state = 'kept' AND sha NOT IN (SELECT image FROM texts) ORDER BY rowid"
    shas = [sha for (sha,) in ledger.query(sql)]
    if not shas:
        return
    _reader()
    batches = [shas[start : start + BATCH] for start in range(0, len(shas), BATCH)]
    found = in_order(_read_batch, project.images, batches, workers)
    for rows in shown(found, "pictures read", len(shas), len):
        with ledger.changes():
            for row in rows:
                ledger.add(row, "OR REPLACE")


def _read_batch(folder: Path, shas: list[str]) -> list[Texts]:
    return [Texts(sha, json.dumps(lines_of(store.find(folder, sha)), ensure_ascii=False)) for sha in shas]


def lines_of(file: Path) -> list[str]:
    """Lines of words in a picture, from top to bottom."""
    pixels = np.asarray(open_image(file))[:, :, ::-1]  # as OpenCV has them: blue first
    result = _reader()(pixels)
    return [text for text, score in zip(result.txts or (), result.scores or (), strict=True) if score >= SURE]


@functools.cache
def _reader() -> Callable[[np.ndarray], Any]:
    """In every process once, as loading the networks takes seconds."""
    try:
        from rapidocr import RapidOCR
    except ImportError:
        raise ProjectError(
            "caption.ocr needs the package rapidocr; get it with: pip install 'mmfuser-jax[ocr]'"
        ) from None
    logging.getLogger("RapidOCR").setLevel(logging.ERROR)
    return RapidOCR(params={"Global.log_level": "error"})
