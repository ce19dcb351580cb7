"""What hosts ask of programs: the rules of a robots.txt (RFC 9309), and the header X-Robots-Tag of a file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from urllib.parse import unquote

AGENT = "mmfuser_jax"
"""Name of this program in both."""

OPTED_OUT = ("noai", "noimageai", "noindex", "noimageindex", "none")
"""Words in X-Robots-Tag with which a picture is not for sets like ours."""

WITH_VALUES = ("unavailable_after", "max-snippet", "max-image-preview", "max-video-preview")
"""Words that a colon follows, as it follows names of programs."""

SLOWEST = 60.0
"""Seconds between requests that a host may ask for."""


class Rules:
    """A robots.txt, as far as it is about this program.

    Attributes:
      delay: seconds between requests that it asks for.
    """

    def __init__(self, text: str) -> None:
        """Lines that cannot be read are passed over, as every reader of such files does."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for names, lines in _groups(text):
            for name in names:
                groups.setdefault(name, []).extend(lines)
        lines = groups.get(AGENT, groups.get("*", []))
        self.delay = max((_seconds(value) for name, value in lines if name == "crawl-delay"), default=0.0)
        self._rules = [
            (unquote(value), name == "allow") for name, value in lines if name in ("allow", "disallow") and value
        ]

    def allow(self, path: str) -> bool:
        """Whether a path, with its query, may be fetched: the longest rule that fits decides, of two alike the kinder."""
        path = unquote(path)
        return max(((len(rule), allows) for rule, allows in self._rules if _fits(rule, path)), default=(0, True))[1]


def _groups(text: str) -> Iterator[tuple[list[str], list[tuple[str, str]]]]:
    """(names of programs, lines as (word, value)) of each group."""
    names: list[str] = []
    lines: list[tuple[str, str]] = []
    for line in text.removeprefix("\ufeff").splitlines():
        word, colon, value = line.partition("#")[0].partition(":")
        word, value = word.strip().lower(), value.strip()
        if not colon:
            continue
        if word != "user-agent":
            lines.append((word, value))
            continue
        if lines:
            yield names, lines
            names, lines = [], []
        names.append(value.partition("/")[0].strip().lower())
    yield names, lines


def _seconds(text: str) -> float:
    try:
        return min(SLOWEST, max(0.0, float(text)))
    except ValueError:
        return 0.0


def _fits(rule: str, path: str) -> bool:
    """Whether a path begins as a rule says: `*` stands for anything, `$` at its end for the end of the path."""
    to_the_end = rule.endswith("$")
    first, *others = rule.removesuffix("$").split("*")
    if not path.startswith(first):
        return False
    at, last = len(first), others.pop() if others and to_the_end else None
    for part in others:
        found = path.find(part, at)
        if found < 0:
            return False
        at = found + len(part)
    if last is not None:
        return path.endswith(last) and len(path) - len(last) >= at
    return not to_the_end or at == len(path)


def opted_out(headers: Iterable[str]) -> str:
    """The word with which one of a file's X-Robots-Tag headers excludes it for all programs or this one, else "".

    >>> opted_out(["otherbot: noindex, nofollow", "nofollow, noai"])
    'noai'
    """
    for header in headers:
        name = ""
        for part in header.lower().split(","):
            before, colon, word = part.partition(":")
            if colon and before.strip() not in WITH_VALUES:
                name = before.strip()
            word = (word if colon else before).strip()
            if name in ("", "*", AGENT) and word in OPTED_OUT:
                return word
    return ""
