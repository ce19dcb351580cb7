"""Runs a step that asks a model: reads what there is, asks what is missing, until the answers lack nothing."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable, Sequence

from mmfuser_jax.locks import locked
from mmfuser_jax.mminstruct import store
from mmfuser_jax.mminstruct.asking.ask import Answer, Ask
from mmfuser_jax.mminstruct.asking.batch_files import ask_in_files
from mmfuser_jax.mminstruct.asking.endpoints import Endpoint
from mmfuser_jax.mminstruct.asking.on_ray import ask_on_ray
from mmfuser_jax.mminstruct.asking.online import Budget, Outcome, ask_all
from mmfuser_jax.mminstruct.asking.prices import Price, price_of
from mmfuser_jax.mminstruct.asking.shards import in_shard
from mmfuser_jax.mminstruct.asking.trust import ask_again_what_was_refused, trust_of
from mmfuser_jax.mminstruct.config import Server
from mmfuser_jax.mminstruct.ledger import Ledger
from mmfuser_jax.mminstruct.project import Project, ProjectError
from mmfuser_jax.mminstruct.questions.benchmarks import benchmark_questions
from mmfuser_jax.mminstruct.questions.seed_questions import Domain, SeedError, domain_names, load_domains
from mmfuser_jax.mminstruct.reasons import PASSING_SQL
from mmfuser_jax.mminstruct.steps.captions import Captions
from mmfuser_jax.mminstruct.steps.conversations import Conversations
from mmfuser_jax.mminstruct.steps.instructions import Instructions
from mmfuser_jax.mminstruct.steps.judging import Judge
from mmfuser_jax.mminstruct.steps.step import Step, asks, next_round, read_all
from mmfuser_jax.prepare.progress import counting

Answers = Sequence[tuple[Answer, float]]
"""With what they have cost, in US dollars."""


class StoppedError(RuntimeError):
    """A step ended before everything was asked; the message says why, and how to go on."""


class UnansweredError(StoppedError):
    """Some questions had no answer, for reasons that pass; all others had one, and other steps may go on."""


LOG = logging.getLogger(__name__)

WHOLE = "0/1"
"""All pictures, as the part of one machine."""

MOST_ROUNDS = 4
"""Times the rounds that a step has where nothing fails: what mends an answer that came late is asked in a later one."""


@dataclasses.dataclass(frozen=True)
class Way:
    """How questions are asked.

    Attributes:
      shard: "i/n", this machine's part of the pictures.
      ray: processes of a Ray cluster that ask; 0 for this one.
    """

    shard: str = WHOLE
    ray: int = 0

    @property
    def part(self) -> tuple[int, int]:
        """(index from 0, number of parts).

        Raises:
          ValueError: `shard` is no part.
        """
        index, _, count = self.shard.partition("/")
        if not (index.isdecimal() and count.isdecimal()):
            raise ValueError(f"--shard={self.shard}: is no part of the pictures; write it as 0/4 to 3/4")
        return int(index), int(count)

    def mine(self, sha: str) -> bool:
        """Whether a picture is in this machine's part; errors as of `part`."""
        return in_shard(sha, *self.part)

    def spent(self, ledger: Ledger) -> float:
        """US dollars that questions about these pictures have cost."""
        if self.shard == WHOLE:
            return ledger.spent()
        costs = ledger.query("SELECT image, sum(usd) FROM answers GROUP BY image")
        return float(sum(usd for image, usd in costs if self.mine(image)))


def servers_of(project: Project, name: str) -> list[Server]:
    """The servers of a step.

    Raises:
      ProjectError: there is none, or they are not alike.
    """
    servers = [server for server in project.config.servers if name in server.steps]
    if not servers:
        raise ProjectError(f"{project.folder}/project.yaml: servers: none for {name}; add one with base_url and model")
    for field in ("model", "batch", "json_schema", "picture_tokens"):
        values = {getattr(server, field) for server in servers}
        if len(values) > 1:
            said = " and ".join(sorted(map(str, values)))
            raise ProjectError(f"{project.folder}/project.yaml: servers of {name}: {field} is {said}; make it the same")
    return servers


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


def work(project: Project, ledger: Ledger, name: str, way: Way = Way()) -> None:
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
        again = number == 0 and (now.tried or _files_on_their_way(ledger, step.name))
        if not (now.untried or again):  # what failed was asked again in the last round
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


def ask_servers(
    project: Project, ledger: Ledger, name: str, questions: Iterable[Ask], total: int, way: Way = Way()
) -> None:
    """Asks questions of a step's servers, with progress, rate, cost and the time that is left.

    Raises:
      StoppedError: see `work`.
    """
    servers = servers_of(project, name)
    in_files = servers[0].batch and not way.ray
    limit = project.config.budget_usd
    part_limit = None if limit is None else limit / way.part[1]
    budget = Budget(step_price(project, servers[0], in_files), way.spent(ledger), part_limit, servers[0].picture_tokens)
    before = budget.spent
    side = min(server.picture_side for server in servers)

    with counting(f"{name}: questions", total) as counter:

        def write(answers: Answers) -> None:
            for answer, usd in answers:
                ledger.add_answer(answer.row(usd))
            counter.add(len(answers), f"${budget.spent - before:,.4f}")

        def take(answers: Answers) -> None:
            with ledger.changes():
                write(answers)

        def picture(ask: Ask) -> bytes:
            return store.sent(project.images, ask.image, side)

        _refuse_files_on_their_way(project, ledger, name, in_files)
        trust = trust_of(ledger, name, servers[0].model)
        if way.ray:
            outcome = ask_on_ray(questions, servers, budget, picture, take, trust, way.ray)
        elif in_files:
            outcome = ask_in_files(
                questions, endpoints_of(servers), ledger, budget, picture, write, trust,
                project=project.config.name, step=name,
            )  # fmt: skip
        else:
            outcome = ask_all(questions, endpoints_of(servers), budget, picture, take, trust)
    if outcome.stopped:
        raise StoppedError(_why(outcome, project, way))


def _refuse_files_on_their_way(project: Project, ledger: Ledger, name: str, in_files: bool) -> None:
    """Of other steps, as new answers would change their questions; where nothing is asked in files, of any: they would be paid twice.

    Raises:
      ProjectError: there are some.
    """
    steps = sorted(step for step in _files_on_their_way(ledger) if step != name or not in_files)
    if steps:
        raise ProjectError(
            f"{project.folder}: files of questions are on their way; take their answers first: {' and '.join(steps)}, with "
            "batch: true in project.yaml and without --ray"
        )


def _files_on_their_way(ledger: Ledger, step: str = "") -> set[str]:
    """Steps with files of questions whose answers are not taken yet; of one step, or of all."""
    sql = "SELECT DISTINCT json_extract(keys, '$.step') FROM batches WHERE state <> 'taken'"
    return {found for (found,) in ledger.query(sql) if step in ("", found)}


def endpoints_of(servers: Iterable[Server]) -> list[Endpoint]:
    """One for each key.

    Raises:
      AskingError: a key is not in the environment.
    """
    return [Endpoint(server, variable) for server in servers for variable in server.keys or [""]]


def _why(outcome: Outcome, project: Project, way: Way) -> str:
    if outcome.stopped == "budget":
        share = "" if way.shard == WHOLE else f", of which this part has 1 of {way.part[1]} shares"
        limit = f"budget_usd (${project.config.budget_usd:g}{share})"
        return f"stopped: what is left of {limit} may not do for another question; raise it and run again"
    return f"stopped by {outcome.stopped} after {outcome.asked:,} answers, all of them kept; run it again to go on"


def step_price(project: Project, server: Server, in_files: bool) -> Price:
    """The price of a server's model.

    Args:
      project: whose folder may have prices of its own.
      server: of the model.
      in_files: whether questions are asked in files, which cost less.

    Raises:
      PriceError: it is not known.
    """
    price = price_of(server.model, project.folder)
    share = server.batch_price if in_files else 1.0
    return Price(price.input * share, price.output * share)
