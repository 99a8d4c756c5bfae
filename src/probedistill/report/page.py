"""Runs and result files → one HTML file that loads nothing from anywhere."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import Any

from PIL import Image

from .._version import __version__
from ..analysis.base import Analysis
from ..analysis.kinds import kinds as kinds_of_analysis
from ..errors import UserError
from ..evaluation.result import Evaluation
from ..extras import needed
from ..features.store import FeatureStore
from ..images.decode import UnreadableImageError, decode_image
from ..show.draw import spread
from ..show.figures import Figure
from ..show.previews import CELLS_PER_ROW, LIMIT
from ..show.tables import Table
from ..store.card import command_again
from ..store.files import check_file, whole_file
from ..store.layout import CONFIG
from ..store.named import run_folder, several_runs
from ..store.records import as_plain, without_nan
from ..text import and_more, as_argument, counted, printable
from . import compare
from .curves import accuracy_curve, loss_curve
from .gather import ShownRun, gather
from .nearest import NEIGHBOURS, REAL_PIXELS, with_real_images
from .pictures import Sheets, pack
from .scores import class_scores, headline, own_first, score_table

_HERE = Path(__file__).parent
_LARGEST_CELL = 224  # largest side of a distilled image in the page, in pixels
_SNAPSHOTS = 24  # snapshots in an evolution
_MOST_CLASSES_NAMED = 8
_MOST_RUNS_NAMED = 5  # in the title
_MOST_ON_WALL = (24, 12)  # classes for one run, and for several; the others are folded away


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

    Includes evaluation-*.json and the results of every analysis in the runs' folders. An unfinished run is shown as far
    as it has got, with a warning.

    Args:
        folders: Run folders.
        out: The file, ending in .html; an earlier one is replaced.
        title: Title of the page. Default: the runs' names.
        real_images: Include the nearest real training images. They and the encoder are opened as each run's
            config.yaml names them.
        transfer: Results of `probedistill transfer`, the file or its folder, in addition to those in the runs' folders.
        align: Results of `probedistill align`, likewise.
        bias: Results of `probedistill bias`, likewise.
        geometry: Results of `probedistill geometry`, likewise.
        analyses: Your own kinds of analysis, as ``module:MODULE:CLASS``; see `probedistill.analysis.kinds`.
        cache: Folder of feature banks, for ``real_images``.
        progress: Show progress bars.

    Returns:
        ``out``.

    Raises:
        UserError: jinja2 is not installed, the runs have different classes, a file is damaged, or ``out`` cannot be
            written. Nothing has been written then.
    """
    jinja2 = needed("jinja2", "report", "report needs")
    out = Path(out)
    if out.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"out {str(out)!r} must end in .html; give the name of the page to write")
    check_file(out, f"out {str(out)!r} is a folder; give the name of the page to write in it")
    given = {"transfer": transfer, "align": align, "bias": bias, "geometry": geometry}
    kinds = kinds_of_analysis(analyses)
    more = {name: kinds[name].read(path) for name, path in given.items() if path is not None}
    places = [run_folder(folder) for folder in several_runs(folders)]
    runs = gather(places, kinds)
    if real_images:
        runs = with_real_images(runs, FeatureStore(cache=cache, progress=progress))
    for run in runs:
        if not run.finished:
            warnings.warn(
                f"run {run.name!r} is not finished ({run.progress.reached()}); showing it as it is", stacklevel=2
            )
    page = _page(runs, kinds, more, title or _title([run.name for run in runs]), progress)
    with whole_file(out) as temporary:
        temporary.write_text(_template(jinja2).render(page), encoding="utf-8")
    return out


@cache
def _template(jinja2: Any) -> Any:
    """The page's template, compiled by the package jinja2."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE / "templates"), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, finalize=_shown,
    )  # fmt: skip
    return environment.get_template("report.html")


# ---------------------------------------------------------------------------------------------------
# What the template shows


@dataclass
class _Section:
    """A run in the form that the template shows."""

    run: ShownRun
    key: str
    headline: str = ""
    images: list[dict[str, Any]] = field(default_factory=list)  # class name, title and score of each
    sheets: Sheets | None = None
    near: Sheets | None = None
    snapshots: list[tuple[int, str]] = field(default_factory=list)  # step, WebP in base64
    curves: list[Figure] = field(default_factory=list)
    results: list[Figure] = field(default_factory=list)
    evaluations: list[Evaluation] = field(default_factory=list)
    facts: list[tuple[str, str]] = field(default_factory=list)
    command: str | None = None

    @property
    def begins(self) -> bool:
        """Whether there is a snapshot of the images before the first step."""
        return bool(self.snapshots) and self.snapshots[0][0] == 0


def _page(
    runs: list[ShownRun], kinds: Mapping[str, type[Analysis]], more: dict[str, Analysis], title: str, progress: bool
) -> dict[str, Any]:
    sections = [_section(run, f"r{i}", kinds, progress) for i, run in enumerate(runs)]
    shared_facts, own_facts = compare.facts(runs)
    for section, facts in zip(sections, own_facts, strict=True):
        section.facts = facts
    script = (_HERE / "static" / "report.js").read_text(encoding="utf-8")
    data = {section.key: _of_script(section) for section in sections}
    return {
        "title": title,
        "version": __version__,
        "headline": sections[0].headline if len(runs) == 1 else "",
        "classes": _classes(runs[0].class_names),
        "count": len(runs[0].class_names),
        "sections": sections,
        "wall": _wall(sections),
        "most_on_wall": _MOST_ON_WALL[len(runs) > 1],
        "runs": compare.runs_table(runs),
        "differences": compare.differences(runs),
        "scores": score_table(runs),
        "overview": accuracy_curve(runs) if len(runs) > 1 else None,
        "shared": [
            figure for name in kinds for result in _different(runs, kinds[name], more.get(name))
            for figure in result.figures()
        ],
        "shared_facts": shared_facts,
        "neighbours": NEIGHBOURS,
        "css": (_HERE / "static" / "report.css").read_text(encoding="utf-8"),
        "script": script,
        "hashes": [_hash(script)],
        "data": _embedded(json.dumps(without_nan(data), separators=(",", ":"), ensure_ascii=False)),
        "csv": _csv_address,
        "file_name": _file_name,
    }  # fmt: skip


def _wall(sections: list[_Section]) -> list[dict[str, Any]]:
    """For each class, the first image of each run: the run's key, the image's index, whether its start is known."""
    rows = []
    for name in sections[0].run.class_names:
        cells: list[dict[str, Any] | None] = []
        for section in sections:
            index = next((i for i, image in enumerate(section.images) if image["class"] == name), None)
            begins = section.begins and index is not None and index < LIMIT
            cells.append(None if index is None else {"key": section.key, "index": index, "begins": begins})
        if any(cells):
            rows.append({"name": name, "cells": cells})
    return rows


def _different(runs: list[ShownRun], kind: type[Analysis], given: Analysis | None) -> list[Analysis]:
    """All different results of a kind that compares runs or encoders, the one that the user named included."""
    found = [] if kind.of_one_run else [result for run in runs for result in run.results[kind.kind]]
    every = [*([given] if given is not None else []), *found]
    # Of equal results the last one stays: a named result that is also in a run's folder stays with that run's others.
    return list({json.dumps(as_plain(result)): result for result in reversed(every)}.values())[::-1]


def _section(run: ShownRun, key: str, kinds: Mapping[str, type[Analysis]], progress: bool) -> _Section:
    section = _Section(run, key, headline(run))
    if run.pixels is not None:
        pixels = run.pixels
        section.images = _images(run)
        cell = min(pixels.shape[1], _LARGEST_CELL)
        section.sheets = pack(len(pixels), lambda i: Image.fromarray(pixels[i]), cell, progress=progress)
    if run.near is not None:
        flat = [real.picture for line in run.near for real in line]
        section.near = pack(len(flat), flat.__getitem__, REAL_PIXELS, progress=progress)
    section.snapshots = _snapshots(run)
    section.curves = [curve for curve in (loss_curve(run), accuracy_curve([run])) if curve]
    own = [result for name, kind in kinds.items() if kind.of_one_run for result in run.results[name]]
    confusion = next((figure for e in own_first(run) if (figure := e.confusion()) is not None), None)
    section.results = [*([confusion] if confusion else []), *(f for result in own for f in result.figures())]
    section.evaluations = list(run.evaluations)
    config, again = run.folder / CONFIG, f"{run.folder}-again"
    section.command = command_again(run.about, config, shown=as_argument(config), out=as_argument(again))
    return section


def _images(run: ShownRun) -> list[dict[str, Any]]:
    """For each image its class, its title, and the accuracy on its class."""
    labels, scores = run.labels.tolist(), class_scores(run)
    of_class, counts = Counter(labels), Counter[int]()
    images = []
    for label in labels:
        counts[label] += 1
        name = run.class_names[label]
        title = printable(name + (f" {counts[label]}" if of_class[label] > 1 else ""))
        images.append({"class": name, "name": printable(name), "title": title, "score": scores.get(name)})
    return images


def _snapshots(run: ShownRun) -> list[tuple[int, str]]:
    """The unchanged content of the files of sprites, after checking that they are images."""
    kept = [run.evolution[i] for i in spread(len(run.evolution), _SNAPSHOTS)]
    found = []
    for step, path in kept:
        try:
            decode_image(path)
            found.append((step, base64.b64encode(path.read_bytes()).decode()))
        except (UnreadableImageError, OSError) as error:
            warnings.warn(f"{error}; left out of the evolution", stacklevel=2)
    return found


def _of_script(section: _Section) -> dict[str, Any]:
    """The data of a run for the page's script."""
    run = section.run
    content: dict[str, Any] = {"images": [{k: v for k, v in image.items() if k != "class"} for image in section.images]}
    for name, sheets in (("sheets", section.sheets), ("near", section.near)):
        if sheets is not None:
            content[name] = {"cell": sheets.cell, "columns": sheets.columns, "perSheet": sheets.per_sheet}
    if run.near is not None:
        content["near"]["names"] = [[printable(real.name) for real in line] for line in run.near]
    if section.snapshots:
        count = min(len(run.labels) or run.about.image_count, LIMIT)
        content["evolution"] = {
            "steps": [step for step, _ in section.snapshots], "count": count, "columns": min(CELLS_PER_ROW, count),
        }  # fmt: skip
    return content


def _title(names: Sequence[str]) -> str:
    shown = _first(names, _MOST_RUNS_NAMED, letters=60)
    return f"Distilled: {', '.join(shown)}{and_more(len(names), len(shown))}"


def _classes(names: Sequence[str]) -> str:
    shown = _first(names, _MOST_CLASSES_NAMED, letters=160)
    return f"{counted(len(names), 'class', 'classes')}: {', '.join(shown)}{', …' if len(names) > len(shown) else ''}"


def _first(names: Sequence[str], most: int, letters: int) -> Sequence[str]:
    """The first names: at most so many, with at most so many letters in all, and at least one."""
    lengths = accumulate(len(name) for name in names)
    return names[: max(1, min(most, sum(length <= letters for length in lengths)))]


# ---------------------------------------------------------------------------------------------------
# Scripts and data in HTML


def _csv_address(table: Table) -> str:
    """The table as a data URL, for a link in the page that saves a CSV file."""
    content = base64.b64encode(f"\ufeff{table.csv()}".encode()).decode()  # spreadsheets need the mark to read UTF-8
    return f"data:text/csv;charset=utf-8;base64,{content}"


def _file_name(text: str) -> str:
    """Make the name of a file to save from a text: letters, digits and hyphens."""
    return re.sub(r"[^\w]+", "-", text).strip("-")[:80] or "table"


def _shown(value: Any) -> Any:
    """Prepare a value for the template: text from data is escaped."""
    return printable(value, lines=True) if isinstance(value, str) and not hasattr(value, "__html__") else value


def _hash(script: str) -> str:
    """The hash by which the page's security policy allows a script; no other script runs."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def _embedded(text: str) -> Any:
    """Escape JSON text for a script element, so that no character can end the element."""
    from markupsafe import Markup

    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)
