"""An item as one text with headings, which people can change in Label Studio, and back."""

from __future__ import annotations

import re
from typing import Any

from mmfuser_jax.mminstruct.questions.items import LETTERS, from_body
from mmfuser_jax.mminstruct.review.edits import EditError

_HEADING = re.compile(r"^\[(Question|Options|Answer) (\d{1,3})\][ \t]*$", re.MULTILINE)
_LETTER = re.compile(r"\s*[A-H][.．、:：)）]\s*")


def as_text(body: str) -> str:
    """The exchanges of a body as people edit them: under headings, options a line each."""
    parts = []
    for number, one in enumerate(from_body(body), 1):
        parts += [f"[Question {number}]", one.question]
        if one.options:
            lettered = zip(LETTERS, one.options, strict=False)
            parts += [f"[Options {number}]", *(f"{letter}. {option}" for letter, option in lettered)]
        parts += [f"[Answer {number}]", one.answer]
    return "\n".join(parts)


def from_text(text: str) -> list[dict[str, Any]]:
    """The fields of `edits.Exchange` that a text holds.

    Raises:
      EditError: it has not the headings that it should.
    """
    before, *parts = _HEADING.split(text)
    found: dict[int, dict[str, Any]] = {}
    for heading, number, words in zip(parts[::3], parts[1::3], parts[2::3], strict=True):
        one = found.setdefault(int(number), {"place": int(number) - 1})
        if heading.lower() in one:
            raise EditError(f"there are two headings [{heading} {number}]")
        one[heading.lower()] = words.strip()
    if before.strip() or not found or min(found) < 1:
        raise EditError("a text begins with the heading [Question 1]")
    for one in found.values():
        lines = [line for line in one.get("options", "").splitlines() if line.strip()]
        one.update(options=[_LETTER.sub("", line, count=1).strip() for line in lines])
        one.update(question=one.get("question", ""), answer=one.get("answer", ""))
    return list(found.values())


def comes_back(body: str) -> bool:
    """Whether a body is read again as it was written, but for blanks around its texts."""
    wanted = [
        {"place": place, "question": one.question.strip(), "answer": one.answer.strip(), "options": [*map(str.strip, one.options)]}
        for place, one in enumerate(from_body(body))
    ]  # fmt: skip
    try:
        return from_text(as_text(body)) == wanted
    except EditError:
        return False
