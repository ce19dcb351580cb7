"""What a scan says: counts, sizes, duplicates and refused rows, as JSON and as tables on the screen."""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from mmfuser_jax.data.sources import Source
from mmfuser_jax.prepare.pictures import NOTES
from mmfuser_jax.prepare.scan import Scan, label_counts

DUPLICATES_LISTED = 200
DOMAINS_SHOWN = 40
WIDTH = 110
"""Of tables that go into a file."""

SIDES = (0, 64, 128, 224, 336, 448, 672, 1024, 1536, 2048, 4096, 8192, 65536)
MEGAPIXELS = (0, 0.05, 0.1, 0.25, 0.5, 1, 2, 4, 8, 16, 32, 64)
ASPECTS = (0, 0.25, 0.5, 0.67, 0.8, 1, 1.25, 1.5, 2, 4, 100_000)
LENGTHS = (0, *(round(2 ** (step / 2)) for step in range(2, 31)))
"""Edges of histograms: pixels along a side; megapixels; width / height; words of a row."""


def summarise(scanned: Scan, source: Source) -> dict[str, Any]:
    """The whole report, JSON values only.

    Labels, lengths and turns are of the rows that can be used; "domains", "types", "languages" and "domains_by_type"
    count conversations, which rows have one of (records of other sources can have more).

    Args:
      scanned: of the source.
      source: asked for the ids of the duplicates that are listed.
    """
    accepted = scanned.accepted()
    rows = scanned.rows[accepted]
    counts = label_counts(scanned)
    usable = scanned.pictures[scanned.pictures["kind"] >= 0]
    unusable = np.unique(scanned.uses["key"][~np.isin(scanned.uses["key"], usable["key"])])
    domains = _by(counts, 0)
    return {
        "rows": len(scanned.rows),
        "accepted": len(accepted),
        "reasons": dict(Counter(rejection.reason for rejection in scanned.rejected).most_common()),
        "domains": domains,
        "languages": _by(counts, 1),
        "types": _by(counts, 2),
        "domains_by_type": {domain: _by(_only(counts, domain), 2) for domain in domains},
        "length": _histogram(rows["length"], LENGTHS),
        "turns": _counted(rows["turns"]),
        "images_per_row": _counted(rows["images"]),
        "pictures": {
            "count": len(usable),
            "unusable": len(unusable),
            "bytes": int(usable["bytes"].sum()),
            "same_content": len(usable) - len(np.unique(usable["content"])),
            "kinds": {kind: int((usable["kind"] == place).sum()) for place, kind in enumerate(scanned.kinds)},
            "notes": {note: int(((usable["notes"] >> bit) & 1).sum()) for bit, note in enumerate(NOTES)},
            "width": _histogram(usable["width"], SIDES),
            "height": _histogram(usable["height"], SIDES),
            "megapixels": _histogram(usable["width"] / 1e6 * usable["height"], MEGAPIXELS),
            "aspect": _histogram(usable["width"] / np.maximum(usable["height"], 1), ASPECTS),
        },
        "duplicates": {
            "id": _duplicates(accepted, rows["id"], source),
            "content": _duplicates(accepted, _contents(scanned)[accepted], source),
        },
        "rejected": [dataclasses.asdict(rejection) for rejection in scanned.rejected],
    }


def _by(counts: Mapping[tuple[str, str, str], int], place: int) -> dict[str, int]:
    """Counts by one of the labels, most frequent first."""
    totals: Counter[str] = Counter()
    for labels, count in counts.items():
        totals[labels[place]] += count
    return dict(sorted(totals.items(), key=lambda item: (-item[1], item[0])))


def _only(counts: Mapping[tuple[str, str, str], int], domain: str) -> dict[tuple[str, str, str], int]:
    return {labels: count for labels, count in counts.items() if labels[0] == domain}


def _counted(values: np.ndarray) -> dict[str, int]:
    numbers, counts = np.unique(values, return_counts=True)
    return {str(number): int(count) for number, count in zip(numbers, counts, strict=True)}


def _histogram(values: np.ndarray, edges: Sequence[int | float]) -> dict[str, Any]:
    """Counts between edges (values past the last edge with the last), and a few plain statistics."""
    counts, _ = np.histogram(np.minimum(values, edges[-1]), edges)
    if not len(values):
        return {"edges": list(edges), "counts": counts.tolist()}
    middle, most = np.percentile(values, [50, 95])
    statistics = {"mean": np.mean(values), "median": middle, "p95": most, "min": np.min(values), "max": np.max(values)}
    named = {name: round(float(value), 3) for name, value in statistics.items()}
    return {**named, "edges": list(edges), "counts": counts.tolist()}


def _contents(scanned: Scan) -> np.ndarray:
    """uint64[n]: a hash of each row's pictures and words."""
    contents = scanned.rows["words"].copy()
    pictures = scanned.pictures["content"][scanned.used()]
    starts = np.flatnonzero(np.diff(scanned.uses["row"], prepend=-1))
    for start, end in zip(starts, [*starts[1:], len(pictures)], strict=True):
        row = scanned.uses["row"][start]
        both = contents[row].tobytes() + pictures[start:end].tobytes()
        contents[row] = np.frombuffer(hashlib.blake2b(both, digest_size=8).digest(), "u8")[0]
    return contents


def _duplicates(places: np.ndarray, hashes: np.ndarray, source: Source) -> dict[str, Any]:
    """How many rows repeat an earlier one, and which, for the first of them."""
    order = np.argsort(hashes, kind="stable")
    new = np.ones(len(order), bool)
    new[1:] = np.diff(hashes[order]) != 0
    first = np.empty_like(order)
    first[order] = order[np.maximum.accumulate(np.where(new, np.arange(len(order)), 0))]
    again = np.sort(order[~new])
    listed = [
        {
            "index": int(places[row]),
            "id": source[int(places[row])].id,
            "same_as": int(places[first[row]]),
        }
        for row in again[:DUPLICATES_LISTED]
    ]
    return {"count": len(again), "listed": listed}


def print_report(report: Mapping[str, Any], title: str) -> None:
    """Prints the report's counts as tables."""
    console = Console()
    if not console.is_terminal:
        console.width = WIDTH
    pictures, length = report["pictures"], report["length"]
    facts: dict[str, object] = {
        "rows": report["rows"],
        "usable": report["accepted"],
        "refused": len(report["rejected"]),
        **{f"  {reason}": count for reason, count in report["reasons"].items()},
        "same id as an earlier row": report["duplicates"]["id"]["count"],
        "same pictures and words": report["duplicates"]["content"]["count"],
        "words a row, median (95 %)": f"{length.get('median', 0):,.0f} ({length.get('p95', 0):,.0f})",
        "pictures": pictures["count"],
        "  unusable": pictures["unusable"],
        "  same file under another name": pictures["same_content"],
        "  megabytes": round(pictures["bytes"] / 1e6),
        "  megapixels, median (95 %)": "{:.2f} ({:.2f})".format(
            pictures["megapixels"].get("median", 0), pictures["megapixels"].get("p95", 0)
        ),
        **{f"  {kind}": count for kind, count in pictures["kinds"].items()},
        **{f"  noted: {note}": count for note, count in pictures["notes"].items() if count},
        **{f"language: {language or '(none)'}": count for language, count in report["languages"].items()},
    }
    table = Table("what", title=title, show_header=False)
    table.add_column("count", justify="right")
    for name, value in facts.items():
        table.add_row(name, f"{value:,}" if isinstance(value, int) else str(value))
    console.print(table)
    console.print(_domain_table(report))
    for rejection in report["rejected"][:5]:
        console.print(
            f"refused row {rejection['index']}: {rejection['detail']}", markup=False, highlight=False, soft_wrap=True
        )
    if len(report["rejected"]) > 5:
        console.print(f"… and {len(report['rejected']) - 5:,} more; --json=FILE lists all")


def _domain_table(report: Mapping[str, Any]) -> Table:
    table = Table("domain", title="Conversations")
    types = list(report["types"])
    for name in (*types, "all"):
        table.add_column(name or "(none)", justify="right")
    for domain, count in list(report["domains"].items())[:DOMAINS_SHOWN]:
        cells = [report["domains_by_type"][domain].get(kind, 0) for kind in types]
        table.add_row(domain or "(none)", *(f"{cell:,}" if cell else "" for cell in cells), f"{count:,}")
    if (more := len(report["domains"]) - DOMAINS_SHOWN) > 0:
        table.add_row(f"… and {more:,} more")
    table.add_section()
    table.add_row("all", *(f"{report['types'][kind]:,}" for kind in types), f"{sum(report['types'].values()):,}")
    return table
