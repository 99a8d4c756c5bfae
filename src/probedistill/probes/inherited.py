"""Classifier inheritance: the head of one encoder, used on the features of another (SFM, arXiv 2602.05391)."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.utils.validation import check_is_fitted, validate_data

from ..errors import UserError
from .arrays import Array, as_views, check_positive, check_whole, class_indices, to_numpy
from .kinds import Kind, Lesson
from .linear import LinearClassifier
from .logistic import lbfgs, soft_cross_entropy
from .ridge import fit_ridge


class InheritedProbe(LinearClassifier):
    """The head W* of a source encoder φ, reached from a target encoder ψ by a linear projector.

    Prediction is W* (P ψ(x) + p) + b*. The projector P (d_φ, d_ψ) with its offset p is fitted on the synthetic
    images alone: ridge regression from the target to the source features of the same views, closed form, with the
    relative penalty and the dual form of :class:`LinearProbe`.

    Two facts, which tests check in float64:

    * Ridge regression is linear in its targets. So W* P is the ridge probe on ψ that is regressed on W*'s logits of
      each view, and P is never formed to fit or predict (``projector_`` forms it on demand).
    * Without source features, the target of each view is the prototype u_c of its class: the shortest vector whose
      logits W* u_c + b* are, up to one constant, the one-hot row of the class (least squares if W* has no such vector).
      Then W* P is, up to that constant, the ridge probe from scratch: in closed form, only the head's rank is
      inherited. What a head passes on is in the source features.

    ``y`` holds class indices, integers from 0, and all classes of the head are predicted, whichever of them ``y`` has:
    only the checks of scikit-learn that expect otherwise do not hold. With source features the closed form ignores
    ``y``, so `evaluate` scores a set with soft labels by this probe only once.

    Args:
        head_weight: W*, (C, d_φ).
        head_bias: b*, (C,); ``None`` for 0.
        ridge: Penalty relative to the mean diagonal of the centred kernel; > 0. It is smaller than a probe's,
            because source features are a target with little noise.
        refine: L-BFGS steps on the cross-entropy of the views over P and p, starting from the closed form; 0 keeps the
            closed form, which was better on photos: there are few views, and source features say more about them than
            a class does. P moves only within the span of W*ᵀ, so C · (d_ψ + 1) numbers are optimised instead of
            d_φ · (d_ψ + 1), along the same path.
        temperature: Divisor of the logits in the cross-entropy; the logits of a ridge head are near 0 and 1.

    Attributes:
        coef_: (C, d_ψ) float64, W* P.
        intercept_: (C,) float64, W* p + b*.
        classes_: (C,), 0 … C−1: the rows of the head.
        n_features_in_: d_ψ.
        n_parameters_: Number of parameters of the projector, d_φ · (d_ψ + 1).
        num_bytes_: Size of W* and b* in float32, (d_φ + 1) · C · 4: what a set stores for this probe.

    >>> head = np.eye(2)
    >>> probe = InheritedProbe(head).fit([[0.0, 1.0], [1.0, 0.0]], [0, 1], source_features=[[3.0, 0.0], [0.0, 3.0]])
    >>> probe.predict([[0.9, 0.2]]).tolist()
    [1]
    """

    n_parameters_: int
    num_bytes_: int

    def __init__(
        self,
        head_weight: ArrayLike | torch.Tensor,
        head_bias: ArrayLike | torch.Tensor | None = None,
        *,
        ridge: float = 0.01,
        refine: int = 0,
        temperature: float = 0.1,
    ) -> None:
        self.head_weight = head_weight
        self.head_bias = head_bias
        self.ridge = ridge
        self.refine = refine
        self.temperature = temperature

    def fit(
        self,
        X: ArrayLike | torch.Tensor,
        y: ArrayLike | torch.Tensor,
        source_features: ArrayLike | torch.Tensor | None = None,
    ) -> InheritedProbe:
        """Fit the projector on one view of each synthetic image.

        Args:
            X: (n, d_ψ) finite features of the target encoder.
            y: (n,) class indices: rows of the head.
            source_features: (n, d_φ) features of the source encoder, of the same views; ``None`` if the encoder is not
                available.

        Returns:
            The probe itself.

        Raises:
            UserError: A parameter is out of range, the shapes do not fit together, or a label is not a row of the
                head.
            ValueError: A feature is NaN or infinite, or the lengths differ.
        """
        features, labels = validate_data(self, to_numpy(X), to_numpy(y), dtype=(np.float64, np.float32))
        source = None if source_features is None else to_numpy(source_features)
        return self._fit(features[None], labels, None if source is None else np.asarray(source)[None])

    def fit_views(
        self,
        X_views: ArrayLike | torch.Tensor,
        y: ArrayLike | torch.Tensor,
        source_views: ArrayLike | torch.Tensor | None = None,
    ) -> InheritedProbe:
        """Fit the projector on several views of the same images, each with weight 1/V.

        Args:
            X_views: (V, n, d_ψ) finite features of the target encoder.
            y: (n,) class indices of the images.
            source_views: (V, n, d_φ) features of the source encoder, of the same views.

        Returns:
            The probe itself.

        Raises:
            UserError, ValueError: As for :meth:`fit`.
        """
        views = as_views("X_views", X_views)
        _, labels = validate_data(self, views[0], to_numpy(y), dtype=(np.float64, np.float32))
        return self._fit(views, labels, source_views)

    @property
    def projector_(self) -> tuple[Array, Array]:
        """P (d_φ, d_ψ) and p (d_φ,), float64; computed on each access."""
        check_is_fitted(self)
        projector, offset = fit_ridge(self._views, self._source, np.ones(self._views.shape[1]), ridge=self.ridge)
        moved = self._basis @ self._refined
        return projector + moved[:, :-1], offset + moved[:, -1]

    def _fit(self, views: Array, labels: Array, source_views: ArrayLike | torch.Tensor | None) -> InheritedProbe:
        """Fit validated ``views`` (V, n, d_ψ) and ``labels`` (n,)."""
        weight, bias = self._checked_head()
        classes, dim = weight.shape
        codes = class_indices("y", labels, classes)
        if source_views is None:
            source = _prototypes(weight, bias)[codes][None]
        else:
            source = as_views("source features", source_views)
            if source.shape != (*views.shape[:2], dim):
                raise UserError(
                    f"source features must have shape {(*views.shape[:2], dim)}, views × images × features of the "
                    f"head, got {source.shape}"
                )
        logits = source @ weight.T + bias
        coef, intercept = fit_ridge(views, logits, np.ones(views.shape[1]), ridge=self.ridge)
        # W* = triangleᵀ basisᵀ, where basis has orthonormal columns. A step P = basis @ refined changes the head by
        # triangleᵀ @ refined, and the gradient with respect to P lies in the span of basis.
        self._basis, triangle = np.linalg.qr(weight.T)
        self._refined = np.zeros((len(triangle), views.shape[2] + 1))
        if self.refine:
            self._refined = self._refine(views, codes, coef, intercept, triangle)
            step = triangle.T @ self._refined
            coef, intercept = coef + step[:, :-1], intercept + step[:, -1]
        self.coef_, self.intercept_, self.classes_ = coef, intercept, np.arange(classes)
        self._views, self._source = views, source
        self.n_parameters_, self.num_bytes_ = dim * (views.shape[2] + 1), (dim + 1) * classes * 4
        return self

    def _refine(self, views: Array, codes: Array, coef: Array, intercept: Array, triangle: Array) -> Array:
        """Coordinates (C, d_ψ + 1) of the projector's change from its closed form; the last column is the offset's."""
        n_views, _, dim = views.shape
        features = views.reshape(-1, dim).astype(np.float64, copy=False)
        targets = np.tile(np.eye(len(coef))[codes], (n_views, 1))
        share = np.full(len(features), 1 / len(features))
        shape = (len(triangle), dim + 1)

        def loss(flat: Array) -> tuple[float, Array]:
            step = triangle.T @ flat.reshape(shape)
            logits = features @ (coef + step[:, :-1]).T + intercept + step[:, -1]
            value, slope = soft_cross_entropy(logits / self.temperature, targets, share)
            of_head = np.column_stack([slope.T @ features, slope.sum(axis=0)]) / self.temperature
            return value, (triangle @ of_head).ravel()

        return lbfgs(loss, np.zeros(shape[0] * shape[1]), max_iter=int(self.refine))[0].reshape(shape)

    def _checked_head(self) -> tuple[Array, Array]:
        """W* (C, d_φ) and b* (C,), float64."""
        for name in ("ridge", "temperature"):
            check_positive(name, getattr(self, name))
        check_whole("refine", self.refine, 0)
        weight = np.asarray(to_numpy(self.head_weight), dtype=np.float64)
        if weight.ndim != 2 or len(weight) < 2:
            raise UserError(f"head_weight must have shape (classes ≥ 2, features), got {weight.shape}")
        bias = np.zeros(len(weight))
        if self.head_bias is not None:
            bias = np.asarray(to_numpy(self.head_bias), dtype=np.float64)
        if bias.shape != (len(weight),):
            raise UserError(f"head_bias must have shape {(len(weight),)}, got {bias.shape}")
        if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
            raise UserError("head_weight and head_bias must be finite")
        return weight, bias


def _prototypes(weight: Array, bias: Array) -> Array:
    """(C, d_φ) shortest least-squares solutions u_c of W u_c + b = onehot(c), up to a constant added to all logits."""
    one_hot = np.eye(len(weight))
    centred = weight - weight.mean(axis=0)
    wanted = one_hot - bias[:, None]  # column c
    return (np.linalg.pinv(centred) @ (wanted - wanted.mean(axis=0))).T


def _fit_kind(lesson: Lesson) -> InheritedProbe:
    assert lesson.head is not None  # evaluate has refused a set without a head
    return InheritedProbe(*lesson.head).fit_views(lesson.views, lesson.labels, lesson.source_views)


INHERITED = Kind(_fit_kind, soft_labels=False, needs_head=True, on_features="ridge")
