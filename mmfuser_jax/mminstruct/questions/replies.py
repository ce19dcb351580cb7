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

YES = frozenset(("yes", "true", "right", "correct", "是", "是的", "对", "对的", "正确", "没错"))
NO = frozenset(("no", "false", "wrong", "incorrect", "否", "不", "不是", "不对", "错", "错误", "不正确", "没有"))

REFUSALS = re.compile(
    r"\bas an? (?:ai|language model)|i(?:'m| am) (?:sorry|unable)|i (?:can ?not|can't|won't) (?:see|view|assist|help|answer|provide)"
    r"|(?:无法|不能|没法)(?:看到|查看|回答|提供|识别)|作为(?:一个|一名)?(?:AI|人工智能|语言模型)|抱歉|对不起",
    re.IGNORECASE,
)
"""Words by which models decline, or say that they see no picture."""

_ERROR = re.compile(
    r"\s*(?:error|api error|internal server error|none|null|timeout)\b[^a-z]{0,3}.{0,80}\s*", re.IGNORECASE
)
_TAG = re.compile(r"[<＜]\s*(?P<end>/?)\s*(?P<kind>[QCAqcaＱＣＡ])\s*(?P<number>\d{0,3})\s*[>＞]")
_OPTION = re.compile(r"(?:^|(?<=[\s,;，；。{(（]))[(（]?(?P<letter>[A-Ha-h])\s*(?:[.、:)]|(?=\s*\n))\s*")
_NAMED = re.compile(r"(?i:answer|option|choice|答案|选项|选择|应选|选)\s*(?:is|are|为|是|:)?\s*[\"'“(]*([A-H])\b")
_FIRST = re.compile(r"[\"'“(\[]*([A-H])(?:[.、:)\]\"'”]|\s*$|(?=\s*[-–—])|(?=\s+[^a-z]))")
_MORE = re.compile(r"^\W*[A-H]\W*(?:\s*(?:,|、|;|/|&|\+|and|or|和|与|或)\s*[A-H]\b)+")


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
    if REFUSALS.search(text):
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
        options = [f"{letter}. {_words(option)}" for letter, option in options.items()]
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
    question, answer = (draft.question or "").strip(), (draft.answer or "").strip()
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
    first = re.split(r"[,.;:!，。；：！、\n]", unicodedata.normalize("NFKC", answer).strip(" {}\"'“”‘’*"))[0]
    for words in (plain(first), plain(first).partition(" ")[0]):
        if words in YES or words in NO:
            return "yes" if words in YES else "no"
    return None


def _choice(question: str, answer: str, draft: _Draft) -> Item | Rejected:
    options = draft.options
    if not options:
        question, options = _options_of_question(question)
    found = split_options(options) if isinstance(options, str) else tuple(_unlettered(x) for x in options or ())
    found = tuple(option for option in found if option)
    if not 2 <= len(found) <= len(LETTERS):
        return Rejected("few_options" if len(found) < 2 else "many_options", draft.text)
    if len({plain(option) or option for option in found}) < len(found):
        return Rejected("same_options", draft.text)
    letter = chosen(answer, found)
    return Item("choice", question, letter, found) if letter in LETTERS else Rejected(letter, draft.text)


def _options_of_question(question: str) -> tuple[str, str]:
    """A question that its options were written behind, and these."""
    first = next((match for match in _OPTION.finditer(question) if match["letter"] in "Aa"), None)
    return (question[: first.start()].strip(), question[first.start() :]) if first else (question, "")


def split_options(text: str) -> tuple[str, ...]:
    """Options without their letters, on one line or on several; without letters, a line or a part between commas each."""
    text = unicodedata.normalize("NFKC", text).strip().strip("{}[]")
    marks, wanted = [], 0
    for match in _OPTION.finditer(text):
        if wanted < len(LETTERS) and match["letter"].upper() == LETTERS[wanted]:
            marks.append(match)
            wanted += 1
    if len(marks) > 1:
        ends = [*(mark.start() for mark in marks[1:]), len(text)]
        return tuple(_bare(text[mark.end() : end]) for mark, end in zip(marks, ends, strict=True))
    lines = [line for line in text.splitlines() if line.strip()]
    parts = lines if len(lines) > 1 else re.split(r"[,;、|]", text)
    return tuple(filter(None, (_unlettered(part) for part in parts)))


def _unlettered(text: str) -> str:
    return _bare(re.sub(r"^\s*[(（]?[A-Ha-h]\s*[.．、:：)）]\s*", "", text))


def _bare(text: str) -> str:
    return text.strip().strip("\"'“”,;，；").strip()


def chosen(answer: str, options: Sequence[str]) -> str:
    """The letter of an option that an answer names by letter, by text or by both; else a code of `reasons.REPLIES`."""
    answer = unicodedata.normalize("NFKC", answer).strip()
    if _MORE.search(answer):
        return "several_answers"
    texts = [plain(option) for option in options]
    words = plain(answer)
    if words in texts:
        return LETTERS[texts.index(words)]
    named = _FIRST.match(answer) or _NAMED.search(answer)
    if named is None:
        return _by_text(words, texts)
    place = LETTERS.index(named[1])
    if place >= len(options):
        return "answer_is_no_option"
    said = plain(answer[named.end() :])
    others = [text for index, text in enumerate(texts) if index != place]
    return "letter_and_text_differ" if said and said in others and said != texts[place] else named[1]


def _by_text(words: str, texts: Sequence[str]) -> str:
    """The only option that stands, as words, within an answer."""
    within = [index for index, text in enumerate(texts) if text and f" {text} " in f" {words} "]
    if len(within) > 1:
        return "several_answers"
    return LETTERS[within[0]] if within else "answer_is_no_option"
