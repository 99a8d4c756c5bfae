"""Multinomial logistic regression, by L-BFGS."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import numpy as np
from scipy.optimize import minimize
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from .arrays import Array

_LOGISTIC_TOLERANCE, _LOGISTIC_MAX_ITER = 1e-6, 10_000


def soft_cross_entropy(logits: Array, targets: Array, weights: Array) -> tuple[float, Array]:
    """Σ_i w_i Σ_c t_ic · −log softmax(logits)_ic and its gradient (n, C) with respect to the logits.

    Args:
        logits: (n, C) float64.
        targets: (n, C) rows that sum to 1.
        weights: (n,).
    """
    logits = logits - logits.max(axis=1, keepdims=True)
    exponentials = np.exp(logits)
    sums = exponentials.sum(axis=1, keepdims=True)
    losses = np.log(sums[:, 0]) - (targets * logits).sum(axis=1)
    return float(weights @ losses), (exponentials / sums - targets) * weights[:, None]


def fit_logistic(views: Array, codes: Array, weights: Array, *, C: float) -> tuple[Array, Array, int]:
    """Minimise Σ w CE(softmax(xB + b), y) + ‖B‖² / 2C; shapes as in :func:`fit_ridge`.

    Returns:
        ``coef`` (C, d), ``intercept`` (C,), both float64, and the number of iterations.
    """
    n_views, _, d = views.shape
    binary = codes.max() == 1
    # For two classes scikit-learn has one vector w = B₁ − B₀. At the optimum B₁ = −B₀ = w/2, so ‖B‖² = ‖w‖²/2, and
    # our C is 2C there.
    model = LogisticRegression(
        C=2 * C if binary else C, tol=_LOGISTIC_TOLERANCE, max_iter=_LOGISTIC_MAX_ITER, solver="lbfgs"
    )
    model.fit(views.reshape(-1, d), np.tile(codes, n_views), sample_weight=np.tile(weights, n_views) / n_views)
    coef, intercept = model.coef_, model.intercept_
    if binary:
        coef, intercept = np.vstack([-coef, coef]) / 2, np.concatenate([-intercept, intercept]) / 2
    return coef, intercept, int(np.max(model.n_iter_))


def fit_soft_logistic(views: Array, targets: Array, weights: Array, *, C: float) -> tuple[Array, Array, int]:
    """Minimise the cross-entropy to soft ``targets`` (1 or V, n, C).

    scikit-learn finds this if each sample is repeated once per class with its target as its weight; here the features
    are not repeated.
    """
    n_views, n, d = views.shape
    features, classes = views.reshape(-1, d), targets.shape[2]
    rows = np.broadcast_to(targets, (n_views, n, classes)).reshape(-1, classes)
    shares = np.tile(weights / weights.sum(), n_views) / n_views  # shares in the mean loss, as in scikit-learn
    penalty = 1 / (C * weights.sum())

    def loss(flat: Array) -> tuple[float, Array]:
        coef, intercept = flat[: classes * d].reshape(classes, d), flat[classes * d :]
        value, slope = soft_cross_entropy(features @ coef.T + intercept, rows, shares)
        gradient = slope.T @ features + penalty * coef
        return value + penalty / 2 * float(np.sum(coef**2)), np.concatenate([gradient.ravel(), slope.sum(axis=0)])

    found, iterations = lbfgs(loss, np.zeros(classes * (d + 1)), max_iter=_LOGISTIC_MAX_ITER, tol=_LOGISTIC_TOLERANCE)
    return found[: classes * d].reshape(classes, d), found[classes * d :], iterations


def lbfgs(
    loss: Callable[[Array], tuple[float, Array]],
    start: Array,
    *,
    max_iter: int,
    tol: float = 0.0,
    bounds: Sequence[tuple[float | None, float | None]] | None = None,
    advance: Callable[[], object] = lambda: None,
) -> tuple[Array, int]:
    """Minimise ``loss``, which returns its value and gradient, by L-BFGS; return the minimum and the iterations.

    Args:
        loss: Function of a flat float64 array.
        start: Where to start.
        max_iter: Most iterations.
        tol: Stop when no entry of the gradient is larger. A ``ConvergenceWarning`` says if it is not reached; with 0,
            there is no warning, and the iterations are a budget.
        bounds: Least and largest value of each entry.
        advance: Called after each iteration.
    """
    # scikit-learn's settings: with the same loss and start, its LogisticRegression takes the same steps.
    options = {"maxiter": max_iter, "maxls": 50, "gtol": tol, "ftol": 64 * np.finfo(float).eps}
    result = minimize(
        loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options, callback=lambda _: advance()
    )
    if tol and result.nit >= max_iter:
        warnings.warn(f"L-BFGS did not converge in {max_iter} iterations", ConvergenceWarning, stacklevel=2)
    return result.x, int(result.nit)
