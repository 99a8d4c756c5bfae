"""Scores of one distilled set with one encoder on each group of test images, and what the images resemble."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from rich.cells import cell_len

from ..config import EvaluateConfig
from ..encoders.encoder import Encoder
from ..evaluation.protocol import evaluate
from ..evaluation.result import Row
from ..features.classes import class_means, medoids
from ..features.encode import encode
from ..features.store import FeatureStore
from ..images.labelled import LabelledImages
from ..show.figures import Bars, Figure
from ..show.tables import Table, number, percent
from ..store.distilled import DistilledSet
from ..store.records import Meta, Share
from .base import EncoderAbout
from .directions import Cosine, Resemblance, group_directions, resemblance, usual_backgrounds
from .groups import group_names

Difference = Annotated[float, Meta(ge=-1, le=1)]

_ROWS = {"distilled": "distilled", "full": "full real data", "random": "random real"}  # key → row of `evaluate`


@dataclass(frozen=True)
class GroupScores:
    """Scores of one kind of probe on each group of test images; each number is the mean over seeds.

    A probe that prefers one class has a bad worst group without any shortcut. The background effect measures only the
    shortcut, but it is 0 for a probe that always predicts the same class, so look at top1, too.

    Attributes:
        top1: Accuracy on all test images.
        groups: Accuracy on each group.
        worst_group: Accuracy on the worst group.
        gap: Mean of the groups − worst group.
        spread: Best group − worst group.
        background_effect: Accuracy on a class's usual background − on the others, averaged over classes; ``None`` if
            no class has test images on both.
    """

    top1: Share
    groups: dict[str, Share]
    worst_group: Share
    gap: Share
    spread: Share
    background_effect: Difference | None


@dataclass(frozen=True)
class Accuracy:
    """The scores of probes that were trained on the distilled images, on all real ones, and on random real ones."""

    distilled: GroupScores
    full: GroupScores
    random: GroupScores

    def rows(self) -> dict[str, GroupScores]:
        """What a probe was trained on → its scores."""
        return {name: getattr(self, key) for key, name in _ROWS.items()}


@dataclass(frozen=True)
class BiasEntry:
    """What was found for one distilled set and one encoder.

    Attributes:
        run: Name of the set's folder.
        class_names: C names.
        encoder: The encoder.
        accuracy: Scores by group.
        resemblance: What the synthetic images resemble; ``None`` if a group has no training image.
        baseline: What ``"class_means"`` (of the real training features) and ``"medoids"`` resemble.
        overlap: See `Directions`.
    """

    run: str
    class_names: tuple[str, ...]
    encoder: EncoderAbout
    accuracy: Accuracy
    resemblance: Resemblance | None
    baseline: dict[str, Resemblance]
    overlap: Cosine | None

    def __post_init__(self) -> None:
        for found in self.likeness().values():
            if len(found.background) != len(self.class_names):
                raise ValueError("a resemblance is of other classes")

    @property
    def title(self) -> str:
        """The run and the encoder."""
        return f"{self.run} · {self.encoder.sized}"

    @property
    def share(self) -> float | None:
        """Background share of the distilled images; ``None`` if it is not defined or was not looked at."""
        return self.resemblance.share if self.resemblance else None

    def likeness(self) -> dict[str, Resemblance]:
        """Kind of image → what it resembles: the distilled ones, class means, medoids."""
        own = {"distilled": self.resemblance} if self.resemblance else {}
        return {name.replace("_", " "): found for name, found in {**own, **self.baseline}.items()}


def bias_of(
    distilled: DistilledSet,
    encoder: Encoder,
    train: LabelledImages,
    test: LabelledImages,
    backgrounds: Sequence[Sequence[str]],
    *,
    name: str = "distilled",
    probe: str = "ridge",
    seeds: int = 3,
    views: int = 20,
    features: FeatureStore | None = None,
) -> BiasEntry:
    """Score a distilled set by group, and compare its images with backgrounds and objects in feature space.

    The real-data probe is trained on the centre crops of all training images, the others on ``views`` augmented views.

    Args:
        distilled: The set; its 8-bit images are used.
        encoder: The frozen encoder.
        train, test: Real images of the set's classes.
        backgrounds: The background of each training image, and of each test image.
        name: Name of the entry.
        probe, seeds, views: See `EvaluateConfig`.
        features: Where features come from; default: a store with the default cache.

    Raises:
        UserError: Bad input.
    """
    store = features or FeatureStore()
    train, test = train.with_classes(distilled.class_names), test.with_classes(distilled.class_names)
    config = EvaluateConfig(probes=[probe], seeds=seeds, views=views, full_views=0, baselines=["random", "full"])
    groups = group_names(test, backgrounds[1])
    scores = evaluate(distilled, encoder, train, test, config, groups=groups, features=store)
    bank = store.of(encoder, train)
    names = sorted(set(backgrounds[0]) | set(backgrounds[1]))
    place = {background: i for i, background in enumerate(names)}
    scenes = torch.tensor([place[backgrounds[0][i]] for i in bank.indices.tolist()])
    most = usual_backgrounds(bank.labels, scenes, bank.num_classes, len(names)).tolist()
    usual = {name: names[place] for name, place in zip(bank.class_names, most, strict=True)}
    directions = group_directions(bank.centre, bank.labels, scenes, bank.num_classes, len(names))
    own, baseline = None, {}
    if directions is not None:
        own = resemblance(directions, encode(encoder, distilled.images), distilled.labels)
        rows = medoids(bank, 1)
        means = class_means(bank.centre, bank.labels, bank.num_classes)
        baseline["class_means"] = resemblance(directions, means, torch.arange(bank.num_classes))
        baseline["medoids"] = resemblance(directions, bank.centre[rows], bank.labels[rows])
    rows_of = {**_ROWS, "distilled": scores.context.set_name}  # saved real images have another name
    by_group = {key: _group_scores(scores[row, probe], usual, names) for key, row in rows_of.items()}
    overlap = directions.overlap if directions else None
    about = EncoderAbout.of(encoder)
    return BiasEntry(name, distilled.class_names, about, Accuracy(**by_group), own, baseline, overlap)


def _group_scores(row: Row, usual: dict[str, str], backgrounds: Sequence[str]) -> GroupScores:
    """Scores by group from a row of `evaluate`; ``usual`` names each class's usual background."""
    per_seed = [s.groups or {} for s in row.scores]
    groups = {name: statistics.fmean(one[name] for one in per_seed) for name in per_seed[0]}
    effects = []
    for name, background in usual.items():
        own = f"{name}/{background}"
        others = [groups[group] for b in backgrounds if (group := f"{name}/{b}") in groups and b != background]
        if own in groups and others:
            effects.append(groups[own] - statistics.fmean(others))
    return GroupScores(
        top1=row.top1,
        groups=groups,
        worst_group=statistics.fmean(min(one.values()) for one in per_seed),
        gap=statistics.fmean(statistics.fmean(one.values()) - min(one.values()) for one in per_seed),
        spread=statistics.fmean(max(one.values()) - min(one.values()) for one in per_seed),
        background_effect=statistics.fmean(effects) if effects else None,
    )


# ---------------------------------------------------------------------------------------------------
# Tables and figures

_NUMBERS = {
    "top1": "top-1", "worst_group": "worst", "gap": "mean −\nworst", "spread": "best −\nworst",
    "background_effect": "usual −\nother",
}  # fmt: skip
_ACCURACY_TITLE = "accuracy % by group (class/background)"
_LIKENESS_TITLE = "similarity in feature space (cosine, mean over classes)"
_LIKENESS_COLUMNS = ("usual background", "object", "background share")


def wide_table(entries: Sequence[BiasEntry], groups: Sequence[str], width: int, caption: str) -> list[Table]:
    """One table of all entries with a column for each group; empty if it is wider than ``width``."""
    first, *others = _NUMBERS.values()
    columns = [first, *(group.replace("/", "/\n") for group in groups), *others]
    widths = [max(cell_len(f"  {row}") for row in _ROWS.values())]
    widths += [max(len("-100.0"), *map(cell_len, column.split("\n"))) for column in columns]
    if sum(widths) + 3 * len(widths) + 1 > width:  # with a blank on both sides of each column, and the lines
        return []
    rows: list[tuple[str, ...]] = []
    sections = []
    for entry in entries:
        sections.append(len(rows))
        rows.append((entry.title, *[""] * len(columns)))
        for name, scores in entry.accuracy.rows().items():
            top1, *numbers = (getattr(scores, key) for key in _NUMBERS)
            rows.append((f"  {name}", *map(percent, (top1, *(scores.groups[g] for g in groups), *numbers))))
    return [Table(_ACCURACY_TITLE, ("trained on", *columns), tuple(rows), caption, sections=tuple(sections))]


def narrow_table(entry: BiasEntry, groups: Sequence[str], caption: str) -> Table:
    """A table of one entry with a row for each number and group; it takes 60 columns at least."""
    scores = entry.accuracy.rows()
    numbers = [
        (heading.replace("\n", " "), *(percent(getattr(one, key)) for one in scores.values()))
        for key, heading in _NUMBERS.items()
    ]
    of_groups = [(group, *(percent(one.groups[group]) for one in scores.values())) for group in groups]
    title = f"{entry.title}: {_ACCURACY_TITLE}"
    return Table(title, ("trained on", *scores), (*numbers, *of_groups), caption, sections=(len(numbers),))


def likeness_table(entries: Sequence[BiasEntry]) -> Table:
    """One table of what the images of all entries resemble."""
    rows: list[tuple[str, ...]] = []
    sections = []
    for entry in entries:
        sections.append(len(rows))
        rows += [(entry.title, "", "", ""), *((f"  {name}", *cells) for name, *cells in _likeness_rows(entry))]
    return Table(_LIKENESS_TITLE, ("images", *_LIKENESS_COLUMNS), tuple(rows), sections=tuple(sections))


def _likeness_rows(entry: BiasEntry) -> list[tuple[str, ...]]:
    return [
        (name, f"{found.mean_background:+.2f}", f"{found.mean_object:+.2f}", number(found.share))
        for name, found in entry.likeness().items()
    ]


def likeness_of(entry: BiasEntry, among: Sequence[BiasEntry]) -> Figure | None:
    """How much images resemble their object and their usual background; ``None`` if that was not measured.

    Args:
        entry: The entry.
        among: All entries: their figures have one axis, so that bars can be compared.
    """
    shown = entry.likeness()
    if not shown:
        return None
    every = [found for one in among for found in one.likeness().values()]
    ends = [value for found in every for value in (found.mean_object, found.mean_background)]
    series = {
        "object": np.array([found.mean_object for found in shown.values()]),
        "usual background": np.array([found.mean_background for found in shown.values()]),
    }
    title = f"Similarity · {entry.title}"
    summary = (
        "Cosine similarity of the images to the directions in feature space that distinguish their object and their "
        "usual background from the others, averaged over classes. Below 0 they resemble another object or background."
    )
    bars = Bars(tuple(shown), series, "cosine", digits=2, limits=(min(0.0, *ends), max(0.0, *ends)), across=True)
    return Figure(title, summary, bars, Table(title, ("images", *_LIKENESS_COLUMNS), tuple(_likeness_rows(entry))))
