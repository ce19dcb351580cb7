"""A second model's opinion of every good item: what it says is wrong, a person looks at."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from mmfuser_jax.mminstruct.asking.ask import Ask
from mmfuser_jax.mminstruct.ledger import Ledger
from mmfuser_jax.mminstruct.questions.keeping import exchanges
from mmfuser_jax.mminstruct.questions.prompts import fill, listed, load_prompt
from mmfuser_jax.mminstruct.questions.replies import truth_of
from mmfuser_jax.mminstruct.questions.seed_questions import Domain
from mmfuser_jax.mminstruct.reasons import PASSING_SQL
from mmfuser_jax.mminstruct.schema import HAS_PICTURE, AnswerRow, ItemRow
from mmfuser_jax.mminstruct.steps.captions import material_of
from mmfuser_jax.mminstruct.steps.step import fail, failure, seed_of

TOKENS = 128

PAGE = 10_000
"""Items that are held in memory at once."""


class Judge:
    """Asks about items and reads what is said; see `step.Reader`."""

    name = "judge"

    def __init__(self, domains: Mapping[str, Domain]) -> None:
        self._domains = domains

    def asks(self, ledger: Ledger) -> Iterator[Ask]:
        """A question about every good item without an opinion; again, where it failed for a passing reason."""
        for name, _ in self._waiting(ledger):
            row = ledger.row(ItemRow, "id = ?", (name,))
            assert row is not None
            yield self._ask(ledger, row)

    def images(self, ledger: Ledger) -> Iterator[str]:
        """SHA-256 of the picture of each of these questions."""
        return (image for _, image in self._waiting(ledger))

    def _waiting(self, ledger: Ledger) -> Iterator[tuple[str, str]]:
        sql = (
            "SELECT rowid, id, image FROM items WHERE rowid > ? AND state = 'good' AND step IN ('generate', 'expand') "
            f"AND {HAS_PICTURE} AND NOT EXISTS "
            f"(SELECT 1 FROM answers WHERE about = items.id AND reason NOT IN {PASSING_SQL}) ORDER BY rowid LIMIT {PAGE}"
        )
        last = -1
        while page := ledger.query(sql, (last,)):
            yield from ((name, image) for _, name, image in page)
            last = page[-1][0]

    def _ask(self, ledger: Ledger, row: ItemRow) -> Ask:
        prompt = load_prompt(self.name, row.language)
        image = ledger.image(row.image)
        assert image is not None
        material = material_of(ledger, self._domains, image, row.language)
        text = fill(prompt.text, material=material.words(prompt, row.language), item=listed(exchanges(row), prompt))
        return Ask(
            self.name, row.domain, row.image, row.type, row.language, prompt.name, seed_of(row.id, self.name),
            prompt.system, text, about=row.id, shown=True, tokens=TOKENS,
        )  # fmt: skip

    def read(self, ledger: Ledger, answer: AnswerRow) -> None:
        """Makes the item doubtful where the answer is no."""
        truth = truth_of(answer.text)
        if reason := failure(answer) or ("" if truth else "no_opinion"):
            fail(ledger, answer, reason)
        elif truth == "no":
            ledger.query(
                "UPDATE items SET state = 'doubtful', reason = 'judge' WHERE id = ? AND state = 'good'", (answer.about,)
            )
