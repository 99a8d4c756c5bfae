"""Rank correlations with permutation p-values."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import rankdata

from ..seeds import Stream, seed_of

FEWEST = 3  # encoders, and pairs of them, that a rank correlation takes
EXACT = 5040  # permutations: seven encoders
_DRAWN = 9999


# ---------------------------------------------------------------------------------------------------
# Transfer


def mantel(metric: ArrayLike, accuracy: ArrayLike, *, seed: int = 0) -> tuple[float, float] | None:
    """Spearman rank correlation of two matrices over ordered pairs of encoders, with a permutation p-value.

    The pairs share encoders and are not independent, so the encoders' labels are permuted, rows and columns of
    ``metric`` together (Mantel 1967): all E! permutations up to seven encoders, else 9,999 drawn ones.

    Args:
        metric: (E, E), row = source, column = target; the diagonal is not looked at.
        accuracy: (E, E); NaN where a pair is not known.
        seed: Of the drawn permutations.

    Returns:
        Correlation and two-sided p; ``None`` for fewer than three encoders or three known pairs (the correlation
        of two is always ±1), or when either is the same for all pairs.
    """
    metric, accuracy = np.asarray(metric, np.float64), np.asarray(accuracy, np.float64)
    known = ~np.isnan(accuracy) & ~np.eye(len(accuracy), dtype=bool)
    used = np.flatnonzero(known.any(axis=0) | known.any(axis=1))
    metric, accuracy, known = (m[np.ix_(used, used)] for m in (metric, accuracy, known))
    count, (rows, columns) = len(used), np.nonzero(known)
    if min(count, len(rows)) < FEWEST or len(np.unique(metric[known])) < 2 or len(np.unique(accuracy[known])) < 2:
        return None
    exact = math.factorial(count) <= EXACT
    if exact:
        orders = np.array(list(itertools.permutations(range(count))))  # the first is the identity
    else:
        rng = np.random.default_rng(seed_of(seed, Stream.ENCODER_ORDERS))
        orders = np.stack([np.arange(count), *(rng.permutation(count) for _ in range(_DRAWN))])
    left = rankdata(metric[orders[:, rows], orders[:, columns]], axis=1)
    right = rankdata(accuracy[known])
    left, right = left - left.mean(axis=1, keepdims=True), right - right.mean()
    lengths = np.linalg.norm(left, axis=1) * np.linalg.norm(right)
    correlation = np.divide(left @ right, lengths, out=np.zeros(len(left)), where=lengths > 0)
    p = float(np.mean(np.abs(correlation) >= abs(correlation[0]) - 1e-12))
    return float(correlation[0]), p


_ALL_ORDERS = 8  # up to so many entries every permutation is counted, 8! = 40,320
_DRAWN_ORDERS = 20_000


def rank_agreement(first: Sequence[float], second: Sequence[float]) -> dict[str, float] | None:
    """Spearman's rank correlation and its two-sided permutation p-value.

    p is the share of all orders of ``second`` (of 20,000 drawn ones for more than 8 values) whose correlation is at
    least as far from 0. With 3 values it is at least 1/3, with 4 at least 1/12, with 5 at least 1/60.

    Returns:
        ``{"spearman", "p", "n"}``; ``None`` for fewer than 3 values or when all values of a kind are equal.
    """
    if len(first) < 3 or len(set(first)) == 1 or len(set(second)) == 1:
        return None
    a, b = ((ranks - ranks.mean()) / ranks.std() for ranks in (rankdata(first), rankdata(second)))
    n = len(a)
    if n <= _ALL_ORDERS:
        orders = np.array(list(itertools.permutations(range(n))))
        extra = 0
    else:
        rng = np.random.default_rng(seed_of(0, Stream.VALUE_ORDERS))
        orders = np.array([rng.permutation(n) for _ in range(_DRAWN_ORDERS)])
        extra = 1  # the order that was found is one of the possible ones
    found = float(a @ b / n)
    as_far = np.abs(b[orders] @ a / n) >= abs(found) - 1e-9
    return {"spearman": found, "p": float((as_far.sum() + extra) / (len(orders) + extra)), "n": n}
