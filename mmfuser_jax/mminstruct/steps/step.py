"""What the steps that ask a model have in common: subjects, a first question for each, and others that mend its answer."""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, runtime_checkable

from mmfuser_jax.mminstruct.asking.ask import Ask
from mmfuser_jax.mminstruct.ledger import Ledger
from mmfuser_jax.mminstruct.reasons import PASSING
from mmfuser_jax.mminstruct.schema import AnswerRow, ImageRow

FINAL = ("content_filter", "refused_by_server")
"""Reasons for which a question is not asked in other words; unless the project has changed, and with it the question."""

BATCH = 100
"""Answers that are read in one change of the ledger."""


@dataclasses.dataclass(frozen=True)
class Subject:
    """What a question is about: a picture, a kind of question, a language."""

    image: ImageRow
    kind: str
    language: str


@runtime_checkable
class Reader(Protocol):
    """Reads answers.

    Attributes:
      name: of the step of `asking.server.STEPS` that they belong to.
    """

    name: str

    def read(self, ledger: Ledger, answer: AnswerRow) -> None:
        """Writes what an answer holds into the ledger; within one change of it."""


@runtime_checkable
class Step(Reader, Protocol):
    """One step that asks a model about pictures.

    Attributes:
      repairs: times that a subject is asked about again because of what the answers lack.
    """

    repairs: int

    def subjects(self, ledger: Ledger, image: ImageRow) -> Iterator[Subject]:
        """What there is to ask about a picture."""

    def wanting(self, ledger: Ledger, subject: Subject) -> bool:
        """Whether the answers that were read so far lack anything."""

    def ask(self, ledger: Ledger, subject: Subject, before: AnswerRow | None) -> Ask:
        """The question about a subject; `before`: the answer that it is to mend."""


def seed_of(*parts: str) -> int:
    """A number that depends on all parts, the same on every machine."""
    return int(hashlib.sha256("\n".join(parts).encode()).hexdigest()[:8], 16) >> 1


def images(ledger: Ledger) -> Iterator[ImageRow]:
    """The kept pictures, in the order in which they came; whatever is written meanwhile."""
    for (sha,) in ledger.query("SELECT sha FROM images WHERE state = 'kept' ORDER BY rowid"):
        image = ledger.image(sha)
        assert image is not None
        yield image


@dataclasses.dataclass(frozen=True)
class _Due:
    """A question that is to be asked.

    Attributes:
      subject: what it is about.
      before: the answer that it is to mend; None for the first question.
      depth: how many answers came before.
      tried: whether it was asked before, and failed for a reason that may have passed.
      answered: whether it was asked, and its answer is to be read first.
    """

    subject: Subject
    before: AnswerRow | None
    depth: int
    tried: bool
    answered: bool = False


@dataclasses.dataclass(frozen=True)
class Round:
    """What is to be done next about all subjects.

    Attributes:
      depth: of the questions that are to be asked now.
      untried: how many these are.
      tried: how many of any depth failed for a reason that may have passed; they are asked too.
      readable: whether answers are there to all questions of a depth, and not yet read; they come before any question.
    """

    depth: int
    untried: int
    tried: int
    readable: bool


def next_round(step: Step, ledger: Ledger, mine: Callable[[str], bool]) -> Round:
    """What is to be done now: first questions of all subjects, and only once these are answered and read, those that mend.

    So the ledger comes to the same, wherever a run was killed: what is a repetition depends on all answers of a depth.

    Args:
      step: which asks.
      ledger: knows the answers.
      mine: whether a picture, by its SHA-256, is to be asked about here.
    """
    tried, untried, unread = 0, Counter[int](), Counter[int]()
    for x in _due(step, ledger, mine):
        if x.tried:
            tried += 1
        else:
            (unread if x.answered else untried)[x.depth] += 1
    depth = min(untried, default=step.repairs)
    some = ledger.query("SELECT 1 FROM answers WHERE step = ? AND read = 0 LIMIT 1", (step.name,))
    readable = bool(some) and min(unread, default=0) < min(untried, default=step.repairs + 1)
    return Round(depth, untried[depth], tried, readable)


def _due(step: Step, ledger: Ledger, mine: Callable[[str], bool]) -> Iterator[_Due]:
    for image in (image for image in images(ledger) if mine(image.sha)):
        answers = list(ledger.rows(AnswerRow, "image = ? AND step = ?", (image.sha, step.name)))
        for subject in step.subjects(ledger, image):
            about = {x.about: x for x in answers if (x.kind, x.language) == (subject.kind, subject.language)}
            if (found := _next(step, ledger, subject, about)) is not None:
                yield found


def _next(step: Step, ledger: Ledger, subject: Subject, about: dict[str, AnswerRow]) -> _Due | None:
    before: AnswerRow | None = None
    for depth in range(step.repairs + 1):
        answer = about.get(before.key if before else "")
        if answer is None or answer.reason in PASSING:
            wanted = before is None or step.wanting(ledger, subject)
            return _Due(subject, before, depth, answer is not None) if wanted else None
        if not answer.read:
            return _Due(subject, before, depth, False, True)
        if answer.reason in FINAL:
            changed = step.ask(ledger, subject, before).key(answer.model) != answer.key
            return _Due(subject, before, depth, True) if changed else None
        before = answer
    return None


def asks(step: Step, ledger: Ledger, mine: Callable[[str], bool], depth: int) -> Iterator[Ask]:
    """The questions of a round; arguments as of `next_round`.

    A question that failed for a reason that passes is asked again. What was answered under an older prompt stays.
    """
    for x in _due(step, ledger, mine):
        if not x.answered and (x.tried or x.depth == depth):
            yield step.ask(ledger, x.subject, x.before)


def read_all(step: Reader, ledger: Ledger) -> None:
    """Reads the answers that were not yet, always in the same order: what is a repetition does not depend on the server.

    First questions come first, then those that mended what was read. Opinions of items wait for these.
    """
    sql = (
        "SELECT key FROM answers AS mine WHERE step = ? AND read = 0 AND NOT EXISTS "
        "(SELECT 1 FROM answers AS mended WHERE mended.key = mine.about AND mended.read = 0) AND (step <> 'judge' OR EXISTS "
        "(SELECT 1 FROM items WHERE items.id = mine.about)) ORDER BY image, kind, language, key"
    )
    while keys := [key for (key,) in ledger.query(sql, (step.name,))]:
        _read_keys(step, ledger, keys)


def _read_keys(step: Reader, ledger: Ledger, keys: Sequence[str]) -> None:
    for start in range(0, len(keys), BATCH):
        with ledger.changes():
            for key in keys[start : start + BATCH]:
                answer = ledger.row(AnswerRow, "key = ?", (key,))
                assert answer is not None
                step.read(ledger, answer)
                ledger.query("UPDATE answers SET read = 1 WHERE key = ?", (key,))


def failure(answer: AnswerRow) -> str:
    """Why an answer holds nothing: no reply came, or the model or its provider declined; "" where there is something."""
    return answer.reason or (answer.finish if answer.finish in ("refusal", "content_filter") else "")


def fail(ledger: Ledger, answer: AnswerRow, reason: str) -> None:
    """Writes down why an answer is of no use."""
    ledger.query("UPDATE answers SET reason = ? WHERE key = ?", (reason, answer.key))
