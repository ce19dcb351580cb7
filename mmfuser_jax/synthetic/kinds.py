"""What a kind of picture is: a scene by chance, its picture, the facts true of it, and the words to ask for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar

from numpy.random import Generator

from mmfuser_jax.synthetic.canvas import Canvas, Size
from mmfuser_jax.synthetic.words import Text, Words

S = TypeVar("S")

TYPES = ("judgement", "choice", "short", "long", "caption")
UNCAPTIONED = TYPES[:-1]
"""The types of the three domains for which the release has no captions."""


class Ask(NamedTuple):
    """How one kind of fact is asked for and told.

    Attributes:
      skill: what it takes to know the answer.
      question: in both languages, variants set apart by " | "; empty for what is told but never asked.
      statement: a whole sentence in both languages in which {a} is the answer, variants set apart by " | ".
    """

    skill: str
    question: Text
    statement: Text


class Fact(NamedTuple):
    """One truth about a scene.

    Attributes:
      key: names the `Ask` of its kind.
      answer: what is true.
      others: what is false; a choice question needs three, a judgement one.
      slots: what fills the other braces of the `Ask`.
    """

    key: str
    answer: Words
    others: Sequence[Words]
    slots: Mapping[str, Words]


class Topic(NamedTuple):
    """A question with a long answer.

    Attributes:
      question: in both languages, variants set apart by " | ".
      keys: the facts whose statements make the answer, in this order.
      closing: the last sentence, variants set apart by " | "; may be empty.
    """

    question: Text
    keys: tuple[str, ...]
    closing: Text = ("", "")


@dataclass(frozen=True)
class Kind(Generic[S]):
    """One kind of picture of a domain.

    Attributes:
      scene: draws a scene by chance.
      draw: the picture of a scene, of the given size in pixels; two for scenes that come as two pictures.
      facts: the truths about a scene in the order in which a caption tells them. Chance chooses
        the wrong answers, and which truths to tell where there are too many.
      asks: the words for every key that `facts` uses.
      topics: questions with long answers.
      opening: the first sentence of a caption, variants set apart by " | ".
      told: the keys of the facts that a caption tells; empty for all.
      png: share of the pictures that are stored as PNG, flat and without texture; the others are JPEG.
    """

    scene: Callable[[Generator], S]
    draw: Callable[[S, Size, Generator], Sequence[Canvas]]
    facts: Callable[[S, Generator], list[Fact]]
    asks: Mapping[str, Ask]
    topics: tuple[Topic, ...]
    opening: Text
    told: tuple[str, ...] = ()
    png: float = 0.0


@dataclass(frozen=True)
class Domain:
    """The kinds of picture of one domain, drawn equally often, and the types of its rows."""

    kinds: tuple[Kind[Any], ...]
    types: tuple[str, ...] = field(default=TYPES)


def fact(key: str, answer: Words | int, others: Sequence[Words] = (), **slots: Words | int) -> Fact:
    """A `Fact`; numbers become digits, and what is doubled or true goes out of `others`."""
    true = _words(answer)
    wrong = tuple(other for other in dict.fromkeys(others) if other != true)
    return Fact(key, true, wrong, {name: _words(value) for name, value in slots.items()})


def _words(value: Words | int) -> Words:
    return str(value) if isinstance(value, int) else value
