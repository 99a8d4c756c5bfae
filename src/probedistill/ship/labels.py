"""Soft labels and the head of the source encoder, added to a finished set of synthetic images."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from ..config import SOFT_LABELS, AugmentConfig, check_config
from ..encoders.encoder import Encoder
from ..errors import UserError
from ..features.bank import FeatureBank
from ..features.encode import view_features
from ..machine.progress import ProgressBar
from ..machine.torch_state import own_torch_state
from ..methods import check_name
from ..probes.arrays import Array
from ..probes.linear import LinearProbe
from ..probes.logistic import lbfgs, soft_cross_entropy
from ..seeds import Stream, seed_of
from ..store.distilled import DistilledSet, Head
from ..store.run_record import SoftLabelsRecord

_VIEWS = 20  # of each synthetic image, from which its soft labels are computed
_SMOOTHING = 0.1  # learned labels start at one-hot rows with this share spread over all classes
_ITERATIONS = 300  # of L-BFGS, at most
_MOST_REAL = 20_000  # real features on which labels and temperatures are fitted
_TEMPERATURES = (1e-3, 1e2)


@own_torch_state()
def with_extras(
    distilled: DistilledSet,
    encoder: Encoder,
    bank: FeatureBank,
    *,
    soft_labels: Literal["none", "source", "learned"] = "none",
    keep_head: bool = False,
    augment: AugmentConfig | None = None,
    seed: int = 0,
    progress: bool = True,
) -> DistilledSet:
    """Return the set with soft labels, or with the head of its source encoder, or both.

    * The head W* is a ridge probe (`LinearProbe`) on the centre crop and all stored views of every real image.
    * ``"source"``: softmax of W*'s logits, divided by a temperature, of each synthetic image (mean over 20
      augmented views). The temperature is the one at which W*'s softmax has the smallest cross-entropy on the real
      centre features.
    * ``"learned"``: rows T for which the ridge probe fitted on (images, T) has the smallest class-balanced
      cross-entropy on the real centre features; see `learned_labels`.

    If there are more than 20,000 real images, the temperature and the learned labels are fitted on a random draw of
    about that many, with the same number from each class that has enough. The head needs all real features in memory.
    Equal inputs and an equal seed give equal results.

    Args:
        distilled: The set; its 8-bit images are used.
        encoder: The encoder that made the features.
        bank: Features of the real training images.
        soft_labels: ``"none"`` adds no labels and keeps any that the set has.
        keep_head: Store W*. If false, a head that the set already has is kept.
        augment: How views of the synthetic images are drawn (its noise is ignored); default: as in the run.
        seed: Seed for drawing the views.
        progress: Show progress bars.

    Raises:
        UserError: An unknown kind of labels, or features of another encoder or of different classes.
    """
    check_name("soft_labels", soft_labels, SOFT_LABELS)
    bank.check_encoder(encoder)
    if bank.class_names != distilled.class_names:
        raise UserError(
            f"the features are of the classes {_few(bank.class_names)}, the set is of {_few(distilled.class_names)}; "
            "give the images that the set was made from"
        )
    empty = (torch.bincount(bank.labels, minlength=bank.num_classes) == 0).nonzero()
    if len(empty):
        raise UserError(
            f"the features have no image of class {bank.class_names[int(empty[0])]!r}; give images of every class"
        )
    if soft_labels == "source" or keep_head:
        features = torch.cat([bank.centre[None], bank.augmented])
        probe = LinearProbe("ridge").fit_views(features, bank.labels)
    check_config("augment", augment, AugmentConfig)
    made = distilled
    if keep_head:
        weight, bias = (torch.from_numpy(part).float() for part in (probe.coef_, probe.intercept_))
        made = replace(made, head=Head(weight, bias, encoder.name, encoder.fingerprint))
    if soft_labels != "none":
        augment = (augment or distilled.run.config.augment).for_probes(transformer=encoder.is_transformer)
        views = view_features(
            encoder, distilled.images, augment, _VIEWS, seed=seed, stream=Stream.LABEL_VIEWS, progress=progress
        )
        chosen = _chosen(bank, seed)
        real, y = bank.take(chosen, views="centre"), bank.labels[chosen]
        if soft_labels == "source":
            temperature = best_temperature(probe.logits(real), y.numpy())
            rows = softmax(probe.logits(views.mean(dim=0)) / temperature)
        else:
            rows, temperature = learned_labels(views, distilled.labels, real, y, bank.num_classes, progress=progress)
        about = SoftLabelsRecord(kind=soft_labels, temperature=temperature, views=_VIEWS, seed=seed)
        run = replace(distilled.run, soft_labels=about)
        made = replace(made, soft_labels=torch.from_numpy(rows).float(), run=run)
    return made


def learned_labels(
    views: Tensor, labels: Tensor, real: Tensor, y: Tensor, num_classes: int, *, progress: bool = False
) -> tuple[Array, float]:
    """Soft labels whose ridge probe is best on real features, with the synthetic features fixed.

    The ridge probe is linear in its targets: its logits on real features are K T, where column j of K (N, m) holds
    the logits of the probe that is fitted on the j-th unit vector. With T = softmax(L), row by row, L-BFGS started from
    smoothed one-hot rows finds the L (m, C) and temperature τ that minimise the cross-entropy of K T / τ, with equal
    weight for every class of ``y``. τ is free because accuracy does not depend on the size of the logits; it is not
    used afterwards.

    Args:
        views: (V, m, d) features of the synthetic images.
        labels: (m,) their classes.
        real: (N, d) real features.
        y: (N,) their classes.
        num_classes: C.
        progress: Show a progress bar: an iteration takes 4 · N · m · C multiplications and additions.

    Returns:
        T (m, C), float64, and τ.
    """
    count = len(labels)
    kernel = LinearProbe("ridge").fit_views(views, np.arange(count), np.eye(count)).logits(real).astype(np.float64)
    answers = np.eye(num_classes)[y.numpy()]
    of_class = answers.sum(axis=0)
    shares = (answers @ (1 / np.maximum(of_class, 1))) / np.count_nonzero(of_class)
    one_hot = np.eye(num_classes)[labels.numpy()]
    start = np.log((1 - _SMOOTHING) * one_hot + _SMOOTHING / num_classes)

    def loss(flat: Array) -> tuple[float, Array]:
        rows, log_temperature = softmax(flat[:-1].reshape(start.shape)), flat[-1]
        logits = kernel @ rows * math.exp(-log_temperature)
        value, slope = soft_cross_entropy(logits, answers, shares)
        of_rows = kernel.T @ slope * math.exp(-log_temperature)
        of_start = rows * (of_rows - (rows * of_rows).sum(axis=1, keepdims=True))
        return value, np.append(of_start.ravel(), -np.sum(slope * logits))

    first = best_temperature(kernel @ softmax(start), y.numpy())
    # If the classes can be separated perfectly, τ would go to 0.
    limits = [(None, None)] * start.size + [(math.log(_TEMPERATURES[0]), math.log(_TEMPERATURES[1]))]
    with ProgressBar("soft labels", _ITERATIONS, enabled=progress) as bar:
        found, _ = lbfgs(
            loss, np.append(start.ravel(), math.log(first)), max_iter=_ITERATIONS, bounds=limits, advance=bar.advance
        )
    return softmax(found[:-1].reshape(start.shape)), math.exp(found[-1])


def best_temperature(logits: Array, y: Array) -> float:
    """The τ from 0.001 to 100 at which softmax(logits / τ) has the smallest cross-entropy on labels y (n,)."""
    answers, shares = np.eye(logits.shape[1])[y], np.full(len(y), 1 / len(y))
    low, high = (math.log(limit) for limit in _TEMPERATURES)
    # The loss is convex in 1/τ, so it has a single minimum in log τ, too.
    found = minimize_scalar(
        lambda t: soft_cross_entropy(logits * math.exp(-t), answers, shares)[0], bounds=(low, high), method="bounded"
    )
    return math.exp(found.x)


def softmax(logits: Array) -> Array:
    """Softmax of each row (n, C), float64."""
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True), dtype=np.float64)
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def _chosen(bank: FeatureBank, seed: int) -> Tensor:
    """Rows of the bank: all of them or, if there are too many, a random choice of equally many from each class."""
    if len(bank) <= _MOST_REAL:
        return torch.arange(len(bank))
    generator = torch.Generator().manual_seed(seed_of(seed, Stream.LABEL_IMAGES))
    order = torch.randperm(len(bank), generator=generator)
    of_class = [
        order[bank.labels[order] == c][: max(1, _MOST_REAL // bank.num_classes)] for c in range(bank.num_classes)
    ]
    return torch.cat(of_class).sort().values


def _few(names: tuple[str, ...]) -> str:
    return ", ".join(names[:3]) + (f" … ({len(names)} in all)" if len(names) > 3 else "")
