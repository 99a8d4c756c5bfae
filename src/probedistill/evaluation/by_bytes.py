"""What you could ship instead of distilled images: accuracy against bytes.

For a known encoder, a head or some features are smaller and better than any image. On a new encoder they are useless,
and only images work. This module puts both in one table.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from ..encoders.encoder import Encoder, check_encoder
from ..errors import UserError, option
from ..features.bank import FeatureBank
from ..features.classes import cluster_centres
from ..features.store import FeatureStore
from ..images.duplicates import check_not_one_picture
from ..images.entries import own_files
from ..images.labelled import LabelledImages, check_labelled, of_classes
from ..machine.progress import ProgressBar
from ..probes.arrays import Array
from ..probes.linear import LinearProbe
from ..seeds import Stream, seed_of
from ..show.figures import Curve, Figure, Line
from ..show.results import Result
from ..show.tables import NOTHING, Table, percent
from ..store.distilled import DistilledSet
from ..store.layout import IMAGES as FILES
from ..store.layout import RUN
from ..store.named import run_folder, several_runs
from ..store.records import Count, Share, write_record
from ..store.run_record import runs_below
from ..text import counted

KIND = "by-bytes"
BITS = {"fp32": 32, "int8": 8, "int4": 4}
PER_CLASS = (2, 5, 10)
"""Numbers of k-means centres for each class."""
_VIEWS = 20
_CLOSE = 0.01  # a point of accuracy may be given up for fewer bytes
IMAGES = "images"
"""The kind that another encoder can use."""


@dataclass(frozen=True)
class Shipment:
    """Something that could be shipped.

    Attributes:
        name: What it is.
        kind: Kind, which may come in several sizes: ``"head"``, ``"class means"``, ``"LDA"``, ``"feature centres"`` or
            ``"images"``.
        bytes: Its size.
        top1: Accuracy in [0, 1] on each encoder; ``None`` if it does not work there.
        std: Standard deviation of each over distillation seeds; ``None`` for a single seed.
        seeds: Number of distillation seeds; 0 if it was not distilled.
    """

    name: str
    kind: str
    bytes: Count
    top1: tuple[Share | None, ...]
    std: tuple[float | None, ...] = ()
    seeds: Count = 0

    def shown(self, number: int) -> str:
        """Accuracy on an encoder, for a table."""
        return percent(self.top1[number], self.std[number] if self.std else None)


@dataclass(frozen=True)
class ByBytes(Result):
    """Accuracy against bytes.

    Attributes:
        encoders: The encoders; features and heads are those of the first.
        test: Number of test images.
        shipments: What was compared, the smallest first.
    """

    encoders: tuple[str, ...]
    test: int
    shipments: tuple[Shipment, ...]

    def tables(self) -> list[Table]:
        """A row for each shipment."""
        numbers = range(len(self.encoders))
        rows = tuple((one.name, f"{one.bytes:,}", *map(one.shown, numbers)) for one in self.shipments)
        columns = ("what is shipped", "bytes", *(f"{name} %" for name in self.encoders))
        caption = f"{NOTHING}: made from one encoder's features, so useless on another." if numbers[1:] else ""
        return [Table(f"accuracy on {self.test:,} test images, against bytes", columns, rows, caption)]

    def findings(self) -> list[str]:
        """What to ship, and when."""
        highest = max(one.top1[0] or 0 for one in self.shipments)
        small = next(one for one in self.shipments if (one.top1[0] or 0) >= highest - _CLOSE)  # sorted by size
        known, new = self.encoders[0], self.encoders[1:]
        found = [f"On {known} alone, ship the {small.name}: {small.shown(0)}% in {small.bytes:,} bytes."]
        images = [one for one in self.shipments if one.kind == IMAGES]
        if images:
            best = max(images, key=lambda one: one.top1[0] or 0)
            times = best.bytes / small.bytes
            behind = 100 * ((small.top1[0] or 0) - (best.top1[0] or 0))
            found.append(
                f"Images are the wrong choice for it: {best.shown(0)}% in {best.bytes:,} bytes, {times:.1f} times as "
                f"many, and {behind:.1f} points lower."
                if behind > 0 and times > 1
                else f"The best images reach {best.shown(0)}% on it, in {best.bytes:,} bytes."
            )
        for number, encoder in enumerate(new, start=1):
            found.append(f"Heads and features do not work on {encoder} ({NOTHING}).")
            if images:
                best = max(images, key=lambda one: one.top1[number] or 0)
                found.append(f"Images do: {best.shown(number)}% ({best.name}).")
        return found

    def figures(self) -> list[Figure]:
        """Accuracy against bytes, one colour per kind and encoder."""
        lines = []
        for kind, number in product(dict.fromkeys(one.kind for one in self.shipments), range(len(self.encoders))):
            known = [one for one in self.shipments if one.kind == kind and one.top1[number] is not None]
            if not known:
                continue
            accuracy = [100 * (one.top1[number] or 0) for one in known]
            titles = tuple(f"{one.name}: {one.shown(number)}%, {one.bytes:,} bytes" for one in known)
            x = np.array([float(one.bytes) for one in known])
            several = any(one.kind == kind and sum(v is not None for v in one.top1) > 1 for one in self.shipments)
            name = f"{kind}, {self.encoders[number]}" if several else kind
            # Points of the same images lie one above the other: one name is enough.
            labels = (
                tuple(one.name.removeprefix("images of ") for one in known) if kind == IMAGES and not number else ()
            )
            lines.append(Line(name, x, np.array(accuracy), titles, marked=True, joined=kind != IMAGES, labels=labels))
        drawing = Curve(tuple(lines), "size in bytes", "top-1 accuracy, %", log_x=True)
        return [Figure("Accuracy against bytes", " ".join(self.findings()), drawing, self.tables()[0])]

    def save(self, path: Path | str) -> None:
        """Write the numbers as JSON."""
        write_record(Path(path), self, kind=KIND)


def by_bytes(
    encoder: Encoder,
    train: LabelledImages,
    test: LabelledImages,
    *,
    runs: Sequence[Path | str] = (),
    new_encoder: Encoder | None = None,
    features: FeatureStore | None = None,
) -> ByBytes:
    """Compare by accuracy and bytes what could be shipped to make a classifier.

    * The head of a ridge probe on all real features, with weights of 32, 8 and 4 bits; biases and scales have 32.
    * Class means in half precision, used as a nearest-mean classifier; a linear discriminant (LDA) in fp32.
    * k-means centres of each class in half precision, on which a ridge probe is trained.
    * The image files of distilled sets, on which a ridge probe is trained, with the known encoder and a new one. Sets
      that differ only in their seed are one row, with mean and standard deviation.

    Args:
        encoder: The known encoder.
        train: Real training images.
        test: Real test images.
        runs: Folders of distilled sets of the same classes, or folders that hold several.
        new_encoder: An encoder that nothing was made for.
        features: Where features come from.

    Raises:
        UserError: A folder without a finished set or with one of different classes, or a class without training images.
    """
    check_encoder(encoder)
    if new_encoder is not None:
        check_encoder(new_encoder, "new_encoder")
    check_labelled(train, "train")
    check_labelled(test, "test")
    check_not_one_picture(train, test)
    for name, count in zip(train.class_names, train.counts().tolist(), strict=True):
        if not count:
            raise UserError(
                f"class {name!r} of {train.spec!r} has no images; add some, or leave the class out with "
                f"{option('classes')}"
            )
    store = features or FeatureStore()
    encoders = [encoder, *([new_encoder] if new_encoder is not None else [])]
    sets = _read_sets(runs)
    for folder, one in sets.items():
        if set(one.class_names) != set(train.class_names):
            raise UserError(f"run {str(folder)!r} was made for classes other than those of the images; leave it out")
    bank = store.of(encoder, train)
    banks = [store.of(one, of_classes(test, train.class_names)) for one in encoders]
    nothing: list[float | None] = [None] * (len(encoders) - 1)
    found = []
    with ProgressBar("scores", _count_of_features(bank) + len(sets), enabled=store.progress) as bar:
        for name, kind, size, scores in _features(bank):
            found.append(Shipment(name, kind, size, (_accuracy(scores, banks[0]), *nothing)))
            bar.advance(note=name)
        for folders in _together(sets):
            scored = []
            for folder in folders:
                one = sets[folder]
                order = [train.class_names.index(label) for label in one.class_names]
                scored.append([_of_images(one, order, e, b, store) for e, b in zip(encoders, banks, strict=True)])
                bar.advance(note=folder.name)
            found.append(_shipment(folders, scored))
    names = tuple(f"{one.name} at {one.input_size} px" for one in encoders)
    return ByBytes(names, len(banks[0]), tuple(sorted(found, key=lambda one: one.bytes)))


def _read_sets(runs: Sequence[Path | str]) -> dict[Path, DistilledSet]:
    """Read the sets in some folders; a folder without a set is searched for sets inside."""
    found: dict[Path, DistilledSet] = {}
    for run in map(run_folder, several_runs(runs)):
        inside = [] if (run / RUN).exists() or not run.is_dir() else runs_below(run)
        for folder in inside or [run]:
            found[folder] = DistilledSet.load(folder)
    return found


def _together(sets: Mapping[Path, DistilledSet]) -> list[list[Path]]:
    """Group the folders of sets that differ only in their seed.

    Exports within a budget also differ in their quality; exports in the same folder form a group.
    """
    groups: dict[str, list[Path]] = {}
    for folder, one in sets.items():
        run = one.run
        shipped = run.export and (run.export.format, run.export.image_size, folder.parent)
        made = (replace(run.config, seed=0, micro_batch="auto"), run.encoders, run.images, shipped)
        groups.setdefault(repr(made), []).append(folder)
    found: list[list[Path]] = []
    for folders in groups.values():
        seeds = {sets[folder].run.config.seed for folder in folders}
        found += [folders] if len(seeds) == len(folders) else [[folder] for folder in folders]
    return found


def _shipment(folders: Sequence[Path], scored: Sequence[Sequence[float]]) -> Shipment:
    """A row for the image files of sets that differ only in their seed."""
    files = [path for folder in folders for path in own_files(folder / FILES)]
    size = round(sum(path.stat().st_size for path in files) / len(folders))
    top1 = tuple(statistics.fmean(scores) for scores in zip(*scored, strict=True))
    if len(folders) == 1:
        return Shipment(f"images of {folders[0]}", IMAGES, size, top1, seeds=1)
    std = tuple(statistics.stdev(scores) for scores in zip(*scored, strict=True))
    place = os.path.commonpath(folders) or f"{folders[0]} …"
    return Shipment(f"images of {place}, {counted(len(folders), 'seed')}", IMAGES, size, top1, std, len(folders))


def _features(bank: FeatureBank) -> Iterator[tuple[str, str, int, Callable[[Array], Array]]]:
    """Yield (name, kind, bytes, features (n, d) → scores (n, C)) for everything made from real features."""
    x, y, classes = bank.centre.numpy(), bank.labels.numpy(), bank.num_classes
    head = LinearProbe("ridge").fit(x, y)
    for precision, bits in BITS.items():
        coef, size = quantised(head.coef_, bits)
        yield f"head in {precision}", "head", size + 4 * classes, _linear(coef, head.intercept_)
    means = np.stack([x[y == c].mean(0) for c in range(classes)]).astype(np.float16)
    exact = means.astype(np.float64)
    yield "class means", "class means", means.nbytes, _linear(exact, -(exact**2).sum(1) / 2)
    if len(x) > classes:  # with one image per class there is no variance
        # Shrinkage, because there may be fewer images than features.
        lda = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit(x.astype(np.float64), y)
        coef, intercept = np.atleast_2d(lda.coef_), np.atleast_1d(lda.intercept_)
        if classes == 2:
            coef, intercept = np.vstack([-coef, coef]), np.concatenate([-intercept, intercept])
        yield "LDA in fp32", "LDA", 4 * classes * (bank.dim + 1), _linear(coef, intercept)
    for count in _centres_per_class(bank):
        seeds = [seed_of(0, Stream.CLUSTERS, c) for c in range(classes)]
        centres = torch.cat([cluster_centres(bank.centre[bank.labels == c], count, s) for c, s in enumerate(seeds)])
        kept = centres.numpy().astype(np.float16)
        probe = LinearProbe("ridge").fit(kept.astype(np.float32), np.repeat(np.arange(classes), count))
        yield f"{count} feature centres per class", "feature centres", kept.nbytes, probe.logits


def _centres_per_class(bank: FeatureBank) -> list[int]:
    fewest = int(torch.bincount(bank.labels).min())
    return [count for count in PER_CLASS if count <= fewest]


def _count_of_features(bank: FeatureBank) -> int:
    """How many items `_features` yields."""
    return len(BITS) + 1 + (len(bank) > bank.num_classes) + len(_centres_per_class(bank))


def quantised(coef: Array, bits: int) -> tuple[Array, int]:
    """Round a head's weights (C, d) to a number of bits; return them and their size in bytes.

    Each row has its own scale (fp32), which maps the largest absolute weight to the largest integer.
    """
    if bits == 32:
        return coef.astype(np.float32).astype(np.float64), coef.size * 4
    largest = 2 ** (bits - 1) - 1
    scale = np.abs(coef).max(axis=1, keepdims=True) / largest
    scale = np.where(scale == 0, 1, scale)
    return np.round(coef / scale) * scale, (coef.size * bits + 7) // 8 + 4 * len(coef)


def _linear(coef: Array, intercept: Array) -> Callable[[Array], Array]:
    return lambda features: features @ coef.T + intercept


def _accuracy(scores: Callable[[Array], Array], test: FeatureBank) -> float:
    return float((scores(test.centre.numpy()).argmax(1) == test.labels.numpy()).mean())


def _of_images(
    distilled: DistilledSet, order: Sequence[int], encoder: Encoder, test: FeatureBank, store: FeatureStore
) -> float:
    """Accuracy of a ridge probe on views of the images."""
    augment = distilled.run.config.augment.for_probes(transformer=encoder.is_transformer)
    views = store.synthetic_views(encoder, distilled.images, views=_VIEWS, augment=augment, seed=0)
    labels = torch.tensor(order)[distilled.labels]
    return LinearProbe("ridge").fit_views(views, labels).score(test.centre, test.labels)
