"""Rank correlations with their permutation test; a signed-rank test over classes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import permutation_test, rankdata, wilcoxon

from ..seeds import Stream, seed_of
from ..store.records import Count, Meta, Share

FEWEST = 3
"""Fewest pairs of values, and encoders, for a rank correlation: with two pairs it is always ±1."""
EXACT = 8
"""Up to this many things, every order is counted: 8! = 40,320."""
DRAWN = 9999
"""Number of random orders for more things."""

_RESAMPLES = 9999
_EXACT_SIGNS = 100  # most differences for an exact signed-rank test

Orders = NDArray[np.int64]


def p_value(p: float) -> str:
    """A p-value for a table: none is 0, however few orders of many were drawn.

    >>> p_value(0.0423), p_value(1e-5)
    ('0.042', '< 0.001')
    """
    return f"{p:.3f}" if p >= 0.0005 else "< 0.001"


def p_in_words(p: float) -> str:
    """A p-value for a sentence.

    >>> p_in_words(0.0423), p_in_words(1e-5)
    ('p = 0.042', 'p < 0.001')
    """
    value = p_value(p)
    return f"p {value}" if value.startswith("<") else f"p = {value}"


@dataclass(frozen=True)
class Correlation:
    """A rank correlation and how surprising it is.

    Attributes:
        spearman: Spearman's ρ; ``None`` for too few pairs, or if one side is constant.
        p: Two-sided permutation p-value; ``None`` likewise.
        n: Pairs of values.
    """

    spearman: Annotated[float, Meta(ge=-1, le=1)] | None
    p: Share | None
    n: Count

    def __str__(self) -> str:
        if self.spearman is None or self.p is None:
            return "not defined"
        return f"Spearman {self.spearman:+.2f}, {p_in_words(self.p)}"


def rank_agreement(first: Sequence[float], second: Sequence[float]) -> Correlation:
    """Correlate two rankings of the same things.

    p is the share of all orders of ``first`` whose correlation is at least as far from 0; see `permuted`. It is at
    least 1/3 for three values, 1/12 for four and 1/60 for five.

    Args:
        first: n values.
        second: n values, in the same order.
    """
    left, right = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if len(left) < FEWEST or np.ptp(left) == 0 or np.ptp(right) == 0:
        return Correlation(None, None, len(left))
    return permuted(lambda orders: left[orders], right, len(left), Stream.VALUE_ORDERS, 0)


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
    """Ranks minus their mean. They are multiples of ½, so sums of products, and hence ties, are exact."""
    return rankdata(values, axis=-1) - (values.shape[-1] + 1) / 2


# ---------------------------------------------------------------------------------------------------
# Over classes


@dataclass(frozen=True)
class ClassTest:
    """Whether a quantile differs from that of random real images, over C classes.

    Attributes:
        score: Mean over classes; 0.5 is what random real images have.
        interval: 95% bootstrap interval over classes.
        p: Two-sided Wilcoxon signed-rank test of the classes' quantiles against 0.5.
    """

    score: Share
    interval: tuple[Share, Share]
    p: Share


def class_test(quantiles: NDArray[np.float64], *, seed: int = 0) -> ClassTest:
    """Test the quantiles (C,) of C classes against 0.5.

    An image drawn from the real ones of its class has a quantile that is uniform on [0, 1], whatever the class's
    distribution, so the test assumes nothing about features.
    """
    rng = np.random.default_rng(seed_of(seed, Stream.BOOTSTRAP))
    means = rng.choice(quantiles, size=(_RESAMPLES, len(quantiles))).mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return ClassTest(float(quantiles.mean()), (float(low), float(high)), signed_rank_test(quantiles - 0.5))


def signed_rank_test(differences: NDArray[np.float64]) -> float:
    """Two-sided p-value of Wilcoxon's signed-rank test; differences (n,) of 0 are left out.

    For up to 100 differences p is exact, with ties too: the sign patterns that give each rank sum are counted. (SciPy
    has only the normal approximation for more than 13 differences with ties.) For more than 100 it is that
    approximation here, too.
    """
    differences = differences[differences != 0]
    if not len(differences):
        return 1.0
    if len(differences) > _EXACT_SIGNS:
        return float(wilcoxon(differences, method="approx").pvalue)
    ranks = np.rint(2 * rankdata(np.abs(differences))).astype(int)  # doubled, because ties have half ranks
    chance = np.zeros(ranks.sum() + 1)  # probability of each sum of positive ranks
    chance[0] = 1.0
    for rank in ranks:
        chance /= 2
        chance[rank:] += chance[:-rank].copy()
    found = int(ranks[differences > 0].sum())
    return float(min(1.0, 2 * min(chance[: found + 1].sum(), chance[found:].sum())))
