"""The second step: a model describes every picture, in each language of the project on its own."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

from mmfuser_jax.data.labels import CJK_PER_WORD, text_length
from mmfuser_jax.mminstruct.asking.ask import Ask
from mmfuser_jax.mminstruct.ledger import Ledger
from mmfuser_jax.mminstruct.project import Project
from mmfuser_jax.mminstruct.questions.checks import language_of
from mmfuser_jax.mminstruct.questions.prompts import Material, fill, load_prompt
from mmfuser_jax.mminstruct.questions.refusals import declines
from mmfuser_jax.mminstruct.questions.seed_questions import Domain
from mmfuser_jax.mminstruct.reasons import TOLD
from mmfuser_jax.mminstruct.schema import AnswerRow, ImageRow, Texts
from mmfuser_jax.mminstruct.steps.step import Subject, fail, failure, seed_of

KIND = "caption"

OPENING = 60
"""Letters at the beginning of a caption in which a refusal would stand; later on it may be words of the picture."""


class Captions:
    """The step; see `step.Step`."""

    name = "caption"
    repairs = 2

    def __init__(self, project: Project, domains: Mapping[str, Domain]) -> None:
        self._config = project.config
        self._domains = domains

    def subjects(self, ledger: Ledger, image: ImageRow) -> Iterator[Subject]:
        """A caption in each language."""
        del ledger
        yield from (Subject(image, KIND, language) for language in self._config.languages)

    def wanting(self, ledger: Ledger, subject: Subject) -> bool:
        """Whether there is no caption yet."""
        return not caption_of(ledger, subject.image.sha, subject.language)

    def ask(self, ledger: Ledger, subject: Subject, before: AnswerRow | None) -> Ask:
        """For a caption; after one that was of no use, with what was wrong with it."""
        image, language = subject.image, subject.language
        prompt = load_prompt(KIND, language)
        material = Material(self._domains[image.domain], "", image.tags, texts_of(ledger, image.sha))
        text = fill(
            prompt.text, domain=material.domain.title[language], words=self._least(language),
            knowledge=material.knowledge(prompt),
        )  # fmt: skip
        if before is not None:
            text += fill(prompt.parts["mend_caption"], faults=TOLD[language][before.reason])
        more = 2 if before is not None and before.reason == "cut_off" else 1
        return Ask(
            self.name, image.domain, image.sha, KIND, language, prompt.name,
            seed_of(image.sha, self.name, language, before.key if before else ""), prompt.system, text,
            about=before.key if before else "", shown=True, tokens=more * self._config.caption.tokens,
        )  # fmt: skip

    def _least(self, language: str) -> int:
        words = self._config.caption.least_words
        return words if language == "en" else round(words * CJK_PER_WORD)

    def read(self, ledger: Ledger, answer: AnswerRow) -> None:
        """Writes down what is wrong with a caption, if anything is."""
        if fault := failure(answer) or self._fault(answer):
            fail(ledger, answer, fault)

    def _fault(self, answer: AnswerRow) -> str:
        if answer.finish == "length":
            return "cut_off"
        if declines(answer.text, OPENING):
            return "caption_refusal"
        if language_of(answer.text) != answer.language:
            return "caption_language"
        # What is asked for is a round number, and models do not count: half of it will do.
        return "caption_short" if text_length(answer.text) < self._least(answer.language) / 2 else ""


def material_of(
    ledger: Ledger, domains: Mapping[str, Domain], image: ImageRow, language: str, pretended: str = ""
) -> Material:
    """What is known of a picture in a language; `pretended`: instead of a caption that is not there yet."""
    caption = caption_of(ledger, image.sha, language) or pretended
    return Material(domains[image.domain], caption, image.tags, texts_of(ledger, image.sha))


def caption_of(ledger: Ledger, image: str, language: str) -> str:
    """The caption of a picture, "" where there is none."""
    found = ledger.query(
        "SELECT text FROM answers WHERE image = ? AND step = 'caption' AND language = ? AND reason = '' AND read = 1 "
        "ORDER BY rowid DESC LIMIT 1",
        (image, language),
    )
    return found[0][0].strip() if found else ""


def texts_of(ledger: Ledger, image: str) -> list[str]:
    """Words that were read in a picture."""
    row = ledger.row(Texts, "image = ?", (image,))
    return json.loads(row.lines) if row else []
