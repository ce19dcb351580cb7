"""What a project has, and what it lacks, as tables."""

from __future__ import annotations

from collections import Counter

from rich.console import Console
from rich.table import Table

from mmfuser_jax.mminstruct.asking.server import STEPS
from mmfuser_jax.mminstruct.config import Config
from mmfuser_jax.mminstruct.ledger import Ledger
from mmfuser_jax.mminstruct.project import Project
from mmfuser_jax.mminstruct.questions.items import TYPES
from mmfuser_jax.mminstruct.reasons import MEANINGS, PASSING_SQL
from mmfuser_jax.mminstruct.schema import HAS_PICTURE, Estimate, Export

USED = ("kept", "imported")
"""States of pictures that are not dropped."""

_LOOKED_AT = """
    SELECT item FROM verdicts GROUP BY item, reviewer HAVING sum(verdict <> 'undone') > sum(verdict = 'undone')
"""
"""Items on which a verdict stands; an item is there for each person."""

_READY = {
    "caption": "1",
    "generate": "EXISTS (SELECT 1 FROM answers WHERE image = sha AND step = 'caption' AND reason = '')",
    "expand": "EXISTS (SELECT 1 FROM items WHERE image = sha AND state = 'good' AND step = 'generate')",
}
"""Step → when it can ask about a picture, in SQL."""


def print_status(ledger: Ledger) -> None:
    """Pictures, questions to models, items and verdicts."""
    console = Console()
    for table in (_pictures(ledger), _questions(ledger), _items(ledger), _losses(ledger)):
        if table.row_count:
            console.print(table)


def next_step(project: Project, ledger: Ledger) -> str:
    """The command that is to be given next, and why; one line."""
    command, why = _next(project, ledger)
    return f"next: python launch/mminstruct.py {command} --project={project.folder}   ({why})"


def _next(project: Project, ledger: Ledger) -> tuple[str, str]:
    if not _count(ledger, "images WHERE state <> 'dropped'"):
        return "estimate", "there are no pictures yet; it takes them in and says what questions will cost"
    for step, ready in _READY.items():
        if step == "expand" and not project.config.expand.conversations:
            continue
        asked = f"EXISTS (SELECT 1 FROM answers WHERE image = sha AND step = '{step}')"
        if waiting := _count(ledger, f"images WHERE state = 'kept' AND NOT {asked} AND {ready}"):
            return "run", f"{waiting:,} pictures wait for {step}"
        if failed := _count(ledger, f"answers WHERE step = '{step}' AND {_asked_again(project.config)}"):
            return "run", f"{failed:,} questions of {step} had no answer, and are asked again"
    if not _count(ledger, "(SELECT 1 FROM items WHERE state <> 'refused' LIMIT 1)"):
        return "run", "there are no items yet"
    if waiting := _count(ledger, f"items WHERE state = 'doubtful' AND {HAS_PICTURE} AND id NOT IN ({_LOOKED_AT})"):
        return "review", f"{waiting:,} doubtful items wait for people"
    some = project.config.review.share or project.config.review.least
    if some and not _count(ledger, f"({_LOOKED_AT} LIMIT 1)"):
        return "review", "nobody has looked at an item yet"
    last = next(ledger.rows(Export, order="number DESC"), None)
    return "export --to=FOLDER", f"written before to {last.path}" if last else "it writes what passed"


def _asked_again(config: Config) -> str:
    """Which questions the next run asks again, in SQL: of those that failed, what the project still wants to know."""
    languages = ", ".join(map(repr, config.languages))
    unwanted = ", ".join(repr(kind) for kind in TYPES if kind not in config.generate.types)
    return (
        f"reason IN {PASSING_SQL} AND language IN ({languages}) AND kind NOT IN ({unwanted}) "
        "AND image IN (SELECT sha FROM images WHERE state = 'kept')"
    )


def _count(ledger: Ledger, rows: str) -> int:
    """How many there are; `rows`: in SQL."""
    return int(ledger.query(f"SELECT count(*) FROM {rows}")[0][0])


def print_pictures(ledger: Ledger) -> None:
    """Only the pictures."""
    Console().print(_pictures(ledger))


def numbers_table(title: str, *columns: str, right: bool = True) -> Table:
    """A table whose first column holds names, and whose others hold numbers or, if not `right`, words."""
    table = Table(title=f"\n{title}", box=None, padding=(0, 1, 0, 0), title_justify="left", header_style="underline")
    table.add_column(columns[0], no_wrap=True)
    for column in columns[1:]:
        table.add_column(column, justify="right" if right else "left")
    return table


def _reasons(counts: Counter[str]) -> str:
    return ", ".join(f"{count:,} {MEANINGS.get(reason, reason)}" for reason, count in counts.most_common())


def _pictures(ledger: Ledger) -> Table:
    """By domain: how many places were looked at, what was kept, and why the rest was not."""
    table = numbers_table("pictures", "domain", "looked at", "kept", "not taken, and why", right=False)
    counts = ledger.picture_counts()
    for domain, whats in counts.items():
        others = _reasons(Counter({x: count for x, count in whats.items() if x not in USED}))
        table.add_row(domain, f"{sum(whats.values()):,}", f"{_used(whats):,}", others)
    if len(counts) > 1:
        looked = sum(sum(whats.values()) for whats in counts.values())
        table.add_row()
        table.add_row("all", f"{looked:,}", f"{sum(map(_used, counts.values())):,}", "")
    return table


def _used(whats: dict[str, int]) -> int:
    return sum(whats.get(state, 0) for state in USED)


def _questions(ledger: Ledger) -> Table:
    """By step: questions, tokens and money, beside what was foretold."""
    names = ("step", "asked", "of no use", "tokens in", "out", "US dollars", "foretold", "came to")
    table = numbers_table("questions to models", *names)
    sql = "SELECT count(*), sum(reason <> ''), sum(input_tokens), sum(output_tokens), sum(usd) FROM answers WHERE step = ?"
    for step in STEPS:
        ((asked, failed, read, written, usd),) = ledger.query(sql, (step,))
        if asked:
            numbers = [f"{number:,}" for number in (asked, failed, read, written)]
            table.add_row(step, *numbers, f"{usd:,.4f}", *_foretold(ledger, step))
    return table


def _foretold(ledger: Ledger, step: str) -> tuple[str, str]:
    """The first estimate since which something was asked, and what that came to."""
    for x in ledger.rows(Estimate, "step = ? AND asks > 0", (step,), "number"):
        asked, usd = ledger.asked(step)
        if asked > x.asked_before:
            return f"{x.usd:,.4f}/{x.asks:,}", f"{usd - x.usd_before:,.4f}/{asked - x.asked_before:,}"
    return "", ""


def _items(ledger: Ledger) -> Table:
    """By domain: good items of every type, doubtful and refused ones, and those that people looked at."""
    columns = ("yes/no", "choice", "short", "long", "talks", "doubt", "refused", "looked at")
    table = numbers_table("items", "domain", *columns)
    names = {"judgement": "yes/no", "conversation": "talks", "doubtful": "doubt"}
    counts: dict[str, Counter[str]] = {}
    sql = "SELECT domain, type, state, count(*) FROM items GROUP BY domain, type, state"
    for domain, kind, state, count in ledger.query(sql):
        what = kind if state == "good" else state
        counts.setdefault(domain, Counter())[names.get(what, what)] += count
    sql = f"SELECT domain, count(*) FROM items WHERE id IN ({_LOOKED_AT}) GROUP BY 1"
    for domain, count in ledger.query(sql):
        counts[domain]["looked at"] = count
    for domain, found in counts.items():
        table.add_row(domain, *(f"{found[column]:,}" for column in columns))
    if len(counts) > 1:
        total = sum(counts.values(), Counter[str]())
        table.add_row()
        table.add_row("all", *(f"{total[column]:,}" for column in columns))
    return table


def _losses(ledger: Ledger) -> Table:
    """What is of no use, or doubtful, and why."""
    table = numbers_table("what is not used, and why", "", "", "", right=False)
    sql = "SELECT step, reason, count(*) FROM answers WHERE reason <> '' GROUP BY 1, 2 ORDER BY 1, 3 DESC"
    for step, reason, count in ledger.query(sql):
        table.add_row(f"answers of {step}", f"{count:,}", MEANINGS.get(reason, reason))
    sql = "SELECT state, reason, count(*) FROM items WHERE state <> 'good' GROUP BY 1, 2 ORDER BY 1, 3 DESC"
    for state, reason, count in ledger.query(sql):
        table.add_row(f"{state} items", f"{count:,}", MEANINGS.get(reason, reason))
    return table
