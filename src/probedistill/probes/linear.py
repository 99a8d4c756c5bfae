"""Linear probes on features, as scikit-learn estimators."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.preprocessing import StandardScaler
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from ..config import EvaluateConfig
from ..encoders.source import resolve_device
from ..errors import UserError
from ..machine.torch_state import own_torch_state
from ..methods import check_name
from .arrays import (
    FLOATS,
    Array,
    as_views,
    check_positive,
    check_whole,
    class_indices,
    sample_weights,
    soft_targets,
    to_numpy,
)
from .kinds import Kind, Lesson
from .logistic import fit_logistic
from .ridge import fit_ridge
from .sgd import INITS, fit_sgd, generator_of

SOLVERS = ("logistic", "ridge", "sgd")


@contextmanager
def one_image_per_class_is_normal() -> Iterator[None]:
    """Silence scikit-learn's guess that labels with so few images each are a regression's."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The number of unique classes is greater than 50%", UserWarning)
        yield


class LinearClassifier(ClassifierMixin, BaseEstimator):
    """Shared behaviour of fitted linear probes: ``logits = X @ coef_.T + intercept_``, argmax, softmax."""

    coef_: Array
    intercept_: Array
    classes_: Array
    n_features_in_: int

    def logits(self, X: ArrayLike | torch.Tensor) -> Array:
        """Return the logits (n, C) of features (n, d); columns in the order of ``classes_``."""
        check_is_fitted(self)
        features = validate_data(self, to_numpy(X), dtype=FLOATS, reset=False)
        return features @ self.coef_.T + self.intercept_

    def decision_function(self, X: ArrayLike | torch.Tensor) -> Array:
        """Return the logits (n, C); for two classes their difference (n,), as scikit-learn does."""
        logits = self.logits(X)
        return logits[:, 1] - logits[:, 0] if len(self.classes_) == 2 else logits

    def predict(self, X: ArrayLike | torch.Tensor) -> Array:
        """Return the labels (n,) with the largest logit for features (n, d)."""
        logits = self.logits(X)
        return self.classes_[logits.argmax(axis=1)]

    def predict_proba(self, X: ArrayLike | torch.Tensor) -> Array:
        """Return the softmax of the logits, (n, C).

        If the logits are regression outputs (``"ridge"``, an inherited head), the order of the classes is right but the
        probabilities are not calibrated.
        """
        logits = self.logits(X)
        exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
        return exponentials / exponentials.sum(axis=1, keepdims=True)

    def score(
        self, X: ArrayLike | torch.Tensor, y: ArrayLike | torch.Tensor, sample_weight: ArrayLike | None = None
    ) -> float:
        """Return the share of features (n, d), in 0 … 1, whose predicted label is that of ``y`` (n,)."""
        return float(super().score(to_numpy(X), to_numpy(y), sample_weight))


class LinearProbe(LinearClassifier):
    """Linear classifier on frozen features.

    All solvers learn ``logits = X @ coef_.T + intercept_``; predictions are their argmax.

    * ``"ridge"``: least squares to one-hot targets, closed form in float64, in the smaller of
      the d×d (primal) and the n×n (dual) system. The penalty is ``ridge`` times the mean
      diagonal of the centred kernel, so that scaling the features changes no prediction.
    * ``"logistic"``: multinomial logistic regression with an L2 penalty, L-BFGS in float64 to
      convergence (scikit-learn's minimum; a ``ConvergenceWarning`` says if it did not converge). The
      features are first divided by one number, their root mean variance, for the same reason.
    * ``"sgd"``: the protocol of Linear Gradient Matching (LGM): a linear layer that starts at
      N(0, 0.01²) with bias 0, cross-entropy, Adam with step size ``lr * batch / 256`` where
      ``batch = min(n, batch_size)``, cosine schedule to 0 over all steps, reshuffled each epoch,
      the last partial batch kept. It computes in the dtype of the features.

    Every solver also learns from soft targets, rows of class weights instead of one class per image: ``"ridge"``
    regresses on them, the others minimise the cross-entropy Σ_c t_c · −log softmax(logits)_c. One-hot rows give
    the same probe as the labels alone.

    Args:
        solver: One of ``"ridge"``, ``"logistic"``, ``"sgd"``.
        standardize: Bring every feature to mean 0 and variance 1 first (learned on the training
            features and folded into ``coef_`` and ``intercept_``).
        ridge: Penalty of ``"ridge"``, relative to the mean diagonal of the centred kernel; > 0.
        C: Inverse penalty of ``"logistic"``, on the sum of the losses of the images, as in
            scikit-learn's multinomial ``LogisticRegression``; > 0. The multinomial penalty is
            used for two classes, too.
        epochs: Passes over the images of ``"sgd"``; ≥ 1.
        lr: Step size of ``"sgd"`` at a batch of 256; > 0.
        batch_size: Largest batch of ``"sgd"``; ≥ 1.
        init: Start of ``"sgd"``: ``"papers"`` (weights N(0, 0.01²), bias 0), ``"zero"``, or ``"linear"``
            (``torch.nn.Linear``'s own, which is still visible after 1,000 epochs).
        class_weight: ``None``, ``"balanced"`` or a mapping from label to weight, as in
            scikit-learn: the loss of an image is multiplied by the weight of its class.
        random_state: Seed of ``"sgd"`` (initialisation and shuffling); the other solvers draw
            nothing. An integer gives bit-identical results on the CPU; ``None`` takes fresh
            entropy. No global random state is read or changed.
        device: Where ``"sgd"`` trains; the other solvers run on the CPU.

    Attributes:
        coef_: (C, d), float64 (``"sgd"``: dtype of the features). One row per class also when
            C = 2, unlike scikit-learn's own binary classifiers.
        intercept_: (C,), dtype of ``coef_``.
        classes_: (C,), the sorted labels seen in ``fit``; with soft targets 0 … C−1.
        n_features_in_: Number of features d.
        n_iter_: Iterations (``"logistic"``), epochs (``"sgd"``) or 1 (``"ridge"``).

    >>> probe = LinearProbe("ridge").fit([[0.0, 1.0], [1.0, 0.0]], ["cat", "dog"])
    >>> probe.predict([[0.9, 0.2]]).tolist()
    ['dog']
    """

    n_iter_: int

    def __init__(
        self,
        solver: str = "ridge",
        *,
        standardize: bool = False,
        ridge: float = 1.0,
        C: float = 1.0,
        epochs: int = 1000,
        lr: float = 1e-3,
        batch_size: int = 100,
        init: str = "papers",
        class_weight: str | Mapping[Any, float] | None = None,
        random_state: int | np.random.RandomState | None = 0,
        device: str = "cpu",
    ) -> None:
        self.solver = solver
        self.standardize = standardize
        self.ridge = ridge
        self.C = C
        self.epochs = epochs
        self.lr = lr
        self.batch_size = batch_size
        self.init = init
        self.class_weight = class_weight
        self.random_state = random_state
        self.device = device

    def fit(
        self,
        X: ArrayLike | torch.Tensor,
        y: ArrayLike | torch.Tensor,
        targets: ArrayLike | torch.Tensor | None = None,
        sample_weight: ArrayLike | torch.Tensor | None = None,
    ) -> LinearProbe:
        """Learn the probe from one feature vector per image.

        Args:
            X: (n, d) finite features: array-like or tensor on any device.
            y: (n,) labels of any kind that scikit-learn accepts. With ``targets``, class indices 0 … C−1, which are
                used only for ``class_weight``.
            targets: (n, C) soft targets: rows of weights ≥ 0 that sum to 1.
            sample_weight: (n,) weights ≥ 0 of the images, multiplied by those of ``class_weight``. An image of weight 2
                counts as two images, and one of weight 0 not at all. This is exact with ``"ridge"`` and
                ``"logistic"``; ``"sgd"`` multiplies the image's loss, but still sees it once per epoch.

        Returns:
            The probe itself.

        Raises:
            UserError: A parameter is out of range, ``y`` has a single class, ``targets`` are not such rows, or
                ``sample_weight`` is not such a list or is 0 for all images of a class.
            ValueError: ``X`` or ``y`` has a wrong shape, or ``X`` has NaN or infinity.
            NonFiniteLossError: ``"sgd"`` diverged.
        """
        self._check_parameters()
        features, labels = validate_data(self, to_numpy(X), to_numpy(y), dtype=FLOATS)
        return self._fit(features[None], labels, targets, sample_weight)

    def fit_views(
        self,
        X_views: ArrayLike | torch.Tensor,
        y: ArrayLike | torch.Tensor,
        targets: ArrayLike | torch.Tensor | None = None,
        sample_weight: ArrayLike | torch.Tensor | None = None,
    ) -> LinearProbe:
        """Learn the probe from several augmented views of the same images.

        ``"sgd"`` uses view ``e % V`` in epoch ``e``: with V = ``epochs``, this is fresh
        augmentation in each epoch, computed in advance. ``"ridge"`` and ``"logistic"`` use all V·n
        vectors, each with weight 1/V: V equal views give the same probe as one of them.

        Args:
            X_views: (V, n, d) finite features: array-like or tensor on any device.
            y: (n,) labels of the images.
            targets: (n, C) soft targets of the images, or (V, n, C) of each view.
            sample_weight: (n,) weights of the images, as for :meth:`fit`.

        Returns:
            The probe itself.

        Raises:
            UserError: As for :meth:`fit`, or ``X_views`` is not three-dimensional.
            ValueError: As for :meth:`fit`.
            NonFiniteLossError: ``"sgd"`` diverged.
        """
        self._check_parameters()
        views = as_views("X_views", X_views)
        _, labels = validate_data(self, views[0], to_numpy(y), dtype=FLOATS)
        return self._fit(views, labels, targets, sample_weight)

    def _check_parameters(self) -> None:
        check_name("solver", self.solver, SOLVERS)
        check_name("init", self.init, INITS)
        for name in ("ridge", "C", "lr"):
            check_positive(name, getattr(self, name))
        for name in ("epochs", "batch_size"):
            check_whole(name, getattr(self, name), 1)

    @own_torch_state()
    @one_image_per_class_is_normal()
    def _fit(
        self,
        views: Array,
        labels: Array,
        soft: ArrayLike | torch.Tensor | None,
        sample_weight: ArrayLike | torch.Tensor | None,
    ) -> LinearProbe:
        """Fit validated ``views`` (V, n, d) and ``labels`` (n,); ``soft`` targets and weights are checked here."""
        check_classification_targets(labels)
        classes, codes = np.unique(labels, return_inverse=True)
        of_images = None if sample_weight is None else sample_weights(sample_weight, len(labels))
        weights = compute_class_weight(self.class_weight, classes=classes, y=labels)[codes]
        if not (np.isfinite(weights).all() and (weights >= 0).all() and weights.any()):
            raise UserError(f"class_weight must be finite weights ≥ 0, not all of them 0, got {self.class_weight!r}")
        if of_images is not None:
            sums = np.bincount(codes, of_images)
            if not sums.all():
                raise UserError(
                    f"sample_weight is zero for all of class {classes[sums == 0].tolist()[0]!r}; leave it out"
                )
            if self.class_weight == "balanced":
                weights = (of_images.sum() / (len(classes) * sums))[codes]
            weights = weights * of_images
        targets = codes
        if soft is not None:
            targets = soft_targets(soft, *views.shape[:2])
            class_indices("y", labels, targets.shape[2])
            classes = np.arange(targets.shape[2])
        elif len(classes) < 2:
            raise UserError(f"y must have at least 2 classes, got 1 class: {classes.tolist()[0]!r}")
        self.classes_ = classes

        if self.solver == "logistic":
            views = views.astype(np.float64, copy=False)
        shift, scale = self._scaling(views, of_images)
        if shift is not None:
            views = ((views - shift) / scale).astype(views.dtype, copy=False)

        if self.solver == "ridge":
            coef, intercept = fit_ridge(
                views, targets, weights, ridge=self.ridge, total=None if of_images is None else of_images.sum()
            )
            self.n_iter_ = 1
        elif self.solver == "logistic":
            coef, intercept, self.n_iter_ = fit_logistic(views, targets, weights, C=self.C)
        else:
            coef, intercept = fit_sgd(
                views,
                targets,
                weights,
                epochs=int(self.epochs),
                lr=self.lr,
                batch_size=int(self.batch_size),
                generator=generator_of(self.random_state),
                device=resolve_device(str(self.device)),
                init=self.init,
            )
            self.n_iter_ = int(self.epochs)

        if shift is not None:
            dtype = coef.dtype
            coef = (coef / scale).astype(dtype)
            intercept = (intercept - coef @ shift).astype(dtype)
        self.coef_, self.intercept_ = coef, intercept
        return self

    def _scaling(self, views: Array, weights: Array | None) -> tuple[Array | None, Array | float]:
        """Return the offset (d,) and the divisor (d,) or () of features; ``None`` leaves them unchanged."""
        if not self.standardize and self.solver != "logistic":
            return None, 1.0
        scaler = StandardScaler().fit(
            views.reshape(-1, views.shape[-1]), sample_weight=None if weights is None else np.tile(weights, len(views))
        )
        if self.standardize:
            return scaler.mean_, scaler.scale_
        return scaler.mean_, math.sqrt(scaler.var_.mean()) or 1.0


def _fit(solver: str, lesson: Lesson) -> LinearProbe:
    probe = LinearProbe(solver, epochs=lesson.epochs, random_state=lesson.seed)
    return probe.fit_views(lesson.views, lesson.labels, lesson.targets)


def _sgd_views(config: EvaluateConfig) -> int:
    # The protocol has a new view for each epoch. A head trained repeatedly on 20 views is as good, and those are
    # stored for the other probes anyway.
    return int(config.views) if config.sgd_views is None else config.sgd_views


RIDGE = Kind(partial(_fit, "ridge"))
LOGISTIC = Kind(partial(_fit, "logistic"))
SGD = Kind(partial(_fit, "sgd"), deterministic=False, views=_sgd_views)
