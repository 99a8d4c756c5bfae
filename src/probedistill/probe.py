"""Linear probes on features, as scikit-learn estimators, and the scores of a probe."""

from __future__ import annotations

import dataclasses
import math
import operator
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import solve
from scipy.optimize import minimize
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_array
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from probedistill.config import SOLVERS
from probedistill.errors import NonFiniteLossError, UserError, unknown_name

_FLOATS = (np.float64, np.float32)
_ADAM_BETAS, _ADAM_EPS = (0.9, 0.999), 1e-8
_LOGISTIC_TOLERANCE, _LOGISTIC_MAX_ITER = 1e-6, 10_000
_CHUNK_ROWS = 8192
_TARGET_TOLERANCE = 1e-3  # of the sum of a row of soft targets, which may have been stored in half precision

Array = NDArray[Any]


@contextmanager
def _one_image_per_class_is_normal() -> Iterator[None]:
    """Silence scikit-learn's guess that labels with so few images each are a regression's."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The number of unique classes is greater than 50%", UserWarning)
        yield


class LinearClassifier(ClassifierMixin, BaseEstimator):
    """What linear probes share once they are fitted: ``logits = X @ coef_.T + intercept_``, argmax, softmax."""

    coef_: Array
    intercept_: Array
    classes_: Array
    n_features_in_: int

    def logits(self, X: ArrayLike | torch.Tensor) -> Array:
        """Return the logits (n, C) of features (n, d); columns in the order of ``classes_``."""
        check_is_fitted(self)
        features = validate_data(self, to_numpy(X), dtype=_FLOATS, reset=False)
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

        Where the logits are regression outputs (``"ridge"``, an inherited head) the order of the classes is right,
        but the probabilities are not calibrated.
        """
        logits = self.logits(X)
        exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
        return exponentials / exponentials.sum(axis=1, keepdims=True)


class LinearProbe(LinearClassifier):
    """Linear classifier on frozen features.

    All solvers learn ``logits = X @ coef_.T + intercept_``; predictions are their argmax.

    * ``"ridge"``: least squares to one-hot targets, closed form in float64, in the smaller of
      the d×d (primal) and the n×n (dual) system. The penalty is ``ridge`` times the mean
      diagonal of the centred kernel, so that scaling the features changes no prediction.
    * ``"logistic"``: multinomial logistic regression with an L2 penalty, L-BFGS in float64 to
      convergence (scikit-learn; a ``ConvergenceWarning`` says when it was not reached). The
      features are first divided by one number, their root mean variance, for the same reason.
    * ``"sgd"``: the protocol of Linear Gradient Matching (LGM): a ``torch.nn.Linear`` with its
      default initialisation, cross-entropy, Adam with step size ``lr * batch / 256`` where
      ``batch = min(n, batch_size)``, cosine schedule to 0 over all steps, reshuffled each epoch,
      the last partial batch kept. It computes in the dtype of the features.

    Every solver also learns from soft targets, rows of class weights instead of one class per image: ``"ridge"``
    regresses on them, the others minimise the cross-entropy Σ_c t_c · −log softmax(logits)_c. One-hot rows give
    the probe that the labels alone give.

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
        self.class_weight = class_weight
        self.random_state = random_state
        self.device = device

    def fit(
        self,
        X: ArrayLike | torch.Tensor,
        y: ArrayLike | torch.Tensor,
        targets: ArrayLike | torch.Tensor | None = None,
    ) -> LinearProbe:
        """Learn the probe from one feature vector per image.

        Args:
            X: (n, d) finite features: array-like or tensor on any device.
            y: (n,) labels of any kind that scikit-learn takes; class indices 0 … C−1 with ``targets``, where they
                serve ``class_weight`` alone.
            targets: (n, C) soft targets: rows of weights ≥ 0 that sum to 1.

        Returns:
            The probe itself.

        Raises:
            UserError: A parameter is out of its range, ``y`` has a single class, or ``targets`` are no such rows.
            ValueError: ``X`` or ``y`` has a wrong shape, or ``X`` has NaN or infinity.
            NonFiniteLossError: ``"sgd"`` diverged.
        """
        self._check_parameters()
        features, labels = validate_data(self, to_numpy(X), to_numpy(y), dtype=_FLOATS)
        return self._fit(features[None], labels, targets)

    def fit_views(
        self,
        X_views: ArrayLike | torch.Tensor,
        y: ArrayLike | torch.Tensor,
        targets: ArrayLike | torch.Tensor | None = None,
    ) -> LinearProbe:
        """Learn the probe from several augmented views of the same images.

        ``"sgd"`` uses view ``e % V`` in epoch ``e``: with V = ``epochs`` this is augmentation
        afresh in each epoch, computed in bulk. ``"ridge"`` and ``"logistic"`` use all V·n
        vectors, each with weight 1/V: V equal views give the same probe as one of them.

        Args:
            X_views: (V, n, d) finite features: array-like or tensor on any device.
            y: (n,) labels of the images.
            targets: (n, C) soft targets of the images, or (V, n, C) of each view.

        Returns:
            The probe itself.

        Raises:
            UserError: As for :meth:`fit`, or ``X_views`` is not three-dimensional.
            ValueError: As for :meth:`fit`.
            NonFiniteLossError: ``"sgd"`` diverged.
        """
        self._check_parameters()
        views = as_views("X_views", X_views)
        _, labels = validate_data(self, views[0], to_numpy(y), dtype=_FLOATS)
        return self._fit(views, labels, targets)

    def _check_parameters(self) -> None:
        if self.solver not in SOLVERS:
            raise unknown_name("solver", self.solver, SOLVERS)
        for name in ("ridge", "C", "lr"):
            value = getattr(self, name)
            if not (value > 0 and math.isfinite(value)):
                raise UserError(f"{name} must be a positive number, got {value!r}")
        for name in ("epochs", "batch_size"):
            value = getattr(self, name)
            if int(value) != value or value < 1:
                raise UserError(f"{name} must be a whole number ≥ 1, got {value!r}")

    @_one_image_per_class_is_normal()
    def _fit(self, views: Array, labels: Array, soft: ArrayLike | torch.Tensor | None) -> LinearProbe:
        """Fit validated ``views`` (V, n, d) and ``labels`` (n,), and ``soft`` targets that are checked here."""
        check_classification_targets(labels)
        classes, codes = np.unique(labels, return_inverse=True)
        weights = compute_class_weight(self.class_weight, classes=classes, y=labels)[codes]
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
        shift, scale = self._scaling(views)
        if shift is not None:
            views = ((views - shift) / scale).astype(views.dtype, copy=False)

        if self.solver == "ridge":
            coef, intercept = fit_ridge(views, targets, weights, ridge=self.ridge)
            self.n_iter_ = 1
        elif self.solver == "logistic":
            fit = _fit_logistic if soft is None else _fit_soft_logistic
            coef, intercept, self.n_iter_ = fit(views, targets, weights, C=self.C)
        else:
            coef, intercept = _fit_sgd(
                views,
                targets,
                weights,
                epochs=int(self.epochs),
                lr=self.lr,
                batch_size=int(self.batch_size),
                generator=_generator(self.random_state),
                device=torch.device(self.device),
            )
            self.n_iter_ = int(self.epochs)

        if shift is not None:
            dtype = coef.dtype
            coef = (coef / scale).astype(dtype)
            intercept = (intercept - coef @ shift).astype(dtype)
        self.coef_, self.intercept_ = coef, intercept
        return self

    def _scaling(self, views: Array) -> tuple[Array | None, Array | float]:
        """Return what is subtracted (d,) and divided by (d,) or (); ``None`` leaves features alone."""
        if not self.standardize and self.solver != "logistic":
            return None, 1.0
        scaler = StandardScaler().fit(views.reshape(-1, views.shape[-1]))
        if self.standardize:
            return scaler.mean_, scaler.scale_
        return scaler.mean_, math.sqrt(scaler.var_.mean()) or 1.0


def to_numpy(values: ArrayLike | torch.Tensor) -> Any:
    """Bring a tensor from wherever it is to numpy; leave everything else as it is."""
    if not isinstance(values, torch.Tensor):
        return values
    values = values.detach().cpu()
    return (values.float() if values.dtype in (torch.float16, torch.bfloat16) else values).numpy()


def as_views(argument: str, values: ArrayLike | torch.Tensor) -> Array:
    """Finite features of augmented views, (V, n, d), as an array.

    Raises:
        UserError: Not three-dimensional.
        ValueError: NaN or infinity.
    """
    views = check_array(to_numpy(values), dtype=_FLOATS, allow_nd=True, input_name=argument)
    if views.ndim != 3:
        raise UserError(f"{argument} must have shape (views, images, features), got {views.shape}")
    return views


def soft_targets(targets: ArrayLike | torch.Tensor, n_views: int, n: int) -> Array:
    """Soft targets (1, n, C) for all views or (V, n, C) for each, float64.

    Raises:
        UserError: Another shape, fewer than two classes, or rows that are not weights ≥ 0 with sum 1.
    """
    rows = np.asarray(to_numpy(targets), dtype=np.float64)
    rows = rows[None] if rows.ndim == 2 else rows
    if rows.ndim != 3 or rows.shape[0] not in (1, n_views) or rows.shape[1] != n or rows.shape[2] < 2:
        raise UserError(
            f"targets must have shape (images, classes ≥ 2), or with views before, for {n} images, "
            f"got {np.shape(targets)}"
        )
    sums = rows.sum(axis=2)
    if not (np.isfinite(rows).all() and (rows >= 0).all() and np.abs(sums - 1).max() < _TARGET_TOLERANCE):
        raise UserError("targets must be rows of finite weights ≥ 0 that sum to 1")
    return rows / sums[..., None]


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


def _generator(random_state: int | np.random.RandomState | None) -> torch.Generator:
    generator = torch.Generator()
    if random_state is None:
        generator.seed()
    elif isinstance(random_state, np.random.RandomState):
        generator.manual_seed(int(random_state.randint(2**31 - 1)))
    else:
        generator.manual_seed(operator.index(random_state))
    return generator


def fit_ridge(
    views: Array, targets: Array, weights: Array, *, ridge: float, dual: bool | None = None
) -> tuple[Array, Array]:
    """Minimise Σ w‖t − xB − b‖² + λ‖B‖² with λ = ridge · Σ w‖x − x̄‖² / n.

    With X̃ and T̃ centred by their weighted means and multiplied by √w, the solution is
    B = (X̃ᵀX̃ + λI)⁻¹ X̃ᵀT̃ (primal, d×d) = X̃ᵀ(X̃X̃ᵀ + λI)⁻¹ T̃ (dual, Vn×Vn).

    Args:
        views: (V, n, d) float features; each view has weight 1/V.
        targets: (n,) integer classes 0 … C−1, which stand for one-hot rows, or any rows (1, n, C) for all views
            or (V, n, C) for each.
        weights: (n,) float64 weights of the images.
        ridge: Penalty relative to the mean diagonal of the kernel.
        dual: Which system is solved; ``None`` takes the smaller one.

    Returns:
        ``coef`` (C, d) and ``intercept`` (C,), float64.
    """
    n_views, n, d = views.shape
    features = views.reshape(-1, d)
    # Row `which` of `rows_of` is a sample's target; one-hot rows are made block by block.
    if targets.ndim == 1:
        rows_of, which = np.eye(targets.max() + 1), np.tile(targets, n_views)
    else:
        rows_of = targets.reshape(-1, targets.shape[2]).astype(np.float64, copy=False)
        which = np.arange(n_views * n) % len(rows_of)
    root = np.sqrt(np.tile(weights, n_views) / n_views)
    share = root**2 / np.sum(root**2)
    target_mean = np.bincount(which, share, minlength=len(rows_of)) @ rows_of
    blocks = [slice(start, start + _CHUNK_ROWS) for start in range(0, len(features), _CHUNK_ROWS)]
    # Two passes, in blocks: float32 features are never copied to float64 as a whole.
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
    penalty = ridge * np.trace(system) / n or 1.0  # constant features: any penalty gives B = 0
    system[np.diag_indices_from(system)] += penalty
    solution = solve(system, right, assume_a="pos", overwrite_a=True, overwrite_b=True)
    coef = (x.T @ solution if dual else solution).T
    return coef, target_mean - coef @ feature_mean


def _fit_logistic(views: Array, codes: Array, weights: Array, *, C: float) -> tuple[Array, Array, int]:
    """Minimise Σ w CE(softmax(xB + b), y) + ‖B‖² / 2C; shapes as in :func:`fit_ridge`.

    Returns:
        ``coef`` (C, d), ``intercept`` (C,), both float64, and the number of iterations.
    """
    n_views, _, d = views.shape
    binary = codes.max() == 1
    # scikit-learn writes two classes with one vector w = B₁ − B₀, at the optimum B₁ = −B₀ = w/2,
    # so that ‖B‖² = ‖w‖²/2: 2C there is C here.
    model = LogisticRegression(
        C=2 * C if binary else C, tol=_LOGISTIC_TOLERANCE, max_iter=_LOGISTIC_MAX_ITER, solver="lbfgs"
    )
    model.fit(views.reshape(-1, d), np.tile(codes, n_views), sample_weight=np.tile(weights, n_views) / n_views)
    coef, intercept = model.coef_, model.intercept_
    if binary:
        coef, intercept = np.vstack([-coef, coef]) / 2, np.concatenate([-intercept, intercept]) / 2
    return coef, intercept, int(np.max(model.n_iter_))


def _fit_soft_logistic(views: Array, targets: Array, weights: Array, *, C: float) -> tuple[Array, Array, int]:
    """The same for soft ``targets`` (1 or V, n, C): what scikit-learn finds when each sample is repeated once per
    class with its target as its weight, without the C-fold features.
    """
    n_views, n, d = views.shape
    features, classes = views.reshape(-1, d), targets.shape[2]
    rows = np.broadcast_to(targets, (n_views, n, classes)).reshape(-1, classes)
    shares = np.tile(weights / weights.sum(), n_views) / n_views  # of the mean loss, as scikit-learn scales it
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
) -> tuple[Array, int]:
    """Minimise ``loss``, which gives its value and gradient, by L-BFGS; return the minimum and the iterations.

    Args:
        loss: Of a flat float64 array.
        start: Where to start.
        max_iter: Most iterations.
        tol: Stop when no entry of the gradient is larger. A ``ConvergenceWarning`` says when it is not reached;
            with 0 there is none, and the iterations are a budget.
        bounds: Least and largest value of each entry.
    """
    # scikit-learn's settings: with the same loss and start, its LogisticRegression takes the same steps.
    options = {"maxiter": max_iter, "maxls": 50, "gtol": tol, "ftol": 64 * np.finfo(float).eps}
    result = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options)
    if tol and result.nit >= max_iter:
        warnings.warn(f"L-BFGS did not converge in {max_iter} iterations", ConvergenceWarning, stacklevel=2)
    return result.x, int(result.nit)


@torch.no_grad()
def _fit_sgd(
    views: Array,
    targets: Array,
    weights: Array,
    *,
    epochs: int,
    lr: float,
    batch_size: int,
    generator: torch.Generator,
    device: torch.device,
) -> tuple[Array, Array]:
    """Train a linear layer by Adam on the cross-entropy; shapes as in :func:`fit_ridge`.

    The gradient is written out, (softmax(logits) − target) · w / batch, and weight and bias share
    one flat buffer: a step on small data costs what a dozen tensor operations cost.

    Returns:
        ``coef`` (C, d) and ``intercept`` (C,) in the dtype of ``views``.
    """
    n_views, n, d = views.shape
    hard = targets.ndim == 1
    # torch.from_numpy warns about read-only memory, although nothing here writes to it.
    features = torch.from_numpy(np.require(views, requirements=["C", "W"])).to(device)
    if hard:
        n_classes, answers = int(targets.max()) + 1, torch.from_numpy(targets.astype(np.int64))[:, None].to(device)
    else:
        n_classes, answers = targets.shape[2], torch.from_numpy(targets).to(features)
    minus_one = features.new_full((n, 1), -1)
    weight_of = torch.from_numpy(weights)[:, None].to(features) if np.any(weights != 1) else None

    parameters = torch.cat([part.flatten() for part in _initial_linear(d, n_classes, generator)]).to(features)
    gradient, first, second = (torch.zeros_like(parameters) for _ in range(3))
    coef, intercept = parameters[: n_classes * d].view(n_classes, d), parameters[n_classes * d :]
    coef_gradient, intercept_gradient = (
        gradient[: n_classes * d].view(n_classes, d),
        gradient[n_classes * d :],
    )

    batch = min(n, batch_size)
    n_steps = epochs * math.ceil(n / batch)
    peak = lr * batch / 256
    beta1, beta2 = _ADAM_BETAS
    step = 0
    for epoch in range(epochs):
        view = features[epoch % n_views]
        order = torch.randperm(n, generator=generator).to(device)
        for rows in order.split(batch):
            x = view.index_select(0, rows)
            slope = torch.addmm(intercept, x, coef.T).softmax(dim=1)
            if hard:
                slope.scatter_add_(1, answers[rows], minus_one[: len(rows)])
            else:
                slope.sub_(answers[epoch % len(answers)].index_select(0, rows))
            if weight_of is not None:
                slope.mul_(weight_of[rows])
            slope.div_(len(rows))
            torch.mm(slope.T, x, out=coef_gradient)
            torch.sum(slope, 0, out=intercept_gradient)

            rate = peak * 0.5 * (1 + math.cos(math.pi * step / n_steps))
            step += 1
            first.lerp_(gradient, 1 - beta1)
            second.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
            spread = second.sqrt().div_(math.sqrt(1 - beta2**step)).add_(_ADAM_EPS)
            parameters.addcdiv_(first, spread, value=-rate / (1 - beta1**step))
    if not torch.isfinite(parameters).all():
        raise NonFiniteLossError(f"the sgd probe diverged with lr={lr!r}; use a smaller lr or standardize=True")
    return coef.cpu().numpy().copy(), intercept.cpu().numpy().copy()


def _initial_linear(d: int, n_classes: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Return weight (C, d) and bias (C,), float32, as ``torch.nn.Linear(d, C)`` draws them."""
    weight = torch.empty(n_classes, d)
    torch.nn.init.kaiming_uniform_(weight, a=math.sqrt(5), generator=generator)
    bound = 1 / math.sqrt(d)
    return weight, torch.empty(n_classes).uniform_(-bound, bound, generator=generator)


class Classifier(Protocol):
    """A fitted scikit-learn classifier, as far as :func:`score_probe` needs it."""

    classes_: Array

    def decision_function(self, X: Any) -> Array:
        """Return logits (n, C), or their difference (n,) for two classes."""


@dataclass(frozen=True)
class Scores:
    """Scores of a probe on labelled features; all in [0, 1].

    Attributes:
        top1: Share of images whose class has the largest logit.
        top5: Share of images whose class is among the five largest; ``None`` below five classes.
        per_class: Recall of each class that has test images, by class name.
        worst_group: The smallest of ``groups``; ``None`` without groups.
        groups: Top-1 within each group, by group name; ``None`` without groups.
        n: Number of test images.
        balanced: Mean of ``per_class``.
    """

    top1: float
    top5: float | None
    per_class: dict[str, float]
    worst_group: float | None
    groups: dict[str, float] | None
    n: int
    balanced: float

    def to_dict(self) -> dict[str, Any]:
        """Return the scores as plain Python values, ready for JSON."""
        return dataclasses.asdict(self)


def score_probe(
    probe: Classifier,
    X: ArrayLike | torch.Tensor,
    y: ArrayLike | torch.Tensor,
    *,
    class_names: Sequence[str],
    groups: Sequence[str] | None = None,
) -> Scores:
    """Score a fitted probe on test features.

    A class that the probe never saw in training is never predicted: its test images count as
    wrong in every score. Ties between logits go to the lower class.

    Args:
        probe: A :class:`LinearProbe`, or another fitted classifier with ``decision_function``,
            whose labels are indices into ``class_names``.
        X: (n, d) features.
        y: (n,) integer class indices in 0 … C−1.
        class_names: The C names. A name that occurs twice is told apart in ``per_class`` by its
            index: ``"crane (517)"``.
        groups: (n,) group names, for example background or domain.

    Returns:
        The scores.

    Raises:
        UserError: No test images, lengths that differ, or labels that are not indices into
            ``class_names``.
    """
    names = [str(name) for name in class_names]
    labels = class_indices("y", y, len(names))
    known = class_indices("probe.classes_", probe.classes_, len(names))
    if len(labels) == 0:
        raise UserError("y is empty: there are no test images to score")
    if groups is not None and len(groups) != len(labels):
        raise UserError(f"groups has {len(groups)} entries for {len(labels)} images")

    logits = np.asarray(probe.decision_function(X))
    if logits.ndim == 1:
        logits = np.stack([np.zeros_like(logits), logits], axis=1)
    if len(logits) != len(labels):
        raise UserError(f"X has {len(logits)} rows for {len(labels)} labels in y")
    hits = known[np.argsort(-logits, axis=1, kind="stable")[:, :5]] == labels[:, None]
    top1 = hits[:, 0]

    counts = Counter(names)
    per_class = {
        name if counts[name] == 1 else f"{name} ({index})": float(top1[labels == index].mean())
        for index, name in enumerate(names)
        if np.any(labels == index)
    }
    by_group: dict[str, float] | None = None
    if groups is not None:
        group_of = np.asarray([str(group) for group in groups])
        by_group = {str(group): float(top1[group_of == group].mean()) for group in np.unique(group_of)}
    return Scores(
        top1=float(top1.mean()),
        top5=float(hits.any(axis=1).mean()) if len(names) >= 5 else None,
        per_class=per_class,
        worst_group=None if by_group is None else min(by_group.values()),
        groups=by_group,
        n=len(labels),
        balanced=float(np.mean(list(per_class.values()))),
    )


def class_indices(argument: str, values: ArrayLike | torch.Tensor, n_classes: int) -> Array:
    """Return ``values`` as integers (n,) after checking that they lie in 0 … n_classes − 1."""
    indices = np.asarray(to_numpy(values))
    if indices.ndim != 1 or (indices.size and indices.dtype.kind not in "iu"):
        raise UserError(f"{argument} must be a list of integer class indices, got {indices.dtype} {indices.shape}")
    outside = indices[(indices < 0) | (indices >= n_classes)]
    if outside.size:
        raise UserError(f"{argument} has class {outside[0]}, but there are {n_classes} class names")
    return indices.astype(np.int64)
