"""Numbers → plotly figures, each with a sentence and a table that say the same without a picture."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ..analysis.matrix import RANDOM_INHERITED
from ..config import is_inherited
from ..errors import UserError
from ..probes.inherited import IN_ITS_PLACE
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


# ---------------------------------------------------------------------------------------------------
# Result files


def geometry(result: dict[str, Any]) -> list[Figure]:
    """Real and synthetic features in one PCA plane; the table has the numbers of each class."""
    import plotly.graph_objects as go

    with _damage_is_an_error("geometry"):
        class_names = [str(name) for name in result.get("class_names", [])]
        points = [(float(p["x"]), float(p["y"]), p["label"], str(p["kind"]), p.get("name")) for p in result["points"]]
        label_of = {name: i for i, name in enumerate(class_names)}
        points = [(x, y, label_of.get(c, c) if isinstance(c, str) else int(c), k, n) for x, y, c, k, n in points]
        present = sorted({label for _, _, label, _, _ in points})
        names = {label: class_names[label] if label < len(class_names) else str(label) for label in present}
        rows = [_geometry_row(entry) for entry in result["classes"]]
        share = [100 * float(value) for value in result.get("explained", [])]
    colour = {label: COLOURS[i % len(COLOURS)] for i, label in enumerate(present)}
    traces = []
    for kind, marker in _MARKERS.items():
        for label in present:
            here = [point for point in points if point[2] == label and point[3] == kind]
            if not here:
                continue
            title = f"{kind} · {names[label]}"
            traces.append(go.Scatter(
                x=[p[0] for p in here], y=[p[1] for p in here], mode="markers", name=_verbatim(names[label]),
                marker={**marker, "color": colour[label]}, legendgroup=str(label),
                showlegend=kind == "synthetic" and len(present) <= _COLOURED,
                text=[_verbatim(f"{title} · {p[4]}" if p[4] else title) for p in here],
                hovertemplate="%{text}<extra></extra>",
            ))  # fmt: skip
    counts = {kind: sum(point[3] == kind for point in points) for kind in _MARKERS}
    shown = [f"{count:,} {kind}" for kind, count in counts.items() if count]
    encoder = _encoder_name(result)
    summary = f"{', '.join(shown)} images of {len(present)} classes in the features of {encoder}, in the plane of the "
    summary += "two largest principal components of the real ones"
    summary += f" ({' and '.join(f'{value:.0f} %' for value in share)} of their variance)." if share else "."
    summary += " Diamonds are synthetic, crosses are medoids."
    quantiles = [values[0] for _, values in rows if values[0] is not None]
    if quantiles:
        mean = sum(quantiles) / len(quantiles)
        summary += f" On average a synthetic image is farther from its class mean than {_percent(mean, 0)} of the real."
    figure = _figure(
        f"Where the images lie · {encoder}", summary, traces, _GEOMETRY_COLUMNS,
        [[name, *("–" if v is None else f"{v:.3f}" for v in values)] for name, values in rows], 460,
        xaxis={"title": {"text": "first component"}}, yaxis={"title": {"text": "second component"}},
    )  # fmt: skip
    return [figure]


_MARKERS: dict[str, dict[str, Any]] = {
    "real": {"size": 5, "opacity": 0.45},
    "medoid": {"size": 9, "symbol": "x", "line": {"width": 1}},
    "synthetic": {"size": 14, "symbol": "diamond", "line": {"width": 1.5}},
}
_GEOMETRY_COLUMNS = ("class", "distance quantile", "margin", "own neighbours", "of the medoid: distance quantile")


def _geometry_row(entry: dict[str, Any]) -> tuple[str, list[float | None]]:
    """A class, and the numbers of `_GEOMETRY_COLUMNS`."""
    synthetic, medoid = entry.get("synthetic") or {}, entry.get("medoid") or {}
    values = [synthetic.get(key) for key in ("distance_quantile", "margin", "own_neighbours")]
    values.append(medoid.get("distance_quantile"))
    return str(entry["name"]), [_number(value) for value in values]


def transfer(result: dict[str, Any]) -> list[Figure]:
    """Accuracy of each set on each encoder, a figure for each probe, baselines below."""
    figures = []
    with _damage_is_an_error("transfer"):
        targets = [str(target["name"]) for target in result["targets"]]
        for probe, accuracy in result["accuracy"].items():
            soft = [bool(source.get("soft_labels")) and not is_inherited(probe) for source in result["sources"]]
            sources = [f"{s['name']}{', soft labels' * of_soft}" for s, of_soft in zip(result["sources"], soft)]
            rows = dict(zip(sources, _matrix(accuracy, len(sources), len(targets)), strict=True))
            baselines = (result.get("baselines") or {}).get(probe) or {}
            full = f"full real data, {IN_ITS_PLACE}" if is_inherited(probe) else "full real data"
            for key, label in (("random", "random real images"), ("full", full)):
                if any(value is not None for value in baselines.get(key) or ()):
                    rows[label] = _matrix([baselines[key]], 1, len(targets))[0]
            for key, label in (("centroids", "class medoids"), (RANDOM_INHERITED, "random real images")):
                if baselines.get(key):  # one for each set: by its encoder, or behind its head
                    for source, row in zip(
                        result["sources"], _matrix(baselines[key], len(sources), len(targets)), strict=True
                    ):
                        if any(value is not None for value in row):
                            rows[f"{label}, {_whose(source, probe)}"] = row
            known = [(v, s, t) for s in sources for v, t in zip(rows[s], targets, strict=True) if v is not None]
            best = max(known, default=None)
            trained = f"Top-1 of {with_article(probe)} probe trained on a distilled set (row)"
            summary = f"{trained} and tested on an encoder (column)."
            if best:
                summary += f" The best is {_percent(best[0])}, {best[1]} on {best[2]}."
            figures.append(_heat_map(
                f"Transfer · {probe}", summary, list(rows), targets,
                [[None if v is None else 100 * v for v in row] for row in rows.values()], ".1f", "%",
            ))  # fmt: skip
    return figures


def _whose(source: dict[str, Any], probe: str) -> str:
    """What a baseline took of a set: its head for the inherited probe, else its encoder, which chose the images."""
    return f"head of {source['name']}" if is_inherited(probe) else f"by {_encoder_name(source)}"


_METRICS = {
    "mutual_knn": ("Mutual nearest neighbours", "share of nearest neighbours that two encoders agree on"),
    "cka": ("Linear CKA", "similarity of the feature spaces up to rotation and scale"),
    "linear_map": ("Linear map", "how well the row's features predict the column's linearly (R²)"),
}


def align(result: dict[str, Any]) -> list[Figure]:
    """How alike encoders see the same real images, a figure for each metric."""
    figures = []
    with _damage_is_an_error("align"):
        names = [str(encoder["name"]) for encoder in result["encoders"]]
        for metric, values in result["metrics"].items():
            title, what = _METRICS.get(metric, (metric, metric))
            matrix = _matrix(values, len(names), len(names))
            summary = f"{what[0].upper()}{what[1:]}; 1 is the most."
            found = ((result.get("transfer") or {}).get("metrics") or {}).get(metric) or {}
            if isinstance(found.get("spearman"), (int, float)):
                p = f", p = {found['p']:.3g}" if isinstance(found.get("p"), (int, float)) else ""
                pairs = found.get("pairs", result["transfer"].get("pairs"))
                over = f", over {pairs:,} pairs of encoders" if isinstance(pairs, int) else ""
                summary += f" Rank correlation with transfer: {found['spearman']:.2f}{p}{over}."
            figures.append(_heat_map(f"Alignment · {title}", summary, names, names, matrix, ".2f", "", cmin=0, cmax=1))
    return figures


def _heat_map(
    title: str,
    summary: str,
    rows: Sequence[str],
    columns: Sequence[str],
    values: Sequence[Sequence[float | None]],
    digits: str,
    unit: str,
    **limits: float,
) -> Figure:
    import plotly.graph_objects as go

    # Places, not names, on the axes: equal names would fall together.
    trace = go.Heatmap(
        x=list(range(len(columns))), y=list(range(len(rows))), z=[list(row) for row in values],
        xgap=2, ygap=2, coloraxis="coloraxis", texttemplate="%{z:" + digits + "}",
        customdata=[[[_verbatim(r), _verbatim(c)] for c in columns] for r in rows],
        hovertemplate="%{customdata[0]} → %{customdata[1]}: %{z:" + digits + "} " + unit + "<extra></extra>",
    )  # fmt: skip
    table = [(r, *("–" if v is None else f"{v:{digits}}" for v in row)) for r, row in zip(rows, values, strict=True)]
    return _figure(
        title, summary, [trace], ("", *columns), table, max(190, 100 + 44 * len(rows)),
        xaxis={**_ticks(columns), "side": "top"}, yaxis={**_ticks(rows), "autorange": "reversed"},
        coloraxis=limits,
    )  # fmt: skip


def _ticks(names: Sequence[str]) -> dict[str, Any]:
    """Names at 0, 1, … of an axis, the long ones made short."""
    return {
        "tickvals": list(range(len(names))), "ticktext": [_verbatim(_short(n)) for n in names],
        "showgrid": False, "zeroline": False, "automargin": True,
    }  # fmt: skip


def _short(name: str, most: int = 22) -> str:
    return name if len(name) <= most else f"{name[: most // 2]}…{name[-most // 2 + 1 :]}"


def bias(result: dict[str, Any]) -> list[Figure]:
    """Accuracy of each group, distilled beside full real data, a figure for each run; then their ranking."""
    import plotly.graph_objects as go

    figures = []
    with _damage_is_an_error("bias"):
        groups = [str(group) for group in result["groups"]]
        for entry in result["entries"]:
            name = f"{_short(str(entry.get('run', '')))} · {_encoder_name(entry)}"
            traces, rows = [], []
            for i, (key, label) in enumerate(_TRAINED_ON.items()):
                scores = entry.get(key)
                if not scores:
                    continue
                values = [_number(scores["groups"].get(group)) for group in groups]
                traces.append(go.Bar(
                    x=[None if v is None else 100 * v for v in values], y=list(range(len(groups))), orientation="h",
                    name=label, marker={"color": COLOURS[i]}, customdata=[_verbatim(g) for g in groups],
                    hovertemplate="%{customdata}: %{x:.1f} %<extra>" + label + "</extra>",
                ))  # fmt: skip
                worst, gap = _number(scores.get("worst_group")), _number(scores.get("gap"))
                rows.append((label, *(_percent(v) for v in values), _percent(worst), _percent(gap)))
            if not traces:
                raise ValueError("an entry without scores of groups")
            summary = "Top-1 in each group of test images."
            for row in rows:
                summary += f" {row[0][0].upper()}{row[0][1:]}: worst group {row[-2]}, gap {row[-1]}."
            share = _number(entry.get("background_share"))
            if share is not None:
                summary += f" Share of the background in what tells the distilled images apart: {share:.2f}."
            figures.append(_figure(
                f"Groups · {name}", summary, traces, ("trained on", *groups, "worst group", "gap"), rows,
                max(240, 140 + (12 + 15 * len(traces)) * len(groups)), barmode="group",
                xaxis={"title": {"text": "top-1, %"}, "range": [0, 100]},
                yaxis={**_ticks(groups), "autorange": "reversed"},  # lying bars: names of groups are long
            ))  # fmt: skip
        if len(result["entries"]) > 1 and result.get("ranking") is not None:
            figures.append(_ranking(result))
    return figures


_RANKED_BY = {"worst_group": "by worst group", "background_share": "by background share"}


def _ranking(result: dict[str, Any]) -> Figure:
    """The places of the entries of a bias file, and whether real data agree with them: a table alone."""
    entries, agreement = result["entries"], result.get("agreement")
    places = {key: {i: place for place, i in enumerate(result["ranking"][key], 1)} for key in _RANKED_BY}
    if any(type(i) is not int or not 0 <= i < len(entries) for found in places.values() for i in found):
        raise ValueError("a ranking of other entries")
    rows: list[tuple[Cell, ...]] = []
    for i in sorted(range(len(entries)), key=lambda i: places["worst_group"].get(i, len(entries))):
        share = _number(entries[i].get("background_share"))
        numbers = {
            "worst_group": _percent(_number((entries[i].get("distilled") or {}).get("worst_group"))),
            "background_share": "no share" if share is None else f"{share:.2f}",
        }
        told = [f"{places[key][i]} ({numbers[key]})" if i in places[key] else "–" for key in _RANKED_BY]
        rows.append((f"{entries[i].get('run', '')} · {_encoder_name(entries[i])}", *told))
    summary = "Place of each entry, the best first: the distilled images' worst group, and the least background share."
    if agreement is None:
        summary += " Whether real data rank the encoders alike needs at least 3 encoders."
    else:
        summary += " The last row compares each order of the encoders with that by real data's worst group."
        rows.append(("agreement with real data", *(_agreement(agreement.get(key)) for key in _RANKED_BY)))
    return Figure("Groups · ranking", summary, "", ("entry", *_RANKED_BY.values()), tuple(rows))


def _agreement(found: dict[str, Any] | None) -> str:
    if found is None:
        return "not defined"
    return f"Spearman {float(found['spearman']):+.2f}, p = {float(found['p']):.3f}, {int(found['n'])} encoders"


_TRAINED_ON = {"distilled": "distilled images", "random": "random real images", "full": "full real data"}


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def _matrix(values: Any, rows: int, columns: int) -> list[list[float | None]]:
    matrix = [[_number(value) for value in row] for row in values]
    if len(matrix) != rows or any(len(row) != columns for row in matrix):
        raise ValueError(f"a matrix is not {rows} × {columns}")
    return matrix


def _encoder_name(entry: dict[str, Any]) -> str:
    encoder = entry.get("encoder")
    return str(encoder.get("name", "?")) if isinstance(encoder, dict) else str(encoder or "?")


@contextmanager
def _damage_is_an_error(kind: str) -> Iterator[None]:
    """Say of an entry that is missing or of another type that the file is damaged."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        reason = " ".join(f"{type(error).__name__} {error}".split())
        raise UserError(f"a {kind} file is damaged ({reason}); make it again or remove it") from error


RESULTS: dict[str, Callable[[dict[str, Any]], list[Figure]]] = {
    "geometry": geometry,
    "transfer": transfer,
    "align": align,
    "bias": bias,
}
"""How each kind of result file is drawn."""
