"""What a row of MMInstruct is about: its domain from the path, its language and instruction type from the text.

The release says none of it, and its file names are wrong about the language. The types are those of the paper and a
caption: the answer's format is asked for at the end of a question, and where it is not, question and answer show it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from mmfuser_jax.data.records import IMAGE_MARKER, Turn

CJK = re.compile("[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]+")
"""Characters that are words or parts of words without space between: Chinese, and Japanese kana."""

CJK_MARKS = re.compile("[\u3000-\u303f\uff00-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65“”‘’…—·]+")
"""Punctuation of Chinese text, around which there is no space either."""

LATIN_WORD = re.compile("[A-Za-z]{2,}")
"""Single letters name options."""

CJK_PER_WORD = 1.5
"""Characters that say as much as one English word."""

SHORT = 10
"""Words and CJK characters up to which an answer is short, where the question does not say."""

CAPTION = 4
"""The least that a caption has of them."""

ENDING = 160
"""Characters at the end of a question in which the format of the answer is asked for."""

FORMATS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("choice", ("letter", "given choices", "given options", "options above", "correct option", "选项", "字母")),
    (
        "judgement",
        (
            "yes or no", "yes/no", "'yes' or", '"yes" or', "“yes” or", "true or false", "no or yes",
            "是或否", "是或不是", "是或者否", "是/否", "“是”", '"是"', "'是'", "对或错", "判断正误", "判断对错",
        ),
    ),
    (
        "short",
        (
            "word or phrase", "single word", "one word", "few words", "short answer", "short phrase", "short sentence",
            "short response", "brief", "concise", "succinct",
            "简短", "简洁", "简要", "简明", "简单回答", "一个词", "词语", "短语", "短句", "几个字", "一句话",
        ),
    ),
    (
        "long",
        (
            "detail", "comprehensive", "thorough", "elaborat", "in depth", "in-depth", "full sentence", "long answer",
            "详细", "详尽", "细致", "全面", "长句", "完整的句子",
        ),
    ),
)  # fmt: skip
"""Wordings, in lower case, by which questions ask for a format; the first that is found counts."""

_LETTER, _MARK = "(?<![A-Za-z.])", "[.．、:：)）]"
OPTIONS = re.compile(f"{_LETTER}A{_MARK}.{{1,300}}?{_LETTER}B{_MARK}", re.DOTALL)
YES_NO = (
    "yes", "no", "true", "false", "correct", "incorrect", "right", "wrong",
    "是", "否", "不是", "对", "错", "正确", "错误", "是的", "不对",
)  # fmt: skip

_FILLER = "of|for|the|this|that|given|following|subsequent|provided|above|contents?|details?|detailed|everything|all|you|see|in|is"
DESCRIBE = re.compile(
    rf"(?:describe|description|caption|summary|summarize|explanation|interpretation)\s+(?:(?:{_FILLER})\s+)*"
    r"(?:image|picture|photo|poster|scene|visual|artwork|painting|drawing|chart|meme)"
    r"|(?:描述|描绘|介绍|概括|说明).{0,8}(?:图|照片|画面|海报|内容)|(?:图|照片|画面|海报).{0,10}(?:描述|描绘|概括)"
)


def detect(paths: Sequence[str], turns: Sequence[Turn]) -> dict[str, str]:
    """What one conversation is about.

    Args:
      paths: of its pictures, as the row writes them.
      turns: human and gpt by turns.

    Returns:
      "domain": first folder of the first path, where there is one; "language": "zh" or "en"; "type": of its exchanges,
      see `exchange_type`, or "mixed" where they differ.
    """
    words = [turn.text.replace(IMAGE_MARKER, "").strip() for turn in turns]
    single = len(words) == 2
    types = {exchange_type(*exchange, single) for exchange in zip(words[::2], words[1::2], strict=False)}
    folder, slash, _ = paths[0].partition("/") if paths else ("", "", "")
    tags = {"domain": folder} if slash and folder not in ("", ".", "..") else {}
    return tags | {"language": _language(words), "type": types.pop() if len(types) == 1 else "mixed"}


def exchange_type(question: str, answer: str, single: bool = False) -> str:
    """ "judgement", "choice", "short", "long" or "caption".

    `single`: whether the conversation has no other exchange; only then is it a caption.
    """
    asked = question.lower()
    ending = asked[-ENDING:]
    wanted = next((kind for kind, words in FORMATS if any(word in ending for word in words)), "")
    if wanted in ("choice", "judgement"):
        return wanted
    if OPTIONS.search(question):
        return "choice"
    if answer.strip(" .。!！\"'“”").lower() in YES_NO:
        return "short" if wanted == "short" else "judgement"
    length = text_length(answer[:ENDING])  # enough to tell
    if single and length >= CAPTION and (not asked or DESCRIBE.search(asked)):
        return "caption"
    return wanted or ("short" if length <= SHORT else "long")


def text_length(text: str) -> int:
    """How much text: words between white space, and where there is none the CJK characters, each as a word."""
    if text.isascii():
        return len(text.split())
    rest, characters = _without_cjk(text)
    return characters + len(rest.split())


def _without_cjk(text: str) -> tuple[str, int]:
    """The text with spaces for CJK characters and marks, and how many characters these were without the marks."""
    characters = sum(map(len, CJK.findall(text)))
    return CJK_MARKS.sub(" ", CJK.sub(" ", text)), characters


def _language(texts: Sequence[str]) -> str:
    """ "zh" where CJK characters say more than Latin words do, else "en"."""
    characters = sum(len(run) for text in texts if not text.isascii() for run in CJK.findall(text))
    if not characters:
        return "en"
    return "zh" if characters / CJK_PER_WORD > sum(len(LATIN_WORD.findall(text)) for text in texts) else "en"
