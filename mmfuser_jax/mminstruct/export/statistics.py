"""The numbers of a data set, as JSON holds them: what is in it, what is not, who looked at it, and what it cost."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from mmfuser_jax.mminstruct.config import Output
from mmfuser_jax.mminstruct.export.selection import MADE, Selection, reviewers
from mmfuser_jax.mminstruct.ledger import Ledger
from mmfuser_jax.mminstruct.review.agreement import agreements_of

WRITTEN = "left_out = ''"

REVIEW = {
    "items": "count(*)",
    "looked_at": "sum(decision <> 'open')",
    "accepted": "sum(decision = 'accepted' AND NOT edited)",
    "edited": "sum(decision = 'accepted' AND edited)",
    "rejected": "sum(decision = 'rejected')",
    "conflict": "sum(decision = 'conflict')",
}
"""Of items that the program did not refuse: all, those that people looked at, and what these came to; in SQL."""


def statistics(selection: Selection, ledger: Ledger, output: Output) -> dict[str, Any]:
    """All numbers.

    Args:
      selection: of what is written.
      ledger: whose items these are.
      output: config of the export, for what hours and handwork cost, and whether people are named.
    """
    refused = dict(ledger.query("SELECT reason, count(*) FROM items WHERE state = 'refused' GROUP BY 1"))
    left_out = _counts(selection, "left_out", f"NOT {WRITTEN}")
    return {
        "items": selection.count(),
        "exchanges": sum(rounds for (rounds,) in selection.query(f"SELECT rounds FROM items WHERE {WRITTEN}")),
        "pictures": sum(1 for _ in selection.pictures()),
        "pictures_by_domain": _of_pictures(selection, "domain"),
        "items_by_domain": _items_by_domain(selection),
        "types": _counts(selection, "type"),
        "languages": _counts(selection, "language"),
        "left_out": _ordered({**left_out, **({"refused": sum(refused.values())} if refused else {})}),
        "refused": _ordered(refused),
        "rejected": _counts(selection, "why", "decision = 'rejected'"),
        "looked_at": selection.count(f"{WRITTEN} AND decision <> 'open'"),
        "agreement": _agreement(ledger, reviewers(ledger, named=output.reviewer_names)),
        "review": {name: _review(selection, name) for name in ("domain", "type", "state")},
        "letters": dict(sorted(_counts(selection, "answer", f"{WRITTEN} AND type = 'choice'").items())),
        "yes_no": _yes_no(selection),
        "lengths": _lengths(selection),
        "models": _models(ledger),
        "licences": _of_pictures(selection, "licence"),
        "hosts": _of_pictures(selection, "host"),
        "sets": _counts(selection, "step", f"{WRITTEN} AND step NOT IN {MADE}"),
        "cost": _cost(ledger, output, selection.count(f"{WRITTEN} AND step IN {MADE}")),
    }


def _ordered(counts: Mapping[str, int]) -> dict[str, int]:
    """Most frequent first."""
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _counts(selection: Selection, column: str, condition: str = WRITTEN) -> dict[str, int]:
    sql = f"SELECT {column}, count(*) FROM items WHERE {condition} GROUP BY 1"
    return _ordered({str(value): count for value, count in selection.query(sql)})


def _of_pictures(selection: Selection, column: str) -> dict[str, int]:
    sql = f"""
        SELECT {column}, count(*) FROM pictures
        WHERE path IN (SELECT picture FROM items WHERE {WRITTEN}) GROUP BY 1
    """
    return _ordered(dict(selection.query(sql)))


def _items_by_domain(selection: Selection) -> dict[str, dict[str, dict[str, int]]]:
    """Domain → type → language → items."""
    nested: dict[str, dict[str, dict[str, int]]] = {}
    sql = f"SELECT domain, type, language, count(*) FROM items WHERE {WRITTEN} GROUP BY 1, 2, 3 ORDER BY 1, 2, 3"
    for domain, kind, language, count in selection.query(sql):
        nested.setdefault(domain, {}).setdefault(kind, {})[language] = count
    return nested


def _review(selection: Selection, column: str) -> dict[str, dict[str, int]]:
    sql = f"SELECT {column}, {', '.join(REVIEW.values())} FROM items GROUP BY 1 ORDER BY 1"
    return {value: dict(zip(REVIEW, counts, strict=True)) for value, *counts in selection.query(sql)}


def _agreement(ledger: Ledger, names: Mapping[str, str]) -> list[str]:
    """A line for every two people; `names`: that they have in the data set."""
    lines = []
    for found in agreements_of(ledger):
        first, second = sorted((names[found.first], names[found.second]))
        lines.append(str(dataclasses.replace(found, first=first, second=second)))
    return sorted(lines)


def _yes_no(selection: Selection) -> dict[str, dict[str, int]]:
    """Language → answer → judgements."""
    found: dict[str, dict[str, int]] = {}
    sql = f"SELECT language, answer, count(*) FROM items WHERE {WRITTEN} AND type = 'judgement' GROUP BY 1, 2"
    for language, answer, count in selection.query(sql):
        found.setdefault(language, {"yes": 0, "no": 0})[answer] = count
    return found


def _lengths(selection: Selection) -> dict[str, dict[str, dict[str, int | float]]]:
    """Type → language → how long questions and answers are, in words and Chinese characters."""
    lengths: dict[str, dict[str, dict[str, int | float]]] = {}
    groups = list(selection.query(f"SELECT DISTINCT type, language FROM items WHERE {WRITTEN} ORDER BY 1, 2"))
    for group in groups:
        sql = f"SELECT question, reply FROM items WHERE {WRITTEN} AND type = ? AND language = ?"
        both = np.array(list(selection.query(sql, group)), np.int64)
        entry = lengths.setdefault(group[0], {}).setdefault(group[1], {})
        for name, column in zip(("question", "answer"), both.T, strict=True):
            entry[f"{name}_median"] = float(np.median(column))
            entry[f"{name}_most"] = int(column.max())
    return lengths


def _models(ledger: Ledger) -> list[dict[str, Any]]:
    """Every model with every prompt: how often it was asked, how often for nothing, tokens and dollars."""
    sql = """
        SELECT step, model, prompt, count(*), sum(reason <> ''), sum(input_tokens), sum(output_tokens), sum(usd)
        FROM answers GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
    """
    names = ("step", "model", "prompt", "asked", "failed", "input_tokens", "output_tokens", "usd")
    return [{**dict(zip(names, row, strict=True)), "usd": round(row[-1], 6)} for row in ledger.query(sql)]


def _cost(ledger: Ledger, output: Output, made: int) -> dict[str, Any]:
    """`made`: items of the set that were not taken over from others."""
    by_step = {step: round(usd, 6) for step, usd in ledger.query("SELECT step, sum(usd) FROM answers GROUP BY 1")}
    people, on_sets = _people(ledger, output, f"IN {MADE}"), _people(ledger, output, f"NOT IN {MADE}")
    spent = sum(by_step.values()) + people["usd"]
    return {
        "made": made,
        "by_step": by_step,
        "api_usd": round(sum(by_step.values()), 6),
        "people": people,
        "people_on_sets": on_sets,
        "reviewer_usd_per_hour": output.reviewer_usd_per_hour,
        "total_usd": round(spent + on_sets["usd"], 6),
        "usd_per_item": round(spent / made, 6) if made else None,
        "manual_usd": output.manual_usd,
    }


def _people(ledger: Ledger, output: Output, steps: str) -> dict[str, int | float]:
    """What people said of items of some steps, and how long they took; `steps`: in SQL."""
    sql = f"SELECT count(*), coalesce(sum(seconds), 0) FROM verdicts JOIN items ON id = item WHERE step {steps}"
    ((verdicts, seconds),) = ledger.query(sql)
    usd = seconds / 3600 * output.reviewer_usd_per_hour
    return {"verdicts": verdicts, "seconds": round(seconds, 3), "usd": round(usd, 6)}
