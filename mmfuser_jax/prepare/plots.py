"""Pictures of an audit: domains by type, languages, lengths, picture sizes, and why rows were refused. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from mmfuser_jax.prepare.report import DOMAINS_SHOWN
from mmfuser_jax.prepare.scan import Scan

BLUE, RED = "#4269d0", "#cf222e"


def plot_audit(report: Mapping[str, Any], scanned: Scan, folder: Path) -> list[Path]:
    """Writes what there is something to show of, and returns the files.

    Args:
      report: of `report.summarise`.
      scanned: where it comes from, for the sizes of single pictures.
      folder: made where missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    figures = {
        "domains": _domains(report),
        "languages": _bars(report["languages"], "Conversations by language"),
        "lengths": _lengths(report["length"]),
        "sizes": _sizes(scanned),
        "refused": _bars(report["reasons"], "Rows refused, by reason", RED),
    }
    written = []
    for name, figure in figures.items():
        if figure is not None:
            written.append(folder / f"{name}.png")
            figure.savefig(written[-1], dpi=110)
    return written


def _domains(report: Mapping[str, Any]) -> Figure | None:
    domains, types = list(report["domains"])[:DOMAINS_SHOWN], list(report["types"])
    if not domains:
        return None
    figure = Figure(figsize=(9, 1.6 + 0.27 * len(domains)), layout="constrained")
    axes = figure.subplots()
    colors = _colors(len(types))
    left = np.zeros(len(domains))
    fewer = len(domains) < len(report["domains"])
    title = "Conversations by domain and type" + (f" (the {len(domains)} largest)" if fewer else "")
    for kind, color in zip(types, colors, strict=True):
        counts = np.array([report["domains_by_type"][domain].get(kind, 0) for domain in domains])
        axes.barh(domains, counts, left=left, color=color, label=kind or "(none)", height=0.8)
        left += counts
    for place, total in enumerate(left):
        axes.annotate(f" {total:,.0f}", (total, place), va="center", fontsize=8)
    axes.set_yticks(range(len(domains)), [domain or "(none)" for domain in domains])
    axes.set(xlabel="conversations", title=title, xlim=(0, left.max() * 1.1))
    axes.invert_yaxis()
    _bare(axes)
    axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def _colors(count: int) -> list[Any]:
    from matplotlib import colormaps

    return [colormaps["tab10"](place % 10) for place in range(count)]


def _bare(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", alpha=0.25)
    axes.set_axisbelow(True)


def _bars(counts: Mapping[str, int], title: str, color: str = BLUE) -> Figure | None:
    """Bars with count and share."""
    if not counts:
        return None
    figure = Figure(figsize=(7, 1.2 + 0.32 * len(counts)), layout="constrained")
    axes = figure.subplots()
    names, values = [name or "(none)" for name in counts], list(counts.values())
    axes.barh(names, values, color=color, height=0.7)
    for place, value in enumerate(values):
        axes.annotate(f" {value:,} ({100 * value / sum(values):.1f} %)", (value, place), va="center", fontsize=9)
    axes.set(title=title, xlim=(0, max(values) * 1.3))
    axes.invert_yaxis()
    _bare(axes)
    return figure


def _lengths(histogram: Mapping[str, Any]) -> Figure | None:
    counts = np.array(histogram["counts"])
    if not counts.any():
        return None
    edges = np.maximum(histogram["edges"], 1)
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.stairs(counts, edges, fill=True, color=BLUE, alpha=0.8)
    for name, style in (("median", "-"), ("p95", "--")):
        value = histogram[name]
        label = "median" if name == "median" else "95 % are shorter"
        axes.axvline(max(value, 1), color="black", ls=style, lw=1, label=f"{label}: {value:,.0f}")
    last = np.flatnonzero(counts)[-1]
    axes.set(xscale="log", xlabel="words and Chinese characters of a row", ylabel="rows", title="Length of rows")
    axes.set_xlim(1, edges[last + 1] * 1.2)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9)
    return figure


def _sizes(scanned: Scan) -> Figure | None:
    """How many pictures have which width and height."""
    usable = scanned.pictures[scanned.pictures["kind"] >= 0]
    if not len(usable):
        return None
    figure = Figure(figsize=(6.4, 5.4), layout="constrained")
    axes = figure.subplots()
    width, height = np.maximum(usable["width"], 1), np.maximum(usable["height"], 1)
    low, high = 0.8 * min(width.min(), height.min()), 1.25 * max(width.max(), height.max())
    extent = (np.log10(low), np.log10(high)) * 2
    cells = axes.hexbin(
        width, height, gridsize=40, xscale="log", yscale="log", extent=extent, mincnt=1, cmap="viridis", norm=LogNorm()
    )
    figure.colorbar(cells, label="pictures")
    for ratio, name in ((1, "1:1"), (16 / 9, "16:9"), (9 / 16, "9:16")):
        line = np.array([low, high])
        axes.plot(line, line / ratio, color="gray", lw=0.8, ls=":", label=name)
        place = high / max(ratio, 1) * 0.93
        axes.annotate(
            name, (place * max(ratio, 1), place * max(ratio, 1) / ratio), fontsize=8, color="gray", ha="right"
        )
    axes.set(
        xlim=(low, high), ylim=(low, high), xlabel="width (pixels)", ylabel="height (pixels)", title="Picture sizes"
    )
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axis.set_minor_formatter(lambda value, _: f"{value:,.0f}" if f"{value:.0e}"[0] in "25" else "")
    return figure
