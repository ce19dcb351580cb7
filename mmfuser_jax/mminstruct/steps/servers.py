"""Who is asked in a step, of which pictures, in which way, and for how much."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

from mmfuser_jax.mminstruct import store
from mmfuser_jax.mminstruct.asking.ask import Answer, Ask
from mmfuser_jax.mminstruct.asking.batch_files import ask_in_files
from mmfuser_jax.mminstruct.asking.endpoints import Endpoint
from mmfuser_jax.mminstruct.asking.on_ray import ask_on_ray
from mmfuser_jax.mminstruct.asking.online import Budget, Outcome, ask_all
from mmfuser_jax.mminstruct.asking.prices import Price, price_of
from mmfuser_jax.mminstruct.asking.server import Server
from mmfuser_jax.mminstruct.asking.shards import in_shard
from mmfuser_jax.mminstruct.asking.trust import trust_of
from mmfuser_jax.mminstruct.ledger import Ledger
from mmfuser_jax.mminstruct.project import Project, ProjectError
from mmfuser_jax.prepare.progress import counting

Answers = Sequence[tuple[Answer, float]]
"""With what they have cost, in US dollars."""


class StoppedError(RuntimeError):
    """A step ended before everything was asked; the message says why, and how to go on."""


WHOLE = "0/1"
"""All pictures, as the part of one machine."""


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


ALONE = Way()
"""This machine asks, and no other."""


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


def ask_servers(project: Project, ledger: Ledger, name: str, questions: Iterable[Ask], total: int, way: Way) -> None:
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


def take_files(project: Project, ledger: Ledger, way: Way) -> None:
    """Takes the answers of files that are on their way, of every step, before new answers change what is asked.

    Raises:
      ProjectError: the config, or `way`, does not send files any more: those on their way would be paid for twice.
      StoppedError, AskingError: see `ask_servers`.
    """
    sql = "SELECT DISTINCT json_extract(keys, '$.step') FROM batches WHERE state <> 'taken' ORDER BY 1"
    for (step,) in ledger.query(sql):
        if way.ray or not servers_of(project, step)[0].batch:
            raise ProjectError(
                f"{project.folder}: files of questions are on their way; take their answers first: {step}, with "
                "batch: true in project.yaml and without --ray"
            )
        ask_servers(project, ledger, step, (), 0, way)


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
