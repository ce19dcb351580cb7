"""What the steps that ask a model have in common: subjects, a first question for each, and others that mend its answer."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, runtime_checkable

from mmfuser_jax.mminstruct.asking.ask import Ask
from mmfuser_jax.mminstruct.asking.endpoints import PASSING
from mmfuser_jax.mminstruct.ledger import Ledger
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
      name: of the step of `config.STEPS` that they belong to.
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
class Waiting:
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


def waiting(step: Step, ledger: Ledger, mine: Callable[[str], bool] = lambda sha: True) -> Iterator[Waiting]:
    """What is to be asked now: the first questions of all subjects, and only once these were asked, those that mend.

    So the ledger comes to the same, wherever a run was killed. A question that failed for a reason that passes is asked again.
    What was answered under an older prompt stays.

    Args:
      step: which asks.
      ledger: knows the answers.
      mine: whether a picture, by its SHA-256, is to be asked about here.
    """
    untried = (x.depth for x in _waiting(step, ledger, mine) if not x.tried and not x.answered)
    lowest = min(untried, default=step.repairs)
    return (x for x in _waiting(step, ledger, mine) if not x.answered and (x.tried or x.depth == lowest))


def to_be_read(step: Step, ledger: Ledger, mine: Callable[[str], bool]) -> bool:
    """Whether answers are there to all questions of a depth, and not yet read: what is a repetition depends on all of them."""
    if not ledger.query("SELECT 1 FROM answers WHERE step = ? AND read = 0 LIMIT 1", (step.name,)):
        return False
    found = [(x.answered, x.depth) for x in _waiting(step, ledger, mine) if not x.tried]
    unread = min((depth for answered, depth in found if answered), default=0)
    return all(unread < depth for answered, depth in found if not answered)


def _waiting(step: Step, ledger: Ledger, mine: Callable[[str], bool]) -> Iterator[Waiting]:
    for image in (image for image in images(ledger) if mine(image.sha)):
        answers = list(ledger.rows(AnswerRow, "image = ? AND step = ?", (image.sha, step.name)))
        for subject in step.subjects(ledger, image):
            about = {x.about: x for x in answers if (x.kind, x.language) == (subject.kind, subject.language)}
            if (found := _next(step, ledger, subject, about)) is not None:
                yield found


def _next(step: Step, ledger: Ledger, subject: Subject, about: dict[str, AnswerRow]) -> Waiting | None:
    before: AnswerRow | None = None
    for depth in range(step.repairs + 1):
        answer = about.get(before.key if before else "")
        if answer is None or answer.reason in PASSING:
            wanted = before is None or step.wanting(ledger, subject)
            return Waiting(subject, before, depth, answer is not None) if wanted else None
        if not answer.read:
            return Waiting(subject, before, depth, False, True)
        if answer.reason in FINAL:
            changed = step.ask(ledger, subject, before).key(answer.model) != answer.key
            return Waiting(subject, before, depth, True) if changed else None
        before = answer
    return None


def asks(step: Step, ledger: Ledger, mine: Callable[[str], bool]) -> Iterator[Ask]:
    """Their questions; arguments as of `waiting`."""
    return (step.ask(ledger, x.subject, x.before) for x in waiting(step, ledger, mine))


def read_all(step: Reader, ledger: Ledger) -> None:
    """Reads the answers that were not yet, always in the same order: what is a repetition does not depend on the server.

    First questions come first, then those that mended what was read.
    """
    sql = (
        "SELECT key FROM answers AS mine WHERE step = ? AND read = 0 AND NOT EXISTS "
        "(SELECT 1 FROM answers AS mended WHERE mended.key = mine.about AND mended.read = 0) ORDER BY image, kind, language, key"
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
