"""What is wrong with an item that could be read: each check is a code and a function of the item."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Collection, Iterator

from mmfuser_jax.data.labels import CJK, CJK_PER_WORD, LATIN_WORD, text_length
from mmfuser_jax.mminstruct.questions.items import Item, plain, unquoted
from mmfuser_jax.mminstruct.questions.prompts import form_texts
from mmfuser_jax.mminstruct.questions.refusals import declines, unable

LENGTHS = {
    "judgement": {"question": (2, 80)},
    "choice": {"question": (2, 80), "option": (1, 40)},
    "short": {"question": (2, 80), "answer": (1, 25)},
    "long": {"question": (2, 120), "answer": (12, 600)},
}
"""Fewest and most words (in Chinese, characters) by type."""

_PLACEHOLDER = re.compile(
    r"(?<![A-Za-z}\]^_\\])\{(?!\\|[\W_]*\d[\d\W]*\})[^{}\n]{1,40}\}|\bxxx\b"  # braces of formulae and sets are none
    r"|(?<![A-Za-z0-9)\]])[<＜](?=[A-Za-z\u3400-\u9fff])[^<>＜＞\n\d=≠≤≥]{1,40}(?<!\s)[>＞]"  # in sums these are signs
)
_BRACKETS = re.compile(r"\[[A-Za-z_ ]{3,30}\]")

_HERE = r"(?!\s+(?:on|in|of|at|above the|below|beneath|under|beside|next|near|printed|written|shown|that|which)\b)"
"""Not before words that say where in the picture a text is."""

_LEAK = re.compile(
    rf"\b(?:according to|based on|from) the (?:description|caption)s?\b{_HERE}"
    rf"|\b(?:mentioned|described|stated|provided) in the (?:description|caption|text|passage|paragraph)s?\b{_HERE}"
    r"|\b(?:mentioned|described|stated|provided) above\b(?!\s+(?:the|an?|his|her|its|their)\b)"
    rf"|\bthe (?:given|provided) (?:descriptions?|captions?|text|passage|paragraph|information|context)\b(?:{_HERE}|(?=\s+of\b))"
    rf"|\bthe information provided\b(?!\s+by\b){_HERE}|\bprior knowledge\b"
    r"|根据(?:上述|以上|所给|提供|给出|给定)的?(?:描述|说明(?![牌书])|文字|文本|段落|信息|内容)"
    r"|根据(?:你的|您的|图片|图像|这段|该)?描述|先验知识"
    r"|(?:描述|上文|(?:(?<![\u3400-\u9fff])|(?<=[在据如照按从本该此原]))文中)中?(?:提到|提及|指出|所述|说(?!明))",
    re.IGNORECASE,
)
_PERHAPS_LEAK = re.compile(
    rf"\b(?:according to|based on|from) the (?:text|passage|paragraph)s?\b{_HERE}|\bthe description\b{_HERE}"
    r"|根据(?:文字|文本|段落|说明|信息)(?=[，,：:])",
    re.IGNORECASE,
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


def _brackets(item: Item, expected: Expected) -> bool:
    del expected
    return any(_BRACKETS.search(text) for text in item.texts)


def _copied_form(item: Item, expected: Expected) -> bool:
    del expected
    return any(plain(text) in form_texts() for text in item.texts)


def _refusal(item: Item, expected: Expected) -> bool:
    del expected
    return declines(item.answer) or any(map(unable, item.texts))


def _leak(item: Item, expected: Expected) -> bool:
    """Words about the description that the model was given instead of the picture; asking for one is no leak."""
    del expected
    return any(_LEAK.search(text) for text in item.texts)


def _perhaps_leak(item: Item, expected: Expected) -> bool:
    """Words that may be about the description or about a text in the picture."""
    return not _leak(item, expected) and any(_PERHAPS_LEAK.search(text) for text in item.texts)


def _language(item: Item, expected: Expected) -> bool:
    """Question and long answers; names, options and short answers may be in any language."""
    texts = (item.question, item.answer) if item.type == "long" else (item.question,)
    return any(language_of(text) not in ("", expected.language) for text in texts)


def language_of(text: str) -> str:
    """ "zh" or "en", whichever says more; what is quoted counts where there is nothing else; "" where there is neither."""
    for words in (unquoted(text), text):
        chinese = sum(map(len, CJK.findall(words))) / CJK_PER_WORD
        english = len(LATIN_WORD.findall(words))
        if chinese or english:
            return "zh" if chinese >= english else "en"
    return ""


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
    "copied_form": _copied_form,
    "placeholder": _placeholder,
    "brackets": _brackets,
    "refusal": _refusal,
    "leak": _leak,
    "perhaps_leak": _perhaps_leak,
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
