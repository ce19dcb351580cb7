"""Options of a choice, as models write them → texts without letters, and the one that an answer names."""

from __future__ import annotations

import dataclasses
import itertools
import re
import unicodedata
from collections.abc import Sequence

from mmfuser_jax.data.labels import CJK
from mmfuser_jax.mminstruct.questions.items import LETTERS, plain

_LETTER = "[A-HＡ-Ｈ]"
_LABEL = (
    r"[(（]?\**(?P<label>[A-Ha-hＡ-Ｈａ-ｈ]|[1-8](?![.．:：]\d))\**[ \t]*"  # 1.5 is a number, not the first option
    r"(?P<sign>[.．、:：)）])\**[ \t]*"
)
_BULLET = r"^[ \t\u3000>*•·\-–]*"
_LINE = re.compile(_BULLET + _LABEL, re.MULTILINE)
_ALONE = re.compile(rf"{_BULLET}(?P<label>{_LETTER})\**(?:[ \t\u3000]+|$)", re.MULTILINE)
_WITHIN = re.compile(rf"(?:^|(?<=[\s,，;；。{{(（*])){_LABEL}")
_BETWEEN = re.compile(r"(?<!\d)[,，]|[,，](?!\d)|[;；、|]")

ANSWER_IS = re.compile(
    r"(?:(?:the )?(?:correct )?answer(?: is)?\b|(?:正确)?答案(?:是|为)?|应?选择?(?![项择]))\s*:?\s*", re.IGNORECASE
)
"""What an answer may begin with before it says anything."""

_WRONG = r"(?!\s*(?:不|错|is (?:not|wrong|incorrect)|isn't))"
_ONE = re.compile(r"[\s\"'“‘(\[{]*([A-Ha-h])[\s\"'”’)\]}.,:、。]*")
_FIRST = re.compile(
    rf"[\"'“(\[]*([A-H]){_WRONG}(?:[.、:)\]\"'”,]|\s*[–—]|\s*-\s|(?=\s+[^\x00-\x7f]|\s+A\s|[ \t]*\n)"
    r"|(?<!A)(?=\s+[^a-z]))"  # "A Big dog" has an article
)
_ARTICLE = r"A\s+(?!(?:because|since|as|for|due|is|and|or)\b)[a-z]"
_NAMED = re.compile(
    r"(?:(?i:options?|choices?)\s+"
    rf"|(?i:answers?|options?|choices?|choose|答案|选项|选择|应选|选)(?:is|are|的|为|是|[:\s])*(?!{_ARTICLE}))"
    rf"[\"'“(]*([A-H])(?![A-Za-z]){_WRONG}"
)
_ANOTHER = r"[A-H](?![A-Za-z])"
_MORE = re.compile(
    rf"\W*[A-H](?:(?:\s*(?:[,、;/&+]|and\b|or\b|和|与|或|及))+\s*{_ANOTHER}"
    rf"|\s+{_ANOTHER}\s*(?:\W*$|{_ANOTHER}|(?:are|both)\b|{CJK.pattern}))"  # "B A dog" has an article
)
_NOT = re.compile(r"\bnot\b|n't\b|不是|并非|没有", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Options:
    """What there is to choose from.

    Attributes:
      texts: without letters.
      numbered: whether they had numbers instead, by which an answer may name them.
    """

    texts: tuple[str, ...]
    numbered: bool = False


def bare(text: str) -> str:
    """A text without the blanks and the signs of emphasis around it."""
    text = text.strip().strip("*`").strip()
    return re.sub(r"^(__?)(?=[^_\s])(.*[^_\s])\1$", r"\2", text, flags=re.DOTALL)


def split_options(written: str | Sequence[str]) -> Options:
    """Options of a list, or of a text on one line or on several; where they have no letters, a line or a part each."""
    if not isinstance(written, str):
        begun = [_LINE.match(option) for option in written]
        return _cut(written, begun) if _in_order(begun) else Options(tuple(map(_bare_option, written)))
    text = re.sub(r"^\s*[{\[]([^{}\[\]]*)[}\]]\s*$", r"\1", written)
    if marks := _marks(text):
        ends = [*(mark.start() for mark in marks[1:]), len(text)]
        return _cut([text[:end] for end in ends], marks)
    lines = [line for line in text.splitlines() if line.strip()]
    parts = lines if len(lines) > 1 else _BETWEEN.split(text)
    return Options(tuple(filter(None, map(_bare_option, parts))))


def options_of_question(question: str) -> tuple[str, str]:
    """A question that its options were written behind, and these."""
    marks = _marks(question)
    return (question[: marks[0].start()].strip(), question[marks[0].start() :]) if marks else (question, "")


def _cut(texts: Sequence[str], marks: Sequence[re.Match[str] | None]) -> Options:
    """What stands behind the marks, each of which is in the text at its place."""
    pairs = [(text, mark) for text, mark in zip(texts, marks, strict=True) if mark]
    return Options(tuple(_bare_option(text[mark.end() :]) for text, mark in pairs), _label(pairs[0][1]) == "1")


def _bare_option(text: str) -> str:
    text = bare(text.strip().rstrip(",，;；"))
    return re.sub(r"^(?:\"([^\"]+)\"|“([^“”]+)”|'([^']+)')$", r"\1\2\3", text).strip()


def _marks(text: str) -> list[re.Match[str]]:
    """Where options begin: lines with a letter or a number and a sign; else these on one line; else lines with a letter."""
    marks = list(_LINE.finditer(text))
    if _in_order(marks):
        return marks
    marks = list(itertools.islice(_WITHIN.finditer(text), 256))
    for place in range(len(marks)):
        if len(run := _run(marks[place:])) > 1:
            return run
    marks = list(_ALONE.finditer(text))
    ends = [*(mark.start() for mark in marks[1:]), len(text)]
    empty = any(not text[mark.end() : end].strip() for mark, end in zip(marks, ends, strict=False))
    return marks if _in_order(marks) and not empty else []


def _label(mark: re.Match[str]) -> str:
    return unicodedata.normalize("NFKC", mark["label"])


def _follows(first: re.Match[str], mark: re.Match[str], place: int) -> bool:
    """Whether a mark is the one at a place, from 0, of those that a first one begins."""
    return _label(first) in "Aa1" and ord(_label(mark)) == ord(_label(first)) + place


def _in_order(marks: Sequence[re.Match[str] | None]) -> bool:
    first = marks[0] if len(marks) > 1 else None
    return first is not None and all(mark and _follows(first, mark, place) for place, mark in enumerate(marks))


def _run(marks: Sequence[re.Match[str]]) -> list[re.Match[str]]:
    """The first mark and those that go on from it with the same sign, as other letters may be words of the options."""
    run: list[re.Match[str]] = []
    for mark in marks:
        if _follows(marks[0], mark, len(run)) and mark["sign"] == marks[0]["sign"]:
            run.append(mark)
    return run


def fault_of_options(options: Sequence[str]) -> str:
    """What of `reasons.REPLIES` keeps texts from being the options of a choice; "" for nothing."""
    if not 2 <= len(options) <= len(LETTERS):
        return "few_options" if len(options) < 2 else "many_options"
    if any(not option.strip() or "\n" in option for option in options):
        return "broken_option"
    return "same_options" if len(set(map(_as_written, options))) < len(options) else ""


def _as_written(text: str) -> str:
    """For comparing, as `plain`, where capitals and signs may be all that options differ in."""
    return " ".join(unicodedata.normalize("NFKC", text).split()).rstrip(".。")


def chosen(answer: str, options: Sequence[str], numbered: bool = False) -> str:
    """The letter of an option that an answer names by letter, by text or by both; else a code of `reasons.REPLIES`.

    Args:
      answer: as it was written.
      options: texts that `fault_of_options` finds no fault with.
      numbered: whether a number names an option, too.
    """
    answer = bare(unicodedata.normalize("NFKC", answer)).replace("**", "")
    start = lead_in.end() if (lead_in := ANSWER_IS.match(answer)) else 0
    said = _place_of(answer, options)
    if said is None:
        said = _place_of(answer[start:], options)
    named = _numbers_as_letters(answer) if numbered else answer
    if one := _ONE.fullmatch(named, start):
        return _agreed(LETTERS.index(one[1].upper()), said, options)
    if said is not None:
        return LETTERS[said]
    found = _FIRST.match(named, start) or _NAMED.search(named)
    place = LETTERS.index(found[1]) if found else -1
    if found and _begun(answer[found.end() :], options) == place and len(plain(options[place])) > 1:
        return found[1]
    if _names_several(named, start):
        return "several_answers"
    return _lettered(answer, found, options) if found else _by_text(answer, options)


def _numbers_as_letters(answer: str) -> str:
    """An answer of the same length, with letters for the numbers of options."""
    return re.sub(r"(?<![A-Za-z0-9_.,])[1-8](?![A-Za-z0-9_]|[.,:]\d)", lambda found: chr(ord(found[0]) + 16), answer)


def _names_several(answer: str, start: int) -> bool:
    """Whether an answer, behind its lead-in, names more than one letter."""
    found = list(_NAMED.finditer(answer))
    places = [start, *(letter.start(1) for letter in found)]
    return len({letter[1] for letter in found}) > 1 or any(_MORE.match(answer, place) for place in places)


def _lettered(answer: str, found: re.Match[str], options: Sequence[str]) -> str:
    """The letter that was found in an answer, unless it is a word of an option that begins there, as in "C major"."""
    begun = _begun(answer[found.start(1) :], options) if re.match(r"\s*\w", answer[found.end(1) :]) else None
    if begun is not None and len(plain(options[begun])) > 1:
        return _by_text(answer, options)
    return _agreed(LETTERS.index(found[1]), _begun(answer[found.end() :], options), options)


def _agreed(place: int, said: int | None, options: Sequence[str]) -> str:
    """The letter of a place, unless there is no such option, or the text is another's."""
    if place >= len(options):
        return "answer_is_no_option"
    return LETTERS[place] if said in (None, place) else "letter_and_text_differ"


def _place_of(text: str, options: Sequence[str]) -> int | None:
    """Of the only option that is this text, with its capitals and signs or else without."""
    for form in (_as_written, plain):
        places = [place for place, option in enumerate(options) if form(option) == form(text)]
        if len(places) == 1 and form(text):
            return places[0]
    return None


def _begun(text: str, options: Sequence[str]) -> int | None:
    """Of the option that a text is or begins with, the longest one."""
    if (place := _place_of(text, options)) is not None:
        return place
    words = [_words(option) for option in options]
    begun = [place for place in range(len(words)) if words[place].strip() and _words(text).startswith(words[place])]
    longest = max(begun, key=lambda place: len(words[place]), default=None)
    return longest if longest is None or words.count(words[longest]) == 1 else None


def _by_text(answer: str, options: Sequence[str]) -> str:
    """The only option that stands, as words, within an answer."""
    within = [place for place, option in enumerate(options) if plain(option) and _words(option) in _words(answer)]
    if len(within) > 1:
        return "several_answers"
    return LETTERS[within[0]] if within and not _NOT.search(answer) else "answer_is_no_option"


def _words(text: str) -> str:
    """The words of a text, each between blanks; in Chinese, its characters."""
    apart = CJK.sub(lambda found: " ".join(("", *found[0], "")), plain(text))
    return f" {' '.join(apart.split())} "
