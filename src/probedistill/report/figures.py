"""Numbers → plotly figures, each with a sentence and a table that say the same without a picture."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..store.files import without_nan
from .gather import RunRecord
from .watch import bucket_means

COLOURS = ("#3b7dd8", "#e08a1e", "#2a9d78", "#c2588f", "#8a6fd1", "#b8a015", "#4fb0c6", "#d1583f", "#7d8793", "#8c6d4f")
_POINTS = 500  # of a curve
_TABLE_ROWS = 12
_COLOURED = 10  # classes with a colour of their own

Cell = str | float | int | None


@dataclass(frozen=True)
class Figure:
    """A figure of the report.

    Attributes:
        title: A few words.
        summary: What it shows, in a sentence or two.
        plot: Plotly's data and layout as JSON text; empty where there is nothing to draw and the table is all.
        columns: Heads of the table behind the figure.
        rows: Its rows.
        height: In pixels.
    """

    title: str
    summary: str
    plot: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    height: int = 320


def _figure(
    title: str,
    summary: str,
    traces: Sequence[Any],
    columns: Sequence[str],
    rows: Sequence[Sequence[Cell]],
    height: int = 320,
    **layout: Any,
) -> Figure:
    import plotly.graph_objects as go

    drawn = go.Figure(list(traces), {"template": None, **layout})
    plot = json.dumps(without_nan(json.loads(drawn.to_json())), separators=(",", ":"), allow_nan=False)
    return Figure(title, summary, plot, tuple(columns), tuple(tuple(row) for row in rows), height)


def with_article(probe: str) -> str:
    """A ridge, an inherited."""
    return f"an {probe}" if probe[:1] in "aeiou" else f"a {probe}"


def _verbatim(text: Any) -> str:
    """Text that plotly shows letter by letter: it takes a few HTML tags for mark-up."""
    return html.escape(str(text), quote=False)


def _percent(value: Any, digits: int = 1) -> str:
    return f"{100 * value:.{digits}f}\u00a0%" if isinstance(value, (int, float)) and math.isfinite(value) else "–"


# ---------------------------------------------------------------------------------------------------
# A run


def loss_curve(run: RunRecord) -> Figure | None:
    """The loss of every step, thinned by means."""
    import plotly.graph_objects as go

    losses = run.progress.losses
    if not losses:
        return None
    means = bucket_means(losses, _POINTS)
    steps = [round((i + 1) * len(losses) / len(means)) for i in range(len(means))]
    per_point = len(losses) / len(means)
    averaged = f" Each point is the mean of about {per_point:.0f} steps." if per_point >= 1.5 else ""
    summary = (
        f"The loss goes from {losses[0]:.4g} to {losses[-1]:.4g} in {len(losses):,} steps; "
        f"the lowest is {min(losses):.4g}.{averaged}"
    )
    trace = go.Scatter(
        x=steps, y=means, mode="lines", line={"color": COLOURS[0], "width": 1.8},
        hovertemplate="step %{x}: %{y:.4f}<extra></extra>",
    )  # fmt: skip
    rows = [(steps[i], f"{means[i]:.4f}") for i in spread(len(means), _TABLE_ROWS)]
    return _figure(
        "Loss", summary, [trace], ("step", "loss"), rows, 280,
        xaxis={"title": {"text": "step"}}, yaxis={"title": {"text": "loss"}},
    )  # fmt: skip


def accuracy_curve(runs: Sequence[RunRecord]) -> Figure | None:
    """The probe accuracy that was looked at along the way, a line for each run."""
    import plotly.graph_objects as go

    shown = [run for run in runs if run.progress.accuracy]
    if not shown:
        return None
    traces, rows, said = [], [], []
    for i, run in enumerate(shown):
        steps, values = zip(*run.progress.accuracy, strict=True)
        traces.append(go.Scatter(
            x=steps, y=[100 * v for v in values], name=_verbatim(run.name), mode="lines+markers",
            line={"color": COLOURS[i % len(COLOURS)], "width": 1.8},
            hovertemplate="step %{x}: %{y:.1f} %<extra>" + (_verbatim(run.name) if len(runs) > 1 else "") + "</extra>",
        ))  # fmt: skip
        who = f"{run.name}: " if len(runs) > 1 else "A ridge probe scores "
        said.append(f"{who}{_percent(values[0])} at step {steps[0]}, {_percent(values[-1])} at step {steps[-1]}")
        rows += [(run.name, steps[k], _percent(values[k])) for k in spread(len(steps), _TABLE_ROWS)]
    return _figure(
        "Accuracy along the way", "; ".join(said) + ".", traces, ("run", "step", "top-1"), rows, 280,
        showlegend=len(runs) > 1, xaxis={"title": {"text": "step"}}, yaxis={"title": {"text": "top-1, %"}},
    )  # fmt: skip


def spread(count: int, most: int) -> list[int]:
    """At most ``most`` of 0 … count - 1, evenly spread, the first and the last among them."""
    if count <= most:
        return list(range(count))
    return [round(i * (count - 1) / (most - 1)) for i in range(most)]
