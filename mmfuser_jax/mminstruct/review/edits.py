"""An edit by a person → the body of an item, by the rules that hold for what models write."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pydantic

from mmfuser_jax.mminstruct.ledger import Ledger
from mmfuser_jax.mminstruct.questions.checks import Expected, faults
from mmfuser_jax.mminstruct.questions.items import LETTERS, Item, as_body, from_body, plain
from mmfuser_jax.mminstruct.questions.keeping import DOUBTFUL, exchanges
from mmfuser_jax.mminstruct.reasons import MEANINGS
from mmfuser_jax.mminstruct.schema import ItemRow

LONGEST = 20_000
"""Letters of a field."""


class EditError(ValueError):
    """An edit cannot be taken; the message says what to change."""


class Exchange(pydantic.BaseModel):
    """One question and its answer, as a person wrote them; the fields are those of `items.Item`.

    Attributes:
      place: of the exchange in the item as it was made, from 0.
    """

    model_config = pydantic.ConfigDict(extra="forbid", strict=True)

    place: int = pydantic.Field(ge=0)
    question: str = pydantic.Field(max_length=LONGEST)
    answer: str = pydantic.Field(max_length=LONGEST)
    options: list[str] = pydantic.Field(default=[], max_length=4 * len(LETTERS))


def edited(ledger: Ledger, item: ItemRow, wanted: Any) -> str:
    """The body of an edited item. Of a conversation, exchanges may be missing; what else a person wrote is kept as it is.

    Args:
      ledger: with the other questions of the picture.
      item: as it was made.
      wanted: list of the fields of `Exchange`, in the order of the item.

    Raises:
      EditError: the fields are not those, or what they say breaks a rule; faults that the item had before are no reason.
    """
    before = from_body(item.body)
    written = _fields(wanted, len(before))
    others = ledger.rows(ItemRow, "image = ? AND language = ? AND id <> ?", (item.image, item.language, item.id))
    seen = {plain(exchange.question) for row in others for exchange in exchanges(row)}
    kept = []
    for number, one in enumerate(written, 1):
        where = f"round {number}: " if len(before) > 1 else ""
        kept.append(_checked(one, before[one.place], Expected(item.language, seen), where))
    return as_body(kept)


def _fields(wanted: Any, count: int) -> list[Exchange]:
    try:
        written = pydantic.TypeAdapter(list[Exchange]).validate_python(wanted)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        raise EditError(f"exchange {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    places = [one.place for one in written]
    if not places or places != sorted(set(places)) or places[-1] >= count:
        raise EditError(f"an edit keeps at least one of the {count} exchanges, each at most once and in their order")
    return written


def _checked(one: Exchange, before: Item, expected: Expected, where: str) -> Item:
    options = tuple(text for text in map(str.strip, one.options) if text) if before.type == "choice" else ()
    item = Item(before.type, one.question.strip(), one.answer.strip(), options)
    fault = _form(item)
    if not fault:
        had: Collection[str] = (*faults(before, expected), *DOUBTFUL)
        fault = next((name for name in faults(item, expected) if name not in had), "")
    if fault:
        raise EditError(f"{where}{MEANINGS[fault]}")
    return item


def _form(item: Item) -> str:
    """What of `reasons.REPLIES` keeps it from being a question of its type; "" for nothing."""
    if not item.question:
        return "no_question"
    if not item.answer:
        return "no_answer"
    if item.type == "judgement":
        return "" if item.answer in ("yes", "no") else "not_yes_or_no"
    if item.type != "choice":
        return ""
    if not 2 <= len(item.options) <= len(LETTERS):
        return "few_options" if len(item.options) < 2 else "many_options"
    if len({plain(option) or option for option in item.options}) < len(item.options):
        return "same_options"
    return "" if item.answer in tuple(LETTERS[: len(item.options)]) else "answer_is_no_option"
