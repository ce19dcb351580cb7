"""A few records as the model will see them: on the terminal, as a picture, and as a page that shows every script."""

from __future__ import annotations

import base64
import dataclasses
import html
import io
import logging
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from rich.text import Text

from mmfuser_jax import files
from mmfuser_jax.data.images import open_image
from mmfuser_jax.data.records import Record, RecordError
from mmfuser_jax.data.sources import Source, SourceSpec, open_source
from mmfuser_jax.data.templates import get_template
from mmfuser_jax.data.tokenizer import Tokenizer, load_tokenizer
from mmfuser_jax.prepare.drawing import draw_cards
from mmfuser_jax.prepare.spans import Kind, Span, text_spans, token_spans

LOG = logging.getLogger(__name__)
PICTURE_SIDE = 480
CONVERSATIONS = 4
"""Of one record that are shown."""

STYLES = {Kind.READ: "default", Kind.LEARNT: "black on green", Kind.IMAGE: "black on cyan", Kind.CUT: "dim strike"}


@dataclasses.dataclass(frozen=True)
class Card:
    """What is shown of a record: its title, its pictures made small, and the spans of its conversations."""

    title: str
    pictures: list[Image.Image]
    conversations: list[list[Span]]


def peek(
    spec: SourceSpec,
    out: Path,
    *,
    count: int = 4,
    seed: int = 0,
    tokenizer: str = "",
    template: str = "v1",
    length: int = 2048,
) -> list[Card]:
    """Prints a few records, and writes them as a picture (`out`) and as a page of its own (the same name with .html).

    What is learnt is coloured. With a tokenizer, tokens are told apart, and what a row of `length` tokens has no room for
    is struck out.

    Args:
      spec: the source.
      out: a .png file.
      count: how many records; drawn by `seed`. Those that cannot be used are passed over and counted.
      tokenizer: folder or hub id; "" shows text only.
      template: of the conversation.

    Raises:
      ValueError: `out` is no .png, the source or the template cannot be used, or none of the records can.
    """
    if out.suffix.lower() != ".png":
        raise ValueError(f"--out={out}: expected a name that ends with .png")
    if count < 1:
        raise ValueError(f"--count={count}: at least one is needed")
    source = open_source(spec)
    vocabulary = load_tokenizer(tokenizer) if tokenizer else None
    get_template(template)
    cards = _cards(source, count, seed, vocabulary, template, length)
    for card in cards:
        _print(card)
    out.parent.mkdir(parents=True, exist_ok=True)
    draw_cards([(card.title, card.pictures, card.conversations) for card in cards], out)
    files.write_text(out.with_suffix(".html"), _page(cards, spec.source))
    LOG.info("wrote %s and %s", out, out.with_suffix(".html").name)
    return cards


def _cards(
    source: Source, count: int, seed: int, tokenizer: Tokenizer | None, template: str, length: int
) -> list[Card]:
    cards: list[Card] = []
    passed: Counter[str] = Counter()
    for place in np.random.default_rng(seed).permutation(len(source)).tolist():
        try:
            cards.append(_card(source[place], tokenizer, template, length))
        except RecordError as error:
            passed[error.reason] += 1
            LOG.warning("passed over row %d: %s", place, error)
        if len(cards) == count or passed.total() > 10 * count:
            break
    if not cards:
        raise ValueError(f"none of {passed.total()} rows can be shown ({', '.join(passed) or 'the source is empty'})")
    return cards


def _card(record: Record, tokenizer: Tokenizer | None, template: str, length: int) -> Card:
    known = get_template(template)
    shown = record.conversations[:CONVERSATIONS]
    spans = [token_spans(turns, known, tokenizer, length) if tokenizer else text_spans(turns, known) for turns in shown]
    try:
        pictures = [open_image(image) for image in record.images]
    except RecordError as error:
        raise RecordError(f"record {record.id}: {error}", error.reason) from None
    for picture in pictures:
        picture.thumbnail((PICTURE_SIDE, PICTURE_SIDE))
    tags = record.tags[0] if record.tags else {}
    title = " · ".join([record.id, *(tags[key] for key in ("domain", "type", "language") if tags.get(key))])
    more = len(record.conversations) - len(shown)
    return Card(title + (f" · {more} more conversations" if more else ""), pictures, spans)


def _print(card: Card) -> None:
    console = Console()
    console.rule(card.title)
    for spans in card.conversations:
        text = Text()
        for index, span in enumerate(spans):
            style = STYLES[span.kind]
            # Every other token is a little brighter, so that one sees where it ends.
            text.append(span.text, style.replace("on green", "on bright_green") if index % 2 else style)
        console.print(text, "\n")


_STYLE = """
body { font: 15px/1.6 system-ui, sans-serif; max-width: 1200px; margin: 2em auto; color: #1f2328; }
section { display: flex; gap: 1.5em; border-top: 1px solid #d0d7de; padding: 1em 0; flex-wrap: wrap; }
h2 { font-size: 15px; width: 100%; margin: 0; } figure { margin: 0; } img { max-width: 480px; display: block; }
article { flex: 1; min-width: 320px; white-space: pre-wrap; overflow-wrap: anywhere; }
span { border-radius: 3px; outline: 1px solid #0001; }
.read { background: #f6f8fa; } .learnt { background: #aceebb; } .image { background: #b6e3ff; padding: 0 .4em; }
.cut { background: #eee; color: #888; text-decoration: line-through; }
"""


def _page(cards: list[Card], source: str) -> str:
    legend = "".join(f'<span class="{kind.value}">{kind.value}</span> ' for kind in Kind)
    sections = "".join(_section(card) for card in cards)
    title = html.escape(source)
    return (
        (
            f'<!doctype html><html><head><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style></head>'
            f"<body><h1>{title}</h1><p>{legend}</p>{sections}</body></html>\n"
        )
        .encode("ascii", "xmlcharrefreplace")
        .decode()
    )


def _section(card: Card) -> str:
    pictures = "".join(f'<img alt="" src="{_data_url(picture)}">' for picture in card.pictures)
    talks = "".join(
        "<article>"
        + "".join(f'<span class="{span.kind.value}">{_escaped(span)}</span>' for span in spans)
        + "</article>"
        for spans in card.conversations
    )
    return f"<section><h2>{html.escape(card.title)}</h2><figure>{pictures}</figure>{talks}</section>"


def _escaped(span: Span) -> str:
    return html.escape(span.text).replace("\n", "↵\n")


def _data_url(picture: Image.Image) -> str:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
