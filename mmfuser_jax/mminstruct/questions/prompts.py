"""Prompts: templates in `prompts/`, a file each with both languages, and how they are filled.

Nothing that a picture, a caption or a model says can become part of a template: values are put in once, in one pass, and
what stands in them is not looked at again; long ones are between lines of signs that do not occur in them.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import random
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from mmfuser_jax.mminstruct.questions.items import Item, plain
from mmfuser_jax.mminstruct.questions.seed_questions import Domain

FOLDER = Path(__file__).parent / "prompts"

_FIELD = re.compile(r"\{(\w+)\}")


@dataclasses.dataclass(frozen=True)
class Prompt:
    """A template in one language.

    Attributes:
      name: with the language and a hash of everything that it is made of, "choice.en 3f2a9c1b".
      system, text: words with `{fields}`.
      parts: what several templates are made of, by name.
    """

    name: str
    system: str
    text: str
    parts: Mapping[str, str]

    def part(self, name: str, kind: str = "") -> str:
        """A part; the one that is for a kind of question only, where there is one."""
        return self.parts.get(f"{name}_{kind}", self.parts[name])


@functools.cache
def load_prompt(name: str, language: str) -> Prompt:
    """The template of this name."""
    parts = yaml.safe_load((FOLDER / "parts.yaml").read_text(encoding="utf-8"))[language]
    fields = yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))[language]
    content = json.dumps([fields, parts], sort_keys=True, ensure_ascii=False)
    version = hashlib.sha256(content.encode()).hexdigest()[:8]
    return Prompt(f"{name}.{language} {version}", fields["system"], fields["text"].strip(), parts)


@functools.cache
def form_texts() -> frozenset[str]:
    """`plain` texts of every field of the forms that prompts show, in all languages: a reply that has one is a copy."""
    parts = yaml.safe_load((FOLDER / "parts.yaml").read_text(encoding="utf-8"))
    forms = [text for words in parts.values() for name, text in words.items() if name.startswith("form")]
    return frozenset(filter(None, (plain(x) for form in forms for x in re.split(r"<.*?>|\b[A-D]\. |\n", form))))


def fill(text: str, **values: object) -> str:
    """A text with every `{field}` replaced by its value, in which nothing is replaced.

    Raises:
      KeyError: there is no such value.
    """
    return _FIELD.sub(lambda match: str(values[match[1]]), text)


def fenced(text: str) -> str:
    """A text between two lines of signs that do not occur in it."""
    fence = "-----"
    while fence in text:
        fence += "-"
    return f"{fence}\n{text}\n{fence}"


@dataclasses.dataclass(frozen=True)
class Material:
    """What is known of a picture.

    Attributes:
      domain: of the picture.
      caption: in the language of the question; "" where there is none yet.
      tags: between commas.
      texts: that were read in it.
    """

    domain: Domain
    caption: str = ""
    tags: str = ""
    texts: Sequence[str] = ()

    def knowledge(self, prompt: Prompt) -> str:
        """Tags and texts, "" where there are none."""
        lines = [fill(prompt.parts["tags"], tags=self.tags)] if self.tags else []
        if self.texts:
            lines.append(fill(prompt.parts["texts"], texts=" | ".join(self.texts)))
        return fill(prompt.parts["knowledge"], lines=fenced("\n".join(lines))) if lines else ""

    def words(self, prompt: Prompt, language: str) -> str:
        """All of it, for prompts that do not show the picture."""
        return fill(
            prompt.parts["material"], domain=self.domain.title[language], description=fenced(self.caption),
            knowledge=self.knowledge(prompt),
        )  # fmt: skip


def examples(domain: Domain, kind: str, language: str, count: int, draw: random.Random) -> tuple[str, str]:
    """Seed questions drawn for a prompt, a line each, and what the placeholders in them mean.

    Args:
      domain: of the picture.
      kind: of the questions.
      language: of both.
      count: of them, where there are as many.
      draw: draws them.
    """
    seeds = [seed[language] for seed in domain.seeds[kind]]
    drawn = draw.sample(seeds, min(count, len(seeds)))
    names = sorted({name for seed in drawn for name in _FIELD.findall(seed)})
    meanings = "; ".join(f"{{{name}}}: {domain.placeholders[name][language]}" for name in names)
    return "\n".join(f"- {seed}" for seed in drawn), meanings


def format_words(prompt: Prompt, kind: str, as_json: bool) -> str:
    """How the reply is to be written."""
    if as_json:
        return fill(prompt.parts["json"], fields=prompt.part("fields", kind))
    return fill(prompt.parts["tagged"], form=prompt.part("form", kind))


def listed(items: Sequence[Item], prompt: Prompt) -> str:
    """Questions as lines of a prompt, with options and answers."""
    lines = []
    for item in items:
        options = "".join(f" ({option})" for option in item.options)
        lines.append(f"- {item.question}{options}: {item.answer_text}")
    return fenced("\n".join(lines)) if lines else prompt.parts["nothing"]


def schema_of(kind: str) -> dict[str, Any]:
    """The JSON schema of a reply with items of one kind."""
    text = {"type": "string"}
    fields: dict[str, Any] = {"question": text}
    if kind == "choice":
        fields["options"] = {"type": "array", "items": text, "minItems": 4, "maxItems": 4}
    answers = {"judgement": ["yes", "no"], "choice": ["A", "B", "C", "D"]}
    fields["answer"] = {**text, "enum": answers[kind]} if kind in answers else text
    return _object({"items": {"type": "array", "items": _object(fields)}})


def _object(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": dict(fields), "required": list(fields), "additionalProperties": False}
