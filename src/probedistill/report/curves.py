"""Figures of what a run recorded at each step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..show.draw import spread
from ..show.figures import Curve, Figure, Line
from ..show.tables import Table, percent
from ..text import counted
from .gather import ShownRun
from .watch import bucket_means

_POINTS = 500  # points of a loss curve
_TABLE_ROWS = 12
_MOST_TOLD = 6  # runs that a sentence names


def loss_curve(run: ShownRun) -> Figure | None:
    """The loss of every step, thinned by means; ``None`` if there is none yet."""
    losses = run.progress.losses
    if not losses:
        return None
    means = bucket_means(losses, _POINTS)
    steps = [round((i + 1) * len(losses) / len(means)) for i in range(len(means))]
    per_point = len(losses) / len(means)
    averaged = f" Each point is the mean of about {per_point:.0f} steps." if per_point >= 1.5 else ""
    summary = (
        f"The loss goes from {losses[0]:.4g} to {losses[-1]:.4g} in {counted(len(losses), 'step')}; "
        f"the lowest is {min(losses):.4g}.{averaged}"
    )
    titles = tuple(f"step {step:,}: {mean:.4f}" for step, mean in zip(steps, means, strict=True))
    line = Line("loss", np.array(steps, dtype=float), np.array(means), titles)
    rows = tuple((f"{steps[i]:,}", f"{means[i]:.4f}") for i in spread(len(means), _TABLE_ROWS))
    return Figure("Loss", summary, Curve((line,), "step", "loss"), Table("", ("step", "loss"), rows))


def accuracy_curve(runs: Sequence[ShownRun]) -> Figure | None:
    """The probe accuracy measured during the runs, one line per run; ``None`` if there is none."""
    lines, rows, said = [], [], []
    for run in runs:
        if not run.progress.accuracy:
            continue
        steps, values = zip(*run.progress.accuracy, strict=True)
        titles = tuple(f"step {s:,}: {percent(v)}%" for s, v in zip(steps, values, strict=True))
        lines.append(Line(run.name, np.array(steps, float), 100 * np.array(values), titles, marked=True))
        who = f"{run.name}: " if len(runs) > 1 else "A ridge probe reaches "
        said.append(f"{who}{percent(values[0])}% at step {steps[0]:,} and {percent(values[-1])}% at step {steps[-1]:,}")
        rows += [(run.name, f"{steps[k]:,}", percent(values[k])) for k in spread(len(steps), _TABLE_ROWS)]
    if not lines:
        return None
    if len(said) > _MOST_TOLD:
        last = {line.name: line.y[-1] for line in lines}
        best = max(last, key=last.__getitem__)
        said = [f"{len(said)} runs end between {min(last.values()):.1f}% and {last[best]:.1f}% ({best})"]
    table = Table("", ("run", "step", "top-1 %"), tuple(rows))
    drawing = Curve(tuple(lines), "step", "top-1 accuracy, %")
    return Figure("Accuracy during the run", "; ".join(said) + ".", drawing, table)
