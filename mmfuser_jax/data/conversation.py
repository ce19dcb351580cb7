"""Conversation templates: turns → text with marked answers → token ids and labels.

Labels come from how the text is built: each piece of text knows whether it is supervised, and a token is supervised if
it overlaps a supervised piece. The reference re-tokenises parts and counts, which falls out of step with some
tokenizers and then throws the sample away.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mmfuser_jax.data.records import IMAGE_MARKER, Turn, turns_from_llava
from mmfuser_jax.data.tokenizer import Tokenizer
from mmfuser_jax.types import IGNORE_INDEX, IMAGE_TOKEN_INDEX

Piece = tuple[str, bool]


@dataclasses.dataclass(frozen=True)
class Template:
    """How turns become text.

    Attributes:
      system: first words, before the first turn.
      human, gpt: names of the roles, written before their turns.
      separator: after the system text and after a human turn.
      end: after an answer, supervised.
      plain: no roles at all: the picture, then its caption; the human's words are dropped (LLaVA's stage 1).
    """

    system: str = ""
    human: str = ""
    gpt: str = ""
    separator: str = " "
    end: str = "</s>"
    plain: bool = False


TEMPLATES: dict[str, Template] = {
    "v1": Template(
        system="A chat between a curious user and an artificial intelligence assistant. "
        "The assistant gives helpful, detailed, and polite answers to the user's questions.",
        human="USER",
        gpt="ASSISTANT",
    ),
    # v1 without its system sentence: for models trained from scratch, to whom it would only be padding.
    "short": Template(human="USER", gpt="ASSISTANT"),
    "plain": Template(end="\n", plain=True),
}
"""Templates by LLaVA's names; `v1` is Vicuna's, used in stage 2 and for chatting; `plain` is stage 1's."""


def get_template(name: str) -> Template:
    """The template called `name`.

    Raises:
      ValueError: there is none.
    """
    if name not in TEMPLATES:
        raise ValueError(f"no conversation template {name!r}; there are {', '.join(TEMPLATES)}")
    return TEMPLATES[name]


def render(turns: Sequence[Turn], template: Template) -> list[Piece]:
    """Text pieces and whether each is supervised; a conversation that ends with the human awaits an answer.

    >>> render([Turn("human", "<image>\\nWhat?"), Turn("gpt", "A cat.")], TEMPLATES["short"])
    [("USER: <image>\\nWhat? ASSISTANT: ", False), ("A cat.</s>", True)]
    """
    if not turns:
        return []
    if template.plain:
        pieces: list[Piece] = [(IMAGE_MARKER * turns[0].text.count(IMAGE_MARKER), False)]
        return pieces + [(turn.text + template.end, True) for turn in turns[1:2]]
    pieces = []
    prefix = template.system + template.separator if template.system else ""
    for turn in turns:
        if turn.role == "human":
            prefix += f"{template.human}: {_image_first(turn.text)}{template.separator}{template.gpt}:"
        else:
            pieces += [(prefix + " ", False), (turn.text + template.end, True)]
            prefix = ""
    return [*pieces, (prefix, False)] if prefix else pieces


def _image_first(text: str) -> str:
    """Moves the markers of a turn to its front, as the reference does: one line each, then the words."""
    count = text.count(IMAGE_MARKER)
    return f"{IMAGE_MARKER}\n" * count + text.replace(IMAGE_MARKER, "").strip()


def encode_pieces(pieces: Sequence[Piece], tokenizer: Tokenizer) -> tuple[np.ndarray, np.ndarray]:
    """Token ids and labels, int32[T] each, of rendered text.

    The text is split at `<image>` and every part tokenised by itself, as in LLaVA; a picture becomes one
    IMAGE_TOKEN_INDEX. The sequence starts with the beginning-of-sequence token. Labels are IGNORE_INDEX where a token
    touches no supervised piece.
    """
    text = "".join(piece for piece, _ in pieces)
    flags: Any = np.repeat([flag for _, flag in pieces], [len(piece) for piece, _ in pieces]) if pieces else []
    supervised_before = np.append(0, np.cumsum(flags)).tolist()
    ids, labels = [tokenizer.bos_id], [IGNORE_INDEX]
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
    conversations: Sequence[Mapping[str, Any]], tokenizer: Tokenizer, template: str = "v1", max_length: int = 2048
) -> tuple[np.ndarray, np.ndarray]:
    """Token ids and labels of a LLaVA conversation.

    Args:
      conversations: a list of {"from": "human" | "gpt", "value": text}, human first.
      tokenizer: of the language model.
      template: key of TEMPLATES.
      max_length: longer sequences are cut; a picture counts as one token here.

    Returns:
      input_ids, labels: int32[T]; a picture is one IMAGE_TOKEN_INDEX (-200), unsupervised labels are IGNORE_INDEX (-100).

    Raises:
      RecordError: entries without text under "from" and "value", or of an unknown role.
      ValueError: no such template.
    """
    ids, labels = encode_pieces(render(turns_from_llava(conversations), get_template(template)), tokenizer)
    return ids[:max_length], labels[:max_length]


def encode_prompt(turns: Sequence[Turn], tokenizer: Tokenizer, template: str) -> np.ndarray:
    """Token ids int32[T] of a conversation that awaits its next answer; pictures as IMAGE_TOKEN_INDEX."""
    return encode_pieces(render(turns, get_template(template)), tokenizer)[0]
