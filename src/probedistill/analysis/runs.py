"""All runs below a folder in one table: the settings that differ, and the accuracy over distillation seeds."""

from __future__ import annotations

import csv
import io
import statistics
import textwrap
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ..errors import UserError
from ..evaluation.result import OF_EACH_SET, Context, load_evaluation
from ..show.figures import Figure, accuracy_bars
from ..show.results import Result
from ..show.tables import NOTHING, Table, percent
from ..store.files import whole_file
from ..store.layout import EVALUATIONS
from ..store.named import results_folder, run_folder
from ..store.run_record import RunRecord, differs, read_run, runs_below
from ..text import and_more

_Value = TypeVar("_Value")
_MOST_NAMED = 12  # runs named in a sentence
_MOST_SETTINGS = 8  # columns of settings; of more, those that change only with another are named below the table
_FEW = 3  # least number of distillation seeds for a table in a paper
_OF_EACH_ROW = (*OF_EACH_SET, "encoder", "augment")
"""Differences between the scores of two rows that the rows' settings already show."""


@dataclass(frozen=True)
class Accuracy:
    """Accuracy of the distilled images of several runs, by one probe on one encoder.

    Attributes:
        encoder: Name and input size of the encoder.
        probe: The probe.
        folders: The runs that were scored so.
        top1: Accuracy in [0, 1] of each of them, the mean over its evaluation seeds.
        seeds: Their seeds, as in `RunGroup`.
    """

    encoder: str
    probe: str
    folders: tuple[str, ...]
    top1: tuple[float, ...]
    seeds: tuple[int | None, ...]

    @property
    def of_seeds(self) -> tuple[float, ...]:
        """Accuracy of each seed: a copy of a run, or a run made again, is no further sample, and shares its place."""
        return tuple(statistics.fmean(values) for values in _by_seed(self.seeds, self.top1))

    @property
    def mean(self) -> float:
        """Mean over seeds."""
        return statistics.fmean(self.of_seeds)

    @property
    def std(self) -> float | None:
        """Standard deviation over seeds; ``None`` for one seed."""
        return statistics.stdev(self.of_seeds) if len(self.of_seeds) > 1 else None


@dataclass(frozen=True)
class RunGroup:
    """Runs that differ only in their seed.

    Attributes:
        folders: The runs, in the order of their seeds.
        seeds: Their seeds; ``None`` for a set that another program made, whose seed is unknown.
        finished: Whether all of them are finished.
        settings: Setting → value, for those that are not the same in every group.
        accuracies: The scores.
        seconds: Mean time in steps.
    """

    folders: tuple[str, ...]
    seeds: tuple[int | None, ...]
    finished: bool
    settings: dict[str, str]
    accuracies: tuple[Accuracy, ...]
    seconds: float

    @property
    def repeats(self) -> list[list[str]]:
        """Runs of one seed, for each seed that several runs have."""
        return [folders for folders in _by_seed(self.seeds, self.folders) if len(folders) > 1]


@dataclass(frozen=True)
class Runs(Result):
    """Every run below a folder.

    Attributes:
        folder: The folder.
        groups: Groups of runs that differ only in their seed.
    """

    folder: str
    groups: tuple[RunGroup, ...]

    @property
    def _settings(self) -> list[str]:
        """Names of the settings that differ between groups."""
        return list(dict.fromkeys(name for group in self.groups for name in group.settings))

    @property
    def _together(self) -> dict[str, list[str]]:
        """Setting → the settings that tell the same groups apart, which need no column of their own."""
        if len(self._settings) <= _MOST_SETTINGS:
            return {name: [] for name in self._settings}
        alike: dict[tuple[int, ...], list[str]] = {}
        for name in sorted(self._settings, key=lambda name: name != "preset"):  # the cause of most of the others
            values = [group.settings.get(name) for group in self.groups]
            alike.setdefault(tuple(map(values.index, values)), []).append(name)
        return {first: others for first, *others in alike.values()}

    @property
    def _scored(self) -> dict[tuple[str, str], str]:
        """(Encoder, probe) of every score → its column heading, with the encoder above if there are several."""
        scored = dict.fromkeys((a.encoder, a.probe) for group in self.groups for a in group.accuracies)
        several = len({encoder for encoder, _ in scored}) > 1
        return {(encoder, probe): f"{encoder}\n{probe}" if several else probe for encoder, probe in scored}

    def tables(self) -> list[Table]:
        """A row for each group; settings that are the same everywhere are left out."""
        settings, scored = list(self._together), self._scored
        rows = []
        for group in self.groups:
            name = group.folders[0] + (" …" if len(group.folders) > 1 else "")
            values = [group.settings.get(setting, NOTHING) for setting in settings]
            seeds = " ".join(NOTHING if seed is None else str(seed) for seed in dict.fromkeys(group.seeds))
            seeds += "" if group.finished else " (unfinished)"
            found = {(a.encoder, a.probe): percent(a.mean, a.std) for a in group.accuracies}
            scores = [found.get(key, NOTHING) for key in scored]
            rows.append((name, *values, seeds, *scores, f"{group.seconds:.0f}"))
        names = ("run", *settings, "seeds", *(f"{name} %" for name in scored.values()), "seconds")
        return [Table(f"runs in {self.folder}", names, tuple(rows), left=2 + len(settings))]

    def findings(self) -> list[str]:
        """What the table does not show."""
        found = []
        if any(len(set(group.seeds)) < _FEW for group in self.groups if group.accuracies):
            spread = any(one.std is not None for group in self.groups for one in group.accuracies)
            found.append(
                "± is over distillation seeds. " * spread
                + f"Some rows are of fewer than {_FEW} distillation seeds; distil with more."
            )
        found += [
            f"Differ as {name} does (--csv has them): {', '.join(others[:_MOST_NAMED])}"
            f"{and_more(len(others), _MOST_NAMED)}."
            for name, others in self._together.items()
            if others
        ]
        found += [
            f"{', '.join(folders)} have the same seed and count as one run."
            for group in self.groups
            for folders in group.repeats
        ]
        scored = {folder for group in self.groups for one in group.accuracies for folder in one.folders}
        silent = [folder for group in self.groups for folder in group.folders if folder not in scored]
        if silent:
            names = ", ".join(silent[:_MOST_NAMED]) + and_more(len(silent), _MOST_NAMED)
            found.append(f"No scores: {names}. Use probedistill evaluate.")
        return found

    def figures(self) -> list[Figure]:
        """The mean accuracy of each row as bars, a colour for each probe and encoder."""
        scored = self._scored
        if not scored:
            return []
        found = [{(a.encoder, a.probe): (a.mean, a.std or np.nan) for a in group.accuracies} for group in self.groups]
        nothing = (np.nan, np.nan)
        series = {name.replace("\n", ", "): [one.get(key, nothing) for one in found] for key, name in scored.items()}
        (table,) = self.tables()
        drawing = accuracy_bars(tuple(row[0] for row in table.rows), series)
        summary = (
            "Accuracy of probes trained on the images of each run. Runs that differ only in their seed are one bar."
        )
        if any(a.std for group in self.groups for a in group.accuracies):
            summary += " Lines show ± one standard deviation over distillation seeds."
        return [Figure("Accuracy by run", summary, drawing, table)]

    def plain(self) -> dict[str, Any]:
        """Every number as plain values, with the means and deviations of the table."""
        content = super().plain()
        for group, one in zip(self.groups, content["groups"], strict=True):
            for accuracy, values in zip(group.accuracies, one["accuracies"], strict=True):
                values |= {"mean": accuracy.mean, "std": accuracy.std}
        return content

    def csv(self) -> str:
        """A line for each run and score: folder, seed, settings, encoder, probe, top-1 accuracy in [0, 1]."""
        settings = self._settings
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["run", "seed", *settings, "encoder", "probe", "top1"])
        for group in self.groups:
            values = [group.settings.get(name, "") for name in settings]
            for folder, seed in zip(group.folders, group.seeds, strict=True):
                scores: list[tuple[Any, ...]] = [
                    (a.encoder, a.probe, a.top1[a.folders.index(folder)])
                    for a in group.accuracies
                    if folder in a.folders
                ]
                for score in scores or [("", "", "")]:
                    writer.writerow([folder, "" if seed is None else seed, *values, *score])
        return out.getvalue()

    def save_csv(self, path: Path) -> None:
        """Write `csv`, whole or not at all."""
        with whole_file(path) as temporary:
            temporary.write_text(self.csv(), encoding="utf-8")


def collect_runs(folder: Path | str) -> Runs:
    """Read every run below a folder; damaged runs are left out with a warning.

    Raises:
        UserError: No such folder, or no run in it.
    """
    folder = run_folder(folder)
    if not folder.is_dir():
        what = f"{str(folder)!r} is a file" if folder.exists() else f"no such folder {str(folder)!r}"
        raise UserError(f"{what}; give a folder that contains runs")
    runs: dict[str, RunRecord] = {}
    for below in runs_below(folder):
        try:
            runs[str(below.relative_to(folder))] = read_run(below)
        except UserError as error:
            warnings.warn(f"{error}; it is left out", stacklevel=2)
    if not runs:
        raise UserError(f"folder {str(folder)!r} contains no runs; give the folder that distill wrote its runs to")
    # Other classes of the same source are other photos, which the column "classes" already shows.
    named = Counter((classes, name) for classes, name, _ in {one for run in runs.values() for one in _named(run)})
    ambiguous = {one for one, digests in named.items() if digests > 1}
    settings = {name: _settings(run, ambiguous) for name, run in runs.items()}
    names = list(dict.fromkeys(key for one in settings.values() for key in one))
    differ = [key for key in names if differs(key, list(settings.values()))]
    together: dict[tuple[Any, ...], list[str]] = {}
    for name, one in settings.items():
        together.setdefault((runs[name].class_names, *one.items()), []).append(name)
    groups = []
    scored: dict[tuple[str, tuple[str, ...]], _Scored] = {}
    for members in together.values():
        members.sort(key=lambda name: runs[name].config.seed)
        seeds = {name: None if runs[name].made_elsewhere else runs[name].config.seed for name in members}
        own = settings[members[0]]
        groups.append(
            RunGroup(
                folders=tuple(members),
                seeds=tuple(seeds.values()),
                finished=all(runs[name].finished for name in members),
                settings={key: own[key] for key in differ if key in own},
                accuracies=_accuracies(folder, seeds, scored),
                seconds=statistics.fmean(runs[name].seconds for name in members),
            )
        )
    return Runs(str(folder), tuple(groups))


_Named = tuple[tuple[str, ...], str]
"""The classes that a name is for (none for encoders), and the name."""


def _named(run: RunRecord) -> list[tuple[tuple[str, ...], str, str]]:
    """Classes, name and fingerprint of a run's images, and of each of its encoders."""
    images = run.images
    encoders = [((), str(encoder), encoder.fingerprint) for encoder in run.encoders]
    return [(run.class_names, f"{images.spec} ({images.split})", images.fingerprint), *encoders]


def _settings(run: RunRecord, ambiguous: Set[_Named]) -> dict[str, str]:
    """The settings of a run without its seed, flat: ``clp.ridge`` → ``"10.0"``.

    Args:
        run: The run.
        ambiguous: Names that mean different images or checkpoints in different runs, so a fingerprint is added.
    """
    images, *encoders = (
        f"{name}, {'photos' if classes else 'fingerprint'} {digest[:8]}" if (classes, name) in ambiguous else name
        for classes, name, digest in _named(run)
    )
    found = {
        "images": images,
        "encoders": " + ".join(encoders) or NOTHING,
        "classes": f"{len(run.class_names)}: {textwrap.shorten(', '.join(run.class_names), 40, placeholder=' …')}",
        **{name: str(value) for name, value in run.settings().items()},
    }
    if run.base is not None:
        found["continues from"] = run.base.name
    if run.export is not None:
        found["export"] = run.export.format
    for not_a_setting in ("seed", "micro_batch", "also"):  # "also" names encoders, which are listed above
        found.pop(not_a_setting, None)
    return found


def _by_seed(seeds: Sequence[int | None], values: Sequence[_Value]) -> list[list[_Value]]:
    """The values for each seed, in order."""
    found: dict[int | None, list[_Value]] = {}
    for seed, value in zip(seeds, values, strict=True):
        found.setdefault(seed, []).append(value)
    return list(found.values())


@dataclass
class _Scored:
    """How runs were scored that are to be compared: what they may differ in, and runs that show all the rest."""

    may_differ: Sequence[str]
    runs: list[tuple[str, Context]] = field(default_factory=list)

    def otherwise(self, name: str, context: Context) -> tuple[str, list[str]]:
        """The run that another one cannot be compared with, and what they differ in; add it if there is none."""
        for whose, theirs in self.runs:
            if other := [what for what in theirs.differences(context) if what not in self.may_differ]:
                return whose, other
        if not any(context.with_epochs <= theirs.with_epochs for _, theirs in self.runs):
            self.runs.append((name, context))
        return "", []


def _accuracies(
    folder: Path, seeds: Mapping[str, int | None], earlier: dict[tuple[str, tuple[str, ...]], _Scored]
) -> tuple[Accuracy, ...]:
    """The scores of these runs; scores that cannot be averaged with the others are left out with a warning.

    Args:
        folder: The folder of all runs.
        seeds: Run → seed.
        earlier: Encoder and classes → how the runs of earlier rows were scored. There is a warning if these runs
            were scored otherwise; else they are added.
    """
    found: dict[tuple[str, str], dict[str, float]] = {}
    kept: dict[str, _Scored] = {}
    warned: set[str] = set()
    for name in seeds:
        for path in sorted(results_folder(folder / name).glob(EVALUATIONS)):
            try:
                result = load_evaluation(path)
            except UserError as error:
                warnings.warn(f"{error}; it is left out", stacklevel=2)
                continue
            context = result.context
            encoder = f"{context.encoder.name} at {context.encoder.input_size} px"
            whose, other = kept.setdefault(encoder, _Scored(OF_EACH_SET)).otherwise(name, context)
            if other:
                warnings.warn(
                    f"leaving out the scores in {path}: they are for different {', '.join(other)} than those of "
                    f"{whose!r}; evaluate both in the same way",
                    stacklevel=2,
                )
                continue
            theirs, other = earlier.setdefault((encoder, context.class_names), _Scored(_OF_EACH_ROW)).otherwise(
                name, context
            )
            if other and encoder not in warned:
                warned.add(encoder)
                warnings.warn(
                    f"the scores in {path} are for different {', '.join(other)} than those of {theirs!r}, so their "
                    "rows cannot be compared; evaluate both in the same way",
                    stacklevel=2,
                )
            for row in result.rows:
                if row.name == result.context.set_name:
                    found.setdefault((encoder, row.probe), {})[name] = row.top1
    return tuple(
        Accuracy(*key, tuple(scores), tuple(scores.values()), tuple(seeds[name] for name in scores))
        for key, scores in found.items()
    )
