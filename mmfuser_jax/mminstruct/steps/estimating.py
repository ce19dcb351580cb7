"""What the steps will cost, before a cent is spent; kept, to be compared with what they came to."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

from rich.console import Console

from mmfuser_jax.mminstruct.asking.prices import Tokens
from mmfuser_jax.mminstruct.ledger import Ledger
from mmfuser_jax.mminstruct.project import Project
from mmfuser_jax.mminstruct.schema import Estimate
from mmfuser_jax.mminstruct.status import numbers_table
from mmfuser_jax.mminstruct.steps.instructions import COUNT
from mmfuser_jax.mminstruct.steps.judging import TOKENS, Judge
from mmfuser_jax.mminstruct.steps.servers import Way, servers_of, step_price
from mmfuser_jax.mminstruct.steps.step import asks, next_round
from mmfuser_jax.mminstruct.steps.work import domains_of, step_of

SAMPLE = 200
"""Questions that are written to see how long they are."""

MEASURED = 20
"""Answers of a step from which on what they did cost counts, and no rule."""

READ, WRITTEN = 0.8, 0.35
"""Shares of the most tokens that questions and their answers can have, which they do have."""

AGAIN = 0.1
"""Share of questions that are asked once more."""

RULES = 200
"""Tokens of a judge's instructions and of the item."""

CAPTION = "A typical description of a picture says in some words what there is and where it stands. " * 12
"""Stands in for captions that are not there yet."""


@dataclasses.dataclass(frozen=True)
class Foretold:
    """Of a step.

    Attributes:
      step: its name.
      asks: questions.
      usd: that they will cost, about.
      most: that they cost, if every answer takes all its room and every question is asked as often as it may be.
      measured: whether answers of this project say so, instead of a rule.
    """

    step: str
    asks: int
    usd: float
    most: float
    measured: bool


def estimate(project: Project, ledger: Ledger) -> list[Foretold]:
    """What is left to ask in every step that has a server, and its price; written down in the ledger.

    Raises:
      ProjectError, PriceError: a step has no server, or the model no price.
    """
    found = [_of_step(project, ledger, name) for name in ("caption", "generate", "expand")]
    if any("judge" in server.steps for server in project.config.servers):
        found.append(_of_judge(project, ledger, found[1].asks, found[2].asks))
    with ledger.changes():
        for x in found:
            asked, usd = ledger.asked(x.step)
            ledger.add(Estimate(x.step, x.asks, x.usd, asked, usd))
    return found


def _of_step(project: Project, ledger: Ledger, name: str) -> Foretold:
    step = step_of(project, name, CAPTION)
    picture = max((server.picture_tokens for server in project.config.servers if name in server.steps), default=0)
    mine = Way().mine  # whichever machine will ask
    now = next_round(step, ledger, mine)
    sample = [ask.at_most(picture) for ask in itertools.islice(asks(step, ledger, mine, now.depth), SAMPLE)]
    return _foretold(project, ledger, name, now.untried + now.tried, sample, step.repairs)


def _of_judge(project: Project, ledger: Ledger, generated: int, expanded: int) -> Foretold:
    """About every item that is there, and those that answers to so many more questions will give."""
    there = sum(1 for _ in Judge(domains_of(project)).images(ledger))
    picture = servers_of(project, "judge")[0].picture_tokens
    typical = Tokens(picture + len(CAPTION) // 3 + RULES, TOKENS)
    return _foretold(project, ledger, "judge", there + COUNT * generated + expanded, [typical], 0)


def _foretold(
    project: Project, ledger: Ledger, name: str, count: int, sample: Sequence[Tokens], repairs: int
) -> Foretold:
    if not count:
        return Foretold(name, 0, 0.0, 0.0, False)
    server = servers_of(project, name)[0]
    price = step_price(project, server, server.batch)
    most = sum(map(price.of, sample)) / len(sample)
    answered, spent = ledger.answered(name)
    measured = answered >= MEASURED
    typical = [Tokens(round(x.input * READ), round(x.output * WRITTEN)) for x in sample]
    each = spent / answered if measured else sum(map(price.of, typical)) / len(sample)
    return Foretold(
        name, count, (1 + AGAIN * bool(repairs)) * count * each, (1 + 2 * repairs) * count * most, measured
    )  # what mends may be twice as long


def print_estimate(foretold: list[Foretold]) -> None:
    """What the steps will cost."""
    table = numbers_table("what is left to ask, in US dollars", "step", "questions", "about", "at most", "by")
    for x in foretold:
        who = "answers so far" if x.measured else "length of the questions"
        table.add_row(x.step, f"{x.asks:,}", f"{x.usd:,.4f}", f"{x.most:,.4f}", who if x.asks else "")
    table.add_section()
    table.add_row("all", "", f"{sum(x.usd for x in foretold):,.4f}", f"{sum(x.most for x in foretold):,.4f}", "")
    Console().print(table)
