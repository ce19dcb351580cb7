"""The fourth step: a model makes questions of every type from captions, after the pattern of seed questions."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Set

from mmfuser_jax.mminstruct.asking.ask import Ask
from mmfuser_jax.mminstruct.ledger import Ledger
from mmfuser_jax.mminstruct.project import Project
from mmfuser_jax.mminstruct.questions.items import Item, Rejected
from mmfuser_jax.mminstruct.questions.keeping import Keeping, exchanges, kept_items
from mmfuser_jax.mminstruct.questions.prompts import (
    examples,
    fenced,
    fill,
    format_words,
    listed,
    load_prompt,
    schema_of,
)
from mmfuser_jax.mminstruct.questions.replies import read_reply
from mmfuser_jax.mminstruct.questions.seed_questions import Domain
from mmfuser_jax.mminstruct.reasons import TOLD
from mmfuser_jax.mminstruct.schema import AnswerRow, ImageRow, ItemRow
from mmfuser_jax.mminstruct.steps.captions import caption_of, material_of
from mmfuser_jax.mminstruct.steps.step import Subject, fail, failure, seed_of

COUNT = 3
"""Questions of a type for a picture, but judgements."""

EACH = 2
"""Judgements with yes, and with no."""

FAULTS = 8
"""Of a reply, that a model is told about."""


class Instructions:
    """The step; see `step.Step`."""

    name = "generate"

    def __init__(
        self, project: Project, domains: Mapping[str, Domain], benchmark: Set[str], as_json: bool, caption: str = ""
    ) -> None:
        """Arguments:
        project: says which types and languages.
        domains: with their seed questions.
        benchmark: `plain` questions that may not come.
        as_json: whether replies are JSON; else tagged text.
        caption: stands in for those that are not there yet, for estimates.
        """
        self.repairs = project.config.generate.repairs
        self._config = project.config
        self._domains = domains
        self._as_json = as_json
        self._caption = caption
        self._keeping = Keeping(benchmark, project.config.generate.most_same)

    def subjects(self, ledger: Ledger, image: ImageRow) -> Iterator[Subject]:
        """Every type in every language in which there is a caption."""
        for language in self._config.languages:
            if self._caption or caption_of(ledger, image.sha, language):
                yield from (Subject(image, kind, language) for kind in self._config.generate.types)

    def wanting(self, ledger: Ledger, subject: Subject) -> bool:
        """Whether there are fewer usable questions than were asked for."""
        return any(_missing(_have(ledger, subject), subject.kind).values())

    def ask(self, ledger: Ledger, subject: Subject, before: AnswerRow | None) -> Ask:
        """For all questions of a type; after a reply that lacks some, for those."""
        image, kind, language = subject.image, subject.kind, subject.language
        prompt = load_prompt(kind, language)
        seed = seed_of(image.sha, kind, language, before.key if before else "")
        have = _have(ledger, subject)
        missing = _missing(have, kind)
        domain = self._domains[image.domain]
        material = material_of(ledger, self._domains, image, language, self._caption)
        drawn, meanings = examples(domain, kind, language, self._config.generate.examples, random.Random(seed))
        rules = fill(
            prompt.parts["rules"], examples=drawn,
            meanings=fill(prompt.parts["meanings"], meanings=meanings) if meanings else "",
        )  # fmt: skip
        text = fill(
            prompt.text, material=material.words(prompt, language), count=sum(missing.values()), yes=missing["yes"],
            no=missing["no"], rules=rules, format=format_words(prompt, kind, self._as_json),
        )  # fmt: skip
        if before is not None:
            text += fill(prompt.parts["mend"], faults=faults_of(ledger, before), have=listed(have, prompt))
        longer = 2 if before is not None and before.finish == "length" else 1
        return Ask(
            self.name, image.domain, image.sha, kind, language, prompt.name, seed, prompt.system, text,
            about=before.key if before else "", schema=schema_of(kind) if self._as_json else None,
            tokens=longer * self._config.generate.tokens,
        )  # fmt: skip

    def read(self, ledger: Ledger, answer: AnswerRow) -> None:
        """Writes the items of a reply down, and what in it is none."""
        if reason := failure(answer):
            fail(ledger, answer, reason)
            return
        reply = read_reply(answer.text, answer.kind, whole=answer.finish != "length")
        parts: list[Item | Rejected] = [*reply.items, *reply.rejected]
        for place, part in enumerate(parts):
            self._keeping.keep(ledger, answer, place, part)


def _have(ledger: Ledger, subject: Subject) -> list[Item]:
    """Usable questions of one type that a picture has."""
    found = kept_items(ledger, subject.image.sha, "generate", subject.kind, subject.language)
    return [exchange for row in found for exchange in exchanges(row)]


def _missing(have: list[Item], kind: str) -> Counter[str]:
    """How many questions a picture lacks, of judgements by their answer."""
    if kind != "judgement":
        return Counter({"": max(0, COUNT - len(have))})
    answers = Counter(item.answer for item in have)
    return Counter({answer: max(0, EACH - answers[answer]) for answer in ("yes", "no")})


def faults_of(ledger: Ledger, answer: AnswerRow) -> str:
    """What was wrong with an answer, as lines of a prompt."""
    refused = list(ledger.rows(ItemRow, "image = ? AND answer = ? AND state = 'refused'", (answer.image, answer.key)))
    told = TOLD[answer.language]
    lines = [f"- {told[row.reason]}: {row.body[:200]}" for row in refused[:FAULTS]]
    return fenced("\n".join(lines) or f"- {told[answer.reason or 'too_few']}")
