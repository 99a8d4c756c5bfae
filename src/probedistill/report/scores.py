"""The evaluations of a report's runs: one table of all, a sentence for each run, accuracy by class."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

from ..evaluation.result import DISTILLED, FULL_REAL, OF_EACH_SET, Evaluation, Row
from ..show.tables import NOTHING, Table, percent
from .gather import ShownRun

_OF_EACH_LINE = (*OF_EACH_SET, "encoder", "augment", "class_names")
"""Differences between lines that need no note: the line or "What differs" shows them, or only classes are reordered."""


@dataclass(frozen=True)
class Line:
    """The scores of a run with one probe and one encoder, by training set."""

    run: str
    encoder: str
    probe: str
    cells: dict[str, Row]


@dataclass(frozen=True)
class ScoreTable:
    """Scores of all runs: one line per run, encoder and probe, one column per training set."""

    columns: tuple[str, ...]
    lines: tuple[Line, ...]
    unlike: tuple[str, ...] = ()
    """Names of the options that differ between the lines' protocols."""

    @property
    def has_spread(self) -> bool:
        """Whether some score has a deviation over evaluation seeds."""
        return any(row.std for line in self.lines for row in line.cells.values())

    def table(self) -> Table:
        """The numbers alone."""

        def cells(line: Line) -> list[str]:
            found = [line.cells.get(name) for name in self.columns]
            return [NOTHING if row is None else row.accuracy() for row in found]

        rows = tuple((line.run, line.encoder, line.probe, *cells(line)) for line in self.lines)
        return Table("", ("run", "encoder", "probe", *self.columns), rows, left=3)


def score_table(runs: Sequence[ShownRun]) -> ScoreTable:
    """The scores of all runs, in the order of their files."""
    columns: dict[str, None] = {}
    lines = []
    contexts = [evaluation.context for run in runs for evaluation in run.evaluations]
    unlike = dict.fromkeys(what for one, other in combinations(contexts, 2) for what in one.differences(other))
    for run in runs:
        for evaluation in run.evaluations:
            by = evaluation.context.encoder
            for probe in dict.fromkeys(row.probe for row in evaluation.rows):
                cells = {row.name: row for row in evaluation.rows if row.probe == probe}
                columns |= dict.fromkeys(cells)
                lines.append(Line(run.name, f"{by.name} at {by.input_size} px", probe, cells))
    return ScoreTable(tuple(columns), tuple(lines), tuple(name for name in unlike if name not in _OF_EACH_LINE))


def headline(run: ShownRun) -> str:
    """The result of a run in a sentence; empty without scores."""
    for evaluation, ours in _own_rows(run):
        # On full real data, a probe that needs images is replaced by `on_features`.
        same = (FULL_REAL, ours.on_features or ours.probe)
        full = next((row for row in evaluation.rows if (row.name, row.probe) == same), None)
        article = "an" if ours.probe[:1] in "aeiou" else "a"
        what = "distilled images" if ours.name == DISTILLED else f"real images ({ours.name})"
        text = f"{ours.images:,} {what} train {article} {ours.probe} probe to {percent(ours.top1)}%"
        return text + (f"; all {full.images:,} real images reach {percent(full.top1)}%." if full else ".")
    return ""


def class_scores(run: ShownRun) -> dict[str, str]:
    """Accuracy of each class by the first probe of the first evaluation, the own encoder's if there is one."""
    for _, ours in _own_rows(run):
        found = {name: [s.per_class[name] for s in ours.scores if name in s.per_class] for name in run.class_names}
        return {name: f"{100 * statistics.fmean(values):.0f}%" for name, values in found.items() if values}
    return {}


def _own_rows(run: ShownRun) -> Iterator[tuple[Evaluation, Row]]:
    """Rows for the run's own images, each with its evaluation, in the order of `own_first` and `own_rows`."""
    return ((one, row) for one in own_first(run) for row in one.own_rows())


def own_first(run: ShownRun) -> list[Evaluation]:
    """The evaluations of a run; that on the encoder which it was distilled with, first."""
    own = run.about.source.fingerprint if run.about.source is not None else None
    return sorted(run.evaluations, key=lambda evaluation: evaluation.context.encoder.fingerprint != own)
