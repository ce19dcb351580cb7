"""An edit by a person → the body of an item, by the rules that hold for what models write."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import pydantic

from mmfuser_jax.mminstruct.ledger import Ledger
from mmfuser_jax.mminstruct.questions.checks import Expected, faults
from mmfuser_jax.mminstruct.questions.items import LETTERS, Item, as_body, from_body, plain
from mmfuser_jax.mminstruct.questions.keeping import DOUBTFUL
from mmfuser_jax.mminstruct.questions.options import fault_of_options
from mmfuser_jax.mminstruct.reasons import MEANINGS
from mmfuser_jax.mminstruct.review.decisions import decision, verdicts_of
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


def edited(ledger: Ledger, item: ItemRow, wanted: Any, benchmark: Collection[str]) -> str:
    """The body of an edited item. Of a conversation, exchanges may be missing; what else a person wrote is kept as it is.

    Args:
      ledger: with the other questions of the picture.
      item: as it was made.
      wanted: list of the fields of `Exchange`, in the order of the item.
      benchmark: `plain` questions that may not be learnt.

    Raises:
      EditError: the fields are not those, or what they say breaks a rule; faults that the item had before are no reason.
    """
    before = from_body(item.body)
    written = _fields(wanted, len(before))
    seen = _seen(ledger, item)
    kept: list[Item] = []
    for one in written:
        where = f"round {one.place + 1}: " if len(before) > 1 else ""
        expected_before, expected = (
            Expected(item.language, seen | _asked(earlier), benchmark) for earlier in (before[: one.place], kept)
        )
        kept.append(_checked(one, before[one.place], expected_before, expected, where))
    return as_body(kept)


def _seen(ledger: Ledger, item: ItemRow) -> set[str]:
    """What other items ask about the picture, as people want them; nothing where they reject them."""
    where = "image = ? AND language = ? AND id <> ? AND state <> 'refused'"
    others = ledger.rows(ItemRow, where, (item.image, item.language, item.id))
    made = [decision(row, verdicts_of(ledger, row.id)) for row in others]
    return {question for one in made if one.state != "rejected" for question in _asked(from_body(one.body))}


def _asked(exchanges: Sequence[Item]) -> set[str]:
    return {plain(one.question) for one in exchanges}


def places(made: Sequence[Item], kept: Sequence[Item]) -> list[int] | None:
    """Where the exchanges of an edit stood in the item as it was made: in this order, with these types, changed the least.

    None where they cannot have stood there, as the item was made anew since.

    >>> made = [Item("short", "a", "1"), Item("long", "b", "2"), Item("short", "c", "3")]
    >>> places(made, [Item("short", "c", "4")]), places(made, [Item("short", "a", "1"), Item("long", "x", "y")])
    ([2], [0, 1])
    """
    # Of the first ones kept, as many as the place says: how much is the same, and where they stood.
    best: list[tuple[int, list[int]] | None] = [(0, []), *[None] * len(kept)]
    for place, before in enumerate(made):
        for number in reversed(range(len(kept))):
            way, one = best[number], kept[number]
            if way is None or one.type != before.type:
                continue
            pairs = zip(_parts(one), _parts(before), strict=True)
            same = way[0] + sum(now == then for now, then in pairs)
            other = best[number + 1]
            if other is None or same > other[0]:
                best[number + 1] = (same, [*way[1], place])
    return best[-1][1] if best[-1] else None


def _parts(one: Item) -> tuple[object, ...]:
    return one.question, one.answer_text, one.options


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


def _checked(one: Exchange, before: Item, expected_before: Expected, expected: Expected, where: str) -> Item:
    options = tuple(text for text in map(str.strip, one.options) if text) if before.type == "choice" else ()
    item = Item(before.type, one.question.strip(), one.answer.strip(), options)
    fault = _form(item)
    if not fault:
        had: Collection[str] = (*faults(before, expected_before), *DOUBTFUL)
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
    if fault := fault_of_options(item.options):
        return fault
    return "" if item.answer in tuple(LETTERS[: len(item.options)]) else "answer_is_no_option"
