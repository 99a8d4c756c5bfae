"""A ready head: a linear classifier for one encoder, in a file that names the encoder, the preparation of images and
the expected accuracy."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from PIL import Image
from scipy.special import softmax
from torch import Tensor

from .._version import __version__
from ..encoders.load import load_encoder
from ..encoders.named import own_encoder
from ..errors import UserError, by_caller
from ..features.encode import BATCH, encode, prefetched
from ..features.statistics import ClassStatistics
from ..images.decode import UnreadableImageError, decode_image
from ..images.labelled import LabelledImages, check_class_names
from ..images.sources import check_range
from ..machine.progress import ProgressBar
from ..machine.torch_state import own_torch_state
from ..probes.arrays import Array, to_numpy
from ..probes.of_statistics import ridge_head
from ..store.distilled import Head
from ..store.layout import HEAD
from ..store.records import Share, as_plain, from_plain
from ..store.run_record import EncoderRecord
from ..store.tensors import read_typed, save_tensors
from ..text import and_more, counted

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression

    from ..encoders.encoder import Encoder

KIND, _FORMAT = "head", 1

Images = Tensor | LabelledImages | Sequence[str | os.PathLike[str] | Image.Image]
"""Images (n, 3, H, W) in [0, 1]; labelled images; or paths and pictures."""


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """How images are prepared for the encoder.

    Attributes:
        input_size: Side of the encoder's input in pixels.
        crop_pct: The short side is resized to ``input_size / crop_pct`` before the centre crop.
        interpolation: Filter of the resize.
        mean: Subtracted from each channel of an image in [0, 1].
        std: Divisor of each channel.
    """

    input_size: int
    crop_pct: float
    interpolation: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @classmethod
    def of(cls, encoder: Encoder) -> Preparation:
        """The preparation of an encoder."""
        mean, std = encoder.normalisation
        return cls(
            input_size=encoder.input_size, crop_pct=encoder.crop_pct, interpolation=encoder.interpolation,
            mean=mean, std=std,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class HeadAbout:
    """A head's classes, encoder and origin.

    Attributes:
        class_names: C names, in the order of the rows.
        encoder: The encoder whose features it takes.
        preparation: How images are prepared for that encoder.
        candidate: How the head was made.
        forecast: Accuracy that was forecast when it was made; ``None`` if there was no forecast.
        temperature: Divisor of the logits in `ReadyHead.predict_proba`, because logits of a regression are too close
            together for a softmax.
        made_of: The set that it was made from.
        version: Version of probedistill that wrote it.
    """

    class_names: tuple[str, ...]
    encoder: EncoderRecord
    preparation: Preparation
    candidate: str
    forecast: Share | None = None
    temperature: float = 1.0
    made_of: str = ""
    version: str = __version__


@dataclass(frozen=True, eq=False)
class ReadyHead:
    """A linear classifier on the features of one encoder: logits = features @ weight.T + bias.

    >>> head = load_head("runs/new")  # doctest: +SKIP
    >>> head.predict(["photo.jpg"])  # doctest: +SKIP
    ['shirt']

    Attributes:
        weight: (C, d) float32.
        bias: (C,) float32.
        about: Classes, encoder, preparation, forecast.
        encoder: The encoder, if it is loaded; otherwise `predict` loads it from ``config.yaml`` next to the file.
        folder: Folder that the head was read from, if any.
    """

    weight: Tensor = field(repr=False)
    bias: Tensor = field(repr=False)
    about: HeadAbout
    encoder: Encoder | None = field(default=None, repr=False)
    folder: Path | None = None

    def logits(self, features: ArrayLike | Tensor) -> Array:
        """Logits (n, C), float64, of features (n, d)."""
        return np.asarray(to_numpy(features), dtype=np.float64) @ self.weight.double().numpy().T + self.bias.numpy()

    @own_torch_state()
    def predict(
        self, images: Images, encoder: Encoder | None = None, *, strict: bool = True, progress: bool = True
    ) -> list[str]:
        """Predict the class name of each image.

        Args:
            images: (n, 3, H, W) in [0, 1]; `LabelledImages`; or a list of paths and PIL images.
            encoder: The encoder of the head. Default: the one in its folder's config, if that is safe to load: a recipe
                or ``timm:NAME`` with plain arguments.
            strict: Raise on an unreadable image. Otherwise its class is ``""``, and a warning says how many there are.
            progress: Show a progress bar.

        Raises:
            UserError: An encoder other than the head's, none that is safe to load, or an unreadable image with
                ``strict``.
        """
        names = self.about.class_names
        logits = self._logits(images, encoder, strict=strict, progress=progress)
        return [names[row.argmax()] if np.isfinite(row).all() else "" for batch in logits for row in batch]

    @own_torch_state()
    def predict_proba(
        self, images: Images, encoder: Encoder | None = None, *, strict: bool = True, progress: bool = True
    ) -> Array:
        """Predict the probability of each class for each image, (n, C) float64; columns are ``about.class_names``.

        This is the softmax of the logits divided by ``about.temperature``. It is not calibrated on photos: the
        probabilities show which images are less certain than others, not what share of them is right.

        Args:
            images, encoder, progress: As for `predict`.
            strict: Raise on an unreadable image. Otherwise its row is NaN, and a warning says how many there are.

        Raises:
            UserError: As for `predict`.
        """
        logits = [*self._logits(images, encoder, strict=strict, progress=progress)]
        if not logits:
            return np.empty((0, len(self.bias)))
        return softmax(np.concatenate(logits) / self.about.temperature, axis=1)

    def _logits(self, images: Images, encoder: Encoder | None, *, strict: bool, progress: bool) -> Iterator[Array]:
        """Yield logits batch by batch; NaN for unreadable images, which a warning counts at the end."""
        encoder = self._encoder(encoder)
        unreadable: list[str] | None = None if strict else []
        with ProgressBar("predict", len(images), enabled=progress) as bar:
            for batch in _batches(encoder, images, unreadable):
                yield self.logits(batch)
                bar.advance(len(batch))
        if unreadable:
            count = f"{len(unreadable):,} of {counted(len(images), 'image')}"
            first = f"{min(unreadable)}{and_more(len(unreadable))}"
            warnings.warn(f"left unreadable images without a class, {count}: {first}", stacklevel=3)

    def as_sklearn(self) -> LogisticRegression:
        """Return a fitted ``sklearn.linear_model.LogisticRegression`` on features; its labels are class names.

        It does not need this package; ``skops.io.dump`` saves it in a file that is safe to load. Its ``predict_proba``
        equals the head's, because the logits are divided by ``about.temperature``.
        """
        from sklearn.linear_model import LogisticRegression

        order = np.argsort(np.array(self.about.class_names))  # scikit-learn sorts its labels
        weight, bias = (part.double().numpy()[order] / self.about.temperature for part in (self.weight, self.bias))
        if len(weight) == 2:  # scikit-learn keeps one row for two classes
            weight, bias = weight[1:] - weight[:1], bias[1:] - bias[:1]
        found = LogisticRegression()
        found.classes_ = np.array(self.about.class_names)[order]
        found.coef_, found.intercept_ = weight, bias
        found.n_features_in_, found.n_iter_ = weight.shape[1], np.array([0])
        return found

    def save(self, folder: Path | str) -> Path:
        """Write ``head.safetensors`` into a folder, completely or not at all, and return its path.

        Raises:
            UserError: It cannot be written.
        """
        path = Path(folder) / HEAD
        about = {"kind": KIND, "format": _FORMAT, "about": as_plain(self.about)}
        save_tensors(path, {"weight": self.weight, "bias": self.bias}, about)
        return path

    def _encoder(self, given: Encoder | None) -> Encoder:
        encoder, wanted = given or self.encoder, self.about.encoder
        if encoder is None:
            if self.folder is None:
                raise UserError(f"the head needs its encoder, {wanted}; give it: predict(images, encoder)")
            called = by_caller(command="--encoder", python="predict(images, encoder)")
            encoder = load_encoder(own_encoder(self.folder, called=called))
        if encoder.fingerprint != wanted.fingerprint:
            raise UserError(
                f"the head is for encoder {wanted} ({wanted.fingerprint[:12]}), not for {encoder.name!r} at "
                f"{encoder.input_size} px ({encoder.fingerprint[:12]}); give its own"
            )
        return encoder


def load_head(path: Path | str) -> ReadyHead:
    """Read what `ReadyHead.save` wrote.

    Args:
        path: The file, or the folder that holds ``head.safetensors``.

    Raises:
        UserError: The file does not exist, is damaged, or is of another kind.
    """
    path = Path(path)
    path = path / HEAD if path.is_dir() else path
    called = f"head file {str(path)!r}"

    def make(tensors: dict[str, Tensor], metadata: dict[str, Any]) -> ReadyHead:
        about = from_plain(metadata["about"], HeadAbout)
        weight, bias = tensors["weight"], tensors["bias"]
        _check(weight, bias, about)
        return ReadyHead(weight, bias, about, folder=path.parent)

    return read_typed(
        path, called, KIND, _FORMAT, make,
        what="head", maker="probedistill migrate",
    )  # fmt: skip


def _check(weight: Tensor, bias: Tensor, about: HeadAbout) -> None:
    """Raise `ValueError` unless the tensors are a head of these classes on these features."""
    shape = (len(about.class_names), about.encoder.dim)
    if weight.shape != shape or bias.shape != shape[:1] or len(set(about.class_names)) != shape[0] or shape[0] < 2:
        raise ValueError(f"its weights are not {shape[0]} classes × {shape[1]} features")
    if not 0 < about.temperature < math.inf:
        raise ValueError(f"its temperature is {about.temperature}")
    if not all(part.dtype == torch.float32 and bool(part.isfinite().all()) for part in (weight, bias)):
        raise ValueError("its weights are not finite float32 numbers")
    check_class_names(about.class_names, "the head")


def head_of_statistics(statistics: ClassStatistics) -> Head:
    """W* from sums alone: the ridge probe of all the features behind statistics (`ridge_head`).

    Raises:
        UserError: The statistics have no second moments, or a class has no images.
    """
    for name, count in zip(statistics.class_names, statistics.counts.tolist(), strict=True):
        if not count:
            raise UserError(f"class {name!r} has no images in the statistics; a head needs images of every class")
    weight, bias = ridge_head(statistics)
    about = statistics.about.encoder
    return Head(weight.float(), bias.float(), about.name, about.fingerprint)


def _batches(encoder: Encoder, images: Images, unreadable: list[str] | None) -> Iterator[Tensor]:
    """Yield features (n, d) batch by batch. If ``unreadable`` is a list, unreadable images go there and become NaN."""
    if isinstance(images, Tensor):
        if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
            raise UserError(f"images must be (n, 3, H, W) in [0, 1], got {tuple(images.shape)} {images.dtype}")
        check_range(images, "images have")
        yield from (encode(encoder, part) for part in images.split(BATCH))
        return

    def load(index: int) -> Tensor | None:
        try:
            image = images.load(index) if isinstance(images, LabelledImages) else decode_image(images[index])
        except UnreadableImageError as error:
            if unreadable is not None:
                unreadable.append(str(error))
                return None
            item = images[index] if isinstance(images, Sequence) else None
            is_folder = isinstance(item, str | os.PathLike) and Path(item).is_dir()
            way_out = "name the photos in that folder" if is_folder else "leave it out or restore it"
            raise UserError(f"image {error}; {way_out}") from error
        return encoder.centre_view(image)

    for views in prefetched(load, range(len(images)), BATCH):
        features = torch.full((len(views), encoder.dim), torch.nan)
        read = [place for place, view in enumerate(views) if view is not None]
        if read:
            features[read] = encode(encoder, torch.stack([view for view in views if view is not None])).to(features)
        yield features
