"""The result of a transfer: accuracy of probes, distilled set × encoder."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..config import MATRIX_BASELINES, AugmentConfig, TransferConfig
from ..errors import UserError
from ..show.figures import Figure, HeatMap
from ..show.tables import Table, percent
from ..store.records import Count, Share
from ..store.run_record import ImagesRecord
from ..text import counted
from .base import Analysis, Array, EncoderAbout, check_array

FORMAT = 3
"""Part of every cell's key: cells of another format are scored again."""
ROWS = dict(zip(MATRIX_BASELINES, ("random real", "centroids", "full real data"), strict=True))
"""Baselines → their rows in `evaluate`."""
RANDOM_INHERITED = "random_inherited"
"""Random real images behind the heads of the sets: the baseline of probes that need a head, in place of "random"."""
_PER_SET = ("centroids", RANDOM_INHERITED)

Scores = dict[str, list[Share]]
"""Probe → top-1 accuracy of each seed."""


@dataclass(frozen=True)
class Source:
    """A distilled set: a row of the matrix.

    Attributes:
        name: For tables and figures; no two sources share it.
        run: Name of the run's folder.
        method: What distilled it.
        encoders: The encoders that it was distilled with; the first made its head.
        soft_labels: Whether probes were trained on soft labels; the baselines never are.
    """

    name: str
    run: str
    method: str
    encoders: tuple[EncoderAbout, ...]
    soft_labels: bool = False

    def __post_init__(self) -> None:
        if not self.encoders:
            raise ValueError("a source has no encoder")

    def made_with(self, fingerprint: str) -> bool:
        """Whether it was distilled with the encoder of that fingerprint."""
        return any(encoder.fingerprint == fingerprint for encoder in self.encoders)


@dataclass(frozen=True)
class RealImages:
    """The real images behind a matrix: of the baselines, and those that every probe is tested on."""

    train: ImagesRecord
    test: ImagesRecord


@dataclass(frozen=True)
class TransferMatrix(Analysis):
    """Accuracy of P probes trained on S distilled sets with T encoders.

    Attributes:
        sources: S distilled sets.
        targets: T encoders.
        probes: P names.
        accuracy: (P, S, T) float64, mean top-1 in [0, 1] over seeds; NaN if nothing was scored.
        std: (P, S, T), standard deviation over seeds (0 for one seed).
        baselines: ``"random"`` and ``"full"`` (P, T), ``"centroids"`` (P, S, T): probes trained on real
            images; the centroids are the class medoids in the features of the source's encoder. With the probe
            ``"inherited"`` also ``"random_inherited"`` (P, S, T): random images with the head of the source, NaN for
            other probes. Its centroids use that head, too, and its ``"full"`` is the ridge probe's.
        baselines_std: The same shapes.
        class_names: C names.
        images_per_class: Images of each class in every set.
        protocol: How cells were scored.
        augment: How training views were drawn.
        images: The real images.
        versions: Versions of probedistill, Python and PyTorch.
        finished: Whether every cell has been scored.
        heads: Probes that use a set's head → the probes that score full real data instead.
        cells: Key → accuracies of every seed, so that a later call does not score these cells again.
    """

    kind = "transfer"

    sources: tuple[Source, ...]
    targets: tuple[EncoderAbout, ...]
    probes: tuple[str, ...]
    accuracy: Array
    std: Array
    baselines: dict[str, Array]
    baselines_std: dict[str, Array]
    class_names: tuple[str, ...]
    images_per_class: Count
    protocol: TransferConfig
    augment: AugmentConfig
    images: RealImages
    versions: dict[str, str]
    finished: bool
    heads: dict[str, str] = field(default_factory=dict)
    cells: dict[str, Scores] = field(default_factory=dict)

    def __post_init__(self) -> None:
        whole = (len(self.probes), len(self.sources), len(self.targets))
        if 0 in whole:
            raise ValueError("a matrix has at least one source, one target and one probe")
        check_array("accuracy", self.accuracy, whole, 0, 1)
        check_array("std", self.std, whole, 0, 1)
        for what, arrays in (("baselines", self.baselines), ("baselines_std", self.baselines_std)):
            for name, values in arrays.items():
                if name not in (*ROWS, RANDOM_INHERITED):
                    raise ValueError(f"{what} has an unknown {name!r}")
                check_array(f"{what}.{name}", values, whole if name in _PER_SET else (whole[0], whole[2]), 0, 1)
        if set(self.baselines) != set(self.baselines_std):
            raise ValueError("baselines and baselines_std have different names")

    @property
    def same(self) -> NDArray[np.bool_]:
        """(S, T): whether the target is an encoder that the source was distilled with."""
        return np.array([[s.made_with(t.fingerprint) for t in self.targets] for s in self.sources])

    def row_name(self, probe: int, source: int) -> str:
        """What a row is called: the name of the source, and whether the probe was trained on soft labels.

        The inherited probe learns from features: labels of either kind change nothing.
        """
        soft = self.sources[source].soft_labels and self.probes[probe] not in self.heads
        return self.sources[source].name + (", soft labels" if soft else "")

    def baseline_rows(self, probe: int) -> list[tuple[str, Array, Array]]:
        """Name, mean (T,) and standard deviation (T,) of the baselines' rows.

        Centroids have one row for each source encoder. The inherited probe has one row of centroids and one of random
        images for each set, both with that set's head.
        """
        in_place = self.heads.get(self.probes[probe])
        inherits = in_place is not None
        rows: dict[str, tuple[str, tuple[int, ...]]] = {}
        for s, source in enumerate(self.sources):
            of = f"head of {source.name}" if inherits else source.encoders[0].name
            name = f"centroids, {of}" if inherits else f"centroids of {of}"
            rows.setdefault(name, ("centroids", (probe, s)))
        if inherits:
            for s, source in enumerate(self.sources):
                rows[f"{ROWS['random']}, head of {source.name}"] = (RANDOM_INHERITED, (probe, s))
        else:
            rows[ROWS["random"]] = ("random", (probe,))
        rows[ROWS["full"] + (f", {in_place}" if inherits else "")] = ("full", (probe,))
        return [
            (name, self.baselines[kind][at], self.baselines_std[kind][at])
            for name, (kind, at) in rows.items()
            if kind in self.baselines and not np.isnan(self.baselines[kind][at]).all()
        ]

    def _rows(self, probe: int) -> list[tuple[str, Array, Array]]:
        """Name, mean and standard deviation of every row: sets, then baselines."""
        sets = [
            (self.row_name(probe, s), self.accuracy[probe, s], self.std[probe, s]) for s in range(len(self.sources))
        ]
        return sets + self.baseline_rows(probe)

    def _cells(self, mean: Array, std: Array) -> tuple[str, ...]:
        """Means, with their deviation if there are several evaluation seeds."""
        return tuple(map(percent, mean, std)) if self.protocol.seeds > 1 else tuple(map(percent, mean))

    def _framed(self, probe: int) -> NDArray[np.bool_]:
        """(rows, T): whether a cell is for a set on one of its own encoders."""
        baselines = np.zeros((len(self.baseline_rows(probe)), len(self.targets)), dtype=bool)
        return np.concatenate([self.same, baselines])

    def tables(self) -> list[Table]:
        """The matrix; a set on an encoder that it was distilled with is marked with =."""
        rows: list[tuple[str, ...]] = []
        sections, dim = [], []
        for p, probe in enumerate(self.probes):
            for number, ((name, mean, std), own) in enumerate(zip(self._rows(p), self._framed(p), strict=True)):
                if number in (0, len(self.sources)):
                    sections.append(len(rows))
                if number >= len(self.sources):
                    dim.append(len(rows))
                cells = ("= " * bool(mine) + cell for mine, cell in zip(own, self._cells(mean, std), strict=True))
                rows.append((name, probe, *cells))
        title = (
            f"top-1 % on {counted(self.images.test.count, 'image')} of {self.images.train.spec} "
            f"({self.images.test.split}), {counted(self.protocol.seeds, 'seed')}; = is the set's own encoder"
        )
        columns = ("trained on", "probe", *(target.name.replace("@", "\n@") for target in self.targets))
        return [Table(title, columns, tuple(rows), sections=tuple(sections), dim=tuple(dim), left=2)]

    def figures(self) -> list[Figure]:
        """A heat map for each probe: sets above, real-image baselines below, own encoders framed."""
        everything = [self.accuracy.ravel(), *(mean for p in range(len(self.probes)) for _, mean, _ in self._rows(p))]
        known = np.concatenate(everything)
        known = 100 * known[~np.isnan(known)]
        limits = (float(known.min()), float(known.max())) if len(known) else (0.0, 100.0)
        return [self._figure(p, limits) for p in range(len(self.probes))]

    def _figure(self, p: int, limits: tuple[float, float]) -> Figure:
        probe, rows = self.probes[p], self._rows(p)
        targets = tuple(target.name for target in self.targets)
        names = tuple(name for name, *_ in rows)
        text = tuple(self._cells(mean, std) for _, mean, std in rows)
        drawing = HeatMap(
            names, targets, 100 * np.stack([mean for _, mean, _ in rows]), text=text, unit="%", limits=limits,
            framed=self._framed(p), gaps=(len(self.sources),) if len(rows) > len(self.sources) else (),
        )  # fmt: skip
        article = "an" if probe[:1] in "aeiou" else "a"
        summary = (
            f"Top-1 % of {article} {probe} probe trained on a distilled set or on real images (row) with an encoder "
            "(column). Framed: the set's own encoder."
        )
        if self.protocol.seeds > 1:
            summary += f" ± is over {self.protocol.seeds} evaluation seeds."
        if not np.isnan(self.accuracy[p]).all():
            s, t = np.unravel_index(np.nanargmax(self.accuracy[p]), self.accuracy[p].shape)
            summary += f" The best set reaches {percent(self.accuracy[p, s, t])}%: {names[s]} on {targets[t]}."
        title = f"Transfer · {probe}"
        table = Table(title, ("trained on", *targets), tuple((n, *c) for n, c in zip(names, text, strict=True)))
        return Figure(title, summary, drawing, table)


def load_transfer(path: Path | str) -> TransferMatrix:
    """Read a finished ``transfer.json``.

    Args:
        path: The file, or the folder that holds it.

    Raises:
        UserError: The file does not exist, is damaged or of another kind, or has cells that are not scored yet.
    """
    matrix = TransferMatrix.read(path)
    if not matrix.finished:
        raise UserError(f"transfer file {str(TransferMatrix.file_in(path))!r} is not finished; repeat its command")
    return matrix
