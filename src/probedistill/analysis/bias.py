"""Does a model look at the background? Accuracy per group, and what distilled images resemble in feature space.

Data with known groups have a class and a background for each image. The training images tie them together, the test
images do not. A probe that relies on the background then fails on the groups that are rare in training.
"""

from __future__ import annotations

import logging
import math
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from .._version import __version__
from ..config import EncoderConfig, EvaluateConfig, ImagesConfig
from ..encoders.encoder import Encoder
from ..encoders.named import check_made_with, own_encoder
from ..encoders.pool import EncoderPool
from ..errors import UserError, option
from ..features.store import FeatureStore
from ..images.labelled import LabelledImages, of_classes
from ..images.sources import check_results_outside
from ..images.splits import load_splits
from ..machine.torch_state import own_torch_state
from ..probes.kinds import check_probes, kind_of
from ..show.figures import Bars, Figure
from ..show.tables import Table, percent
from ..store.card import warn_of_seen
from ..store.distilled import DistilledSet
from ..store.files import check_writable
from ..store.layout import check_named_once
from ..store.named import run_folder, several_runs
from ..store.records import Count, Share
from ..store.run_record import ImagesRecord
from ..text import counted
from .base import Analysis
from .bias_entry import BiasEntry, bias_of, likeness_of, likeness_table, narrow_table, wide_table
from .directions import ROUNDING, usual_backgrounds
from .groups import group_names, read_groups
from .statistics import EXACT, Correlation, rank_agreement

_log = logging.getLogger(__name__)
_GROUP_COLUMNS = 6
_RANKED_BY = {"worst_group": "by worst group", "background_share": "by background share"}


@dataclass(frozen=True)
class Usual:
    """The usual background of a class in training, and the share of the class's images that are on it."""

    class_name: str
    background: str
    share: Share


@dataclass(frozen=True)
class BiasProtocol:
    """How groups were scored: see `EvaluateConfig`; ``attributes`` are the columns that make up the background."""

    probe: str
    seeds: Count
    views: Count
    attributes: tuple[str, ...]


@dataclass(frozen=True)
class BiasReport(Analysis):
    """The entries, ranked, and whether distilled images rank encoders as real data do.

    Attributes:
        entries: One per (run, encoder).
        class_names: C names.
        usual: Usual background of each class.
        images: The real test images.
        protocol: How groups were scored.
        version: Version of probedistill.
        sizes: Number of test images in each group; empty in files of versions that did not count them.
    """

    kind = "bias"

    entries: tuple[BiasEntry, ...]
    class_names: tuple[str, ...]
    usual: tuple[Usual, ...]
    images: ImagesRecord
    protocol: BiasProtocol
    version: str
    sizes: dict[str, Count] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.entries:
            raise ValueError("there is no entry")
        for entry in self.entries:
            for scores in entry.accuracy.rows().values():
                if not scores.groups or set(scores.groups) != set(self.groups):
                    raise ValueError("entries are of different groups")

    @property
    def groups(self) -> list[str]:
        """Names of the groups among the test images."""
        return list(self.entries[0].accuracy.distilled.groups)

    @property
    def ranking(self) -> dict[str, list[int]]:
        """Indices of the entries, best first: by worst group of the distilled images, and by background share.

        Undefined shares come last. Entries without a resemblance are not ranked by share.
        """
        places = range(len(self.entries))
        shares = [math.inf if entry.share is None else entry.share for entry in self.entries]
        looked_at = [i for i in places if self.entries[i].resemblance is not None]
        return {
            "worst_group": sorted(places, key=lambda i: -self.entries[i].accuracy.distilled.worst_group),
            "background_share": sorted(looked_at, key=lambda i: shares[i]),
        }

    @property
    def agreement(self) -> dict[str, Correlation] | None:
        """Rank agreement over encoders with the worst group of the probe on full real data.

        ``worst_group``: agreement of the worst group of the distilled images. ``background_share``: agreement of
        their background share (lower is better); undefined shares are left out, and ``n`` counts the remaining
        encoders. Positive means agreement. Several runs of an encoder are averaged. ``None`` for fewer than 3
        encoders.
        """
        by_encoder: dict[str, list[BiasEntry]] = {}
        for entry in self.entries:
            by_encoder.setdefault(entry.encoder.fingerprint, []).append(entry)
        if len(by_encoder) < 3:
            return None
        worst, lean = [], []  # pairs, each with the full data's worst group
        for some in by_encoder.values():
            full = statistics.fmean(entry.accuracy.full.worst_group for entry in some)
            worst.append((statistics.fmean(entry.accuracy.distilled.worst_group for entry in some), full))
            shares = [entry.share for entry in some if entry.share is not None]
            if shares:
                lean.append((-statistics.fmean(shares), full))

        def agreement(pairs: list[tuple[float, float]]) -> Correlation:
            return rank_agreement([first for first, _ in pairs], [second for _, second in pairs])

        return {"worst_group": agreement(worst), "background_share": agreement(lean)}

    def tables(self) -> list[Table]:
        """Accuracy by group, and what the images resemble; entries by distilled worst group."""
        return self.fitting(100)

    def fitting(self, width: int) -> list[Table]:
        """Return the tables for a page that is ``width`` characters wide.

        If the groups do not fit next to each other, each entry has its own table with one row per number.
        """
        entries = self._ranked
        groups = self.groups if len(self.groups) <= _GROUP_COLUMNS else []  # more are only in bias.json
        note = self._how()
        accuracy = wide_table(entries, groups, width, note) or [narrow_table(entry, groups, note) for entry in entries]
        looked_at = [entry for entry in entries if entry.resemblance is not None]
        return [*accuracy, likeness_table(looked_at)] if looked_at else accuracy

    def findings(self) -> list[str]:
        """Sentences about what the tables do not show."""
        return [*self._usual_backgrounds(), *self._least_background(), *self._wrong_objects(), *self._agreements()]

    def figures(self) -> list[Figure]:
        """For each entry accuracy per group and likeness to background and object; then the ranking, as a table."""
        each = ((self._groups_of(entry), likeness_of(entry, self.entries)) for entry in self._ranked)
        found = [figure for both in each for figure in both if figure]
        return [*found, self._places()] if len(self.entries) > 1 else found

    @property
    def _ranked(self) -> list[BiasEntry]:
        return [self.entries[i] for i in self.ranking["worst_group"]]

    def _how(self) -> str:
        """What the numbers are averaged over."""
        found = []
        if self.protocol.seeds > 1:
            found.append(
                f"Means over {self.protocol.seeds} seeds; the worst and the best group are found for each seed, before "
                "averaging."
            )
        if self.sizes:
            fewest, most = min(self.sizes.values()), max(self.sizes.values())
            many = counted(most, "test image") if fewest == most else f"{fewest:,} to {most:,} test images"
            found.append(f"Each group has {many}.")
        return " ".join(found)

    def _usual_backgrounds(self) -> Iterator[str]:
        for one in self.usual:
            yield f"in training, {100 * one.share:.0f}% of {one.class_name!r} are on {one.background!r}"

    def _least_background(self) -> Iterator[str]:
        entries = [self.entries[i] for i in self.ranking["background_share"]]
        if len(entries) > 1:
            shares = ("(no share)" if entry.share is None else f"{entry.share:.2f}" for entry in entries)
            names = (f"{_called(entry)} {share}" for entry, share in zip(entries, shares, strict=True))
            ends = "0: they resemble only the object, 1: only the background"
            yield f"background share, lowest first ({ends}): {', '.join(names)}"

    def _wrong_objects(self) -> Iterator[str]:
        for entry in self.entries:
            cosines = zip(entry.class_names, entry.resemblance.object, strict=True) if entry.resemblance else ()
            wrong = [f"{name!r} ({cosine:+.2f})" for name, cosine in cosines if cosine < -ROUNDING]
            if wrong:
                yield (
                    f"{_called(entry)}: object cosine below 0 for {_listed(wrong)}: the distilled images resemble "
                    "another class's object, which the background share counts as no object"
                )

    def _agreements(self) -> Iterator[str]:
        if self.agreement is None:
            if len(self.entries) > 1:
                yield "agreement with the ranking by real data: not computed, needs at least 3 encoders"
            return
        for name, found in self.agreement.items():
            words = f"{found}" if found.spearman is None else f"{found} over {counted(found.n, 'encoder')}"
            if found.spearman is not None and found.n <= EXACT:
                words += f", {math.factorial(found.n):,} orders"
            yield f"agreement of the ranking by {name.replace('_', ' ')} with real data's worst group: {words}"

    def _groups_of(self, entry: BiasEntry) -> Figure:
        scores = entry.accuracy.rows()
        usual = {f"{one.class_name}/{one.background}" for one in self.usual}
        summary = "Top-1 in each group of test images."
        for name, one in scores.items():
            worst, gap = percent(one.worst_group), percent(one.gap)
            summary += f" {name[0].upper()}{name[1:]}: worst group {worst}%, {gap} points below the groups' mean."
        summary += f" {self._how()}".rstrip()
        named = [group for group in self.groups if group in usual]
        if named:
            summary += f" Usual in training: {_listed(named)}."
        if entry.share is not None:
            summary += (
                f" Background share of the distilled images: {entry.share:.2f} (1: no resemblance to the object)."
            )
        series = {name: np.array([100 * one.groups[g] for g in self.groups]) for name, one in scores.items()}
        rows = tuple(
            (name, *(percent(one.groups[g]) for g in self.groups), percent(one.worst_group), percent(one.gap))
            for name, one in scores.items()
        )
        title = f"Groups · {entry.title}"
        bars = Bars(tuple(self.groups), series, "top-1 accuracy, %", limits=(0.0, 100.0), across=True)
        return Figure(
            title, summary, bars, Table(title, ("trained on", *self.groups, "worst group", "mean − worst"), rows)
        )

    def _places(self) -> Figure:
        """The rank of each entry, and whether real data agree: a table without a drawing."""
        places = {key: {i: place for place, i in enumerate(self.ranking[key], 1)} for key in _RANKED_BY}
        rows: list[tuple[str, ...]] = []
        for i in self.ranking["worst_group"]:
            entry = self.entries[i]
            share = "no share" if entry.share is None else f"{entry.share:.2f}"
            numbers = {"worst_group": f"{percent(entry.accuracy.distilled.worst_group)}%", "background_share": share}
            cells = (f"{places[key][i]} ({numbers[key]})" if i in places[key] else "–" for key in _RANKED_BY)
            rows.append((entry.title, *cells))
        summary = "Rank of each entry, best first, by worst group of the distilled images and by background share."
        agreement = self.agreement
        if agreement is None:
            summary += " A comparison with the ranking by real data needs at least 3 encoders."
        else:
            summary += " The last row compares each ranking of the encoders with that by real data's worst group."
            words = (f"{agreement[key]}, {counted(agreement[key].n, 'encoder')}" for key in _RANKED_BY)
            rows.append(("agreement with real data", *words))
        title = "Groups · ranking"
        return Figure(title, summary, None, Table(title, ("entry", *_RANKED_BY.values()), tuple(rows)))


@own_torch_state()
def bias(
    runs: Sequence[Path | str],
    images: str | ImagesConfig,
    groups: Path | str,
    *,
    encoders: Sequence[str | EncoderConfig] | None = None,
    attributes: Sequence[str] = ("background",),
    probe: str = "ridge",
    seeds: int = 3,
    views: int = 20,
    out: Path | str | None = None,
    features: FeatureStore | None = None,
    cache: Path | str | None = None,
    strict: bool = False,
    progress: bool = True,
) -> BiasReport:
    """Diagnose finished runs on data with known groups, one encoder in memory at a time.

    Args:
        runs: Folders of finished runs, all of the same classes.
        images: The real images, training and test.
        groups: CSV file with the background of every training and test image, see `read_groups`.
        encoders: Encoders to examine each run with. Default: each run's own, according to its ``config.yaml``.
        attributes: Columns of the file that make up the background.
        probe, seeds, views: See `EvaluateConfig`.
        out: Folder for ``bias.json`` and ``bias.png``.
        features: Where features come from; default: a store of ``cache``, ``strict`` and ``progress``.
        cache: Folder of feature banks.
        strict: Raise on unreadable real images, as ``images.strict`` does.
        progress: Show progress bars.

    Raises:
        UserError: Bad input; nothing has been written.
    """
    check_probes([probe])
    if kind_of(probe).needs_head:
        raise UserError(f"probe {probe!r} needs the head of a set, which full real data do not have; choose another")
    EvaluateConfig(probes=[probe], seeds=seeds, views=views).check()
    folders, sets = _read_runs(runs)
    class_names = sets[0].class_names
    if out is not None:
        check_writable(Path(out))
    own = [own_encoder(folder, called=option("encoders")) for folder in folders] if encoders is None else []
    read = read_groups(groups, attributes)
    shows = progress if features is None else features.progress
    train, test = (
        of_classes(part, class_names, f"run {str(folders[0])!r}") for part in load_splits(images, progress=shows)
    )
    if out is not None:
        check_results_outside(Path(out), train)
    for folder in folders:
        warn_of_seen(folder, train, test)
    backgrounds = read.match(train, test)
    names = sorted({name for part in backgrounds for name in part})
    if len(names) < 2:
        raise UserError(f"groups {str(groups)!r} has one background, {names[0]!r}; at least 2 are needed")

    strict = strict or (isinstance(images, ImagesConfig) and images.strict)
    store = features or FeatureStore(cache=cache, strict=strict, progress=progress)
    entries = []
    pool = EncoderPool(own[:1] or encoders or [])
    for encoder, i in _pairs(pool, own, len(folders)):
        if own:
            source = sets[i].run.source
            check_made_with(
                encoder, source.fingerprint if source else None, called=f"run {str(folders[i])!r}",
                way_out=f"name one with {option('encoders')}",
            )  # fmt: skip
        name = folders[i].resolve().name
        entries.append(bias_of(
            sets[i], encoder, train, test, backgrounds, name=name, probe=probe, seeds=seeds, views=views,
            features=store,
        ))  # fmt: skip
    report = BiasReport(
        tuple(entries),
        class_names,
        _usual(train, backgrounds[0]),
        ImagesRecord.of(test),
        BiasProtocol(probe, seeds, views, tuple(attributes)),
        __version__,
        dict(Counter(group_names(test, backgrounds[1]))),
    )
    if any(entry.resemblance is None for entry in entries):
        _log.warning(
            "a class has no training image on one of the backgrounds: object and background cannot be separated "
            "in feature space, so only accuracies are given"
        )
    if out is not None:
        report.save(out)
    return report


def _read_runs(runs: Sequence[Path | str]) -> tuple[list[Path], list[DistilledSet]]:
    """Finished runs of the same classes: their folders and their sets."""
    if not runs:
        raise UserError("runs is empty; give the folder of at least one finished run")
    folders = [run_folder(run) for run in several_runs(runs)]
    check_named_once(folders)
    sets = [DistilledSet.load(folder) for folder in folders]
    class_names = sets[0].class_names
    for folder, distilled in zip(folders, sets, strict=True):
        if set(distilled.class_names) != set(class_names):
            raise UserError(
                f"runs {str(folders[0])!r} and {str(folder)!r} are of different classes "
                f"({_listed(class_names)} and {_listed(distilled.class_names)}); compare runs of the same classes"
            )
    return folders, sets


def _usual(train: LabelledImages, backgrounds: Sequence[str]) -> tuple[Usual, ...]:
    """The usual background of each class in training and its share of the class's images."""
    names = sorted(set(backgrounds))
    labels = torch.as_tensor(train.labels)
    scenes = torch.tensor([names.index(background) for background in backgrounds])
    usual = usual_backgrounds(labels, scenes, len(train.class_names), len(names))
    return tuple(
        Usual(name, names[u], float((scenes[labels == c] == u).double().mean()))
        for c, (name, u) in enumerate(zip(train.class_names, usual.tolist(), strict=True))
    )


def _pairs(pool: EncoderPool, own: Sequence[EncoderConfig], runs: int) -> Iterator[tuple[Encoder, int]]:
    """Pairs of an encoder and the index of a run that it examines: each run's own, or all with all."""
    if own:
        return ((pool.add(config), number) for number, config in enumerate(own))
    return ((encoder, number) for encoder in pool for number in range(runs))


def _called(entry: BiasEntry) -> str:
    return f"{entry.run} ({entry.encoder.sized})"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" … {len(names)} in all" if len(names) > 3 else "")
