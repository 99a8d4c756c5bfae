"""Ridge regression to one-hot or soft targets, in closed form."""

from __future__ import annotations

import numpy as np
from scipy.linalg import solve

from .arrays import Array

_CHUNK_ROWS = 8192
_ROUNDING = 1e-12  # relative to the length of features


def fit_ridge(
    views: Array, targets: Array, weights: Array, *, ridge: float, total: float | None = None, dual: bool | None = None
) -> tuple[Array, Array]:
    """Minimise Σ w‖t − xB − b‖² + λ‖B‖² with λ = ridge · Σ w‖x − x̄‖² / n.

    With X̃ and T̃ centred by their weighted means and multiplied by √w, the solution is
    B = (X̃ᵀX̃ + λI)⁻¹ X̃ᵀT̃ (primal, d×d) = X̃ᵀ(X̃X̃ᵀ + λI)⁻¹ T̃ (dual, Vn×Vn).

    Args:
        views: (V, n, d) float features; each view has weight 1/V.
        targets: (n,) integer classes 0 … C−1, meaning one-hot rows, or any rows (1, n, C) for all views or (V, n, C)
            for each.
        weights: (n,) float64 weights of the images.
        ridge: Penalty relative to the mean diagonal of the kernel.
        total: n in λ: how many images the weights represent. Default: the number of images.
        dual: Which system is solved; ``None`` chooses the smaller one.

    Returns:
        ``coef`` (C, d) and ``intercept`` (C,), float64.
    """
    n_views, n, d = views.shape
    features = views.reshape(-1, d)
    # A sample's target is row `which` of `rows_of`, so that one-hot rows need not exist all at once.
    if targets.ndim == 1:
        rows_of, which = np.eye(targets.max() + 1), np.tile(targets, n_views)
    else:
        rows_of = targets.reshape(-1, targets.shape[2]).astype(np.float64, copy=False)
        which = np.arange(n_views * n) % len(rows_of)
    root = np.sqrt(np.tile(weights, n_views) / n_views)
    share = root**2 / np.sum(root**2)
    target_mean = np.bincount(which, share, minlength=len(rows_of)) @ rows_of
    blocks = [slice(start, start + _CHUNK_ROWS) for start in range(0, len(features), _CHUNK_ROWS)]
    # Two passes, in blocks, so that float32 features are never copied to float64 as a whole.
    feature_mean = sum(share[rows] @ features[rows].astype(np.float64) for rows in blocks)

    def centred(rows: slice) -> tuple[Array, Array]:
        left = (features[rows] - feature_mean) * root[rows, None]
        return left, (rows_of[which[rows]] - target_mean) * root[rows, None]

    if dual is None:
        dual = len(features) <= d
    if dual:
        x, right = centred(slice(None))
        system = x @ x.T
    else:
        system, right = np.zeros((d, d)), np.zeros((d, rows_of.shape[1]))
        for rows in blocks:
            x, t = centred(rows)
            system += x.T @ x
            right += x.T @ t
    # For constant features any penalty gives B = 0, unless it is as small as their rounding errors.
    constant = np.trace(system) <= _ROUNDING**2 * np.sum(root**2) * (feature_mean @ feature_mean)
    penalty = 1.0 if constant else ridge * np.trace(system) / (n if total is None else total)
    system[np.diag_indices_from(system)] += penalty
    solution = solve(system, right, assume_a="pos", overwrite_a=True, overwrite_b=True)
    coef = (x.T @ solution if dual else solution).T
    return coef, target_mean - coef @ feature_mean
