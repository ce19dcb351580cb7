"""Writes pictures and rows as the MMInstruct release lays them out, any number of them, from a seed.

Picture k and its rows depend on the seed and on k alone: the same call gives the same bytes whatever the number of
worker processes, and a larger set begins with the smaller one.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.random import Generator
from PIL import Image
from rich.console import Console
from rich.progress import track

from mmfuser_jax.processes import in_order
from mmfuser_jax.synthetic.canvas import textured
from mmfuser_jax.synthetic.compose import rows_of_picture
from mmfuser_jax.synthetic.registry import DOMAINS
from mmfuser_jax.synthetic.words import pick

ROWS_PER_PICTURE = (1, 2, 2, 3)
CHUNK = 8
"""Pictures that a worker draws between two reports."""
SMALLEST_SIDE = 300
JPEG_QUALITY = 90
Row = dict[str, Any]


def generate(
    out: Path, *, rows: int, seed: int = 0, workers: int = 1, image_size: tuple[int, int] = (400, 760)
) -> dict[str, int]:
    """Writes out/images, out/jsons_all and out/jsons_per_domain.

    Args:
      out: a folder that does not exist or is empty.
      rows: number of rows (conversations) to write; a picture has one to three.
      seed: not negative; chooses everything else.
      workers: processes that draw.
      image_size: shortest and longest side of a picture in pixels.

    Returns:
      Counts: "rows", "pictures", "bytes" of the pictures, and rows per type ("judgement", …) and language ("en", "zh").

    Raises:
      ValueError: `out` is not empty, or a number is out of range.
    """
    low, high = image_size
    if rows < 1 or workers < 1 or seed < 0:
        raise ValueError(f"rows and workers must be at least 1 and seed not negative, got {rows}, {workers} and {seed}")
    if not SMALLEST_SIDE <= low <= high:
        raise ValueError(
            f"image_size {image_size}: needs {SMALLEST_SIDE} <= shortest <= longest side, or text is unreadable"
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} exists and is not an empty folder; give another one")
    for domain in DOMAINS:
        (out / "images" / domain).mkdir(parents=True)
    plan = _plan(rows, seed)
    chunks = [plan[start : start + CHUNK] for start in range(0, len(plan), CHUNK)]
    done = in_order(_draw_chunk, (seed, out / "images", image_size), chunks, workers)
    counts: Counter[str] = Counter()
    with ExitStack() as stack:
        files = _JsonFiles(out, stack)
        console = Console(stderr=True)
        for drawn, written in track(done, "drawing", len(chunks), console=console, disable=not console.is_terminal):
            counts.update(written)
            for row in drawn:
                files.add(row)
                counts.update(("rows", row["tags"]["type"], row["tags"]["language"]))
    return dict(counts)


def _plan(rows: int, seed: int) -> list[tuple[int, int]]:
    """(picture, number of its rows) until there are `rows`; the last picture may have fewer than it could."""
    plan: list[tuple[int, int]] = []
    while rows > 0:
        count = pick(np.random.default_rng([0, seed, len(plan)]), ROWS_PER_PICTURE)
        plan.append((len(plan), min(count, rows)))
        rows -= count
    return plan


def _draw_chunk(
    settings: tuple[int, Path, tuple[int, int]], chunk: list[tuple[int, int]]
) -> tuple[list[Row], Counter[str]]:
    """Draws some pictures; gives their rows, and counts as `draw_picture` does."""
    seed, folder, image_size = settings
    drawn = [draw_picture(seed, picture, count, folder, image_size) for picture, count in chunk]
    return [row for rows, _ in drawn for row in rows], sum((counts for _, counts in drawn), Counter())


def draw_picture(
    seed: int, picture: int, count: int, folder: Path, image_size: tuple[int, int]
) -> tuple[list[Row], Counter[str]]:
    """Writes one picture (or two that belong together) under `folder`.

    Returns:
      The first `count` of its rows, and how many "pictures" and "bytes" were written.
    """
    name = domain_of(seed, picture)
    rng = np.random.default_rng([1, seed, picture])
    domain = DOMAINS[name]
    kind = pick(rng, domain.kinds)
    scene = kind.scene(rng)
    size = _size(rng, *image_size)
    png = bool(rng.random() < kind.png)
    canvases = kind.draw(scene, size, rng)
    paths: list[str] = []
    written: Counter[str] = Counter(pictures=len(canvases))
    for index, canvas in enumerate(canvases):
        part = "ab"[index] if len(canvases) > 1 else ""
        paths.append(f"{name}/{picture:07d}{part}.{'png' if png else 'jpg'}")
        written["bytes"] += _save(canvas.image, folder / paths[-1], rng)
    return rows_of_picture(name, domain.types, kind, kind.facts(scene, rng), paths, count, rng), written


def domain_of(seed: int, picture: int) -> str:
    """The domain of a picture: every run of as many pictures as there are domains has each once."""
    block, place = divmod(picture, len(DOMAINS))
    order = np.random.default_rng([2, seed, block]).permutation(len(DOMAINS))
    return list(DOMAINS)[int(order[place])]


def _size(rng: Generator, low: int, high: int) -> tuple[int, int]:
    longer = int(rng.integers((low + high) // 2, high + 1))
    shorter = max(low, round(longer * rng.uniform(0.55, 1.0)))
    return (longer, shorter) if rng.random() < 0.6 else (shorter, longer)


def _save(image: Image.Image, path: Path, rng: Generator) -> int:
    if path.suffix == ".png":
        image.save(path, compress_level=4)
    else:
        textured(image, rng).save(path, quality=JPEG_QUALITY)
    return path.stat().st_size


class _JsonFiles:
    """The release's JSON lines files, each opened when its first row comes."""

    def __init__(self, out: Path, stack: ExitStack) -> None:
        self._out, self._stack = out, stack
        self._open: dict[str, IO[str]] = {}

    def add(self, row: Mapping[str, Any]) -> None:
        """Appends a row to the file of its task and language, and to that of its domain."""
        tags = row["tags"]
        task = "caption" if tags["type"] == "caption" else "qa"
        language = {"en": "en", "zh": "cn"}[tags["language"]]
        line = json.dumps(row, ensure_ascii=False) + "\n"
        for name in (
            f"jsons_all/{task}_{language}.jsonl",
            f"jsons_per_domain/{task}_per_domain/{tags['domain']}_{language}.jsonl",
        ):
            if name not in self._open:
                path = self._out / name
                path.parent.mkdir(parents=True, exist_ok=True)
                self._open[name] = self._stack.enter_context(path.open("w", encoding="utf-8", newline="\n"))
            self._open[name].write(line)
