"""Alignment: how similar the feature spaces of several encoders are, and whether transfer follows it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..config import EncoderConfig
from ..encoders.encoder import Encoder
from ..encoders.pool import EncoderPool
from ..errors import UserError, option
from ..features.classes import balanced_rows
from ..features.store import FeatureStore
from ..images.labelled import LabelledImages, check_labelled
from ..machine.progress import ProgressBar
from ..machine.torch_state import own_torch_state
from ..show.figures import Figure, HeatMap
from ..show.tables import NOTHING, Table, number
from ..store.records import Count, Share
from ..store.run_record import ImagesRecord
from ..text import counted
from .base import Analysis, Array, EncoderAbout, check_array
from .matrix import TransferMatrix
from .similarity import (
    METRICS,
    basis_of,
    centred,
    checked,
    length,
    mapped,
    nearest,
    overlap,
    product,
    ratio,
    traces,
)
from .statistics import EXACT, FEWEST, Correlation, mantel, p_value

_WHAT = {
    "mutual_knn": "the share of nearest neighbours that two encoders agree on",
    "cka": "the similarity of the feature spaces up to rotation and scale",
    "linear_map": "how well the row's features predict the column's linearly (R²)",
}
_NEEDS = f"a rank correlation needs at least {FEWEST}"


# ---------------------------------------------------------------------------------------------------
# The result


@dataclass(frozen=True)
class Space(EncoderAbout):
    """A feature space: an encoder and the number of its features."""

    dim: Count


@dataclass(frozen=True)
class Chance:
    """What unrelated feature spaces would give.

    Attributes:
        mutual_knn: For every pair.
        cka: (E, E).
        linear_map: For every pair.
    """

    mutual_knn: Share
    cka: Array
    linear_map: float = 0.0


@dataclass(frozen=True)
class AlignmentOptions:
    """How encoders were compared: see `align`."""

    k: Count
    limit: Count
    seed: int


@dataclass(frozen=True)
class TransferCorrelation:
    """Whether transfer follows alignment.

    Attributes:
        probe: The probe whose accuracy is correlated.
        encoders: Encoders between which transfer is known.
        exact: Whether p counts every order of these encoders.
        metrics: Rank correlation of each metric with the accuracy of transfer.
        relative_to_full: Rank correlation with accuracy as a share of the target's accuracy on full real data.
    """

    probe: str
    encoders: Count
    exact: bool
    metrics: dict[str, Correlation]
    relative_to_full: dict[str, Correlation]

    @property
    def pairs(self) -> int:
        """Pairs of different encoders between which transfer is known."""
        return next(iter(self.metrics.values())).n


@dataclass(frozen=True)
class Alignment(Analysis):
    """How similar E feature spaces are.

    Attributes:
        encoders: E feature spaces; no two have the same name.
        metrics: (E, E) for each of `METRICS`; row = from, column = to.
        chance: Values for unrelated spaces.
        images: The images that were compared.
        options: How they were compared.
        transfer: Rank correlation of each metric with transfer, if transfer results were given.
        note: Why a correlation is missing although transfer results were given.
    """

    kind = "align"

    encoders: tuple[Space, ...]
    metrics: dict[str, Array]
    chance: Chance
    images: ImagesRecord
    options: AlignmentOptions
    transfer: TransferCorrelation | None = None
    note: str | None = None

    def __post_init__(self) -> None:
        shape = (len(self.encoders), len(self.encoders))
        if set(self.metrics) != set(METRICS):
            raise ValueError(f"metrics must be {', '.join(METRICS)}")
        for name, values in self.metrics.items():
            check_array(f"metrics.{name}", values, shape, high=1 + 1e-9)
        check_array("chance.cka", self.chance.cka, shape)
        for found in (self.transfer.metrics, self.transfer.relative_to_full) if self.transfer else ():
            if set(found) != set(METRICS):
                raise ValueError(f"transfer must have a correlation for {', '.join(METRICS)}")

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the encoders."""
        return tuple(encoder.name for encoder in self.encoders)

    @property
    def titles(self) -> dict[str, str]:
        """What each metric is called."""
        return METRICS | {"mutual_knn": f"mutual {self.options.k}-NN"}

    def tables(self) -> list[Table]:
        """A row for each pair of encoders; a row for each metric, if there are transfer results."""
        return [self._pairs(), *([self._correlations(self.transfer)] if self.transfer else [])]

    def findings(self) -> list[str]:
        """Why a correlation is missing."""
        return [self.note] if self.note else []

    def figures(self) -> list[Figure]:
        """A heat map for each metric."""
        found = []
        cka = self._cka_by_chance
        ends = dict.fromkeys(number(value) for value in (cka.min(), cka.max()))
        by_chance = {"mutual_knn": number(self.chance.mutual_knn), "cka": " to ".join(ends), "linear_map": "0"}
        for metric, title in self.titles.items():
            values = self.metrics[metric]
            what = _WHAT[metric]
            summary = f"{what[0].upper()}{what[1:]}. The maximum is 1; unrelated spaces have {by_chance[metric]}."
            if metric == "linear_map":
                summary += f" On these images, a space predicts itself with {number(np.diag(values).mean())}."
            of_metric = self.transfer.metrics[metric] if self.transfer else None
            if of_metric and of_metric.spearman is not None:
                summary += f" Rank correlation with transfer: {of_metric}, over {of_metric.n:,} pairs of encoders."
            rows = tuple((name, *(number(v) for v in row)) for name, row in zip(self.names, values, strict=True))
            figure_title = f"Alignment · {title[0].upper()}{title[1:]}"
            drawing = HeatMap(self.names, self.names, values, digits=2, limits=(0.0, 1.0))
            found.append(Figure(figure_title, summary, drawing, Table(figure_title, ("", *self.names), rows)))
        return found

    @property
    def _cka_by_chance(self) -> Array:
        """`cka_chance` of every pair of different encoders."""
        return self.chance.cka[~np.eye(len(self.encoders), dtype=bool)]

    def _pairs(self) -> Table:
        knn, cka, linear = (self.metrics[name] for name in METRICS)
        rows = [
            (self.names[i], self.names[j], *(number(v, 3) for v in (knn[i, j], cka[i, j], linear[i, j], linear[j, i])))
            for i, j in itertools.combinations(range(len(self.encoders)), 2)
        ]
        itself = number(np.diag(linear).mean(), 3)
        by_chance = self._cka_by_chance.mean()
        return Table(
            f"{counted(self.images.count, 'image')} of {self.images.spec} ({self.images.split})",
            ("A", "B", self.titles["mutual_knn"], "linear CKA", "map A → B, R²", "map B → A, R²"),
            (
                *rows,
                ("with itself", "", "1.000", "1.000", itself, itself),
                ("by chance", "", number(self.chance.mutual_knn, 3), number(by_chance, 3), "0", "0"),
            ),
            dim=(len(rows), len(rows) + 1),
            left=2,
        )

    def _correlations(self, transfer: TransferCorrelation) -> Table:
        def cells(found: Correlation) -> tuple[str, ...]:
            p = NOTHING if found.p is None else p_value(found.p)
            return number(found.spearman, 3), p, str(found.n)

        first, second = ("accuracy:\nSpearman", "p", "pairs"), ("share of full data:\nSpearman", "p of\nshare")
        columns = ("metric", *first, *second, "pairs of\nshare")
        return Table(
            f"Rank correlation with transfer ({transfer.probe} probe, {transfer.pairs} pairs of "
            f"{counted(transfer.encoders, 'encoder')})",
            columns,
            tuple(
                (title, *cells(transfer.metrics[metric]), *cells(transfer.relative_to_full[metric]))
                for metric, title in self.titles.items()
            ),
            f"p is exact, over all {math.factorial(transfer.encoders):,} orders of the encoders; its smallest possible "
            f"value is {1 / math.factorial(transfer.encoders):.2g}."
            if transfer.exact
            else "",
        )


# ---------------------------------------------------------------------------------------------------
# Transfer


def transfer_accuracy(transfer: TransferMatrix, fingerprints: Sequence[str]) -> tuple[Array, Array]:
    """Accuracy (E, E) of a transfer, source × target, and its share of the target's accuracy on full real data.

    Encoders are matched by fingerprint, only the first probe is used, and several sets of one encoder are averaged.
    Sets made with several encoders are left out. NaN if nothing is known.
    """
    place = {fingerprint: i for i, fingerprint in enumerate(fingerprints)}
    scores = transfer.accuracy[0]
    full = transfer.baselines["full"][0] if "full" in transfer.baselines else np.full(len(transfer.targets), math.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        both = np.stack([scores, np.where(full > 0, scores / full, math.nan)])
    found: dict[tuple[int, int], list[Array]] = {}
    for s, source in enumerate(transfer.sources):
        for t, target in enumerate(transfer.targets):
            i, j = place.get(source.encoders[0].fingerprint), place.get(target.fingerprint)
            if i is not None and j is not None and len(source.encoders) == 1 and not np.isnan(scores[s, t]):
                found.setdefault((i, j), []).append(both[:, s, t])
    result = np.full((2, len(place), len(place)), math.nan)
    for (i, j), values in found.items():
        result[:, i, j] = np.mean(values, axis=0)
    return result[0], result[1]


def _correlated(
    metrics: Mapping[str, Array], transfer: TransferMatrix, encoders: Sequence[Space], seed: int
) -> tuple[TransferCorrelation | None, str | None]:
    """Rank correlations of the metrics with transfer, or ``None``; and the reasons if something is missing."""
    accuracy, relative = transfer_accuracy(transfer, [encoder.fingerprint for encoder in encoders])
    np.fill_diagonal(accuracy, math.nan)
    known = ~np.isnan(accuracy)
    count = int((known.any(axis=0) | known.any(axis=1)).sum())
    if count < FEWEST:
        return None, f"transfer is known between {count} of these encoders; {_NEEDS}"
    pairs = int(known.sum())
    if pairs < FEWEST:
        return None, f"transfer is known for {pairs} pairs of different encoders; {_NEEDS}"
    relative_pairs = int((known & ~np.isnan(relative)).sum())
    note = None
    if relative_pairs < FEWEST:
        note = f"the share of full data is known for {relative_pairs} pairs of different encoders; {_NEEDS}"
    by_accuracy, by_share = (
        {name: mantel(metric, values, seed=seed) for name, metric in metrics.items()} for values in (accuracy, relative)
    )
    return TransferCorrelation(transfer.probes[0], count, count <= EXACT, by_accuracy, by_share), note


def _check_transfer(transfer: TransferMatrix, encoders: Sequence[Space]) -> None:
    ours = {encoder.fingerprint for encoder in encoders}
    sources = {s.encoders[0].fingerprint: s.encoders[0].name for s in transfer.sources}
    targets = {t.fingerprint: t.name for t in transfer.targets}
    if not any(s in ours and t in ours and s != t for s in sources for t in targets):
        named = ", ".join(sorted({*sources.values(), *targets.values()}))
        raise UserError(
            f"transfer results are of different encoders ({named}) than {option('encoders')} "
            f"({', '.join(e.name for e in encoders)}); name the same ones, at the same input sizes"
        )


# ---------------------------------------------------------------------------------------------------
# Encoders


@own_torch_state()
def align(
    encoders: Sequence[str | EncoderConfig | Encoder],
    images: LabelledImages,
    *,
    k: int = 10,
    limit: int = 5000,
    seed: int = 0,
    transfer: TransferMatrix | None = None,
    features: FeatureStore | None = None,
    cache: Path | str | None = None,
    strict: bool = False,
    progress: bool = True,
) -> Alignment:
    """Compare the feature spaces of encoders on the centre crops of the same real images.

    Encoders are loaded one at a time, and their features come from banks.

    Args:
        encoders: Two or more, each as a name for `encoder_config`, as a config, or loaded.
        images: Real images. The training split is a good choice: its features are cached after a distillation, it has
            more images, and nothing is fitted to labels.
        k: Number of neighbours for mutual k-NN.
        limit: Largest number of images, balanced over the classes as far as possible.
        seed: Seed for choosing images and for drawing permutations.
        transfer: Results of transfer between these encoders, to correlate the metrics with.
        features: Where features come from; default: a store of ``cache``, ``strict`` and ``progress``.
        cache: Folder of feature banks.
        strict: Raise on unreadable real images.
        progress: Show progress bars.

    Raises:
        UserError: Fewer than two encoders, the same one twice, one that cannot be loaded, k or limit out of range,
            or transfer results of different encoders.
    """
    check_labelled(images)
    store = features or FeatureStore(cache=cache, strict=strict, progress=progress)
    pool = _pool(encoders)
    spaces = tuple(
        Space(name, entry["fingerprint"], entry["input_size"], entry["dim"])
        for name, entry in zip(pool.names, pool.described, strict=True)
    )
    if transfer is not None:
        _check_transfer(transfer, spaces)
    if limit < 3:
        raise UserError(f"limit {limit} must be at least 3 images")
    if limit < len(images):
        images = images.select(balanced_rows(images.labels, limit, seed=seed))
    if not 1 <= k < len(images):
        raise UserError(
            f"k {k} must be at least 1 and less than the number of images ({len(images)}); give another {option('k')}"
        )
    arrays, rows = [], None
    for encoder in pool:
        bank = store.of(encoder, images)
        if rows is not None and bank.indices.tolist() != rows:
            raise UserError(f"different images of {images.spec!r} could be read for different encoders; restore them")
        rows = bank.indices.tolist()
        arrays.append(bank.centre.numpy().astype(np.float64))
    metrics, cka_by_chance = _compared(arrays, k, store.progress)
    correlations, note = _correlated(metrics, transfer, spaces, seed) if transfer is not None else (None, None)
    count = len(arrays[0])
    return Alignment(
        spaces,
        metrics,
        Chance(k / (count - 1), cka_by_chance),
        ImagesRecord.of(images, count),
        AlignmentOptions(k, limit, seed),
        correlations,
        note,
    )


def _pool(encoders: Sequence[str | EncoderConfig | Encoder]) -> EncoderPool:
    count = 1 if isinstance(encoders, (str, EncoderConfig, Encoder)) else len(encoders)
    if count < 2:
        raise UserError(
            f"encoders names {counted(count, 'encoder')}; alignment compares at least 2: "
            f"name them in {option('encoders')}"
        )
    return EncoderPool(encoders)


def _compared(features: Sequence[Array], k: int, progress: bool) -> tuple[dict[str, Array], Array]:
    """The metrics (E, E) of every pair, and `cka_chance`; neighbours and bases are computed once per encoder."""
    count = len(features)
    features = checked(*features)
    near = [nearest(f, k) for f in features]
    features = [centred(f) for f in features]
    lengths = [length(f) for f in features]
    metrics = {name: np.ones((count, count)) for name in METRICS}
    by_chance = np.ones((count, count))
    with ProgressBar("alignment", count**2, enabled=progress) as bar:
        for i in range(count):
            a, basis = features[i], basis_of(features[i])
            for j, b in enumerate(features):
                metrics["linear_map"][i, j] = mapped(*basis, b)
                if i <= j:
                    scale = lengths[i] * lengths[j]
                    for values, value in (
                        (metrics["mutual_knn"], overlap(near[i], near[j])),
                        (metrics["cka"], ratio(product(a, b), scale)),
                        (by_chance, ratio(traces(a, b), scale)),
                    ):
                        values[i, j] = values[j, i] = value
                bar.advance()
    return metrics, by_chance
