"""Curves of runs as an interactive page that needs no network. Needs plotly (extra `plot`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mmfuser_jax.evaluate.curves import AXES, PANELS, Panel, RunCurves, stage_marks

COLUMNS = 2


def write_page(runs: Sequence[RunCurves], path: Path, axis: str = "step") -> None:
    """An HTML file with a panel for every quantity that a run has logged; a click on its name hides a run.

    Args:
      runs: of `curves.load_runs`.
      path: of the file, which holds plotly's script too (5 MB).
      axis: what the curves go over.
    """
    keys = [key for key in PANELS if any(key in run.curves for run in runs)]
    rows = -(-len(keys) // COLUMNS)
    figure = make_subplots(
        rows, COLUMNS, shared_xaxes="all", vertical_spacing=0.18 / rows, horizontal_spacing=0.07,
        subplot_titles=[PANELS[key].title for key in keys],
    )  # fmt: skip
    for place, key in enumerate(keys):
        cell = {"row": place // COLUMNS + 1, "col": place % COLUMNS + 1}
        for run in runs:
            for trace in _traces(run, key, PANELS[key], named=place == 0):
                figure.add_trace(trace, **cell)
        figure.update_yaxes(type="log" if PANELS[key].log else "linear", **cell)
    for mark in stage_marks(runs):
        dashed = {"color": mark.color, "width": 1 if mark.at else 0, "dash": "dash"}
        figure.add_vline(mark.at, line=dashed, opacity=0.6)
        name = {"text": mark.name, "textangle": 90, "font_color": mark.color}
        figure.add_vline(mark.at, line_width=0, row=1, col="all", annotation=name)
    figure.update_xaxes(rangemode="tozero", showticklabels=True)
    for column in range(1, COLUMNS + 1):
        figure.update_xaxes(title_text=AXES[axis], row=rows, col=column)
    figure.update_annotations(font_size=13)
    figure.update_layout(
        template="plotly_white", height=80 + 300 * rows, hovermode="x unified", margin={"l": 60, "r": 30, "t": 70, "b": 50},
        legend={"orientation": "h", "y": 1, "yref": "container", "yanchor": "top", "x": 0},
    )  # fmt: skip
    figure.write_html(path, include_plotlyjs=True, config={"displaylogo": False, "responsive": True})


def _traces(run: RunCurves, key: str, panel: Panel, *, named: bool) -> Iterator[go.Scatter]:
    """Lines of a run in a panel; the legend has one entry a run, which all its lines follow."""
    for place, curve in enumerate(run.curves.get(key, ())):
        common: dict[str, Any] = {"x": curve.x, "name": run.name, "legendgroup": run.name, "connectgaps": False}
        if panel.smooth:
            faint = {"color": run.color, "width": 1}
            yield go.Scatter(
                y=curve.y, mode="lines", line=faint, opacity=0.3, hoverinfo="skip", showlegend=False, **common
            )
        yield go.Scatter(
            y=curve.smoothed, mode="lines+markers" if panel.validation else "lines",
            line={"color": run.color, "width": 1 if place else 2.2}, showlegend=named and not place, **common,
        )  # fmt: skip
