"""The fifth step: a model makes a conversation of several rounds from a caption and the questions that a picture has."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Set

from mmfuser_jax.mminstruct.asking.ask import Ask
from mmfuser_jax.mminstruct.ledger import Ledger
from mmfuser_jax.mminstruct.project import Project
from mmfuser_jax.mminstruct.questions.items import Item
from mmfuser_jax.mminstruct.questions.keeping import Keeping, exchanges, kept_items
from mmfuser_jax.mminstruct.questions.prompts import fill, format_words, listed, load_prompt, schema_of
from mmfuser_jax.mminstruct.questions.replies import read_reply
from mmfuser_jax.mminstruct.questions.seed_questions import Domain
from mmfuser_jax.mminstruct.schema import AnswerRow, ImageRow, ItemRow
from mmfuser_jax.mminstruct.steps.captions import caption_of, material_of
from mmfuser_jax.mminstruct.steps.instructions import faults_of
from mmfuser_jax.mminstruct.steps.step import Subject, fail, failure, seed_of

KIND = "conversation"

SPARE = 2
"""Rounds that are asked for beyond those that are needed, as some cannot be used."""

SHOWN = 4
"""Questions of the picture that the model is shown."""


class Conversations:
    """The step; see `step.Step`."""

    name = "expand"

    def __init__(
        self, project: Project, domains: Mapping[str, Domain], benchmark: Set[str], as_json: bool, caption: str = ""
    ) -> None:
        """As of `Instructions`."""
        self.repairs = project.config.generate.repairs
        self._languages = project.config.languages
        self._config = project.config.expand
        self._domains = domains
        self._as_json = as_json
        self._caption = caption
        self._keeping = Keeping(benchmark, project.config.generate.most_same)

    def subjects(self, ledger: Ledger, image: ImageRow) -> Iterator[Subject]:
        """Every language in which there are a caption and a question."""
        if not self._config.conversations:
            return
        for language in self._languages:
            known = caption_of(ledger, image.sha, language) and _questions(ledger, image.sha, language)
            if self._caption or known:
                yield Subject(image, KIND, language)

    def wanting(self, ledger: Ledger, subject: Subject) -> bool:
        """Whether there is no usable conversation."""
        return not any(kept_items(ledger, subject.image.sha, self.name, KIND, subject.language))

    def ask(self, ledger: Ledger, subject: Subject, before: AnswerRow | None) -> Ask:
        """For a conversation; after one that was of no use, with what was wrong with it."""
        image, language = subject.image, subject.language
        prompt = load_prompt(KIND, language)
        seed = seed_of(image.sha, KIND, language, before.key if before else "")
        material = material_of(ledger, self._domains, image, language, self._caption)
        questions = _questions(ledger, image.sha, language)
        shown = random.Random(seed).sample(questions, min(SHOWN, len(questions)))
        rules = fill(prompt.parts["rules_conversation"], examples=listed(shown, prompt))
        text = fill(
            prompt.text, material=material.words(prompt, language), count=self._config.rounds + SPARE, rules=rules,
            format=format_words(prompt, KIND, self._as_json),
        )  # fmt: skip
        if before is not None:
            text += fill(prompt.parts["mend"], faults=faults_of(ledger, before), have=prompt.parts["nothing"])
        longer = 2 if before is not None and before.finish == "length" else 1
        return Ask(
            self.name, image.domain, image.sha, KIND, language, prompt.name, seed, prompt.system, text,
            about=before.key if before else "", schema=schema_of(KIND) if self._as_json else None,
            tokens=longer * self._config.tokens,
        )  # fmt: skip

    def read(self, ledger: Ledger, answer: AnswerRow) -> None:
        """Writes the conversation of a reply down, and what in it is no round."""
        if reason := failure(answer):
            fail(ledger, answer, reason)
            return
        reply = read_reply(answer.text, "long", whole=answer.finish != "length")
        self._keeping.keep_conversation(ledger, answer, reply.items, self._config.rounds)
        for place, part in enumerate(reply.rejected, 1 + len(reply.items)):
            self._keeping.keep(ledger, answer, place, part)


def _questions(ledger: Ledger, image: str, language: str) -> list[Item]:
    """What the picture is asked, in the order of ids."""
    where = "image = ? AND state = 'good' AND step = 'generate' AND language = ?"
    return [exchange for row in ledger.rows(ItemRow, where, (image, language), "id") for exchange in exchanges(row)]
