"""Rank correlations, and tests over classes: exact for small samples, by random draws for large ones."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import permutation_test, rankdata, spearmanr, wilcoxon

from probedistill.analysis.statistics import Correlation, class_test, mantel, rank_agreement, signed_rank_test

# ---------------------------------------------------------------- matrices of pairs


def test_correlation_and_its_p_value_are_those_of_every_relabelling():
    rng = np.random.default_rng(1)
    metric, accuracy = rng.normal(size=(2, 4, 4))
    accuracy += 1.5 * metric
    off = ~np.eye(4, dtype=bool)
    found = []
    for order in itertools.permutations(range(4)):
        found.append(spearmanr(metric[np.ix_(order, order)][off], accuracy[off]).statistic)
    said = mantel(metric, accuracy)
    assert said.spearman == pytest.approx(found[0])
    assert said.p == pytest.approx(np.mean(np.abs(found) >= abs(found[0]) - 1e-9))
    assert said.n == 12
    assert mantel(np.exp(metric), 3 * accuracy) == said, "ranks alone count"


def test_metrics_that_match_transfer_are_found_and_the_diagonal_is_ignored():
    rng = np.random.default_rng(0)
    metric = rng.normal(size=(5, 5))
    assert mantel(metric, np.where(np.eye(5) > 0, -99, metric)) == Correlation(pytest.approx(1), 1 / 120, 20)
    assert mantel(metric, -metric) == Correlation(pytest.approx(-1), 1 / 120, 20)


@pytest.mark.slow
def test_many_encoders_take_drawn_permutations():
    rng = np.random.default_rng(0)
    metric = rng.normal(size=(9, 9))
    assert mantel(metric, metric) == Correlation(pytest.approx(1), 1e-4, 72)
    noise = [mantel(metric, rng.normal(size=(9, 9)), seed=s).p for s in range(4)]
    assert 0.2 < np.mean(noise) < 0.8
    other = rng.normal(size=(9, 9))
    assert mantel(metric, other, seed=3) == mantel(metric, other, seed=3)


def test_unknown_pairs_are_left_out():
    rng = np.random.default_rng(0)
    metric = rng.normal(size=(5, 5))
    accuracy = metric.copy()
    accuracy[4], accuracy[:, 4] = np.nan, np.nan  # an encoder without results
    accuracy[1, 2] = np.nan
    assert mantel(metric, accuracy) == Correlation(pytest.approx(1), pytest.approx(1 / 24), 11)


def test_too_little_for_a_correlation_gives_none():
    assert mantel(np.eye(2), np.random.default_rng(0).normal(size=(2, 2))) == Correlation(None, None, 2)
    assert mantel(np.ones((3, 3)), np.random.default_rng(0).normal(size=(3, 3))) == Correlation(None, None, 6)
    assert mantel(np.random.default_rng(0).normal(size=(3, 3)), np.full((3, 3), np.nan)) == Correlation(None, None, 0)


def test_a_correlation_takes_three_known_pairs():
    metric = np.random.default_rng(0).normal(size=(3, 3))
    accuracy = np.full((3, 3), np.nan)
    accuracy[0, 1], accuracy[1, 2] = 0.4, 0.7
    assert mantel(metric, accuracy).spearman is None, "that of two pairs is always ±1"
    accuracy[2, 0] = 0.6
    assert mantel(metric, accuracy).spearman is not None


# ---------------------------------------------------------------- rankings


def test_agreement_is_exact_for_few_things():
    assert rank_agreement([1, 2, 3], [10, 20, 30]) == Correlation(pytest.approx(1), pytest.approx(1 / 3), 3)
    assert rank_agreement([1, 2, 3, 4], [4, 3, 2, 1]) == Correlation(pytest.approx(-1), pytest.approx(2 / 24), 4)
    assert rank_agreement([1, 2], [1, 2]) == Correlation(None, None, 2)
    assert rank_agreement([1, 1, 1], [1, 2, 3]) == Correlation(None, None, 3)


@settings(max_examples=8, deadline=None)
@given(values=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=3, max_size=5))
def test_agreement_equals_scipys(values):
    first, second = (list(column) for column in zip(*values, strict=True))
    found = rank_agreement(first, second)
    if found.spearman is None:
        assert len(set(first)) == 1 or len(set(second)) == 1
        return
    assert found.spearman == pytest.approx(spearmanr(first, second).statistic)
    expected = permutation_test(
        (first,), lambda x: spearmanr(x, second).statistic, permutation_type="pairings", n_resamples=10_000
    )
    count = len(list(itertools.permutations(first)))
    assert expected.null_distribution.size == count
    far = np.abs(expected.null_distribution) >= abs(found.spearman) - 1e-9
    assert found.p == pytest.approx(far.mean())


def test_agreement_uses_random_orders_for_many_things():
    found = rank_agreement(range(12), [*range(10), 11, 10])
    assert found.p == pytest.approx(1 / 10_000)
    assert found.spearman > 0.98


# ---------------------------------------------------------------- tests over classes


@given(st.lists(st.integers(-4, 4), min_size=1, max_size=9))
def test_signed_ranks_with_ties_are_counted_exactly(values):
    differences = np.array(values, float)
    kept = differences[differences != 0]
    ranks = rankdata(np.abs(kept))
    sums = [np.dot(ranks, signs) for signs in itertools.product((0, 1), repeat=len(kept))]
    found = ranks[kept > 0].sum()
    tail = min(np.mean(np.array(sums) <= found), np.mean(np.array(sums) >= found))
    assert signed_rank_test(differences) == pytest.approx(min(1, 2 * tail))


@pytest.mark.parametrize("count", [5, 40, 100, 300])
def test_signed_ranks_without_ties_equal_scipys(count):
    differences = np.random.default_rng(count).normal(0.1, 1, count)
    exact = "exact" if count <= 100 else "approx"
    assert signed_rank_test(differences) == pytest.approx(wilcoxon(differences, method=exact).pvalue, rel=1e-9)


def test_a_test_over_classes():
    assert class_test(np.full(10, 0.5)).p == 1
    outside = class_test(np.linspace(0.9, 1, 10))
    assert outside.score == pytest.approx(0.95)
    assert outside.interval[0] > 0.9
    assert outside.p == pytest.approx(2 / 2**10)
    inside = class_test(np.linspace(0, 0.1, 10))
    assert (inside.score, inside.p) == (pytest.approx(0.05), outside.p)
    quantiles = np.random.default_rng(0).uniform(size=40)
    mixed = class_test(quantiles)
    assert mixed.interval[0] < mixed.score < mixed.interval[1]
    assert mixed.interval[1] - mixed.score == pytest.approx(1.96 * quantiles.std() / 40**0.5, rel=0.15)
    assert class_test(quantiles) == mixed


def test_no_p_is_zero():
    """With ten encoders the least p is 1e-4, which was shown as 0.000."""
    assert str(Correlation(0.9, 1e-4, 90)) == "Spearman +0.90, p < 0.001"
    assert str(Correlation(0.9, 0.0412, 90)) == "Spearman +0.90, p = 0.041"
