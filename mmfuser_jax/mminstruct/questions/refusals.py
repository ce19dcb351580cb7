"""Words by which models decline, or say that they see no picture; what they quote are words of the picture."""

from __future__ import annotations

import re

from mmfuser_jax.mminstruct.questions.items import unquoted

_UNABLE = re.compile(
    r"\bas an ai(?=,| i\b| (?:\w+ )?(?:model|assistant|system)\b)|\bas an? (?:large )?language model\b"
    r"|\bi(?:['’]m| am) unable|\bi (?:can ?not|can['’]t|won['’]t) (?:see|view|assist|help|answer|provide)\b"
    r"|作为(?:一个|一名|一款)?(?:AI|人工智能|大?语言模型)\w{0,6}[，,]?\s*我"
    r"|(?:我|^\W*)(?:暂时|目前|并)?(?:无法|不能|没法)(?:直接)?(?:看到|查看|回答|提供|识别)"
    r"|(?:无法|不能|没法)(?:直接)?(?:看到|查看|识别)(?:这张|该|任何|您的|你的)?(?:图|照片)",
    re.IGNORECASE,
)
_APOLOGY = re.compile(
    r"\W*(?:(?:i(?:['’]m| am) )?(?:very |so )?sorry|(?:很|非常|十分)?(?:抱歉|对不起))\W*"
    r"(?:$|(?:but|i|unable)\b|[^。！？.!?]{0,20}?(?:我|无法|没法))",
    re.IGNORECASE,
)


def unable(text: str) -> bool:
    """Whether it says anywhere that it is a model, or that it cannot see or answer."""
    return bool(_UNABLE.search(unquoted(text)))


def declines(text: str, opening: int | None = None) -> bool:
    """Whether an answer says so, or begins with an apology for it.

    Args:
      text: of the answer.
      opening: letters at its beginning that count, where later ones may be words of the picture.
    """
    said = unquoted(text)[:opening]
    return bool(_UNABLE.search(said) or _APOLOGY.match(said))
