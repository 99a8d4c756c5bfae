"""Classifier inheritance: properties of the closed form, in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.utils.estimator_checks import parametrize_with_checks

from probedistill import InheritedProbe, LinearProbe, UserError
from probedistill.probes.ridge import fit_ridge

CLASSES, SOURCE, TARGET = 3, 7, 5


def setting(seed=0, n=4, views=3, target=TARGET, rank=None):
    """Head, target views, labels and source views."""
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=(CLASSES, SOURCE))
    if rank is not None:
        weight = rng.normal(size=(CLASSES, rank)) @ rng.normal(size=(rank, SOURCE))
    y = np.concatenate([np.arange(CLASSES), rng.integers(0, CLASSES, n - CLASSES)])
    X = rng.normal(size=(views, n, target)) + np.eye(CLASSES, target)[y] * 2 + 1
    return weight, rng.normal(size=CLASSES), X, y, rng.normal(size=(views, n, SOURCE)) + 0.5


def expected_failures(_):
    """The head knows its classes before `fit` does."""
    indices = "y holds integers, the rows of the head"
    rows = "all classes of the head are predicted, however many y has"
    return {
        "check_classifiers_classes": indices,
        "check_classifiers_regression_target": indices,
        "check_dtype_object": indices,
        "check_estimators_nan_inf": indices,
        "check_classifiers_train": rows,
        "check_decision_proba_consistency": rows,
    }


@parametrize_with_checks([InheritedProbe(np.eye(4))], expected_failed_checks=expected_failures)
def test_scikit_learn_contract(estimator, check):
    check(estimator)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**16), n=st.integers(3, 9), target=st.integers(3, 40), ridge=st.floats(1e-3, 10))
def test_head_after_projector_is_the_ridge_probe_on_the_heads_logits(seed, n, target, ridge):
    weight, bias, X, y, source = setting(seed, n, target=target)
    probe = InheritedProbe(weight, bias, ridge=ridge).fit_views(X, y, source)
    projector, offset = probe.projector_
    np.testing.assert_allclose(probe.coef_, weight @ projector, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(probe.intercept_, weight @ offset + bias, rtol=1e-7, atol=1e-9)
    new = np.random.default_rng(1).normal(size=(6, target))
    np.testing.assert_allclose(probe.logits(new), (new @ projector.T + offset) @ weight.T + bias, atol=1e-8)
    coef, intercept = fit_ridge(X, source @ weight.T + bias, np.ones(n), ridge=ridge)
    np.testing.assert_allclose(probe.coef_, coef)
    np.testing.assert_allclose(probe.intercept_, intercept)


def test_projector_minimises_its_objective():
    weight, bias, X, y, source = setting(views=1, n=6)
    projector, offset = InheritedProbe(weight, bias, ridge=0.3).fit_views(X, y, source).projector_
    P, p = (torch.tensor(part, requires_grad=True) for part in (projector, offset))
    x, s = torch.from_numpy(X[0]), torch.from_numpy(source[0])
    penalty = 0.3 * float((x - x.mean(0)).square().sum()) / len(x)
    ((x @ P.T + p - s).square().sum() + penalty * P.square().sum()).backward()
    assert P.grad.abs().max() < 1e-9
    assert p.grad.abs().max() < 1e-9


def test_a_target_equal_to_the_source_inherits_the_unchanged_head():
    weight, bias, _, _, _ = setting()
    source = np.random.default_rng(2).normal(size=(4, 6, SOURCE))
    probe = InheritedProbe(weight, bias, ridge=1e-9).fit_views(source, [0, 1, 2, 0, 1, 2], source)
    np.testing.assert_allclose(probe.coef_, weight, atol=1e-6)
    np.testing.assert_allclose(probe.intercept_, bias, atol=1e-6)


@pytest.mark.parametrize("rank", [None, CLASSES - 1])
def test_without_source_features_it_equals_the_probe_from_scratch(rank):
    weight, bias, X, y, _ = setting(n=8)
    if rank is not None:  # like a ridge head's: its rows sum to 0
        weight = weight - weight.mean(axis=0)
    probe = InheritedProbe(weight, bias, ridge=0.7).fit_views(X, y)
    scratch = LinearProbe("ridge", ridge=0.7).fit_views(X, y)
    new = np.random.default_rng(1).normal(size=(20, TARGET))
    difference = probe.logits(new) - scratch.logits(new)
    np.testing.assert_allclose(difference, np.broadcast_to(difference[:, :1], difference.shape), atol=1e-9)
    projector, offset = probe.projector_
    np.testing.assert_allclose(probe.logits(new), (new @ projector.T + offset) @ weight.T + bias, atol=1e-9)


def test_prototypes_of_a_head_without_room_for_all_classes():
    weight, bias, X, y, _ = setting(n=8, rank=1)
    probe = InheritedProbe(weight, bias).fit_views(X, y)
    assert np.linalg.matrix_rank(probe.coef_, tol=1e-8) == 1
    assert np.isfinite(probe.logits(X[0])).all()


@pytest.mark.parametrize("rank", [None, 2])
def test_refining_lowers_the_cross_entropy_within_the_span_of_the_head(rank):
    weight, bias, X, y, source = setting(n=9, rank=rank)
    losses = []
    for steps in (0, 3, 30):
        probe = InheritedProbe(weight, bias, refine=steps, temperature=0.5).fit_views(X, y, source)
        logits = torch.from_numpy(probe.logits(X.reshape(-1, TARGET)) / 0.5)
        losses.append(float(torch.nn.functional.cross_entropy(logits, torch.from_numpy(np.tile(y, len(X))))))
        projector, offset = probe.projector_
        np.testing.assert_allclose(probe.coef_, weight @ projector, atol=1e-8)
        np.testing.assert_allclose(probe.intercept_, weight @ offset + bias, atol=1e-8)
        if steps == 0:
            start = projector
    assert losses[0] > losses[1] > losses[2]
    moved = projector - start
    outside = np.eye(SOURCE) - np.linalg.pinv(weight) @ weight
    np.testing.assert_allclose(outside @ moved, 0, atol=1e-7)


def test_fit_is_fit_views_with_one_view_and_equal_views_change_nothing():
    weight, bias, X, y, source = setting(views=1, n=6)
    plain = InheritedProbe(weight, bias).fit(torch.from_numpy(X[0]), torch.from_numpy(y), torch.from_numpy(source[0]))
    for views in (1, 3):
        other = InheritedProbe(weight, bias).fit_views(np.repeat(X, views, 0), y, np.repeat(source, views, 0))
        np.testing.assert_allclose(other.coef_, plain.coef_, atol=1e-10)


def test_conventions_and_costs():
    weight, bias, X, y, source = setting()
    probe = InheritedProbe(weight, bias, refine=2)
    assert probe.get_params() == {
        "head_weight": weight, "head_bias": bias, "ridge": 0.01, "refine": 2, "temperature": 0.1
    }  # fmt: skip
    with pytest.raises(NotFittedError):
        probe.predict(X[0])
    with pytest.raises(NotFittedError):
        probe.projector_  # noqa: B018
    fitted = clone(probe).fit_views(X, y, source)
    assert fitted.classes_.tolist() == [0, 1, 2]
    assert set(fitted.predict(X[0])) <= {0, 1, 2}
    assert fitted.n_features_in_ == TARGET
    assert fitted.n_parameters_ == sum(part.size for part in fitted.projector_) == SOURCE * (TARGET + 1)
    assert fitted.num_bytes_ == (SOURCE + 1) * CLASSES * 4
    with pytest.raises(ValueError, match="features"):
        fitted.predict(X[0][:, 1:])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"ridge": 0.0}, "ridge must be a positive number"),
        ({"temperature": -1.0}, "temperature must be a positive number"),
        ({"refine": -1}, "refine must be a whole number"),
        ({"refine": 1.5}, "refine must be a whole number"),
        ({"head_weight": np.ones(3)}, "head_weight must have shape"),
        ({"head_bias": np.ones(2)}, r"head_bias must have shape \(3,\), got \(2,\)"),
        ({"head_weight": np.full((3, SOURCE), np.nan)}, "must be finite"),
    ],
)
def test_bad_parameters(change, says):
    weight, bias, X, y, source = setting()
    with pytest.raises(UserError, match=says):
        InheritedProbe(**{"head_weight": weight, "head_bias": bias, **change}).fit_views(X, y, source)


def test_bad_input():
    weight, bias, X, y, source = setting()
    probe = InheritedProbe(weight, bias)
    with pytest.raises(UserError, match="y has class 3, but there are 3"):
        probe.fit_views(X, y + 1, source)
    with pytest.raises(UserError, match=r"source features must have shape \(3, 4, 7\).*got \(2, 4, 7\)"):
        probe.fit_views(X, y, source[:2])
    with pytest.raises(UserError, match="source features must have shape"):
        probe.fit(X[0], y, source[0][:, :3])
    with pytest.raises(ValueError, match="NaN"):
        probe.fit_views(X, y, np.full_like(source, np.nan))
