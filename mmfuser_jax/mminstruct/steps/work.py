"""Runs a step that asks a model: reads what there is, asks what is missing, until the answers lack nothing."""

from __future__ import annotations

import logging

from mmfuser_jax.locks import locked
from mmfuser_jax.mminstruct.asking.trust import ask_again_what_was_refused
from mmfuser_jax.mminstruct.ledger import Ledger
from mmfuser_jax.mminstruct.project import Project, ProjectError
from mmfuser_jax.mminstruct.questions.benchmarks import benchmark_questions
from mmfuser_jax.mminstruct.questions.seed_questions import Domain, SeedError, domain_names, load_domains
from mmfuser_jax.mminstruct.reasons import PASSING_SQL
from mmfuser_jax.mminstruct.steps.captions import Captions
from mmfuser_jax.mminstruct.steps.conversations import Conversations
from mmfuser_jax.mminstruct.steps.instructions import Instructions
from mmfuser_jax.mminstruct.steps.judging import Judge
from mmfuser_jax.mminstruct.steps.servers import (
    ALONE,
    WHOLE,
    StoppedError,
    Way,
    ask_servers,
    servers_of,
    take_files,
)
from mmfuser_jax.mminstruct.steps.step import Step, asks, next_round, read_all


class UnansweredError(StoppedError):
    """Some questions had no answer, for reasons that pass; all others had one, and other steps may go on."""


LOG = logging.getLogger(__name__)

MOST_ROUNDS = 4
"""Times the rounds that a step has where nothing fails: what mends an answer that came late is asked in a later one."""


def step_of(project: Project, name: str, caption: str = "") -> Step:
    """The step of this name.

    Args:
      project: of which.
      name: "caption", "generate" or "expand".
      caption: see `Instructions`.
    """
    domains = domains_of(project)
    if name == "caption":
        return Captions(project, domains)
    as_json = all(server.json_schema for server in project.config.servers if name in server.steps)
    kind = Instructions if name == "generate" else Conversations
    return kind(project, domains, benchmark_questions(project), as_json, caption)


def domains_of(project: Project) -> dict[str, Domain]:
    """The domains, with the project's own seed questions where its folder has some.

    Raises:
      SeedError: these cannot be used.
    """
    known = load_domains()
    if not project.config.generate.seeds:
        return known
    folder = project.path(project.config.generate.seeds)
    if not folder.is_dir():
        raise SeedError(f"{folder}: no such folder of seed questions (generate.seeds)")
    if unknown := sorted(set(domain_names(folder)) - set(known)):
        raise SeedError(f"{folder}: no domain is called {', '.join(unknown)}; there are {', '.join(known)}")
    return known | load_domains(folder)


def work(project: Project, ledger: Ledger, name: str, way: Way = ALONE) -> None:
    """Asks everything that a step lacks, and reads the answers.

    Raises:
      StoppedError: the budget was spent, or a signal came.
      UnansweredError: a server had no time for some questions.
      ProjectError, AskingError, SeedError, PriceError: nothing can be asked; the message says what to change.
    """
    step = step_of(project, name)
    if any(name in server.steps for server in project.config.servers):
        servers_of(project, name)  # mistakes are said even where there is nothing to ask
    if way.shard != WHOLE and any(server.batch for server in project.config.servers):
        raise ProjectError(
            "--shard is for machines that ask themselves; with batch: true one machine sends all questions"
        )
    if name != "caption" and _has_no_caption(ledger):
        LOG.warning("%s: no picture has a caption yet; run caption first", name)
    with locked(project.folder):
        take_files(project, ledger, way)
        for server in project.config.servers:
            for asking in {name, "judge"}.intersection(server.steps):
                ask_again_what_was_refused(ledger, asking, server.model)
        left = _ask_in_rounds(project, ledger, step, way)
        if name in ("generate", "expand") and any("judge" in server.steps for server in project.config.servers):
            left += _judge(project, ledger, way)
    if left:
        sql = f"SELECT detail FROM answers WHERE step IN (?, 'judge') AND reason IN {PASSING_SQL} ORDER BY at DESC LIMIT 1"
        why = "".join(f" ({detail})" for (detail,) in ledger.query(sql, (name,)))
        raise UnansweredError(f"{name}: {left:,} questions had no answer{why}; run it again when the server has time")


def _ask_in_rounds(project: Project, ledger: Ledger, step: Step, way: Way) -> int:
    """Asks and reads until the answers lack nothing; how many questions are left that have none."""
    now = next_round(step, ledger, way.mine)
    if now.readable:
        read_all(step, ledger)
        now = next_round(step, ledger, way.mine)
    for number in range(MOST_ROUNDS * (step.repairs + 1)):
        if not now.untried and (number or not now.tried):  # what failed was asked again in the last round
            break
        questions = asks(step, ledger, way.mine, now.depth)
        try:
            ask_servers(project, ledger, step.name, questions, now.untried + now.tried, way)
        finally:  # what was paid for becomes items, whatever ended it
            read_all(step, ledger)
        now = next_round(step, ledger, way.mine)
    return now.untried + now.tried


def _has_no_caption(ledger: Ledger) -> bool:
    pictures = ledger.query("SELECT 1 FROM images WHERE state = 'kept' LIMIT 1")
    return bool(pictures) and not ledger.query("SELECT 1 FROM answers WHERE step = 'caption' AND reason = '' LIMIT 1")


def _judge(project: Project, ledger: Ledger, way: Way) -> int:
    """As `_ask_in_rounds`, in one round."""
    judge = Judge(domains_of(project))
    read_all(judge, ledger)

    def left() -> int:
        return sum(way.mine(image) for image in judge.images(ledger))

    if total := left():
        mine = (ask for ask in judge.asks(ledger) if way.mine(ask.image))
        try:
            ask_servers(project, ledger, judge.name, mine, total, way)
        finally:
            read_all(judge, ledger)
    return left()
