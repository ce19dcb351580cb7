"""A conversation as a reader sees it: stretches of text, each with what training does with it."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Sequence

from mmfuser_jax.data.conversation import Piece, encode_pieces, render
from mmfuser_jax.data.records import IMAGE_MARKER, Turn
from mmfuser_jax.data.templates import Template
from mmfuser_jax.data.tokenizer import Tokenizer
from mmfuser_jax.types import IGNORE_INDEX

IMAGE_TOKENS = 576
"""Of a picture in LLaVA-1.5: 24 × 24 patches."""


class Kind(enum.Enum):
    """What training does with a stretch of text: it is only read, or learnt; or it stands for a picture, or is cut off."""

    READ = "read"
    LEARNT = "learnt"
    IMAGE = "image"
    CUT = "cut"


@dataclasses.dataclass(frozen=True)
class Span:
    """A token, or a piece of text where there is no tokenizer; `text` of a picture is "<image ×576>"."""

    text: str
    kind: Kind


def text_spans(turns: Sequence[Turn], template: Template) -> list[Span]:
    """The pieces of `conversation.render`, pictures apart.

    Raises:
      RecordError: the turns do not fit the template.
    """
    spans = []
    for text, learnt in render(turns, template):
        for index, part in enumerate(text.split(IMAGE_MARKER)):
            spans += [Span(f"<image ×{IMAGE_TOKENS}>", Kind.IMAGE)] * (index > 0)
            spans += [Span(part, Kind.LEARNT if learnt else Kind.READ)] * bool(part)
    return spans


def token_spans(turns: Sequence[Turn], template: Template, tokenizer: Tokenizer, length: int) -> list[Span]:
    """The tokens of `conversation.encode_pieces`, in order, and the text between them.

    Args:
      turns, template: see `text_spans`.
      tokenizer: of the language model.
      length: slots of a row; the rest is cut. A picture takes IMAGE_TOKENS.

    Raises:
      RecordError: the turns do not fit the template.
    """
    pieces = render(turns, template)
    _, labels = encode_pieces(pieces, tokenizer)
    learnt = iter((labels != IGNORE_INDEX).tolist())
    spans = [Span("<s>", Kind.READ) for _, _ in zip(tokenizer.starts, learnt, strict=False)]
    slots = len(spans)
    for index, part in enumerate(_text(pieces).split(IMAGE_MARKER)):
        if index:
            next(learnt)
            slots += IMAGE_TOKENS
            spans.append(Span(f"<image ×{IMAGE_TOKENS}>", Kind.IMAGE if slots <= length else Kind.CUT))
        place = 0
        for begin, end in tokenizer.encode(part).offsets:
            slots += 1
            known = Kind.LEARNT if next(learnt) else Kind.READ
            if begin > place:
                spans.append(Span(part[place:begin], Kind.READ))
            # Characters outside the vocabulary are several tokens; the first shows the character.
            spans.append(Span(part[max(begin, place) : end], known if slots <= length else Kind.CUT))
            place = max(place, end)
        spans += [Span(part[place:], Kind.READ)] * (place < len(part))
    return spans


def _text(pieces: Sequence[Piece]) -> str:
    return "".join(text for text, _ in pieces)
