"""An item as a conversation, or the reason why it can be none."""

from __future__ import annotations

import json
from collections.abc import Sequence

from mmfuser_jax.data.records import IMAGE_MARKER, Turn
from mmfuser_jax.mminstruct import reasons
from mmfuser_jax.mminstruct.export.suffixes import with_suffix
from mmfuser_jax.mminstruct.questions import replies
from mmfuser_jax.mminstruct.questions.items import LETTERS, TYPES, YES_NO, Item, from_body
from mmfuser_jax.mminstruct.schema import ItemRow

REASONS = {
    "bad_body": "its exchanges cannot be read, or are not of its type",
    "image_marker": f"it has the words {IMAGE_MARKER}, which mark the place of a picture",
    "empty_text": "a question, an option or an answer is empty",
    "not_unicode": "it holds half of a character",
    **{code: reasons.REPLIES[code] for code in ("few_options", "many_options", "answer_is_no_option", "not_yes_or_no")},
}
"""Why an item is no conversation, by code. Items that were read and checked have none of these faults; edits may."""


class TurnsError(ValueError):
    """An item that is no conversation.

    Attributes:
      reason: of REASONS.
    """

    def __init__(self, reason: str) -> None:
        """`reason` as above."""
        super().__init__(REASONS[reason])
        self.reason = reason


def conversation(item: ItemRow, body: str) -> list[Turn]:
    """The turns of an item, human and gpt by turns; the first shows the picture.

    A question asks for the form of its answer; within several rounds, those do not that want a long one.

    Args:
      item: as it was made.
      body: of the item, as it was made or edited.

    Raises:
      TurnsError: it cannot be one.
    """
    exchanges = _exchanges(item, body)
    turns = []
    for place, exchange in enumerate(exchanges):
        question = "\n".join([exchange.question.strip(), *_options(exchange)])
        if len(exchanges) == 1 or exchange.type != "long":
            question = with_suffix(question, exchange, item.language, f"{item.id} {place}")
        turns.append(Turn("human", question if place else f"{IMAGE_MARKER}\n{question}"))
        turns.append(Turn("gpt", _answer(exchange, item.language)))
    return turns


def _exchanges(item: ItemRow, body: str) -> Sequence[Item]:
    try:
        exchanges = from_body(body)
        types = {exchange.type for exchange in exchanges}
        for exchange in exchanges:
            _check(exchange)
    except (json.JSONDecodeError, TypeError, KeyError, AttributeError):
        raise TurnsError("bad_body") from None
    single = len(exchanges) == 1 and types == {item.type}
    if not single and not (exchanges and item.type == "conversation" and types <= set(TYPES)):
        raise TurnsError("bad_body")
    return exchanges


def _check(item: Item) -> None:
    texts = (item.question, item.answer, *item.options)
    if any(IMAGE_MARKER in text for text in texts):
        raise TurnsError("image_marker")
    if not all(text.strip() for text in texts):
        raise TurnsError("empty_text")
    if any("\ud800" <= letter <= "\udfff" for text in texts for letter in text):
        raise TurnsError("not_unicode")
    if item.type != "choice":
        if item.options:
            raise TurnsError("bad_body")
        return
    if not 2 <= len(item.options) <= len(LETTERS):
        raise TurnsError("few_options" if len(item.options) < 2 else "many_options")
    if item.answer not in tuple(LETTERS[: len(item.options)]):
        raise TurnsError("answer_is_no_option")


def _options(item: Item) -> list[str]:
    return [f"{letter}. {option.strip()}" for letter, option in zip(LETTERS, item.options, strict=False)]


def _answer(item: Item, language: str) -> str:
    if item.type != "judgement":
        return item.answer.strip()
    truth = replies.truth_of(item.answer)
    if truth is None:
        raise TurnsError("not_yes_or_no")
    yes, no = YES_NO[language]
    return yes if truth == "yes" else no
