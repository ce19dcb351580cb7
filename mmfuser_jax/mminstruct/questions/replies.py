"""A model's reply → items. Reads JSON and tagged text, however carelessly written, and accounts for all of it.

The reference asks for `<Q1>…</Q1> <C1>A. … B. …</C1> <A1>…</A1>`, and leaves reading the replies to others.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from mmfuser_jax.mminstruct.questions.items import LETTERS, Item, Rejected, plain
from mmfuser_jax.mminstruct.questions.options import (
    ANSWER_IS,
    bare,
    chosen,
    fault_of_options,
    options_of_question,
    split_options,
)
from mmfuser_jax.mminstruct.questions.refusals import declines

YES = frozenset(
    (
        "yes", "y", "true", "right", "correct", "是", "是的", "对", "对的", "正确", "没错", "有", "能", "会", "可以", "存在",
    )
)  # fmt: skip
NO = frozenset(
    (
        "no", "n", "false", "wrong", "incorrect", "否", "不", "不是", "不对", "错", "错误", "不正确", "没有", "没", "不能", "不会",
        "不可以", "不存在",
    )
)  # fmt: skip

_NEITHER = re.compile(r"no (?:information|idea|answer|data)\b|(?:yes|no) (?:or|and) (?:yes|no)\b")
_ERROR = re.compile(
    r"\s*(?:error|api error|internal server error|none|null|timeout)\b[^a-z]{0,3}.{0,80}\s*", re.IGNORECASE
)
_TAG = re.compile(r"[<＜]\s*(?P<end>/?)\s*(?P<kind>[QCAqcaＱＣＡ])\s*(?P<number>\d{0,3})\s*[>＞]")


@dataclasses.dataclass(frozen=True)
class Reply:
    """What a reply holds.

    Attributes:
      items: in order.
      rejected: every other part that stands where an item should.
      rest: words around the items: greetings, headings.
    """

    items: tuple[Item, ...]
    rejected: tuple[Rejected, ...]
    rest: str = ""


@dataclasses.dataclass
class _Draft:
    """One question as it was written, field by field; None for what is not there."""

    question: str | None = None
    options: str | Sequence[str] | None = None
    answer: str | None = None

    @property
    def text(self) -> str:
        """All of it."""
        options = self.options if isinstance(self.options, str) else " | ".join(self.options or ())
        return "\n".join(x for x in (self.question, options, self.answer) if x)


def read_reply(text: str, kind: str, *, whole: bool = True) -> Reply:
    """Items of a reply.

    Args:
      text: what the model wrote.
      kind: of `items.TYPES`, which it was asked for.
      whole: whether it came to its end; of a reply that was cut off, the last item is not used if it lacks its end.
    """
    if not text.strip():
        return Reply((), (Rejected("empty", text),))
    drafts, rest, ended = _json_drafts(text) or _tagged_drafts(text)
    if not drafts:
        return Reply((), (Rejected(_why_nothing(text), text),))
    items: list[Item] = []
    rejected: list[Rejected] = []
    for place, draft in enumerate(drafts):
        cut = not whole and not ended and place == len(drafts) - 1
        found = Rejected("truncated", draft.text) if cut else _item(draft, kind)
        (items if isinstance(found, Item) else rejected).append(found)  # type: ignore[arg-type]
    return Reply(tuple(items), tuple(rejected), rest)


def _why_nothing(text: str) -> str:
    if declines(text):
        return "refusal"
    return "error_text" if _ERROR.fullmatch(text) else "no_items"


def _json_drafts(text: str) -> tuple[list[_Draft], str, bool] | None:
    """Drafts of JSON: objects, lists of them, objects with such a list; also between fences or other words.

    What was cut off within a list still gives the objects before the cut, and the beginning of one as a draft of its own.
    """
    decoder, drafts, rest, at = json.JSONDecoder(), [], "", 0
    for start in (match.start() for match in itertools.islice(re.finditer(r"[\[{]", text), 256)):
        if start < at:
            continue
        try:
            found, end = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            continue
        if rows := _rows(found):
            drafts += [_json_draft(row) for row in rows]
            rest, at = rest + text[at:start], end
    if not drafts:
        return None
    left, begun, tail = text[at:].partition("{")
    if begun:
        drafts.append(_Draft(begun + tail))  # a question without an answer, unless it is known to be cut off
    return drafts, (rest + left).strip(" \n`[],"), not begun


def _rows(found: Any) -> list[Mapping[str, Any]]:
    if isinstance(found, Mapping):
        if "question" in found or "answer" in found:
            return [found]
        found = next((value for value in found.values() if isinstance(value, list)), [])
    return [row for row in found if isinstance(row, Mapping)] if isinstance(found, list) else []


def _json_draft(row: Mapping[str, Any]) -> _Draft:
    options, answer = row.get("options", row.get("choices")), row.get("answer")
    if isinstance(options, Mapping):
        options = [f"{letter}. {_words(option)}" for letter, option in sorted(options.items())]
    elif isinstance(options, list):
        options = [_words(option) or "" for option in options]
    elif not isinstance(options, str):
        options = None
    if isinstance(answer, bool):
        answer = "yes" if answer else "no"
    return _Draft(_words(row.get("question")), options, _words(answer))


def _words(value: Any) -> str | None:
    return None if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _tagged_drafts(text: str) -> tuple[list[_Draft], str, bool]:
    """Drafts of tagged text. A closing tag may be missing, a field may come before its question, numbers may be wrong."""
    tags = list(_TAG.finditer(text))
    drafts: dict[str, _Draft] = {}
    rest = [text[: tags[0].start()] if tags else text]
    current, repeats, ended = "", itertools.count(), False
    ends = [*(tag.start() for tag in tags[1:]), len(text)]
    for tag, end in zip(tags, ends, strict=False):
        words = text[tag.end() : end]
        ended = bool(tag["end"])
        if ended:
            rest.append(words)
            continue
        field = {"Q": "question", "C": "options", "A": "answer"}[unicodedata.normalize("NFKC", tag["kind"]).upper()]
        number = tag["number"] or (f"unnumbered {next(repeats)}" if field == "question" or not current else current)
        if _has(drafts.get(number), field):  # the same number once more
            again = current.partition(" again ")[0] == number and not _has(drafts[current], field)
            number = current if again else f"{number} again {next(repeats)}"
        setattr(drafts.setdefault(number, _Draft()), field, words.strip())
        current = number
    return list(drafts.values()), "\n".join(words.strip() for words in rest if words.strip()), ended


def _has(draft: _Draft | None, field: str) -> bool:
    return getattr(draft, field, None) is not None


def _item(draft: _Draft, kind: str) -> Item | Rejected:
    question, answer = bare(draft.question or ""), bare(draft.answer or "")
    if not question:
        return Rejected("no_question", draft.text)
    if not answer:
        return Rejected("no_answer", draft.text)
    if kind == "choice":
        return _choice(question, answer, draft)
    if kind == "judgement":
        truth = truth_of(answer)
        return Rejected("not_yes_or_no", draft.text) if truth is None else Item(kind, question, truth)
    return Item(kind, question, answer)


def truth_of(answer: str) -> str | None:
    """ "yes" or "no", as the first word or clause of an answer says; None where it says neither."""
    said = unicodedata.normalize("NFKC", answer).strip(" {}\"'“”‘’*_`\n")
    lead_in = ANSWER_IS.match(said)
    clause = plain(re.split(r"[,.;:!，。；：！、\n]", said[lead_in.end() if lead_in else 0 :])[0])
    first = clause.partition(" ")[0]
    words = first if first in ("yes", "no", "是", "否") and not _NEITHER.match(clause) else clause
    return "yes" if words in YES else "no" if words in NO else None


def _choice(question: str, answer: str, draft: _Draft) -> Item | Rejected:
    written = draft.options
    if not written:
        question, written = options_of_question(question)
    options = split_options(written)
    if fault := fault_of_options(options.texts) or ("" if question else "no_question"):
        return Rejected(fault, draft.text)
    letter = chosen(answer, options.texts, options.numbered)
    return Item("choice", question, letter, options.texts) if letter in LETTERS else Rejected(letter, draft.text)
