"""Geometry: where synthetic images lie among the real images of their class, in feature space."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from sklearn.decomposition import PCA
from torch import Tensor

from ..encoders.encoder import Encoder, check_encoder
from ..errors import UserError, option
from ..features.bank import FeatureBank
from ..features.classes import balanced_rows, class_means, medoids
from ..features.encode import encode
from ..features.store import FeatureStore
from ..images.labelled import LabelledImages, check_labelled, classes_argument
from ..machine.progress import ProgressBar
from ..machine.torch_state import own_torch_state
from ..methods import check_name
from ..show.figures import Bars, Figure, Plane, Points, colour
from ..show.tables import Table, number
from ..store.distilled import DistilledSet, as_set, check_each_class
from ..store.records import Count, Share
from ..store.run_record import ImagesRecord
from ..text import counted
from .base import Analysis, Array, EncoderAbout, MadeBy, check_array
from .places import Place, RealReference
from .statistics import ClassTest, class_test, p_in_words

DRAWN_CLASSES = 30
DRAWN_IMAGES = 2000

_NEIGHBOUR_SAMPLE = 2000  # real images whose own neighbours are searched for: limits the cost of the baseline

Kind = Literal["real", "medoid", "synthetic"]
KINDS: tuple[Kind, ...] = ("synthetic", "medoid", "real")
_MARKERS = {"real": "dot", "medoid": "diamond", "synthetic": "star"}


# ---------------------------------------------------------------------------------------------------
# Class by class


@dataclass(frozen=True)
class ClassGeometry:
    """A class: the means over its synthetic images, its medoid, and its real images."""

    name: str
    images: Count
    synthetic: Place
    medoid: Place
    real: Place


def describe_classes(
    real: Tensor,
    labels: Tensor,
    synthetic: Tensor,
    synthetic_labels: Tensor,
    medoid_rows: Tensor,
    class_names: Sequence[str],
    *,
    k: int = 10,
    seed: int = 0,
    progress: bool = False,
) -> tuple[ClassGeometry, ...]:
    """Place synthetic images, medoids and real images among the real images of their class.

    Args:
        real: (N, d) features.
        labels: (N,) int64.
        synthetic: (m, d) features; every class has at least one.
        synthetic_labels: (m,) int64.
        medoid_rows: Rows of ``real`` that are medoids, at least one of each class.
        class_names: C names.
        k: Neighbours.
        seed: Seed for drawing the at most 2,000 real images whose own neighbours are looked up.
        progress: Show a progress bar.

    Raises:
        UserError: k is out of range.
        ValueError: A class has fewer than two real images.
    """
    reference = RealReference(real, labels, len(class_names))
    sample = torch.from_numpy(balanced_rows(labels.numpy(), max(_NEIGHBOUR_SAMPLE, len(class_names)), seed=seed))

    def by_class(values: Array, y: Tensor) -> list[Any]:
        means = class_means(torch.from_numpy(values)[:, None], y, len(class_names))[:, 0].tolist()
        return [None if math.isnan(mean) else mean for mean in means]

    def places(
        points: Tensor, y: Tensor, rows: Tensor | None = None, some: slice | Tensor = slice(None)
    ) -> list[Place]:
        """The mean place of each class's points; ``rows`` are their indices if they are real images.

        The neighbours of ``some`` of the points are looked up.
        """
        found = {name: by_class(values, y) for name, values in reference.place(points, y, rows=rows).items()}
        rows = rows[some] if rows is not None else None
        found["own_neighbours"] = by_class(reference.own_neighbours(points[some], y[some], k, rows=rows), y[some])
        bar.advance()
        return [Place(**dict(zip(found, values, strict=True))) for values in zip(*found.values(), strict=True)]

    with ProgressBar("geometry", 3, enabled=progress) as bar:
        of_synthetic = places(synthetic, synthetic_labels)
        of_medoids = places(real[medoid_rows], labels[medoid_rows], medoid_rows)
        of_real = places(real, labels, torch.arange(len(real)), sample)
    return tuple(map(ClassGeometry, class_names, reference.counts.tolist(), of_synthetic, of_medoids, of_real))


# ---------------------------------------------------------------------------------------------------
# A run


@dataclass(frozen=True)
class Projection:
    """The images that are drawn: real, medoid and synthetic images of some classes in a plane.

    Attributes:
        xy: (n, 2) coordinates.
        labels: n classes.
        kinds: n times ``"real"``, ``"medoid"`` or ``"synthetic"``.
        names: Names of the n real images; ``None`` for synthetic ones.
        explained: Shares of the drawn classes' real variance along the two axes.
    """

    xy: Array
    labels: tuple[Count, ...]
    kinds: tuple[Kind, ...]
    names: tuple[str | None, ...]
    explained: tuple[Share, Share]

    def __post_init__(self) -> None:
        check_array("xy", self.xy, (len(self.labels), 2))
        if not len(self.labels) == len(self.kinds) == len(self.names):
            raise ValueError("labels, kinds and names differ in number")


@dataclass(frozen=True)
class Geometry(Analysis):
    """Where a run's synthetic images lie, class by class.

    Attributes:
        encoder: The encoder whose features were compared.
        run: What made the synthetic images.
        images: The real images.
        k: Neighbours.
        classes: Every class of the run.
        tests: ``"periphery"`` (of distance_quantile), ``"angle"`` and ``"margin"``, over the classes.
        points: Images of the drawn classes.
    """

    kind = "geometry"
    of_one_run = True

    encoder: EncoderAbout
    run: MadeBy
    images: ImagesRecord
    k: Count
    classes: tuple[ClassGeometry, ...]
    tests: dict[str, ClassTest]
    points: Projection

    def __post_init__(self) -> None:
        if not self.classes or max(self.points.labels, default=0) >= len(self.classes):
            raise ValueError("points are of classes that are not there")
        if set(self.tests) != set(_TESTED):
            raise ValueError(f"tests must be {', '.join(_TESTED)}")

    @property
    def class_names(self) -> list[str]:
        """Names of the C classes."""
        return [c.name for c in self.classes]

    @property
    def drawn(self) -> list[int]:
        """Which classes are drawn, in order."""
        return sorted(set(self.points.labels))

    def mean(self, kind: Kind, measure: str) -> float | None:
        """Mean of a measure over the classes that have it; ``kind`` is ``"synthetic"``, ``"medoid"`` or ``"real"``."""
        values = [getattr(getattr(c, kind), measure) for c in self.classes]
        known = [value for value in values if value is not None]
        return math.fsum(known) / len(known) if known else None

    def tables(self) -> list[Table]:
        """The drawn classes, and means over all classes of synthetic images, medoids and random real images."""
        rows = [
            (self.classes[c].name, *(number(getattr(self.classes[c].synthetic, m)) for m in _COLUMNS))
            for c in self.drawn
        ]
        titles = ("mean of all", "medoids", "random real")
        means = [
            (title, *(number(self.mean(kind, m)) for m in _COLUMNS)) for kind, title in zip(KINDS, titles, strict=True)
        ]
        title = f"{self._encoder}: synthetic images among {self.images.count:,} real ones"
        columns = ("class", *_COLUMNS.values())
        return [Table(title, columns, (*rows, *means), sections=(len(rows),), dim=(len(rows) + 1, len(rows) + 2))]

    def findings(self) -> list[str]:
        """The tests in words, a sentence each."""
        found = [
            f"{name}: a synthetic image is {what} {_percent(test.score)}% of the real images of its class "
            f"(95% interval {_percent(test.interval[0])} to {_percent(test.interval[1])}; random real images 50), "
            f"{p_in_words(test.p)}"
            for name, (_, what) in _TESTED.items()
            for test in (self.tests[name],)
        ]
        return [*found, *([self._too_few] if self._too_few else [])]

    @property
    def _too_few(self) -> str:
        """A sentence if there are too few classes: the signed-rank test's p is smallest if all signs are equal."""
        count = len(self.classes)
        least = 2 / 2**count
        if least <= 0.05:
            return ""
        over = counted(count, "class", "classes")
        return f"With {over}, p cannot be below {least:.2g}, and the intervals are too narrow."

    def figures(self) -> list[Figure]:
        """The PCA plane, and how far out each drawn class's synthetic image and medoid lie."""
        return [self._plane(), self._places()]

    @property
    def _encoder(self) -> str:
        return f"{self.encoder.name} at {self.encoder.input_size} px"

    def _plane(self) -> Figure:
        points, labels = self.points, np.array(self.points.labels)
        kinds, groups = np.array(points.kinds), []
        for kind, marker in _MARKERS.items():  # large markers last, so that they are on top
            for place, c in enumerate(self.drawn):
                (here,) = np.nonzero((kinds == kind) & (labels == c))
                title = f"{kind} · {self.classes[c].name}"
                titles = tuple(title if points.names[i] is None else f"{title} · {points.names[i]}" for i in here)
                groups.append(Points(self.classes[c].name, points.xy[here], titles, marker, colour(place)))
        counts = [f"{points.kinds.count(kind):,} {kind}" for kind in _MARKERS]
        summary = (
            f"{', '.join(counts)} images of {len(self.drawn)} classes, in the plane of the two largest principal "
            "components of the real ones. Stars are synthetic, diamonds are medoids. On average, a synthetic image is "
            f"farther from its class mean than {_percent(self.tests['periphery'].score)}% of the real images."
        )
        first, second = (
            f"{which} component: {100 * share:.0f}% of the variance of real images"
            for which, share in zip(("first", "second"), points.explained, strict=True)
        )
        (table,) = self.tables()
        return Figure(f"Where the images lie · {self._encoder}", summary, Plane(tuple(groups), first, second), table)

    def _places(self) -> Figure:
        test, drawn = self.tests["periphery"], [self.classes[c] for c in self.drawn]
        series = {"synthetic": np.array([100 * c.synthetic.distance_quantile for c in drawn])}
        rows = tuple((c.name, _percent(c.synthetic.distance_quantile)) for c in drawn)
        summary = (
            f"The mean over {counted(len(self.classes), 'class', 'classes')} is {100 * test.score:.0f}% (95% interval "
            f"{100 * test.interval[0]:.0f} to {100 * test.interval[1]:.0f}), {p_in_words(test.p)}. Random real images "
            "have 50% on average, medoids 0%."
        )
        summary += f" {self._too_few}" if self._too_few else ""
        title = f"How far out the images lie · {self._encoder}"
        bars = Bars(
            tuple(c.name for c in drawn), series, "% of real images nearer to the class mean", limits=(0.0, 100.0),
            across=True,
        )  # fmt: skip
        return Figure(title, summary, bars, Table(title, ("class", *series), rows))


def _percent(share: float) -> str:
    """A share as a whole percent, rounded as tables round it: 0.075 is 0.07 there, so 7 here and not 8."""
    return number(share if math.isnan(share) else 100 * float(number(share)), 0)


_COLUMNS = {
    "distance_quantile": "distance\nquantile",
    "distance_ratio": "distance\n÷ median",
    "angle_quantile": "angle\nquantile",
    "relative_margin": "margin\n÷ median",
    "margin_quantile": "margin\nquantile",
    "own_neighbours": "own\nneighbours",
    "norm_ratio": "norm\nratio",
}
_TESTED = {
    "periphery": ("distance_quantile", "farther from its class mean than"),
    "angle": ("angle_quantile", "at a wider angle to its class mean than"),
    "margin": ("margin_quantile", "better separated from the nearest other class than"),
}


@own_torch_state()
def geometry(
    distilled: DistilledSet | Path | str,
    encoder: Encoder,
    train: LabelledImages,
    *,
    classes: Sequence[str] | None = None,
    k: int = 10,
    seed: int = 0,
    features: FeatureStore | None = None,
    cache: Path | str | None = None,
    strict: bool = False,
    progress: bool = True,
) -> Geometry:
    """Find where synthetic images lie among the real training images of their class.

    Features are of centre crops, and of the 8-bit synthetic images as they are. The measures are relative to
    all classes of the run, whichever are drawn.

    Args:
        distilled: The synthetic set, or the folder or name of its run.
        encoder: The frozen encoder; it may differ from the one the set was made with.
        train: Real training images.
        classes: Classes to plot, in a PCA plane fitted on their real features. Default: the first thirty.
        k: Number of nearest real neighbours.
        seed: Seed for choosing the plotted real images, and for the bootstrap.
        features: Where features come from; default: a store of ``cache``, ``strict`` and ``progress``.
        cache: Folder of feature banks.
        strict: Raise on unreadable real images.
        progress: Show progress bars.

    Raises:
        UserError: Images that lack a class of the run, a class to draw that the run does not have, a class with
            fewer than two readable images, or k out of range.
    """
    distilled = as_set(distilled)
    check_each_class(distilled, "geometry")
    check_encoder(encoder)
    check_labelled(train, "train")
    store = features or FeatureStore(cache=cache, strict=strict, progress=progress)
    names = distilled.class_names
    drawn = _drawn(classes, names)
    missing = [name for name in names if name not in train.class_names]
    if missing:
        raise UserError(
            f"the run has a class {missing[0]!r} that {train.spec!r} lacks ({len(missing)} of {len(names)} classes); "
            "give the images that it was made from"
        )
    train = train.with_classes(names)
    if not 1 <= k < len(train):
        raise UserError(
            f"k {k} must be at least 1 and less than the number of real images ({len(train)}); "
            f"give another {option('k')}"
        )
    bank = store.of(encoder, train)
    for name, count in zip(names, torch.bincount(bank.labels, minlength=len(names)).tolist(), strict=True):
        if count < 2:
            raise UserError(f"class {name!r} has {count} readable real image; at least 2 are needed")
    medoid_rows, synthetic = medoids(bank, 1), encode(encoder, distilled.images)
    of_classes = describe_classes(
        bank.centre, bank.labels, synthetic, distilled.labels, medoid_rows, names, k=k, seed=seed,
        progress=store.progress,
    )  # fmt: skip

    quantiles = {
        name: np.array([getattr(c.synthetic, measure) for c in of_classes]) for name, (measure, _) in _TESTED.items()
    }
    return Geometry(
        encoder=EncoderAbout.of(encoder),
        run=MadeBy.of(distilled.run),
        images=ImagesRecord.of(train, len(bank)),
        k=k,
        classes=of_classes,
        tests={name: class_test(values, seed=seed) for name, values in quantiles.items()},
        points=_projection(bank, train, medoid_rows, synthetic, distilled.labels, drawn, seed),
    )


def _drawn(classes: Sequence[str] | None, names: Sequence[str]) -> list[int]:
    """The labels of the classes that are drawn."""
    chosen = list(names[:DRAWN_CLASSES] if classes is None else dict.fromkeys(classes))
    for name in chosen:
        check_name(classes_argument(), name, names, "(the run's classes)")
    if not chosen:
        raise UserError("classes is empty; name at least one class to draw, or leave it out for the first thirty")
    return [names.index(name) for name in chosen]


def _projection(
    bank: FeatureBank,
    train: LabelledImages,
    medoid_rows: Tensor,
    synthetic: Tensor,
    synthetic_labels: Tensor,
    classes: list[int],
    seed: int,
) -> Projection:
    real, labels, drawn = bank.centre, bank.labels, torch.tensor(classes)
    rows = torch.isin(labels, drawn).nonzero()[:, 0]
    plane = PCA(2, svd_solver="covariance_eigh").fit(real[rows].numpy())
    thinned = rows[torch.from_numpy(balanced_rows(labels[rows].numpy(), DRAWN_IMAGES, seed=seed))]
    medoid_rows = medoid_rows[torch.isin(labels[medoid_rows], drawn)]
    mine = torch.isin(synthetic_labels, drawn)
    features = torch.cat([real[thinned], real[medoid_rows], synthetic[mine]])
    real_rows = [*thinned.tolist(), *medoid_rows.tolist()]
    # Rounding can give a share of 1 + 1e-7, and zero variance NaN.
    first, second = np.clip(np.nan_to_num(np.asarray(plane.explained_variance_ratio_, np.float64)), 0, 1).tolist()
    counts: dict[Kind, int] = {"real": len(thinned), "medoid": len(medoid_rows), "synthetic": int(mine.sum())}
    return Projection(
        xy=plane.transform(features.numpy()).astype(np.float64),
        labels=tuple(torch.cat([labels[real_rows], synthetic_labels[mine]]).tolist()),
        kinds=tuple(kind for kind, count in counts.items() for _ in range(count)),
        names=(*(train.names[i] for i in bank.indices[real_rows].tolist()), *(None,) * counts["synthetic"]),
        explained=(first, second),
    )
