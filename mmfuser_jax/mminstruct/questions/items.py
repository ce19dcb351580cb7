"""What a question is: its type, its language, and the item that a model's reply is read into."""

from __future__ import annotations

import dataclasses
import json
import re
import unicodedata
from collections.abc import Sequence

TYPES = ("judgement", "choice", "short", "long")
"""The paper's four types of instructions."""

LANGUAGES = ("en", "zh")

LETTERS = "ABCDEFGH"
"""Of the options of a choice, in order."""

YES_NO = {"en": ("Yes", "No"), "zh": ("是", "否")}
"""What answers of judgements are: of a true and of a false statement."""

_NO_WORD = re.compile(r"[^\w%+\-/<>=≠≤≥≈±×÷√^°$€£¥.,]+|_|(?<!\d)[.,]|[.,](?!\d)")
_QUOTED = re.compile(
    r"\"[^\"\n]{0,400}\"|“[^”\n]{0,400}”|‘[^’\n]{0,400}’|「[^」\n]{0,400}」|『[^』\n]{0,400}』|《[^》\n]{0,400}》"
    r"|(?<![A-Za-z0-9])'[^\n]{0,400}?'(?![A-Za-z])"  # no apostrophe
)


@dataclasses.dataclass(frozen=True)
class Item:
    """A question about one picture, and its answer.

    Attributes:
      type: of `TYPES`.
      question: without options and without words that ask for a format.
      answer: of a choice its letter, of a judgement "yes" or "no" in either language, else text.
      options: of a choice, without letters; else empty.
    """

    type: str
    question: str
    answer: str
    options: tuple[str, ...] = ()

    @property
    def texts(self) -> tuple[str, ...]:
        """Everything that a model wrote freely."""
        return (self.question, *self.options, *((self.answer,) if self.type in ("short", "long") else ()))

    @property
    def answer_text(self) -> str:
        """The answer in words: of a choice, the option that it names."""
        return self.options[LETTERS.index(self.answer)] if self.type == "choice" else self.answer


@dataclasses.dataclass(frozen=True)
class Rejected:
    """A part of a reply that is no usable item. Nothing that a model wrote disappears without a reason.

    Attributes:
      reason: a code to count by, of `reasons.MEANINGS`.
      text: that part.
    """

    reason: str
    text: str


def plain(text: str) -> str:
    """A text for comparing: full-width forms as usual ones, small letters, no punctuation but in sums, single spaces.

    >>> plain("Ａ． The red  one!"), plain("Is 1.5 > x, or not?")
    ('a the red one', 'is 1.5 > x or not')
    """
    text = unicodedata.normalize("NFKC", text).casefold().replace("−", "-")
    return " ".join(_NO_WORD.sub(" ", text).split())


def unquoted(text: str) -> str:
    """A text without what it quotes: words of the picture, that may be in any language and say anything."""
    return _QUOTED.sub(" ", text)


def as_body(exchanges: Sequence[Item]) -> str:
    """The exchanges of a conversation, of a single question its only one, as the ledger keeps them."""
    return json.dumps([dataclasses.asdict(item) for item in exchanges], ensure_ascii=False)


def from_body(body: str) -> tuple[Item, ...]:
    """What `as_body` has written."""
    return tuple(Item(**{**fields, "options": tuple(fields["options"])}) for fields in json.loads(body))
