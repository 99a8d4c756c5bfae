"""The nearest neighbour as a probe, as in LGM's alignment table (its Table 6)."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from ..methods import check_name
from .arrays import FLOATS, Array, as_views, to_numpy
from .kinds import Kind, Lesson
from .linear import one_image_per_class_is_normal

METRICS = ("cosine", "euclidean")
_ENTRIES = 2**24  # similarities held in memory


class NearestProbe(ClassifierMixin, BaseEstimator):
    """Predict the class of the most similar training image.

    The score of a class is the similarity to its nearest training image, so that the five best classes are defined.

    Args:
        metric: ``"cosine"``, or ``"euclidean"`` for minus the squared distance.

    Attributes:
        classes_: (C,), the sorted labels seen in ``fit``.
        n_features_in_: Number of features d.

    >>> NearestProbe().fit([[0.0, 1.0], [1.0, 0.0]], ["cat", "dog"]).predict([[0.9, 0.2]]).tolist()
    ['dog']
    """

    classes_: Array
    n_features_in_: int

    def __init__(self, metric: str = "cosine") -> None:
        self.metric = metric

    def fit(self, X: ArrayLike | torch.Tensor, y: ArrayLike | torch.Tensor) -> NearestProbe:
        """Keep one feature vector per image.

        Args:
            X: (n, d) finite features.
            y: (n,) labels of any kind that scikit-learn takes.

        Raises:
            UserError: Unknown metric.
            ValueError: ``X`` or ``y`` has a wrong shape, or ``X`` has NaN or infinity.
        """
        features, labels = validate_data(self, to_numpy(X), to_numpy(y), dtype=FLOATS)
        return self._fit(features[None], labels)

    def fit_views(self, X_views: ArrayLike | torch.Tensor, y: ArrayLike | torch.Tensor) -> NearestProbe:
        """Keep several augmented views (V, n, d) of the same images; the nearest view counts."""
        views = as_views("X_views", X_views)
        _, labels = validate_data(self, views[0], to_numpy(y), dtype=FLOATS)
        return self._fit(views, labels)

    @one_image_per_class_is_normal()
    def _fit(self, views: Array, labels: Array) -> NearestProbe:
        check_name("metric", self.metric, METRICS)
        check_classification_targets(labels)
        self.classes_, codes = np.unique(labels, return_inverse=True)
        order = np.argsort(codes, kind="stable")  # a class's views side by side, to take their maximum
        # float32 loses the differences between features that are close together but far from zero.
        kept = views[:, order].transpose(1, 0, 2).reshape(-1, views.shape[2]).astype(np.float64, copy=False)
        self._kept = _unit(kept) if self.metric == "cosine" else kept
        self._starts = np.searchsorted(codes[order], np.arange(len(self.classes_))) * len(views)
        return self

    def decision_function(self, X: ArrayLike | torch.Tensor) -> Array:
        """Return the similarity (n, C) to the nearest training image of each class; (n,) for two classes."""
        scores = self._similarity(X)
        return scores[:, 1] - scores[:, 0] if len(self.classes_) == 2 else scores

    def predict(self, X: ArrayLike | torch.Tensor) -> Array:
        """Return the label (n,) of the nearest training image."""
        nearest = self._similarity(X).argmax(axis=1)
        return self.classes_[nearest]

    def _similarity(self, X: ArrayLike | torch.Tensor) -> Array:
        check_is_fitted(self, "classes_")
        features = validate_data(self, to_numpy(X), dtype=FLOATS, reset=False)
        size = max(1, _ENTRIES // len(self._kept))  # all pairs at once may not fit in memory
        blocks = np.split(features, range(size, len(features), size))
        return np.concatenate([np.maximum.reduceat(self._pairs(block), self._starts, axis=1) for block in blocks])

    def _pairs(self, features: Array) -> Array:
        features = features.astype(np.float64, copy=False)
        if self.metric == "cosine":
            return _unit(features) @ self._kept.T
        squares = (features**2).sum(1)[:, None] + (self._kept**2).sum(1)
        return 2 * features @ self._kept.T - squares


def _unit(features: Array) -> Array:
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.where(lengths == 0, 1, lengths)


def _fit_kind(lesson: Lesson) -> NearestProbe:
    return NearestProbe().fit_views(lesson.views, lesson.labels)


NEAREST = Kind(_fit_kind, soft_labels=False)
