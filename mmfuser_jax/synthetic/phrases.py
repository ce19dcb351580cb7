"""The wording around facts: suffixes that ask for a format, judgements, captions, and how sentences are joined."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from numpy.random import Generator

from mmfuser_jax.synthetic.words import Text, Words, both, pick

SUFFIXES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "judgement": (
        (
            " Answer with yes or no.",
            " Reply yes or no only.",
            " Please decide: yes or no.",
            " A plain yes or no will do.",
            "\nSay only yes or no.",
        ),
        (
            "请只回答是或否。",
            "请判断，只回答“是”或“否”。",
            "回答是或否即可。",
            "请用是或否作答。",
            "\n请直接判断是或否。",
        ),
    ),
    "choice": (
        (
            "\nAnswer with the letter of the option.",
            "\nPick the right option and give its letter.",
            "\nWhich option is right? Reply with its letter.",
            "\nGive only the letter of the correct option.",
        ),
        (
            "\n请直接回答选项字母。",
            "\n请选出正确的一项，只写字母。",
            "\n请给出正确选项的字母。",
            "\n从以上选项中选择一个，回答字母。",
        ),
    ),
    "short": (
        (
            " Answer with a few words.",
            " Keep the answer to a word or a short phrase.",
            " Reply briefly.",
            "\nGive a short answer.",
            " A word or number is enough.",
        ),
        (
            "请用几个词简短回答。",
            "请简要作答。",
            "用一个词或短语回答。",
            "\n请给出简短的答案。",
            "回答一个词或数字即可。",
        ),
    ),
    "long": (
        (
            " Explain in full sentences.",
            " Answer in detail.",
            " Give a detailed answer of several sentences.",
            "\nPlease write a full answer with the details you see.",
            " Take your time and mention all that matters.",
        ),
        (
            "请详细说明。",
            "请用完整的句子详细回答。",
            "请结合图中细节详细作答。",
            "\n请写出几句话的详细回答。",
            "请把重要的细节都说清楚。",
        ),
    ),
    "caption": (("",), ("",)),
}
"""What ends a human turn, by type and language; put straight onto the question, it makes the type recognisable."""

CAPTION_REQUESTS: tuple[tuple[str, ...], tuple[str, ...]] = (
    (
        "Describe this picture in detail.",
        "What is shown here? Please give a thorough description.",
        "Write a detailed caption for this image.",
        "Please describe everything you can make out, small print included.",
        "Give a careful account of the picture for someone who cannot see it.",
        "Tell me what this image contains, down to the small details.",
    ),
    (
        "请详细描述这张图片。",
        "图中有什么？请给出完整的描述。",
        "请为这张图片写一段详细的说明。",
        "请描述你能看清的一切，包括小字。",
        "请为看不到图片的人仔细描述画面。",
        "请说明图片的内容，细节也不要遗漏。",
    ),
)

JUDGEMENTS: tuple[tuple[str, ...], tuple[str, ...]] = (
    (
        'Is this true of the picture? "{s}"',
        "Check this statement against the picture: {s} Is it right?",
        "{s} Is that so?",
        "{s} Does the picture agree?",
        "Someone says: {s} Is this correct?",
    ),
    (
        "{s}这样说对吗？",
        "下面的说法与图片相符吗？{s}",
        "根据图片判断：{s}",
        "有人说：“{s}”这是正确的吗？",
        "{s}图中是这样吗？",
    ),
)

VERDICTS: dict[bool, tuple[str, str]] = {
    True: ("Yes", "是"),
    False: ("No", "否"),
}

JOINTS = (" ", "")
"""What stands between sentences."""


def fill(text: Text, language: int, slots: Mapping[str, Words], rng: Generator) -> str:
    """One variant of a text in one language, with its braces filled; begins with a capital."""
    variant = pick(rng, text[language].split(" | "))
    words = variant.format_map({name: both(value)[language] for name, value in slots.items()})
    words = words[:1].upper() + words[1:]
    return _with_articles(words) if language == 0 else words


def _with_articles(text: str) -> str:
    """An "a" before a vowel becomes "an"; a capital A also names badges, letters and cells, which keep their name."""
    text = re.sub(r"\ba (?=[aeio])", "an ", text)
    return re.sub(r"(?:(?<=[.!?] )|^)A (?=[aeio](?!s |n |r |f |t |nd |n?to ))", "An ", text)


def join(sentences: Sequence[str], language: int) -> str:
    """Sentences as one paragraph."""
    return JOINTS[language].join(sentence for sentence in sentences if sentence)
