"""What one could ship in place of distilled images: accuracy against bytes.

For an encoder that is known, a head or some features are smaller and better than any image. On an encoder that is new
they are of no use, and images are what is left: this puts both in one table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from ..encoders.encoder import Encoder
from ..errors import UserError
from ..features.bank import FeatureBank
from ..features.classes import cluster_centres
from ..features.store import FeatureStore
from ..images.labelled import LabelledImages, of_classes
from ..probes.arrays import Array
from ..probes.linear import LinearProbe
from ..seeds import Stream, seed_of
from ..show.figures import Curve, Figure, Line
from ..show.results import Result
from ..show.tables import Table, percent
from ..store.distilled import DistilledSet
from ..store.layout import IMAGES
from ..store.records import Count, Share, write_record

BITS = {"fp32": 32, "int8": 8, "int4": 4}
PER_CLASS = (2, 5, 10)
"""Numbers of k-means centres for each class."""
_VIEWS = 20


@dataclass(frozen=True)
class Shipment:
    """Something that could be shipped.

    Attributes:
        name: What it is.
        bytes: Its size.
        top1: Accuracy in [0, 1] on each encoder; ``None`` if it is of no use there.
    """

    name: str
    bytes: Count
    top1: tuple[Share | None, ...]


@dataclass(frozen=True)
class ByBytes(Result):
    """Accuracy against bytes.

    Attributes:
        encoders: The encoders; features and heads are of the first.
        test: Number of test images.
        shipments: What was compared, the smallest first.
    """

    encoders: tuple[str, ...]
    test: int
    shipments: tuple[Shipment, ...]

    def tables(self) -> list[Table]:
        """A row for each shipment."""
        rows = tuple((one.name, f"{one.bytes:,}", *map(percent, one.top1)) for one in self.shipments)
        columns = ("what is shipped", "bytes", *(f"{name} %" for name in self.encoders))
        return [Table(f"accuracy on {self.test:,} test images, against bytes", columns, rows)]

    def findings(self) -> list[str]:
        """What to ship, and when."""
        best = max((one for one in self.shipments if one.top1[0] is not None), key=lambda one: one.top1[0] or 0)
        found = [
            f"On {self.encoders[0]} alone, ship {best.name}: {percent(best.top1[0])} % in {best.bytes:,} bytes.",
        ]
        if len(self.encoders) > 1:
            found.append("Features and heads are of no use on an encoder that is new; images are.")
        return found

    def figures(self) -> list[Figure]:
        """Accuracy over bytes, a line of marks for each encoder."""
        lines = []
        for number, encoder in enumerate(self.encoders):
            known = [one for one in self.shipments if one.top1[number] is not None]
            accuracy = [100 * (one.top1[number] or 0) for one in known]
            titles = tuple(f"{one.name}: {top1:.1f} %, {one.bytes:,} bytes" for one, top1 in zip(known, accuracy))
            x = np.array([float(one.bytes) for one in known])
            lines.append(Line(encoder, x, np.array(accuracy), titles, marked=True))
        drawing = Curve(tuple(lines), "bytes", "top-1 accuracy in %", log_x=True)
        return [Figure("Accuracy against bytes", " ".join(self.findings()), drawing, self.tables()[0])]

    def save(self, path: Path | str) -> None:
        """Write the numbers as JSON."""
        write_record(Path(path), self, kind="by-bytes")


def by_bytes(
    encoder: Encoder,
    train: LabelledImages,
    test: LabelledImages,
    *,
    runs: Sequence[Path | str] = (),
    new_encoder: Encoder | None = None,
    features: FeatureStore | None = None,
) -> ByBytes:
    """Compare what could be shipped for a classifier, by accuracy and bytes.

    * The head of a ridge probe on all real features, with weights of 32, 8 and 4 bits and biases and scales of 32.
    * Class means in half precision, used as a nearest-mean classifier; a linear discriminant (LDA), in fp32.
    * Centres of k-means within each class in half precision, which a ridge probe is fitted on.
    * The image files of distilled sets, which a ridge probe is fitted on, on the encoder and on a new one.

    Args:
        encoder: The encoder that is known.
        train: Real training images.
        test: Real test images.
        runs: Folders of distilled sets of the same classes.
        new_encoder: An encoder that nothing was made for.
        features: Where features come from.
    """
    store = features or FeatureStore()
    encoders = [encoder, *([new_encoder] if new_encoder is not None else [])]
    sets = [(str(run), DistilledSet.load(Path(run))) for run in runs]
    for name, one in sets:
        if set(one.class_names) != set(train.class_names):
            raise UserError(f"run {name!r} was made for other classes than the images have")
    bank = store.of(encoder, train)
    banks = [store.of(one, of_classes(test, train.class_names)) for one in encoders]
    nothing: list[float | None] = [None] * (len(encoders) - 1)
    found = [Shipment(name, size, (_accuracy(scores, banks[0]), *nothing)) for name, size, scores in _features(bank)]
    for name, one in sets:
        size = sum(path.stat().st_size for path in (Path(name) / IMAGES).rglob("*") if path.is_file())
        order = [train.class_names.index(label) for label in one.class_names]
        scored = [_of_images(one, order, e, b, store) for e, b in zip(encoders, banks, strict=True)]
        found.append(Shipment(f"images of {name}", size, tuple(scored)))
    names = tuple(f"{one.name} at {one.input_size} px" for one in encoders)
    return ByBytes(names, len(banks[0]), tuple(sorted(found, key=lambda one: one.bytes)))


def _features(bank: FeatureBank) -> Iterator[tuple[str, int, Callable[[Array], Array]]]:
    """(name, bytes, features (n, d) → scores (n, C)) of what is made of real features."""
    x, y, classes = bank.centre.numpy(), bank.labels.numpy(), bank.num_classes
    head = LinearProbe("ridge").fit(x, y)
    for precision, bits in BITS.items():
        coef, size = quantised(head.coef_, bits)
        yield f"head in {precision}", size + 4 * classes, _linear(coef, head.intercept_)
    means = np.stack([x[y == c].mean(0) for c in range(classes)]).astype(np.float16)
    exact = means.astype(np.float64)
    yield "class means", means.nbytes, _linear(exact, -(exact**2).sum(1) / 2)
    # Shrinkage: there may be fewer images than features.
    lda = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit(x.astype(np.float64), y)
    coef, intercept = np.atleast_2d(lda.coef_), np.atleast_1d(lda.intercept_)
    if classes == 2:
        coef, intercept = np.vstack([-coef, coef]), np.concatenate([-intercept, intercept])
    yield "LDA in fp32", 4 * classes * (bank.dim + 1), _linear(coef, intercept)
    fewest = int(np.bincount(y).min())
    for count in (count for count in PER_CLASS if count <= fewest):
        seeds = [seed_of(0, Stream.CLUSTERS, c) for c in range(classes)]
        centres = torch.cat([cluster_centres(bank.centre[bank.labels == c], count, s) for c, s in enumerate(seeds)])
        kept = centres.numpy().astype(np.float16)
        probe = LinearProbe("ridge").fit(kept.astype(np.float32), np.repeat(np.arange(classes), count))
        yield f"{count} feature centres a class", kept.nbytes, probe.logits


def quantised(coef: Array, bits: int) -> tuple[Array, int]:
    """A head's weights (C, d) after rounding to so many bits, and their bytes.

    Each row has a scale of its own (fp32): the largest absolute weight is the largest whole number.
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
    augment = replace(distilled.run.config.augment, noise_prob=0.0)
    views = store.synthetic_views(encoder, distilled.images, views=_VIEWS, augment=augment, seed=0)
    labels = torch.tensor(order)[distilled.labels]
    return _accuracy(LinearProbe("ridge").fit_views(views, labels).logits, test)
