"""Multinomial logistic regression, by L-BFGS."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Sequence

import numpy as np
from scipy.optimize import minimize
from sklearn.exceptions import ConvergenceWarning

from ..machine.progress import tell
from ..text import counted
from .arrays import Array

_LOGISTIC_MAX_ITER = 10_000
_PRECISION, _ROUGH = 1e-8, 1e-4  # share of the loss that another step may gain: at the end, and on some views
_STALE = 2.0  # the curvature is estimated again when it has changed by this factor
_LEAST = 1e-8  # curvature
_DOUBT = 10.0  # at a minimum, the gain by the curvature of each axis there is at most so many times the limit
_AXES = 40  # finding r axes costs as much as r² / (samples · classes · _AXES) of the iterations that they save


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


def fit_logistic(views: Array, targets: Array, weights: Array, *, C: float) -> tuple[Array, Array, int]:
    """Minimise Σ w CE(softmax(xB + b), t) + ‖B‖² / 2C; shapes as in :func:`fit_ridge`.

    Returns:
        ``coef`` (C, d), ``intercept`` (C,) with mean 0, both float64, and the number of iterations.
    """
    classes = int(targets.max()) + 1 if targets.ndim == 1 else targets.shape[2]
    point, penalty, iterations = np.zeros((classes, views.shape[2] + 1)), 1 / (C * weights.sum()), 0
    # Views resemble each other: the minimum for every fourth is near that for all, and an iteration costs a quarter.
    for step in (16, 4, 1):
        if len(views) >= step:
            some = targets[::step] if targets.ndim == 3 and len(targets) > 1 else targets
            precision = _ROUGH if step > 1 else _PRECISION
            point, more = _minimum(views[::step], some, weights, penalty, point, precision)
            iterations += more
    return point[:, :-1], point[:, -1] - point[:, -1].mean(), iterations


def _minimum(
    views: Array, targets: Array, weights: Array, penalty: float, point: Array, precision: float
) -> tuple[Array, int]:
    """Minimise the mean loss with ``penalty`` ‖B‖² / 2, from the ``point`` [B, b] (C, d + 1).

    Its curvature differs a thousandfold: most of the variance of features is in a few directions, p(1 − p) is small if
    there are many classes, and b has no penalty. L-BFGS needs over 1,000 iterations for that with 1,000 classes. So
    every coordinate of [B, b] in the principal axes of the features is divided by the root of its curvature, which is
    estimated with one p(1 − p) for all samples. This is a change of variables: the minimum stays where it is.
    """
    n_views, n, d = views.shape
    features, count, classes = views.reshape(-1, d), n_views * n, len(point)
    shares = np.tile(weights / weights.sum(), n_views) / n_views
    rows, codes = None, np.tile(targets, n_views) if targets.ndim == 1 else None
    if codes is None:
        rows = np.broadcast_to(targets, (n_views, n, classes)).reshape(-1, classes)
    axes = None
    if min(count, d) ** 2 <= _AXES * count * classes:  # otherwise finding them takes longer than they save
        axes = np.eye(d)
        if count < d:  # B is in the span of the samples
            axes, triangle = np.linalg.qr(features.T)
            features = triangle.T
        variances, vectors = np.linalg.eigh((features * shares[:, None]).T @ features)
        features, axes = features @ vectors, axes @ vectors
    else:
        variances = shares @ features**2
    variances = np.append(variances.clip(min=0), 1.0)  # the last is that of b
    penalties = np.append(np.full(len(variances) - 1, penalty), 0.0)

    passes = itertools.count()  # the first one only estimates the curvature
    squares = np.zeros(count)  # Σ p² of each sample at the last pass

    def loss(point: Array) -> tuple[float, Array, float]:
        """The loss, its gradient, and the mean p(1 − p) of classes."""
        nonlocal squares
        tell(f"logistic regression, {counted(n_views, 'view')}: pass {next(passes)}")
        logits = features @ point[:, :-1].T + point[:, -1]
        logits -= logits.max(axis=1, keepdims=True)
        right = logits[np.arange(count), codes] if rows is None else np.einsum("ij,ij->i", rows, logits)
        slope = np.exp(logits, out=logits)
        sums = slope.sum(axis=1)
        slope /= sums[:, None]
        value = float(shares @ (np.log(sums) - right) + penalties @ np.einsum("ij,ij->j", point, point) / 2)
        squares = np.einsum("ij,ij->i", slope, slope)
        bend = (1 - float(shares @ squares)) / classes
        if rows is None:
            slope[np.arange(count), codes] -= 1
        else:
            slope -= rows
        slope *= shares[:, None]
        return value, np.column_stack([slope.T @ features, slope.sum(axis=0)]) + penalties * point, bend

    if axes is not None:
        point = np.column_stack([point[:, :-1] @ axes, point[:, -1]])
    bend, iterations = max(loss(point)[2], _LEAST), 0
    while True:
        scaled = _Scaled(loss, point.shape, 1 / np.sqrt(bend * variances + penalties), bend, precision)
        most = _LOGISTIC_MAX_ITER - iterations
        found, more = lbfgs(scaled, scaled.flat(point), max_iter=most, finished=scaled.is_finished)
        point, iterations = scaled.point(found), iterations + more
        if iterations >= _LOGISTIC_MAX_ITER:
            warnings.warn(f"L-BFGS did not converge in {iterations} iterations", ConvergenceWarning, stacklevel=2)
            break
        bend = scaled.last_bend
        if scaled.is_minimum:  # an outlier may give an axis its variance, but no curvature once it is certain
            bends = np.maximum((1 - squares) / classes, _LEAST) * shares
            curvature = np.append(bends @ features**2, bends.sum())
            if scaled.gain_by(curvature + penalties) <= _DOUBT * precision * scaled.value:
                break
            variances = curvature / bend
        elif not scaled.is_stale:
            break
    return point if axes is None else np.column_stack([point[:, :-1] @ axes.T, point[:, -1]]), iterations


class _Scaled:
    """The loss of a point whose coordinates are divided by ``lengths``.

    Attributes:
        value: The loss at the last evaluation, and its scaled ``gradient``.
        gain: By how much a Newton step from there would reduce it, estimated.
        last_bend: The mean p(1 − p) of classes there; ``bend`` is the one that ``lengths`` were made for.
    """

    value = gain = last_bend = 0.0

    def __init__(
        self,
        loss: Callable[[Array], tuple[float, Array, float]],
        shape: tuple[int, ...],
        lengths: Array,
        bend: float,
        precision: float,
    ) -> None:
        self.loss, self.shape, self.lengths, self.bend, self.precision = loss, shape, lengths, bend, precision
        self.gradient = np.zeros(shape)

    def __call__(self, flat: Array) -> tuple[float, Array]:
        self.value, gradient, bend = self.loss(self.point(flat))
        gradient *= self.lengths
        self.gradient, self.last_bend = gradient, max(bend, _LEAST)
        self.gain = float(np.vdot(gradient, gradient)) / 2
        return self.value, gradient.ravel()

    def point(self, flat: Array) -> Array:
        return flat.reshape(self.shape) * self.lengths

    def flat(self, point: Array) -> Array:
        return (point / self.lengths).ravel()

    def gain_by(self, curvature: Array) -> float:
        """The gain, estimated with another curvature (d + 1,)."""
        return float(np.sum((self.gradient / self.lengths) ** 2 / curvature)) / 2

    @property
    def is_minimum(self) -> bool:
        return self.gain <= self.precision * self.value

    @property
    def is_stale(self) -> bool:
        """Whether the curvature has changed so much that it should be estimated again."""
        return not 1 / _STALE < self.last_bend / self.bend < _STALE

    def is_finished(self) -> bool:
        return self.is_minimum or self.is_stale


def lbfgs(
    loss: Callable[[Array], tuple[float, Array]],
    start: Array,
    *,
    max_iter: int,
    bounds: Sequence[tuple[float | None, float | None]] | None = None,
    advance: Callable[[], object] = lambda: None,
    finished: Callable[[], bool] = lambda: False,
) -> tuple[Array, int]:
    """Minimise ``loss``, which returns its value and gradient, by L-BFGS; return the minimum and the iterations.

    Args:
        loss: Function of a flat float64 array.
        start: Where to start.
        max_iter: Most iterations.
        bounds: Least and largest value of each entry.
        advance: Called after each iteration.
        finished: Called after each iteration, whose point was the last at which ``loss`` was called; whether it is
            good enough.
    """
    done = 0

    def after(reached: Array) -> None:
        nonlocal done
        done += 1
        advance()
        if finished():
            raise _Finished(reached.copy())

    options = {"maxiter": max_iter, "maxls": 50, "gtol": 0.0, "ftol": 64 * np.finfo(float).eps}
    try:
        result = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options, callback=after)
    except _Finished as end:
        return end.args[0], done
    return result.x, int(result.nit)


class _Finished(Exception):
    """Ends the minimisation at a point: a callback's ``StopIteration`` does so only from scipy 1.11 on."""
