"""Pictures of a data set's numbers for its card. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from mmfuser_jax.mminstruct.export.card import PLOTS

BLUE, ORANGE, GREEN, RED, VIOLET, GREY, TEAL = (
    "#4269d0", "#efb118", "#3ca951", "#cf222e", "#a463f2", "#8b949e", "#17a2a2",
)  # fmt: skip

TYPE_COLORS = {"judgement": BLUE, "choice": ORANGE, "short": GREEN, "long": VIOLET, "conversation": TEAL}
REVIEW_COLORS = {"accepted": GREEN, "edited": BLUE, "conflict": ORANGE, "rejected": RED}
COST_COLORS = {"caption": BLUE, "generate": VIOLET, "expand": GREEN, "judge": TEAL, "people": ORANGE, "by hand": GREY}


def plot_card(numbers: Mapping[str, Any], folder: Path) -> list[str]:
    """Writes PNG files of what there is something to show of, and returns their names.

    Args:
      numbers: of `statistics.statistics`.
      folder: for the files.
    """
    figures = {
        "domains": _domains(numbers),
        "review": _review(numbers["review"]["domain"]),
        "balance": _balance(numbers["letters"], numbers["yes_no"]),
        "cost": _cost(numbers["cost"]),
    }
    names = [name for name, figure in figures.items() if figure is not None]
    for name in names:
        figures[name].savefig(folder / f"{name}.png", dpi=110)  # type: ignore[union-attr]
    return names


def _domains(numbers: Mapping[str, Any]) -> Figure | None:
    counts = {
        domain: {kind: sum(languages.values()) for kind, languages in kinds.items()}
        for domain, kinds in numbers["items_by_domain"].items()
    }
    rows = dict(sorted(counts.items(), key=lambda item: -sum(item[1].values())))
    return _stacked(rows, TYPE_COLORS, [f"{sum(row.values()):,}" for row in rows.values()], PLOTS["domains"], "items")


def _review(by_domain: Mapping[str, Mapping[str, int]]) -> Figure | None:
    looked = {domain: counts for domain, counts in by_domain.items() if counts["looked_at"]}
    shares = {
        domain: {name: 100 * counts[name] / counts["looked_at"] for name in REVIEW_COLORS}
        for domain, counts in sorted(looked.items(), key=lambda item: _taken(item[1]))
    }
    ends = [f"of {looked[domain]['looked_at']:,}" for domain in shares]
    return _stacked(shares, REVIEW_COLORS, ends, PLOTS["review"], "% of the items that were looked at")


def _taken(counts: Mapping[str, int]) -> float:
    return (counts["accepted"] + counts["edited"]) / counts["looked_at"]


def _stacked(
    rows: Mapping[str, Mapping[str, int | float]], colors: Mapping[str, str], ends: Sequence[str], title: str, unit: str
) -> Figure | None:
    """Horizontal bars of parts, a row each, with words behind them."""
    if not rows:
        return None
    figure = Figure(figsize=(9, 1.5 + 0.27 * len(rows)), layout="constrained")
    axes = figure.subplots()
    left = np.zeros(len(rows))
    for name, color in colors.items():
        parts = np.array([row.get(name, 0) for row in rows.values()], float)
        if parts.any():
            axes.barh(range(len(rows)), parts, left=left, color=color, label=name, height=0.8)
        left += parts
    for place, (total, words) in enumerate(zip(left, ends, strict=True)):
        axes.annotate(f" {words}", (total, place), va="center", fontsize=8)
    axes.set_yticks(range(len(rows)), [name.replace("_", " ") for name in rows])
    axes.set(xlabel=unit, title=title, xlim=(0, left.max() * 1.12), ylim=(len(rows) - 0.4, -0.6))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    _bare(axes, "x")
    axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def _bare(axes: Any, grid: str) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=grid, alpha=0.25)
    axes.set_axisbelow(True)


def _balance(letters: Mapping[str, int], yes_no: Mapping[str, Mapping[str, int]]) -> Figure | None:
    """Bars of answers; shares are of all choices, and of the judgements of a language."""
    judged = {f"{answer}\n({language})": count for language, row in yes_no.items() for answer, count in row.items()}
    wholes = {f"{answer}\n({language})": sum(row.values()) for language, row in yes_no.items() for answer in row}
    panels = [("choice", letters, dict.fromkeys(letters, sum(letters.values()))), ("judgement", judged, wholes)]
    panels = [panel for panel in panels if panel[1]]
    if not panels:
        return None
    figure = Figure(figsize=(1.5 + 3.5 * len(panels), 3.4), layout="constrained")
    for axes, (kind, counts, whole) in zip(np.atleast_1d(figure.subplots(1, len(panels))), panels, strict=True):
        bars = axes.bar(list(counts), list(counts.values()), color=TYPE_COLORS[kind], width=0.7)
        axes.bar_label(
            bars, [f"{count:,}\n{100 * count / whole[name]:.0f} %" for name, count in counts.items()], fontsize=8
        )
        axes.set(title=f"Answers of {sum(counts.values()):,} {kind}s", ylabel="items")
        axes.margins(y=0.18)
        _bare(axes, "y")
    return figure


def _cost(cost: Mapping[str, Any]) -> Figure | None:
    if not cost["usd_per_item"]:
        return None
    parts = {**cost["by_step"], "people": cost["people"]["usd"]}
    rows = {
        "this set": {name: usd / cost["made"] for name, usd in parts.items()},
        "by hand,\nas stated": {"by hand": cost["manual_usd"]},
    }
    ends = [f"${sum(row.values()):,.4f}" for row in rows.values()]
    return _stacked(rows, COST_COLORS, ends, f"{PLOTS['cost']}, by who did the work", "US dollars for an item")
