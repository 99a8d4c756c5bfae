"""How similar two feature spaces are: pure functions of feature arrays."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import UserError

METRICS = {"mutual_knn": "mutual k-NN", "cka": "linear CKA", "linear_map": "linear map, R²"}
RIDGES = 10.0 ** np.arange(-5, 4)
"""Penalties that `linear_map` chooses from, relative to the mean squared length of the centred features."""
_BLOCK = 1024

Array = NDArray[np.float64]


# ---------------------------------------------------------------------------------------------------
# Metrics


def mutual_knn(a: ArrayLike, b: ArrayLike, k: int) -> float:
    """Share of the k nearest neighbours (cosine) that an image has in both spaces, in [0, 1].

    mean_i |kNN_A(i) ∩ kNN_B(i)| / k, the image itself excluded (Huh et al., "The Platonic Representation
    Hypothesis", ICML 2024, section 2 and appendix A). Independent features give k / (n − 1) on average.

    Args:
        a: (n, d_A) features.
        b: (n, d_B) features of the same images.
        k: Neighbours, 1 ≤ k < n.

    Raises:
        UserError: k is out of range.
        ValueError: The arrays are not (n, d), differ in n or are not finite.
    """
    a, b = checked(a, b)
    return overlap(nearest(a, k), nearest(b, k))


def linear_cka(a: ArrayLike, b: ArrayLike) -> float:
    """Centred kernel alignment of the linear kernels, ‖AᵀB‖² / (‖AᵀA‖ ‖BᵀB‖) with A, B centred, in [0, 1].

    Frobenius norms; Kornblith et al., "Similarity of Neural Network Representations Revisited", ICML 2019,
    equation 5. Computed in feature or in sample space, whichever is smaller. It is large for any two spaces
    if d is large compared with n; `cka_chance` says how large. Constant features give 0.

    Args:
        a: (n, d_A) features.
        b: (n, d_B) features of the same images.

    Raises:
        ValueError: As for `mutual_knn`.
    """
    a, b = map(centred, checked(a, b))
    return ratio(product(a, b), length(a) * length(b))


def cka_chance(a: ArrayLike, b: ArrayLike) -> float:
    """Mean of `linear_cka` over all n! ways to pair the rows of A with those of B.

    E_π ⟨K, πLπᵀ⟩ = tr K · tr L / (n − 1) for centred kernels K and L, so it has a closed form.
    """
    a, b = map(centred, checked(a, b))
    return ratio(traces(a, b), length(a) * length(b))


def linear_map(a: ArrayLike, b: ArrayLike) -> float:
    """How well A maps linearly to B: cross-validated R² of ridge regression on centred features.

    Each image is predicted by the regression on all others (leave-one-out, so that the folds depend on no
    order), in closed form: residual / (1 − leverage). The penalty is the one of `RIDGES` with the smallest
    generalised cross-validation score (Golub, Heath and Wahba 1979). R² is pooled over B's features, relative
    to the mean of the other images: 1 for an exact map, about 0 for independent features. Not symmetric. With
    fewer images than features, even A → A stays below 1, because each image has parts that no other image has.

    Args:
        a: (n, d_A) features to map from.
        b: (n, d_B) features of the same images to map to.

    Raises:
        ValueError: As for `mutual_knn`.
    """
    a, b = map(centred, checked(a, b))
    return mapped(*basis_of(a), b)


def checked(*arrays: ArrayLike) -> list[Array]:
    """The arrays as float64, of the same n ≥ 2."""
    checked = [np.asarray(array, dtype=np.float64) for array in arrays]
    for array in checked:
        if array.ndim != 2 or len(array) < 2 or len(array) != len(checked[0]):
            raise ValueError(f"features must be (n, d) of the same n ≥ 2, got {[c.shape for c in checked]}")
        if not np.isfinite(array).all():
            raise ValueError("features have NaN or infinity")
    return checked


def centred(features: Array) -> Array:
    """The features minus their mean."""
    return features - features.mean(axis=0)


def ratio(part: float, whole: float) -> float:
    """The quotient, or 0 for an empty whole."""
    return part / whole if whole > 0 else 0.0


def product(a: Array, b: Array) -> float:
    """⟨AAᵀ, BBᵀ⟩ = ‖AᵀB‖², in the smaller space."""
    if max(a.shape[1], b.shape[1]) <= len(a):
        return float(np.sum((a.T @ b) ** 2))
    return float(np.sum((a @ a.T) * (b @ b.T)))


def length(a: Array) -> float:
    """‖AAᵀ‖."""
    return math.sqrt(product(a, a))


def traces(a: Array, b: Array) -> float:
    """tr AAᵀ · tr BBᵀ / (n − 1): what `product` is on average when the rows are shuffled."""
    return float(np.sum(a**2) * np.sum(b**2)) / (len(a) - 1)


def nearest(features: Array, k: int) -> NDArray[np.int64]:
    """(n, k) the k nearest other rows of each row, by angle, unsorted."""
    n = len(features)
    if not 1 <= k < n:
        raise UserError(f"k {k} must be at least 1 and less than the number of images ({n})")
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    found = []
    for start in range(0, n, _BLOCK):
        similarity = unit[start : start + _BLOCK] @ unit.T
        rows = np.arange(len(similarity))
        similarity[rows, start + rows] = -np.inf
        found.append(np.argpartition(similarity, n - k, axis=1)[:, n - k :])
    return np.concatenate(found)


def overlap(near_a: NDArray[np.int64], near_b: NDArray[np.int64]) -> float:
    """Share of neighbours that two spaces agree on."""
    n = len(near_a)
    pairs_a, pairs_b = (near + n * np.arange(n)[:, None] for near in (near_a, near_b))
    return np.intersect1d(pairs_a, pairs_b, assume_unique=True).size / near_a.size


def basis_of(a: Array) -> tuple[Array, Array]:
    """Orthonormal U (n, r) and squared singular values (r,) of centred features."""
    in_samples = len(a) <= a.shape[1]
    values, vectors = np.linalg.eigh(a @ a.T if in_samples else a.T @ a)
    kept = values > 1e-10 * max(values[-1], np.finfo(np.float64).tiny)  # smaller ones vanish under any penalty
    values, vectors = values[kept], vectors[:, kept]
    return (vectors if in_samples else a @ vectors / np.sqrt(values)), values


def mapped(u: Array, squares: Array, b: Array) -> float:
    """Leave-one-out R² of ridge regression from U diag(squares)^½ to centred B."""
    n, total = len(b), float(np.sum(b**2))
    if total == 0:
        return 0.0
    projected = u.T @ b  # (r, d_B)
    energy = np.sum(projected**2, axis=1)
    # If U spans all n − 1 directions, the part of B outside U is exactly 0. Add up small parts instead of subtracting
    # large numbers: with a weak penalty both the residual and 1 − leverage are almost 0.
    spans = len(squares) == n - 1
    outside = np.zeros_like(b) if spans else b - u @ projected
    free = np.zeros(n) if spans else 1 - 1 / n - np.sum(u**2, axis=1)
    best, lost_share = math.inf, np.ones_like(squares)
    for ridge in RIDGES:
        penalty = ridge * squares.sum() / n
        share = penalty / (squares + penalty)
        score = (np.sum(outside**2) + np.sum(energy * share**2)) / (n - 1 - len(squares) + share.sum()) ** 2
        if score < best:
            best, lost_share = score, share
    residual = outside + u @ (lost_share[:, None] * projected)
    lost = np.sum((residual / (free + u**2 @ lost_share)[:, None]) ** 2)
    return 1 - float(lost) / (total * (n / (n - 1)) ** 2)
