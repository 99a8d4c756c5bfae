"""Runs and result files → one HTML file that loads nothing from anywhere."""

from __future__ import annotations

import base64
import hashlib
import importlib
import json
import shlex
import statistics
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from .._version import __version__
from ..analysis.base import Analysis
from ..analysis.kinds import kinds as kinds_of_analysis
from ..config import INHERITED
from ..errors import UserError
from ..images.decode import UnreadableImageError, decode_image
from ..probes.inherited import IN_ITS_PLACE
from ..show.figures import Figure as DrawnFigure
from ..show.previews import CELLS_PER_ROW, LIMIT
from ..store.files import check_writable, whole_file, without_nan
from ..store.records import as_plain
from . import figures
from .figures import Figure, with_article
from .gather import NEIGHBOURS, REAL_PIXELS, RunRecord, gather
from .pictures import Sheets, pack

_HERE = Path(__file__).parent
_LARGEST_CELL = 224  # pixels of a distilled image in the page
_SNAPSHOTS = 24  # of an evolution
_MOST_CLASSES_NAMED = 8
_NONE = "–"


def write_report(
    folders: Sequence[Path | str],
    out: Path | str,
    *,
    title: str | None = None,
    real_images: bool = False,
    transfer: Path | None = None,
    align: Path | None = None,
    bias: Path | None = None,
    geometry: Path | None = None,
    analyses: Sequence[str] = (),
    cache: Path | None = None,
    progress: bool = True,
) -> Path:
    """Write a report of runs of the same classes as one self-contained HTML file.

    evaluation-*.json and the results of every analysis in the runs' folders are shown too. A run that is not finished
    is shown as far as it is, and named in a warning.

    Args:
        folders: Run folders.
        out: The file, ending in .html; an earlier one is replaced.
        title: Of the page; default: the runs' names.
        real_images: Put the nearest real training images beside each distilled one into the file. The images and
            the encoder are those that each run's config.yaml names.
        transfer: Result file of `probedistill transfer`, or its folder; as well as those in the runs' folders.
        align: The same of `probedistill align`.
        bias: The same of `probedistill bias`.
        geometry: The same of `probedistill geometry`.
        analyses: Kinds of analysis of one's own, as ``module:MODULE:CLASS``; see `probedistill.analysis.kinds`.
        cache: Folder of feature banks, for ``real_images``.
        progress: Show progress bars.

    Returns:
        ``out``.

    Raises:
        UserError: plotly or jinja2 is not installed; runs of different classes, damaged files, or an ``out`` that
            cannot be written. Nothing has been written.
    """
    jinja2 = _optional("jinja2")
    _optional("plotly")
    out = Path(out)
    if out.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"out {str(out)!r} must end in .html; name the page to write")
    if out.is_dir():
        raise UserError(f"out {str(out)!r} is a folder; name the page to write in it")
    check_writable(out.parent)
    given = {"transfer": transfer, "align": align, "bias": bias, "geometry": geometry}
    kinds = kinds_of_analysis(analyses)
    more = {name: kinds[name].read(path) for name, path in given.items() if path is not None}
    runs = gather([Path(folder) for folder in folders], kinds, real_images=real_images, cache=cache, progress=progress)
    for run in runs:
        if not run.finished:
            warnings.warn(
                f"run {run.name!r} is not finished ({run.progress.reached()}); it is shown as it is", stacklevel=2
            )
    page = _page(runs, kinds, more, title or f"Distilled: {', '.join(run.name for run in runs)}", progress)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE / "templates"), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    with whole_file(out) as temporary:
        temporary.write_text(environment.get_template("report.html").render(page), encoding="utf-8")
    return out


def _optional(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(f"report needs {module}: pip install 'probedistill[report]'") from error


# ---------------------------------------------------------------------------------------------------
# What the template shows


@dataclass
class _Section:
    """A run as the template shows it."""

    run: RunRecord
    key: str
    headline: str = ""
    images: list[dict[str, Any]] = field(default_factory=list)  # class name, title and score of each
    sheets: Sheets | None = None
    near: Sheets | None = None
    snapshots: list[tuple[int, str]] = field(default_factory=list)  # step, WebP in base64
    curves: list[Figure] = field(default_factory=list)
    results: list[DrawnFigure] = field(default_factory=list)
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    facts: list[tuple[str, str]] = field(default_factory=list)
    command: str = ""


def _page(
    runs: list[RunRecord], kinds: Mapping[str, type[Analysis]], more: dict[str, Analysis], title: str, progress: bool
) -> dict[str, Any]:
    sections = [_section(run, f"r{i}", kinds, progress) for i, run in enumerate(runs)]
    shared = [f for name in kinds for result in _different(runs, kinds[name], more.get(name)) for f in result.figures()]
    overview = figures.accuracy_curve(runs) if len(runs) > 1 else None
    plots = [*([overview] if overview else []), *(curve for section in sections for curve in section.curves)]
    script = (_HERE / "static" / "report.js").read_text(encoding="utf-8")
    plotly = _plotly() if any(figure.plot for figure in plots) else ""
    data = {section.key: _of_script(section) for section in sections}
    return {
        "title": title,
        "version": __version__,
        "headline": sections[0].headline if len(runs) == 1 else "",
        "classes": _classes(runs[0].class_names),
        "sections": sections,
        "scores": _score_table(runs),
        "overview": overview,
        "shared": shared,
        "neighbours": NEIGHBOURS,
        "css": (_HERE / "static" / "report.css").read_text(encoding="utf-8"),
        "script": script,
        "plotly": plotly,
        "hashes": [_hash(text) for text in (script, plotly) if text],
        "data": _embedded(json.dumps(without_nan(data), separators=(",", ":"), ensure_ascii=False)),
        "embedded": _embedded,
    }


def _different(runs: list[RunRecord], kind: type[Analysis], given: Analysis | None) -> list[Analysis]:
    """Results of a kind that compare runs or encoders, each once, and the one that was named."""
    found = [] if kind.of_one_run else [result for run in runs for result in run.results[kind.kind]]
    every = [*([given] if given is not None else []), *found]
    return list({json.dumps(as_plain(result)): result for result in reversed(every)}.values())[::-1]


def _section(run: RunRecord, key: str, kinds: Mapping[str, type[Analysis]], progress: bool) -> _Section:
    section = _Section(run, key, _headline(run))
    if run.pixels is not None:
        pixels, labels, scores = run.pixels, run.labels.tolist(), _class_scores(run)
        counts: dict[int, int] = {}
        of_class = Counter(labels)
        for label in labels:
            counts[label] = counts.get(label, 0) + 1
            name = run.class_names[label]
            number = f" {counts[label]}" if of_class[label] > 1 else ""
            section.images.append({"name": name, "title": name + number, "score": scores.get(name)})
        cell = min(pixels.shape[1], _LARGEST_CELL)
        section.sheets = pack(len(pixels), lambda i: Image.fromarray(pixels[i]), cell, progress=progress)
    if run.near is not None:
        flat = [real.picture for line in run.near for real in line]
        section.near = pack(len(flat), flat.__getitem__, REAL_PIXELS, progress=progress)
    section.snapshots = _snapshots(run)
    section.curves = [curve for curve in (figures.loss_curve(run), figures.accuracy_curve([run])) if curve]
    own = [result for name, kind in kinds.items() if kind.of_one_run for result in run.results[name]]
    section.results = [figure for result in own for figure in result.figures()]
    section.evaluations = [_evaluation(content) for content in run.evaluations.values()]
    section.facts = _facts(run)
    if run.config is not None:
        config, again = run.folder / "config.yaml", f"{run.folder}-again"
        section.command = f"probedistill distill --config {shlex.quote(str(config))} --out {shlex.quote(again)}"
    return section


def _snapshots(run: RunRecord) -> list[tuple[int, str]]:
    """The sprites as they are in their files, once it is known that they are images."""
    kept = [run.evolution[i] for i in figures.spread(len(run.evolution), _SNAPSHOTS)]
    found = []
    for step, path in kept:
        try:
            decode_image(path)
            found.append((step, base64.b64encode(path.read_bytes()).decode()))
        except (UnreadableImageError, OSError) as error:
            warnings.warn(f"{error}; left out of the evolution", stacklevel=2)
    return found


def _of_script(section: _Section) -> dict[str, Any]:
    """What the page's script knows of a run."""
    run = section.run
    content: dict[str, Any] = {"images": section.images}
    for name, sheets in (("sheets", section.sheets), ("near", section.near)):
        if sheets is not None:
            content[name] = {"cell": sheets.cell, "columns": sheets.columns, "perSheet": sheets.per_sheet}
    if run.near is not None:
        content["near"]["names"] = [[real.name for real in line] for line in run.near]
    if section.snapshots:
        count = min(len(run.labels) or _count_of(run), LIMIT)
        content["evolution"] = {
            "steps": [step for step, _ in section.snapshots], "count": count, "columns": min(CELLS_PER_ROW, count),
        }  # fmt: skip
    return content


def _count_of(run: RunRecord) -> int:
    """How many images an unfinished run makes."""
    return run.about.image_count


# ---------------------------------------------------------------------------------------------------
# Scores


def _score_table(runs: list[RunRecord]) -> dict[str, Any]:
    """A line for each run, encoder and probe; a column for each training set, in the order of the files."""
    columns: list[str] = []
    lines = []
    for run in runs:
        for content in run.evaluations.values():
            encoder = _encoder_of(content)
            for probe in dict.fromkeys(row["probe"] for row in content["rows"]):
                cells = {row["name"]: row for row in content["rows"] if row["probe"] == probe}
                columns += [name for name in cells if name not in columns]
                lines.append({"run": run.name, "encoder": encoder, "probe": probe, "cells": cells})
    return {"columns": columns, "lines": lines, "several": len(runs) > 1}


def _evaluation(content: dict[str, Any]) -> dict[str, Any]:
    """All rows of a file, with the scores that at least one of them has."""
    columns: dict[str, Callable[[dict[str, Any]], str]] = {
        "balanced": lambda row: _percent(_mean(row, "balanced")),
        "top-5": lambda row: _percent(_mean(row, "top5")),
        "worst group": lambda row: _percent(_mean(row, "worst_group")),
        "gap to full": lambda row: _points(row.get("gap_to_full")),
        "over random": lambda row: _points(row.get("gain_over_random")),
    }
    known = {name: of for name, of in columns.items() if any(of(row) != _NONE for row in content["rows"])}
    rows = [
        [row["name"], f"{row['images']:,}", row["probe"], _with_std(row), *(of(row) for of in known.values())]
        for row in content["rows"]
    ]
    title = str(content["context"].get("title", _encoder_of(content)))
    return {"title": title, "columns": ["trained on", "images", "probe", "top-1", *known], "rows": rows}


def _encoder_of(content: dict[str, Any]) -> str:
    encoder = content["context"].get("encoder")
    if not isinstance(encoder, dict):
        return "?"
    size = f" at {encoder['input_size']} px" if "input_size" in encoder else ""
    return f"{encoder.get('name', '?')}{size}"


def _mean(row: dict[str, Any], key: str) -> float | None:
    values = [score.get(key) for score in row["scores"]]
    known = [value for value in values if isinstance(value, (int, float))]
    return statistics.fmean(known) if known else None


def _percent(value: float | None) -> str:
    return _NONE if value is None else f"{100 * value:.1f}\u00a0%"


def _points(value: Any) -> str:
    """A difference of accuracies, in points of a percent."""
    return f"{100 * value:+.1f}" if isinstance(value, (int, float)) else _NONE


def _with_std(row: dict[str, Any]) -> str:
    std = row.get("std")
    return f"{100 * row['top1']:.1f}" + (f" ± {100 * std:.1f}" if std else "") + "\u00a0%"


def _class_scores(run: RunRecord) -> dict[str, str]:
    """Accuracy of each class with the first probe of the first evaluation, the own encoder's if there is one."""
    for content in _own_first(run):
        for row in content["rows"]:
            if row["name"] == "distilled":
                known = [score.get("per_class") or {} for score in row["scores"]]
                found = {name: [k[name] for k in known if k.get(name) is not None] for name in run.class_names}
                return {
                    name: f"{100 * statistics.fmean(values):.0f}\u00a0%" for name, values in found.items() if values
                }
    return {}


def _own_first(run: RunRecord) -> list[dict[str, Any]]:
    """The evaluations of a run; that on the encoder which it was distilled with, first."""
    own = run.about.source.fingerprint if run.about.source is not None else None

    def is_other(content: dict[str, Any]) -> bool:
        of = content["context"].get("encoder") if isinstance(content.get("context"), dict) else None
        return not isinstance(of, dict) or of.get("fingerprint") != own

    return sorted(run.evaluations.values(), key=is_other)


def _headline(run: RunRecord) -> str:
    """The result of a single run in a sentence."""
    for content in _own_first(run):
        ours = next((row for row in content["rows"] if row["name"] == "distilled"), None)
        if ours is not None:
            same = ours["probe"].replace(INHERITED, IN_ITS_PLACE)  # what full real data are scored with there
            wanted = ("full real data", same)
            full = next((row for row in content["rows"] if (row["name"], row["probe"]) == wanted), None)
            probe = with_article(ours["probe"])
            text = f"{ours['images']:,} distilled images train {probe} probe to {_percent(ours['top1'])}"
            return text + (f"; all {full['images']:,} real images give {_percent(full['top1'])}." if full else ".")
    return ""


# ---------------------------------------------------------------------------------------------------
# Facts


def _facts(run: RunRecord) -> list[tuple[str, str]]:
    """What made the run, as (name, text)."""
    config, images = run.about.config, run.about.images
    state = "finished" if run.finished else "not finished"
    facts = [("state", f"{state}: {run.progress.reached()}, {run.progress.seconds:.0f} s")]
    facts.append(("method", f"{run.about.method}, preset {config.preset}, {config.steps or 0:,} steps"))
    facts.append(("seed", str(config.seed)))
    for encoder in run.about.encoders:
        facts.append(("encoder", f"{encoder}, {encoder.precision}"))
        facts.append(("its fingerprint", encoder.fingerprint))
    facts.append(("real images", f"{images.count} of {images.spec} ({images.split})"))
    facts.append(("their fingerprint", images.fingerprint))
    if run.pixels is not None:
        files = [path for path in (run.folder / "images").rglob("*") if path.suffix != ".jsonl" and path.is_file()]
        kib = sum(path.stat().st_size for path in files) / 1024
        side = run.pixels.shape[1]
        facts.append(("distilled images", f"{len(run.pixels):,} of {side} × {side} px, {kib:,.0f} KiB"))
    facts.append(("versions", ", ".join(f"{k} {v}" for k, v in run.about.versions.items())))
    facts.append(("device", run.about.device))
    return facts


def _classes(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_MOST_CLASSES_NAMED])
    return f"{len(names):,} classes: {shown}{', …' if len(names) > _MOST_CLASSES_NAMED else ''}"


# ---------------------------------------------------------------------------------------------------
# Scripts and data in HTML


def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs()).replace("\r\n", "\n").replace("</script", "<\\/script")


def _hash(script: str) -> str:
    """What the page's policy knows a script by; no other runs."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def _embedded(text: str) -> Any:
    """JSON text as it may stand inside a script element: no character of it can end the element."""
    from markupsafe import Markup

    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)
