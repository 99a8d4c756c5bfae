"""Checks of arrays of features, labels and targets."""

from __future__ import annotations

import math
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import UserError

if TYPE_CHECKING:
    import torch

FLOATS = (np.float64, np.float32)
_TARGET_TOLERANCE = 1e-3  # for the sum of a row of soft targets, which may have been stored in half precision

Array = NDArray[Any]


def check_positive(argument: str, value: Any) -> None:
    """Raise `UserError` unless ``value`` is a positive, finite number."""
    if not (isinstance(value, Real) and 0 < float(value) < math.inf):
        raise UserError(f"{argument} must be a positive number, got {value!r}")


def check_whole(argument: str, value: Any, least: int) -> None:
    """Raise `UserError` unless ``value`` is a whole number, ``least`` or more."""
    if not (isinstance(value, Real) and float(value).is_integer() and float(value) >= least):
        raise UserError(f"{argument} must be a whole number ≥ {least}, got {value!r}")


def to_numpy(values: ArrayLike | torch.Tensor) -> Any:
    """Convert a tensor on any device to numpy; return everything else unchanged."""
    import torch  # not above: whoever only reads scores need not wait for it

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
    from sklearn.utils import check_array

    views = check_array(to_numpy(values), dtype=FLOATS, allow_nd=True, input_name=argument)
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


def sample_weights(weights: ArrayLike | torch.Tensor, n: int) -> Array:
    """Weights of ``n`` images, float64.

    Raises:
        UserError: Another shape, or not finite numbers ≥ 0.
    """
    found = np.asarray(to_numpy(weights), dtype=np.float64)
    if found.shape != (n,):
        raise UserError(f"sample_weight must have a weight for each of {n} images, got the shape {found.shape}")
    if not (np.isfinite(found).all() and (found >= 0).all()):
        raise UserError("sample_weight must be finite weights ≥ 0")
    return found


def class_indices(argument: str, values: ArrayLike | torch.Tensor, n_classes: int) -> Array:
    """Return ``values`` as integers (n,) after checking that they are in 0 … n_classes − 1."""
    indices = np.asarray(to_numpy(values))
    if indices.ndim != 1 or (indices.size and indices.dtype.kind not in "iu"):
        raise UserError(f"{argument} must be a list of integer class indices, got {indices.dtype} {indices.shape}")
    outside = indices[(indices < 0) | (indices >= n_classes)]
    if outside.size:
        raise UserError(f"{argument} has class {outside[0]}, but there are {n_classes} class names")
    return indices.astype(np.int64)
