"""What is wrong with an item that could be read: each check is a code and a function of the item."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Collection, Iterator

from mmfuser_jax.data.labels import CJK, CJK_PER_WORD, LATIN_WORD, text_length
from mmfuser_jax.mminstruct.questions.items import Item, plain
from mmfuser_jax.mminstruct.questions.replies import REFUSALS

LENGTHS = {
    "judgement": {"question": (2, 80)},
    "choice": {"question": (2, 80), "option": (1, 40)},
    "short": {"question": (2, 80), "answer": (1, 25)},
    "long": {"question": (2, 120), "answer": (12, 600)},
}
"""Fewest and most words (in Chinese, characters) by type."""

_PLACEHOLDER = re.compile(
    r"[<＜](?!\s)[^<>＜＞\n]{1,40}(?<!\s)[>＞]|\{[^{}\n]{1,40}\}|\[[A-Za-z_ ]{3,30}\]|\bxxx\b", re.IGNORECASE
)
_LEAK = re.compile(
    r"\b(?:descriptions?|captions?|the (?:given |provided )?(?:text|passage|paragraph|information provided)|prior knowledge"
    r"|(?:mentioned|described|stated|provided) (?:above|in the))\b"
    r"|根据(?:上述|以上|你的|您的|所给|提供的|给出的)?(?:描述|说明|文字|文本|段落|信息)|(?:描述|文中|上文|标题)(?:中)?(?:提到|指出|说|所述)|先验知识",
    re.IGNORECASE,
)
_ABOUT_DESCRIPTIONS = re.compile(
    r"\b(?:write|give|provide|best|accurate|suitable)\b.{0,40}\b(?:description|caption)s?\b", re.IGNORECASE
)


@dataclasses.dataclass(frozen=True)
class Expected:
    """What an item is checked against.

    Attributes:
      language: of `items.LANGUAGES`.
      seen: `plain` questions that the same picture already has.
      benchmark: `plain` questions of benchmarks, none of which may be learnt.
    """

    language: str
    seen: Collection[str] = ()
    benchmark: Collection[str] = ()


def _placeholder(item: Item, expected: Expected) -> bool:
    del expected
    return any(_PLACEHOLDER.search(text) for text in item.texts)


def _refusal(item: Item, expected: Expected) -> bool:
    del expected
    return any(REFUSALS.search(text) for text in item.texts)


def _leak(item: Item, expected: Expected) -> bool:
    """Words about the description that the model was given instead of the picture; asking for one is no leak."""
    del expected
    return any(_LEAK.search(_ABOUT_DESCRIPTIONS.sub("", text)) for text in item.texts)


def _language(item: Item, expected: Expected) -> bool:
    """Question and long answers; names, options and short answers may be in any language."""
    texts = (item.question, item.answer) if item.type == "long" else (item.question,)
    return any(language_of(text) not in ("", expected.language) for text in texts)


def language_of(text: str) -> str:
    """ "zh" or "en", whichever says more; "" where there is neither."""
    chinese = sum(map(len, CJK.findall(text))) / CJK_PER_WORD
    english = len(LATIN_WORD.findall(text))
    return "" if not chinese and not english else "zh" if chinese >= english else "en"


def _length(item: Item, expected: Expected) -> bool:
    del expected
    limits = LENGTHS[item.type]
    texts = [("question", item.question), ("answer", item.answer), *(("option", option) for option in item.options)]
    return any(not limits[part][0] <= text_length(text) <= limits[part][1] for part, text in texts if part in limits)


def _given_away(item: Item, expected: Expected) -> bool:
    """The question of a choice says its answer and none of the others."""
    del expected
    if item.type != "choice":
        return False
    question = f" {plain(item.question)} "
    said = [f" {plain(option)} " in question for option in item.options]
    return sum(said) == 1 and f" {plain(item.answer_text)} " in question


def _repeated(item: Item, expected: Expected) -> bool:
    return plain(item.question) in expected.seen


def _benchmark(item: Item, expected: Expected) -> bool:
    return plain(item.question) in expected.benchmark


CHECKS: dict[str, Callable[[Item, Expected], bool]] = {
    "placeholder": _placeholder,
    "refusal": _refusal,
    "leak": _leak,
    "language": _language,
    "length": _length,
    "given_away": _given_away,
    "repeated": _repeated,
    "benchmark": _benchmark,
}
"""Code of `reasons.CHECKS` → whether an item has this fault; in the order in which they are made."""


def faults(item: Item, expected: Expected) -> Iterator[str]:
    """Names of the checks that an item fails."""
    return (name for name, fails in CHECKS.items() if fails(item, expected))
