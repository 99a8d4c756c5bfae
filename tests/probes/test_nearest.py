"""The nearest neighbour as a probe."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import KNeighborsClassifier
from sklearn.utils.estimator_checks import parametrize_with_checks

from probedistill.errors import UserError
from probedistill.probes import nearest
from probedistill.probes.nearest import NearestProbe
from probedistill.probes.scores import score_probe


@parametrize_with_checks([NearestProbe(), NearestProbe("euclidean")])
def test_scikit_learn_contract(estimator, check):
    check(estimator)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**16), classes=st.integers(2, 5))
def test_it_predicts_what_scikit_learn_does(metric, seed, classes):
    rng = np.random.default_rng(seed)
    X, y = rng.normal(size=(23, 4)), rng.permutation(np.arange(23) % classes)
    new = rng.normal(size=(17, 4))
    expected = KNeighborsClassifier(1, metric=metric).fit(X, y).predict(new)
    assert NearestProbe(metric).fit(X, y).predict(new).tolist() == expected.tolist()


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_the_score_of_a_class_is_that_of_its_nearest_view(metric, monkeypatch):
    monkeypatch.setattr(nearest, "_ENTRIES", 50)  # in several blocks
    rng = np.random.default_rng(0)
    views, y = rng.normal(size=(3, 8, 5)), np.array([2, 0, 1, 1, 2, 0, 0, 2])
    new = rng.normal(size=(9, 5))
    probe = NearestProbe(metric).fit_views(torch.from_numpy(views), y)
    for i, x in enumerate(new):
        for c in range(3):
            kept = views[:, y == c].reshape(-1, 5)
            expected = -((kept - x) ** 2).sum(1)
            if metric == "cosine":
                expected = kept @ x / np.linalg.norm(kept, axis=1) / np.linalg.norm(x)
            assert probe.decision_function(new)[i, c] == pytest.approx(expected.max())


def test_training_images_are_their_own_neighbours():
    X = np.random.default_rng(0).normal(size=(12, 5))
    y = np.arange(12) % 6
    scores = score_probe(NearestProbe().fit(X, y), X, y, class_names="abcdef")
    assert scores.top1 == scores.top5 == 1


def test_lengths_of_features_matter_only_on_request():
    rng = np.random.default_rng(0)
    X, y, new = rng.normal(size=(20, 4)), np.arange(20) % 5, rng.normal(size=(30, 4))
    lengths = rng.uniform(0.1, 10, size=(20, 1))
    said = [NearestProbe().fit(scale * X, y).predict(new).tolist() for scale in (1, lengths)]
    assert said[0] == said[1]
    assert NearestProbe("euclidean").fit(lengths * X, y).predict(new).tolist() != said[0]


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_features_that_lie_far_from_zero_lose_nothing(metric):
    rng = np.random.default_rng(0)
    X = (rng.normal(size=(200, 64)) + 1e4).astype(np.float32)
    near = (X + 0.5 * rng.normal(size=X.shape)).astype(np.float32)
    found, exact = (NearestProbe(metric).fit(X.astype(dtype), np.arange(200)) for dtype in (np.float32, np.float64))
    assert np.array_equal(found.predict(near), exact.predict(near.astype(np.float64)))
    assert metric == "cosine" or np.array_equal(found.predict(near), np.arange(200))


def test_unknown_metric():
    with pytest.raises(UserError, match="unknown metric 'cosin'; did you mean 'cosine'"):
        NearestProbe("cosin").fit([[0.0], [1.0]], [0, 1])
