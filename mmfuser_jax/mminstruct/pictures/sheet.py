"""A contact sheet: what was taken and what was not, at a glance."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from mmfuser_jax.data.images import open_image
from mmfuser_jax.mminstruct import store
from mmfuser_jax.mminstruct.ledger import Ledger
from mmfuser_jax.mminstruct.schema import ImageRow

SIDE, GAP, LABEL = 120, 8, 16
COLUMNS, ROWS = 10, 5
KEPT, DROPPED, INK = (31, 136, 61), (207, 34, 46), (36, 41, 47)


def draw_sheet(ledger: Ledger, images: Path, path: Path) -> None:
    """Writes a PNG with pictures spread evenly over each domain: the kept ones, then the dropped ones with their reasons.

    Args:
      ledger: of the project.
      images: its store.
      path: of the file.
    """
    groups = []
    for domain in ledger.picture_counts():
        for state, lines in (("kept", ROWS), ("dropped", 2)):
            found = list(ledger.rows(ImageRow, "domain = ? AND state = ?", (domain, state)))
            if found:
                groups.append((f"{domain}: {len(found):,} {state}", _spread(found, lines * COLUMNS)))
    heights = [2 * LABEL + -(-len(rows) // COLUMNS) * (SIDE + LABEL + GAP) for _, rows in groups]
    page = Image.new("RGB", (GAP + COLUMNS * (SIDE + GAP), GAP + sum(heights)), "white")
    draw, top = ImageDraw.Draw(page), GAP
    for (title, rows), height in zip(groups, heights, strict=True):
        draw.text((GAP, top), title, INK, ImageFont.load_default(14))
        for index, row in enumerate(rows):
            left = GAP + index % COLUMNS * (SIDE + GAP)
            place = left, top + 2 * LABEL - GAP + index // COLUMNS * (SIDE + LABEL + GAP)
            label, colour = row.reason.replace("_", " ") or row.sha[:10], KEPT if row.state == "kept" else DROPPED
            draw_cell(page, store.place(images, row.sha, row.suffix), label, colour, place)
        top += height
    page.save(path)


def _spread(rows: Sequence[ImageRow], count: int) -> Sequence[ImageRow]:
    """At most `count` of them, evenly."""
    return [rows[index * len(rows) // min(count, len(rows))] for index in range(min(count, len(rows)))]


def draw_cell(page: Image.Image, file: Path, label: str, colour: tuple[int, int, int], place: tuple[int, int]) -> None:
    """Draws a picture in a frame, with words below.

    Args:
      page: that it is drawn on.
      file: of the picture.
      label: the words.
      colour: of the frame.
      place: left and top, in pixels.
    """
    left, top = place
    draw = ImageDraw.Draw(page)
    picture = open_image(file)
    picture.thumbnail((SIDE - 4, SIDE - 4))
    page.paste(picture, (left + (SIDE - picture.width) // 2, top + (SIDE - picture.height) // 2))
    draw.rectangle((left, top, left + SIDE - 1, top + SIDE - 1), outline=colour)
    draw.text((left, top + SIDE + 1), label, INK, ImageFont.load_default(11))
