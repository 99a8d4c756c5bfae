"""What synthetic features should do: LGM, CLP-DD and SFM as pure functions of features.

Nothing here sees an image, a view, a micro-batch or a process. An objective is called with all
synthetic features of a step and returns a scalar; the engine turns its feature gradient into an
image gradient. Symbols: Z (n, d) synthetic features with labels t (n,), Φ (N, d) real features
with labels y (N,), C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .augment import derive_seed
from .config import Normalization
from .errors import UserError

_SEED_STREAM = 2
_BLOCK = 16_384  # rows of held features that are worked on at a time
_LOGITS = 2**24  # of a block of rows, at most: 64 MB


# ---------------------------------------------------------------------------------------------------
# Pure functions


def class_sums(features: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Sum (C, d) and number (C, 1) of each class's features; those of blocks add up."""
    sums = features.new_zeros(num_classes, features.shape[1]).index_add(0, labels, features)  # no (n, C) matrix
    return sums, torch.bincount(labels, minlength=num_classes).to(features)[:, None]


def means_of_sums(sums: Tensor, counts: Tensor) -> Tensor:
    """Class means (C, d) from `class_sums`."""
    return sums / counts


def flows_of_sums(sums: Tensor, counts: Tensor) -> Tensor:
    """Class flows (C, d) from `class_sums`."""
    return (sums.sum(dim=0) - sums) / (counts.sum() - counts) - sums / counts


def class_means(features: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Mean feature of each class, (C, d). A class without samples gives a row of NaN."""
    return means_of_sums(*class_sums(features, labels, num_classes))


def class_flows(features: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Flow of each class, from its centre to that of all other samples, (C, d) (SFM, arXiv 2602.05391).

    F_c = mean(features | y ≠ c) − mean(features | y = c).
    """
    return flows_of_sums(*class_sums(features, labels, num_classes))


def sample_weights(counts: Tensor, *, balanced: bool) -> Tensor:
    """Weight (C,) of one sample of each class in a mean over samples, or over the classes that occur."""
    if balanced:
        return 1 / (counts * (counts > 0).sum())  # infinite for a class that does not occur, and not used
    return torch.ones_like(counts) / counts.sum()


def head_gradient(
    features: Tensor,
    labels: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    balanced: bool = False,
    weights: Tensor | None = None,
) -> Tensor:
    """Gradient of mean cross-entropy with respect to a linear head [W, b], in closed form (LGM).

    G(Z, t; W) = (softmax(Z Wᵀ + b) − onehot(t))ᵀ [Z, 1] / n, so no double backward is needed.

    Args:
        features: (n, d).
        labels: (n,) integers in [0, C).
        weight: (C, d).
        bias: (C,) or ``None`` for zero.
        balanced: Weigh samples so that every class that occurs counts the same.
        weights: (C,) weight of a sample of each class, instead of 1/n or what ``balanced`` gives. With
            the `sample_weights` of all samples the gradients of blocks add up to that of all of them.

    Returns:
        (C, d + 1); the last column is the gradient with respect to the bias.
    """
    if weights is None:
        counts = torch.bincount(labels, minlength=len(weight)).to(features)
        weights = sample_weights(counts, balanced=balanced)

    def of_rows(rows: Tensor, row_labels: Tensor) -> Tensor:
        probabilities = torch.softmax(F.linear(rows, weight, bias), dim=1)
        ones = torch.ones_like(probabilities[:, :1])
        residual = probabilities.scatter_add(1, row_labels[:, None], -ones) * weights[row_labels][:, None]
        return torch.cat([residual.T @ rows, residual.sum(dim=0)[:, None]], dim=1)

    blocks = list(_row_blocks(features, labels, num_classes=len(weight)))
    if len(blocks) == 1:
        return of_rows(features, labels)
    # Only a block's logits exist at a time: they are computed again when the gradient is wanted.
    total = torch.zeros(len(weight), weight.shape[1] + 1, dtype=features.dtype, device=features.device)
    for rows, row_labels in blocks:
        total = total + checkpoint(of_rows, rows, row_labels, use_reentrant=False)
    return total


def lgm_loss(synthetic_gradient: Tensor, real_gradient: Tensor) -> Tensor:
    """1 − cos(vec G(Φ, y; W), vec G(Z, t; W)) (LGM, arXiv 2511.16674)."""
    return 1 - F.cosine_similarity(synthetic_gradient.flatten(), real_gradient.flatten(), dim=0)


def sfm_loss(synthetic_flows: Tensor, real_flows: Tensor) -> Tensor:
    """mean_c (1 − cos(F_c(Z, t), F*_c)) (SFM, arXiv 2602.05391)."""
    return (1 - F.cosine_similarity(synthetic_flows, real_flows, dim=1)).mean()


def _row_blocks(features: Tensor, labels: Tensor, *, num_classes: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Rows and their labels in blocks whose logits for all classes stay small."""
    size = _rows_of_a_block(num_classes)
    return zip(features.split(size), labels.split(size), strict=True)


def _rows_of_a_block(num_classes: int) -> int:
    return max(1, _LOGITS // num_classes)


def closed_form_head(
    features: Tensor, targets: Tensor, ridge: float | Tensor, *, num_classes: int | None = None
) -> Tensor:
    """The ridge probe that a set induces, W(Z) = Zᵀ (Z Zᵀ + λI)⁻¹ T (CLP-DD, arXiv 2605.07194).

    Solved in sample space (n × n) or, when n > d, in the equal feature space form
    (Zᵀ Z + λI)⁻¹ Zᵀ T.

    Args:
        features: (n, d).
        targets: (n, C), or labels (n,) for one-hot targets of ``num_classes`` classes.
        ridge: λ > 0, absolute.
        num_classes: C, with labels.

    Returns:
        (d, C).
    """
    n, d = features.shape
    assert (targets.ndim == 1) == (num_classes is not None), "labels come with num_classes, rows of targets without"
    if n <= d:
        if num_classes is not None:
            targets = features.new_zeros(n, num_classes).scatter_(1, targets[:, None], 1.0)
        return features.T @ _solve_spd(features @ features.T, ridge, targets)
    # With labels Zᵀ T is the classes' sums: no (n, C) matrix.
    products = features.T @ targets if num_classes is None else class_sums(features, targets, num_classes)[0].T
    return _solve_spd(features.T @ features, ridge, products)


def clp_loss(
    head: Tensor,
    features: Tensor,
    labels: Tensor,
    *,
    temperature: float = 0.1,
    outer: Literal["ce", "mse"] = "ce",
    normalize_head: bool = True,
) -> Tensor:
    """Loss of the induced head on real features: CE(Φ W(Z) / τ, y), or the MSE option (CLP-DD).

    Args:
        head: (d, C) from `closed_form_head`.
        features: Real features (N, d).
        labels: (N,).
        temperature: τ.
        outer: ``"ce"``, or ``"mse"`` against one-hot targets, which the paper shows to be worse.
        normalize_head: Scale each class's column to unit length first, so that the loss cannot be
            lowered by mere size. Not applied to MSE, whose targets fix the scale.
    """
    if outer == "mse":
        return F.mse_loss(features @ head, F.one_hot(labels, head.shape[1]).to(features))
    if normalize_head:
        head = F.normalize(head, dim=0)
    return F.cross_entropy(features @ head / temperature, labels)


def _solve_spd(matrix: Tensor, ridge: float | Tensor, rhs: Tensor) -> Tensor:
    eye = torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
    factor, failed = torch.linalg.cholesky_ex(matrix + ridge * eye)
    # NaN where there is no factor: the engine stops there with a clear line, and no device waits for the check.
    return torch.cholesky_solve(rhs, factor.masked_fill(failed != 0, float("nan")))


# ---------------------------------------------------------------------------------------------------
# Objectives: a loss with its real features and its options


class FeatureBlocks(Protocol):
    """Features too many to hold, such as a `FeatureBank` in files: read in blocks, or by row.

    Attributes:
        dim: d.
        dtype: Of the features, as they are given out.
    """

    @property
    def dim(self) -> int: ...  # noqa: D102

    @property
    def dtype(self) -> torch.dtype: ...  # noqa: D102

    def blocks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """One pass over all features (n, d) and labels (n,), in blocks of any size."""

    def take(self, rows: Tensor) -> Tensor:
        """Features (n, d) of some rows."""


@dataclass(frozen=True)
class _TensorBlocks:
    """Features (N, d) and labels (N,) in memory, worked on in blocks so that (n, C) stays small."""

    features: Tensor
    labels: Tensor

    @property
    def dim(self) -> int:
        return self.features.shape[1]

    @property
    def dtype(self) -> torch.dtype:
        return self.features.dtype

    def blocks(self) -> Iterator[tuple[Tensor, Tensor]]:
        return zip(self.features.split(_BLOCK), self.labels.split(_BLOCK), strict=True)

    def take(self, rows: Tensor) -> Tensor:
        return self.features[rows.to(self.features.device)]


class RealFeatures:
    """The fixed real side of an objective: normalised features (N, d), labels (N,), C classes.

    The features are in memory, given as a tensor, or read again at each pass, given as `FeatureBlocks`;
    objectives use `blocks` and `take` and need not know which.

    Args:
        features: (N, d), any float dtype, kept in float32 (float64 stays); or where to read them.
        labels: (N,) integers, every class present.
        num_classes: C.
        normalization: none; center (minus the mean); center_l2 (then unit length). The mean is that of the class
            means, so that a large class does not pull it.
        device: Where to keep them, or to work on their blocks.

    Attributes:
        counts: (C,) number of features of each class.
        dim: d.
        dtype: float32, or float64 where that was given.
    """

    def __init__(
        self,
        features: Tensor | FeatureBlocks,
        labels: Tensor,
        num_classes: int,
        normalization: Normalization = "none",
        device: torch.device | str = "cpu",
    ) -> None:
        if normalization not in ("none", "center", "center_l2"):
            raise UserError(f"normalize {normalization!r} must be one of none, center, center_l2")
        self.device = torch.device(device)
        self.labels = labels.to(self.device)
        self.num_classes = num_classes
        self.normalization = normalization
        self.counts = torch.bincount(self.labels, minlength=num_classes)
        if bool((self.counts == 0).any()):
            empty = int((self.counts == 0).nonzero()[0])
            raise UserError(f"class number {empty} has no real features; every class needs at least one")
        self.dtype = torch.float64 if features.dtype == torch.float64 else torch.float32
        self._normalised = isinstance(features, Tensor)
        if isinstance(features, Tensor):
            self.dim = features.shape[1]
            features = features.to(self.device, self.dtype)
            self._source: FeatureBlocks = _TensorBlocks(features, self.labels)  # raw, for the mean
            self._source = _TensorBlocks(self.normalize(features), self.labels)
        else:
            self.dim, self._source = features.dim, features

    @cached_property
    def _raw_sums(self) -> tuple[Tensor, Tensor]:
        return summed_by_class(self._source.blocks(), self.num_classes, self.dim)

    @cached_property
    def mean(self) -> Tensor:
        """(d,) mean of the class means, which ``center`` and ``center_l2`` take from every feature."""
        return means_of_sums(*self._raw_sums).mean(dim=0).to(self.device, self.dtype)

    def flows(self) -> Tensor:
        """(C, d) `class_flows` of the normalised features, in one pass."""
        if self.normalization == "center_l2":
            sums = summed_by_class(self.blocks(), self.num_classes, self.dim)
        else:
            sums = self._raw_sums  # a shift moves no flow
        return flows_of_sums(*sums).to(self.device, self.dtype)

    @property
    def features(self) -> Tensor:
        """(N, d) normalised, all in memory."""
        return self.take(torch.arange(len(self.labels)))

    def blocks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """One pass over normalised features (n, d) and labels (n,), on the device."""
        for features, labels in self._source.blocks():
            yield self._prepared(features), labels.to(self.device)

    def take(self, rows: Tensor) -> Tensor:
        """Normalised features (n, d) of some rows, on the device."""
        return self._prepared(self._source.take(rows))

    def _prepared(self, features: Tensor) -> Tensor:
        return features if self._normalised else self.normalize(features.to(self.device, self.dtype))

    def normalize(self, features: Tensor) -> Tensor:
        """Apply the same normalisation to synthetic features (n, d); differentiable."""
        if self.normalization == "none":
            return features
        features = features - self.mean
        return F.normalize(features, dim=1) if self.normalization == "center_l2" else features


def summed_by_class(blocks: Iterable[tuple[Tensor, Tensor]], num_classes: int, dim: int) -> tuple[Tensor, Tensor]:
    """`class_sums` of all blocks in one pass: float64 on the CPU, O(C · d) memory, the same on every device."""
    sums, counts = torch.zeros(num_classes, dim, dtype=torch.float64), torch.zeros(num_classes, dtype=torch.float64)
    for features, labels in blocks:
        labels = labels.cpu()
        sums.index_add_(0, labels, features.detach().cpu().double())
        counts += torch.bincount(labels, minlength=num_classes)
    return sums, counts[:, None]


def summed_head_gradient(
    blocks: Iterable[tuple[Tensor, Tensor]], counts: Tensor, weight: Tensor, *, balanced: bool = False
) -> Tensor:
    """`head_gradient` of all blocks in one pass, (C, d + 1), in ``weight``'s dtype.

    Args:
        blocks: Features (n, d) and labels (n,).
        counts: (C,) number of features of each class in all blocks.
        weight: (C, d).
        balanced: As for `head_gradient`.
    """
    weights = sample_weights(counts.to(weight), balanced=balanced)
    exact = torch.float32 if weight.device.type == "mps" else torch.float64
    total = torch.zeros(len(weight), weight.shape[1] + 1, dtype=exact, device=weight.device)
    for features, labels in blocks:
        total += head_gradient(features, labels, weight, weights=weights)
    return total.to(weight.dtype)


def summed_clp_loss(
    blocks: Iterable[tuple[Tensor, Tensor]], total: int, head: Tensor, loss: Callable[[Tensor, Tensor, Tensor], Tensor]
) -> Tensor:
    """Mean over ``total`` samples of ``loss(head, features, labels)``, block by block, with its gradient.

    A graph over all blocks would hold all of them; so each block's gradient with respect to the head is taken
    at once, and the result is the value that has their sum for its gradient.
    """
    leaf = head.detach().requires_grad_(torch.is_grad_enabled() and head.requires_grad)
    value, gradient = torch.zeros_like(head[0, 0]).detach(), torch.zeros_like(leaf)
    for features, labels in blocks:
        part = loss(leaf, features, labels) * (len(labels) / total)
        if leaf.requires_grad:
            gradient = gradient + torch.autograd.grad(part, leaf)[0]
        value = value + part.detach()
    return value + (gradient.detach() * (head - head.detach())).sum()


Objective = Callable[[Tensor, Tensor, int], Tensor]
"""(features (n, d), labels (n,), step) → scalar loss. The step seeds what is drawn for it."""


def lgm_objective(real: RealFeatures, *, sigma: float, balanced: bool, real_batch: int = 0, seed: int = 0) -> Objective:
    """Linear Gradient Matching against fixed real features; a new random head each step."""

    def objective(features: Tensor, labels: Tensor, step: int) -> Tensor:
        generator = torch.Generator().manual_seed(derive_seed(seed, _SEED_STREAM, step))
        shape = (real.num_classes, real.dim)
        weight = (torch.randn(shape, generator=generator) * sigma).to(real.device, real.dtype)
        if 0 < real_batch < len(real.labels):
            rows = torch.randperm(len(real.labels), generator=generator)[:real_batch]
            target = head_gradient(real.take(rows), real.labels[rows.to(real.device)], weight, balanced=balanced)
        else:
            target = summed_head_gradient(real.blocks(), real.counts, weight, balanced=balanced)
        return lgm_loss(head_gradient(real.normalize(features), labels, weight), target)

    return objective


def clp_objective(
    real: RealFeatures,
    *,
    ridge: float,
    temperature: float,
    outer: Literal["ce", "mse"] = "ce",
    normalize_head: bool = True,
    real_per_class: int = 0,
    seed: int = 0,
) -> Objective:
    """Closed-form linear-probe distillation; a class-balanced real batch each step."""
    of_class = real.labels.argsort(stable=True).cpu().split(real.counts.tolist())

    def loss(head: Tensor, x: Tensor, y: Tensor) -> Tensor:
        return clp_loss(head, x, y, temperature=temperature, outer=outer, normalize_head=normalize_head)

    def objective(features: Tensor, labels: Tensor, step: int) -> Tensor:
        z = real.normalize(features)
        scale = ridge * z.detach().square().sum(dim=1).mean()  # λ relative to the kernel's diagonal
        head = closed_form_head(z, labels, scale, num_classes=real.num_classes)
        if real_per_class > 0:
            generator = torch.Generator().manual_seed(derive_seed(seed, _SEED_STREAM, step))
            rows = torch.cat([c[torch.randint(len(c), (real_per_class,), generator=generator)] for c in of_class])
            parts = rows.split(_rows_of_a_block(real.num_classes))
            blocks = ((real.take(part), real.labels[part.to(real.device)]) for part in parts)
            return loss(head, *next(blocks)) if len(parts) == 1 else summed_clp_loss(blocks, len(rows), head, loss)
        small = (part for block in real.blocks() for part in _row_blocks(*block, num_classes=real.num_classes))
        return summed_clp_loss(small, len(real.labels), head, loss)

    return objective


def sfm_objective(real: RealFeatures) -> Objective:
    """Statistical flow matching against the flows of fixed real features."""
    flows = real.flows()

    def objective(features: Tensor, labels: Tensor, step: int) -> Tensor:
        return sfm_loss(class_flows(real.normalize(features), labels, real.num_classes), flows)

    return objective
