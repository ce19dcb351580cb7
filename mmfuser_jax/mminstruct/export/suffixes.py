"""How a question asks for the form of its answer: words of our own by type and language, which every reader recognises.

The reference has such words in a file that none of its scripts reads.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from mmfuser_jax.mminstruct.questions.items import Item
from mmfuser_jax.mminstruct.steps.step import seed_of

FILE = Path(__file__).with_name("suffixes.yaml")

GAPS = {"en": " ", "zh": ""}
"""Between a question of a language and these words; behind options, which are lines, they are a line too."""


@functools.cache
def load_suffixes() -> Mapping[str, Mapping[str, Sequence[str]]]:
    """Type → language → wordings."""
    loaded: dict[str, dict[str, list[str]]] = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    return loaded


def with_suffix(text: str, item: Item, language: str, name: str) -> str:
    """A question that asks for the form of its answer.

    Args:
      text: of the question, with its options.
      item: whose question it is.
      language: of `items.LANGUAGES`.
      name: of the question; the same name has the same words, always.
    """
    wordings = load_suffixes()[item.type][language]
    gap = "\n" if item.options else GAPS[language]
    return f"{text}{gap}{wordings[seed_of('suffix', name) % len(wordings)]}"
