"""Rank correlations and their permutation test."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import permutation_test, rankdata

from ..seeds import Stream, seed_of
from ..store.records import Count, Meta, Share

FEWEST = 3
"""Pairs of values, and encoders, that a rank correlation takes: that of two pairs is always ±1."""
EXACT = 8
"""Up to so many things every order is counted: 8! = 40,320."""
DRAWN = 9999
"""Orders that are drawn for more things."""

Orders = NDArray[np.int64]


@dataclass(frozen=True)
class Correlation:
    """A rank correlation and how surprising it is.

    Attributes:
        spearman: Spearman's ρ; ``None`` for too few pairs, or if one side is the same for all of them.
        p: Two-sided permutation p-value; ``None`` likewise.
        n: Pairs of values.
    """

    spearman: Annotated[float, Meta(ge=-1, le=1)] | None
    p: Share | None
    n: Count

    def __str__(self) -> str:
        if self.spearman is None or self.p is None:
            return "not defined"
        return f"Spearman {self.spearman:+.2f}, p = {self.p:.3f}"


def rank_agreement(first: Sequence[float], second: Sequence[float], *, seed: int = 0) -> Correlation:
    """Correlate two rankings of the same things.

    p is the share of all orders of ``first`` whose correlation is at least as far from 0; see `permuted`. It is at
    least 1/3 for three values, 1/12 for four and 1/60 for five.

    Args:
        first: n values.
        second: n values, in the same order.
        seed: Seed for drawing orders of more than eight values.
    """
    left, right = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if len(left) < FEWEST or np.ptp(left) == 0 or np.ptp(right) == 0:
        return Correlation(None, None, len(left))
    return permuted(lambda orders: left[orders], right, len(left), Stream.VALUE_ORDERS, seed)


def mantel(metric: ArrayLike, accuracy: ArrayLike, *, seed: int = 0) -> Correlation:
    """Correlate two matrices over ordered pairs of encoders.

    The pairs share encoders and are not independent. So the encoders' labels are permuted, rows and columns of
    ``metric`` together (Mantel 1967); see `permuted`.

    Args:
        metric: (E, E), row = source, column = target; the diagonal is ignored.
        accuracy: (E, E); NaN for a pair that is not known.
        seed: Seed for drawing orders of more than eight encoders.
    """
    metric, accuracy = np.asarray(metric, np.float64), np.asarray(accuracy, np.float64)
    known = ~np.isnan(accuracy) & ~np.eye(len(accuracy), dtype=bool)
    used = np.flatnonzero(known.any(axis=0) | known.any(axis=1))
    metric, accuracy, known = (m[np.ix_(used, used)] for m in (metric, accuracy, known))
    rows, columns = np.nonzero(known)
    if min(len(used), len(rows)) < FEWEST or np.ptp(metric[known]) == 0 or np.ptp(accuracy[known]) == 0:
        return Correlation(None, None, len(rows))
    return permuted(
        lambda orders: metric[orders[..., rows], orders[..., columns]],
        accuracy[known], len(used), Stream.ENCODER_ORDERS, seed,
    )  # fmt: skip


def permuted(
    reordered: Callable[[Orders], NDArray[np.float64]], values: NDArray[np.float64], n: int, stream: Stream, seed: int
) -> Correlation:
    """Spearman's ρ and the share of orders of n things that give one at least as far from 0.

    Every order is counted if there are at most eight things; for more, 9,999 are drawn, and the order that was found
    counts as one more (Phipson and Smyth 2010).

    Args:
        reordered: (…, n) orders → (…, m) values of the first side.
        values: (m,) values of the second side.
        n: Number of things.
        stream: What the orders are drawn for.
        seed: The user's seed.
    """
    right = _centred_ranks(values)

    def spearman(orders: Orders) -> NDArray[np.float64]:
        left = _centred_ranks(reordered(orders))
        lengths = np.linalg.norm(left, axis=-1) * np.linalg.norm(right)
        found = np.divide(left @ right, lengths, out=np.zeros(left.shape[:-1]), where=lengths > 0)
        return np.clip(found, -1, 1)  # rounding: 1 + 2e-16

    found = permutation_test(
        (np.arange(n),), lambda orders, axis: np.abs(spearman(orders)), vectorized=True,
        permutation_type="pairings", alternative="greater",
        n_resamples=math.factorial(n) if n <= EXACT else DRAWN,
        random_state=np.random.default_rng(seed_of(seed, stream)),
    )  # fmt: skip
    return Correlation(float(spearman(np.arange(n))), float(found.pvalue), len(values))


def _centred_ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks minus their mean: whole or half numbers, so that sums of products are exact and ties are ties."""
    return rankdata(values, axis=-1) - (values.shape[-1] + 1) / 2
