"""Conversations → text with marked answers → token ids and labels.

Labels come from how the text is built: each piece of text knows whether it is supervised, and a token is supervised if
it overlaps a supervised piece. The reference re-tokenises parts and counts, which falls out of step with some
tokenizers and then throws the sample away.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mmfuser_jax.data.records import IMAGE_MARKER, RecordError, Turn, turns_from_llava
from mmfuser_jax.data.templates import Speaker, Style, Template, get_template
from mmfuser_jax.data.tokenizer import Tokenizer
from mmfuser_jax.types import IGNORE_INDEX, IMAGE_TOKEN_INDEX

Piece = tuple[str, bool]


def render(turns: Sequence[Turn], template: Template) -> list[Piece]:
    """Training text of a conversation in pieces, and whether each is supervised.

    As in the reference, a conversation of roles begins with the human: an answer before that is dropped.

    Raises:
      RecordError: human and gpt do not take turns.

    >>> render([Turn("human", "<image>\\nWhat?"), Turn("gpt", "A cat.")], TEMPLATES["short"])
    [("USER: <image>\\nWhat? ", False), ("ASSISTANT:", False), (" A cat.</s>", True)]
    """
    turns = _with_images_first(turns, template, mmtag=template.mmtag)
    if template.style is Style.PLAIN:
        return _render_plain(turns, template)
    if template.style is Style.SECTIONS:
        return _render_sections(turns, template)
    return _render_roles(_from_human(turns), template)


def prompt_text(turns: Sequence[Turn], template: Template) -> str:
    """Text that asks the model for the next answer; `<image>` stands for a picture. `encode_prompt` adds the first token.

    The conversation may begin with either side. Pictures go to the front of their turn, as in training.

    >>> prompt_text([Turn("human", "<image>\\nWhat?")], TEMPLATES["short"])
    "USER: <image>\\nWhat? ASSISTANT:"
    """
    turns = _with_images_first(turns, template, mmtag=False)
    if template.style is Style.PLAIN:
        pieces = _render_plain(turns, template)
    else:
        pieces = _render_roles([*template.examples, *turns], template)
    return "".join(text for text, _ in pieces) + template.gpt.header


def _render_roles(turns: Sequence[Turn], template: Template) -> list[Piece]:
    pieces: list[Piece] = [(template.opening, False)]
    for index, turn in enumerate(turns):
        if turn.role == "gpt":
            pieces += [(template.gpt.header, False), (_words(turn, template.gpt), True)]
        else:
            speaker = template.first if template.first and index == 0 else template.human
            pieces.append((speaker.header + _words(turn, speaker), False))
    return [piece for piece in pieces if piece[0]]


def _words(turn: Turn, speaker: Speaker) -> str:
    return speaker.gap + turn.text + speaker.end if turn.text else ""


def _render_sections(turns: Sequence[Turn], template: Template) -> list[Piece]:
    """Everything is supervised but the system's words and the human's: the `###` after an answer is its end token."""
    pieces: list[Piece] = [(f"{template.system}\n\n", False)]
    for turn in turns:
        if turn.role == "gpt":
            pieces.append((f"### {template.gpt.header} {turn.text}\n", True))
        else:
            pieces += [("###", True), (f" {template.human.header} {turn.text}\n", False)]
    return [*pieces, ("### ", True)]


def _render_plain(turns: Sequence[Turn], template: Template) -> list[Piece]:
    """The human's words are dropped, but for the pictures."""
    pieces: list[Piece] = [(IMAGE_MARKER * turn.text.count(IMAGE_MARKER), False) for turn in turns[:1]]
    return pieces + [(turn.text + template.gpt.end, True) for turn in turns[1:2]]


def _from_human(turns: Sequence[Turn]) -> Sequence[Turn]:
    turns = turns[1:] if turns and turns[0].role != "human" else turns
    for index, turn in enumerate(turns):
        expected = ("human", "gpt")[index % 2]
        if turn.role != expected:
            raise RecordError(f"turn {index} is by {turn.role}, expected {expected}")
    return turns


def _with_images_first(turns: Sequence[Turn], template: Template, mmtag: bool) -> list[Turn]:
    """Moves the pictures of a turn to its front, as the reference does: one line each, then the words."""
    picture = f"<im_start>{IMAGE_MARKER}<im_end>" if template.im_start_end else IMAGE_MARKER
    picture = f"<Image>{picture}</Image>" if mmtag else picture

    def move(text: str) -> str:
        count = text.count(IMAGE_MARKER)
        return (f"{picture}\n" * count + text.replace(IMAGE_MARKER, "").strip()).strip() if count else text

    return [Turn(turn.role, move(turn.text)) for turn in turns]


def encode_pieces(pieces: Sequence[Piece], tokenizer: Tokenizer) -> tuple[np.ndarray, np.ndarray]:
    """Token ids and labels, int32[T] each, of rendered text.

    The text is split at `<image>` and every part tokenised by itself, as in LLaVA; a picture becomes one
    IMAGE_TOKEN_INDEX. The sequence starts with `tokenizer.starts`. Labels are IGNORE_INDEX where a token
    touches no supervised piece.
    """
    text = "".join(piece for piece, _ in pieces)
    flags: Any = np.repeat([flag for _, flag in pieces], [len(piece) for piece, _ in pieces]) if pieces else []
    supervised_before = np.append(0, np.cumsum(flags)).tolist()
    ids, labels = list(tokenizer.starts), [IGNORE_INDEX] * len(tokenizer.starts)
    start = 0
    for index, part in enumerate(text.split(IMAGE_MARKER)):
        if index:
            ids.append(IMAGE_TOKEN_INDEX)
            labels.append(IGNORE_INDEX)
            start += len(IMAGE_MARKER)
        encoding = tokenizer.encode(part)
        ids += encoding.ids
        labels += [
            token if supervised_before[start + end] > supervised_before[start + begin] else IGNORE_INDEX
            for token, (begin, end) in zip(encoding.ids, encoding.offsets, strict=True)
        ]
        start += len(part)
    return np.asarray(ids, np.int32), np.asarray(labels, np.int32)


def encode_conversation(
    conversations: Sequence[Mapping[str, Any]],
    tokenizer: Tokenizer,
    template: str = "v1",
    max_length: int = 2048,
    *,
    images: int = 1,
    im_start_end: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Token ids and labels of a LLaVA conversation, as LLaVA's preprocessing gives them.

    Where the reference throws a conversation away, because its counts of tokens do not add up, the answers and their
    end tokens are supervised here as everywhere. A picture in an answer is not supervised (there the reference's label
    is the picture's own -200, which its model ignores).

    Args:
      conversations: a list of {"from": "human" | "gpt", "value": text}.
      tokenizer: of the language model.
      template: key of TEMPLATES.
      max_length: longer sequences are cut; a picture counts as one token here.
      images: pictures of the record. No turn shows more of them, so that further `<image>` markers in a turn are
        dropped: LLaVA's records have one picture, and the reference makes one of the markers in a turn.
      im_start_end: see `Template`.

    Returns:
      input_ids, labels: int32[T]; a picture is one IMAGE_TOKEN_INDEX (-200), unsupervised labels are IGNORE_INDEX (-100).

    Raises:
      RecordError: entries without text under "from" and "value", of an unknown role, or out of turn.
      ValueError: no such template.
    """
    turns = [_at_most(images, turn) for turn in turns_from_llava(conversations)]
    ids, labels = encode_pieces(render(turns, get_template(template, im_start_end)), tokenizer)
    return ids[:max_length], labels[:max_length]


def _at_most(images: int, turn: Turn) -> Turn:
    """The turn with its first `images` markers only."""
    shown, *rest = turn.text.rsplit(IMAGE_MARKER, max(turn.text.count(IMAGE_MARKER) - images, 0))
    return Turn(turn.role, shown + "".join(rest))


def encode_prompt(
    turns: Sequence[Turn], tokenizer: Tokenizer, template: str, *, im_start_end: bool = False
) -> np.ndarray:
    """Token ids int32[T] of a conversation that awaits its next answer; pictures as IMAGE_TOKEN_INDEX.

    Raises:
      ValueError: no such template.
    """
    return encode_pieces([(prompt_text(turns, get_template(template, im_start_end)), False)], tokenizer)[0]


def end_ids(tokenizer: Tokenizer, template: str) -> tuple[int, ...]:
    """Tokens that end an answer: the tokenizer's own, and the template's where its stop is a single token."""
    stop = get_template(template).stop
    ids = tokenizer.encode(stop).ids if stop else []
    return tuple({tokenizer.eos_id, *ids}) if len(ids) == 1 else (tokenizer.eos_id,)


def decode_answer(ids: Sequence[int], tokenizer: Tokenizer, template: str) -> str:
    """Text of an answer's new tokens, cut where the template's stop was written out (`###` is no single token)."""
    text, stop = tokenizer.decode(ids), get_template(template).stop
    return text.split(stop)[0].strip() if stop else text
