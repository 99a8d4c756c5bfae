from __future__ import annotations

import json
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import ClassifierMixin, clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neighbors import KNeighborsClassifier
from sklearn.utils.estimator_checks import parametrize_with_checks
from threadpoolctl import threadpool_limits

from probedistill.config import EvaluateConfig
from probedistill.errors import NonFiniteLossError, UserError
from probedistill.probes.linear import SOLVERS, LinearProbe
from probedistill.probes.ridge import fit_ridge
from probedistill.probes.scores import Scores, score_probe
from probedistill.probes.sgd import start_of
from probedistill.store.records import as_plain, from_plain

FAST_SGD = {"epochs": 30, "lr": 1.0}
PARAMETERS = {"ridge": {}, "logistic": {}, "sgd": FAST_SGD}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """With tiny matrices on busy cores, waiting threads made this file ten times slower."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with threadpool_limits(1):
        yield
    torch.set_num_threads(threads)


def make_probe(solver: str, **parameters) -> LinearProbe:
    return LinearProbe(solver, **{**PARAMETERS[solver], **parameters})


def blobs(n=120, d=6, classes=4, seed=0, spread=0.5, dtype=np.float64):
    rng = np.random.default_rng(seed)
    centres = 3 * np.eye(classes, d)
    y = np.arange(n) % classes
    return (centres[y] + spread * rng.normal(size=(n, d))).astype(dtype), y


def noise(n, d, classes=3, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)) + 2.0, np.concatenate([np.arange(classes), rng.integers(0, classes, n - classes)])


# ---- the estimator ------------------------------------------------------------------------


def expected_failures(probe):
    """sgd takes one step per image, whatever its weight; scikit-learn's own SGD is excused, too."""
    return {"check_sample_weight_equivalence_on_dense_data": "batches"} if probe.solver == "sgd" else {}


@parametrize_with_checks([make_probe(solver) for solver in SOLVERS], expected_failed_checks=expected_failures)
def test_scikit_learn_contract(estimator, check):
    check(estimator)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize("classes", [2, 4])
def test_learns_separable_blobs(solver, standardize, classes):
    X, y = blobs(classes=classes)
    X_test, y_test = blobs(classes=classes, seed=1)
    probe = make_probe(solver, standardize=standardize).fit(X, y)
    assert probe.score(X_test, y_test) > 0.95
    assert probe.coef_.shape == (classes, 6)
    assert probe.intercept_.shape == (classes,)
    logits = X_test @ probe.coef_.T + probe.intercept_
    np.testing.assert_allclose(probe.logits(X_test), logits)
    expected = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(probe.predict_proba(X_test), expected)


@pytest.mark.parametrize("solver", SOLVERS)
def test_tensors_and_arrays_give_the_same_probe(solver):
    X, y = blobs(dtype=np.float32)
    from_array = make_probe(solver).fit(X, y)
    tensor = torch.from_numpy(X).requires_grad_()
    from_tensor = make_probe(solver).fit(tensor, torch.from_numpy(y))
    np.testing.assert_array_equal(from_array.coef_, from_tensor.coef_)
    np.testing.assert_array_equal(from_array.predict(X), from_tensor.predict(tensor))
    assert make_probe(solver).fit(tensor.bfloat16(), y).score(X, y) > 0.95


def test_scores_are_counted_in_arrays(monkeypatch):
    """Some releases of scikit-learn cannot compare a tensor with predictions, which are an array."""
    X, y = blobs()
    seen = []
    monkeypatch.setattr(ClassifierMixin, "score", lambda self, *given: seen.extend(map(type, given)) or 0.5)
    tensors = torch.as_tensor(X, dtype=torch.float32), torch.as_tensor(y)
    assert make_probe("ridge").fit(*tensors).score(*tensors) == 0.5
    assert seen == [np.ndarray, np.ndarray, type(None)]


@pytest.mark.parametrize("solver", SOLVERS)
def test_one_image_per_class_for_many_classes_gives_no_warning(solver):
    X = np.random.default_rng(0).normal(size=(30, 40))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        probe = make_probe(solver).fit(X, np.arange(30))
    assert probe.coef_.shape == (30, 40)
    with pytest.raises(ValueError, match="Unknown label type"):
        make_probe(solver).fit(X, np.arange(30) + 0.5)


@pytest.mark.parametrize("solver", SOLVERS)
def test_labels_of_any_kind(solver):
    X, y = blobs()
    words = np.array(["wren", "auk", "kite", "dove"])[y]
    probe = make_probe(solver).fit(X, words)
    assert probe.classes_.tolist() == ["auk", "dove", "kite", "wren"]
    assert probe.score(X, words) > 0.95


@pytest.mark.parametrize("solver", SOLVERS)
def test_global_state_is_left_alone(solver, request):
    request.addfinalizer(lambda: torch.set_num_threads(1))
    torch.set_num_threads(2)
    X, y = blobs()
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    grad = torch.is_grad_enabled()
    make_probe(solver, random_state=None).fit(X, y)
    assert torch.equal(torch_state, torch.get_rng_state())
    np.testing.assert_array_equal(numpy_state, np.random.get_state()[1])  # noqa: NPY002
    assert (torch.get_num_threads(), torch.is_grad_enabled()) == (2, grad)


@pytest.mark.parametrize("solver", SOLVERS)
def test_standardize_equals_fitting_on_standardized_features(solver):
    X, y = noise(40, 5)
    X *= [1, 10, 0.1, 3, 0]
    mean, scale = X.mean(0), X.std(0)
    scale[-1] = 1
    inside = make_probe(solver, standardize=True).fit(X, y)
    outside = make_probe(solver).fit((X - mean) / scale, y)
    if solver == "logistic":  # its own scaling by one number differs, because only four of five features vary
        outside = make_probe(solver, standardize=True).fit((X - mean) / scale, y)
    np.testing.assert_allclose(inside.logits(X), outside.logits((X - mean) / scale), atol=1e-6)


@pytest.mark.parametrize("solver", ["ridge", "logistic"])
@settings(max_examples=15, deadline=None)
@given(exponent=st.floats(-4, 4), seed=st.integers(0, 2**16), wide=st.booleans())
def test_scale_of_the_features_does_not_change_logits(solver, exponent, seed, wide):
    X, y = noise(9 if wide else 30, 12 if wide else 4, seed=seed)
    logits = LinearProbe(solver).fit(X, y).logits(X)
    scaled = LinearProbe(solver).fit(X * 10**exponent, y).logits(X * 10**exponent)
    np.testing.assert_allclose(scaled, logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("solver", ["ridge", "logistic"])
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**16), wide=st.booleans())
def test_order_of_images_and_features_does_not_matter(solver, seed, wide):
    X, y = noise(9 if wide else 30, 12 if wide else 4, seed=seed)
    rng = np.random.default_rng(seed)
    rows, columns = rng.permutation(len(X)), rng.permutation(X.shape[1])
    plain = LinearProbe(solver).fit(X, y)
    permuted = LinearProbe(solver).fit(X[rows][:, columns], y[rows])
    np.testing.assert_allclose(permuted.coef_, plain.coef_[:, columns], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("solver", SOLVERS)
def test_balanced_classes_raise_the_recall_of_the_rare_class(solver):
    rng = np.random.default_rng(0)
    y = (np.arange(400) % 20 == 0).astype(int)
    X = rng.normal(size=(400, 3)) + 1.2 * y[:, None]
    plain = make_probe(solver).fit(X, y)
    balanced = make_probe(solver, class_weight="balanced").fit(X, y)
    assert (balanced.predict(X)[y == 1] == 1).mean() > (plain.predict(X)[y == 1] == 1).mean() + 0.2


@pytest.mark.parametrize("solver", ["ridge", "sgd"])  # logistic divides by the variance of the weighted features
def test_balanced_classes_are_balanced_whatever_the_images_weigh(solver):
    X, y = blobs(n=90, classes=3)
    for_class = np.array([1.0, 1.75, 0.25])  # the same total weight as 90 images
    plain = make_probe(solver).fit(X, y)  # 30 images per class
    weighted = make_probe(solver, class_weight="balanced").fit(X, y, sample_weight=for_class[y])
    np.testing.assert_allclose(weighted.coef_, plain.coef_, rtol=1e-6, atol=1e-9)
    assert not np.allclose(make_probe(solver).fit(X, y, sample_weight=for_class[y]).coef_, plain.coef_, rtol=1e-2)


@pytest.mark.parametrize("solver", ["ridge", "logistic"])
@pytest.mark.parametrize("parameters", [{}, {"standardize": True}, {"class_weight": "balanced"}])
def test_an_image_of_weight_two_counts_as_two_images(solver, parameters):
    X, y = noise(40, 5)
    counts = np.random.default_rng(1).integers(0, 3, 40)
    views = np.stack([X, X + 0.1])
    repeated = LinearProbe(solver, **parameters).fit_views(views.repeat(counts, axis=1), y.repeat(counts))
    weights = torch.from_numpy(counts)
    weighted = LinearProbe(solver, **parameters).fit_views(torch.from_numpy(views), y, sample_weight=weights)
    np.testing.assert_allclose(weighted.coef_, repeated.coef_, rtol=1e-5, atol=1e-6)
    soft = np.random.default_rng(2).dirichlet(np.ones(3), 40)
    repeated = LinearProbe(solver, **parameters).fit(X.repeat(counts, axis=0), y.repeat(counts), soft.repeat(counts, 0))
    weighted = LinearProbe(solver, **parameters).fit(X, y, soft, sample_weight=weights)
    np.testing.assert_allclose(weighted.coef_, repeated.coef_, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("solver", SOLVERS)
def test_invalid_weights_of_images_are_refused(solver):
    X, y = blobs(n=8)
    for weights in (np.ones(7), np.ones((8, 1)), 2.0):
        with pytest.raises(UserError, match="a weight for each of 8 images"):
            make_probe(solver).fit(X, y, sample_weight=weights)
    for weight in (-1, np.nan, np.inf):
        with pytest.raises(UserError, match="finite weights ≥ 0"):
            make_probe(solver).fit(X, y, sample_weight=[weight, *[1] * 7])
    with pytest.raises(UserError, match="sample_weight is zero for all of class 2; leave it out"):
        make_probe(solver).fit(X, y, sample_weight=y != 2)


# ---- ridge --------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "d"), [(10, 25), (25, 10), (12, 12)])
def test_ridge_primal_equals_dual(n, d):
    X, y = noise(n, d)
    weights = np.random.default_rng(1).uniform(0.5, 2, n)
    views = np.stack([X, X + np.random.default_rng(2).normal(size=X.shape)])
    primal, dual = (fit_ridge(views, y, weights, ridge=0.05, dual=dual) for dual in (False, True))
    np.testing.assert_allclose(primal[0], dual[0], rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(primal[1], dual[1], rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize(("n", "d"), [(10, 25), (60, 10)])
@pytest.mark.parametrize("class_weight", [None, "balanced"])
@pytest.mark.parametrize("chunk_rows", [7, 8192])
def test_ridge_equals_scikit_learn_on_one_hot_targets(n, d, class_weight, chunk_rows, monkeypatch):
    monkeypatch.setattr("probedistill.probes.ridge._CHUNK_ROWS", chunk_rows)
    X, y = noise(n, d)
    weights = np.ones(n) if class_weight is None else n / (3 * np.bincount(y)[y])
    centred = X - np.average(X, axis=0, weights=weights)
    alpha = 0.3 * np.sum(weights[:, None] * centred**2) / n
    reference = Ridge(alpha=alpha, solver="cholesky").fit(X, np.eye(3)[y], sample_weight=weights)
    probe = LinearProbe("ridge", ridge=0.3, class_weight=class_weight).fit(X, y)
    np.testing.assert_allclose(probe.coef_, reference.coef_, rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(probe.intercept_, reference.intercept_, rtol=1e-8)
    assert probe.n_iter_ == 1


def test_ridge_on_constant_features_predicts_the_most_frequent_class():
    probe = LinearProbe("ridge").fit(np.full((5, 3), 2.0), [0, 1, 1, 1, 2])
    assert probe.predict([[2.0, 2.0, 2.0], [9.0, 0.0, 1.0]]).tolist() == [1, 1]


# ---- logistic -----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize("d", [3, 12])
def test_rounding_errors_of_constant_features_are_not_variance(dtype, standardize, d):
    """The mean of seven times 0.1 is not quite 0.1."""
    probe = LinearProbe("ridge", standardize=standardize).fit(np.full((7, d), 0.1, dtype), [0, 0, 0, 0, 1, 1, 2])
    np.testing.assert_allclose(probe.logits(np.full((2, d), 5.0)), np.tile([4 / 7, 2 / 7, 1 / 7], (2, 1)), atol=1e-9)


def test_nearly_constant_features_still_tell_classes_apart():
    X, y = blobs()
    probe, small = (LinearProbe("ridge").fit(one, y) for one in (X, X * 1e-7 + 1.0))
    assert np.array_equal(small.predict(X * 1e-7 + 1.0), probe.predict(X))


@pytest.mark.parametrize("classes", [2, 3])
def test_logistic_is_the_minimum_of_its_objective(classes):
    X, y = noise(40, 5, classes=classes)
    probe = LinearProbe("logistic", C=0.7).fit(X, y)
    scale = np.sqrt(X.var(axis=0).mean())
    coef = torch.tensor(probe.coef_ * scale, requires_grad=True)
    bias = torch.tensor(probe.intercept_, requires_grad=True)
    logits = torch.from_numpy(X / scale) @ coef.T + bias
    loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(y), reduction="sum")
    (loss + coef.square().sum() / (2 * 0.7)).backward()
    assert coef.grad.abs().max() < 1e-4 * len(X)
    assert bias.grad.abs().max() < 1e-4 * len(X)
    assert probe.coef_.std() > 0.01
    assert probe.n_iter_ > 1


def test_logistic_equals_scikit_learn_on_scaled_features():
    X, y = noise(50, 4)
    scale = np.sqrt(X.var(axis=0).mean())
    reference = LogisticRegression(C=2.0, tol=1e-8, max_iter=5000).fit(X / scale, y)
    probe = LinearProbe("logistic", C=2.0).fit(X, y)
    np.testing.assert_allclose(probe.predict_proba(X), reference.predict_proba(X / scale), atol=1e-4)


@pytest.mark.parametrize(("n", "d", "views"), [(30, 50, 1), (60, 8, 5), (12, 5, 17)])
def test_logistic_is_scikit_learns_minimum_with_many_classes_and_unequal_features(n, d, views):
    """Features in few main directions, fewer samples than features and more, hard classes and weights."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(views, n, d)) * np.geomspace(30, 0.01, d) @ np.linalg.qr(rng.normal(size=(d, d)))[0]
    y, weights = np.arange(n) % 12, rng.uniform(0.2, 3, size=n)
    flat = X.reshape(-1, d)
    rows = np.tile(weights, views)
    flat = flat - np.average(flat, axis=0, weights=rows)
    flat /= np.sqrt(np.average(flat**2, axis=0, weights=rows).mean())
    reference = LogisticRegression(tol=1e-12, max_iter=50_000).fit(flat, np.tile(y, views), rows / views)
    probe = LinearProbe("logistic").fit_views(X, y, sample_weight=weights)
    np.testing.assert_allclose(probe.predict_proba(X.reshape(-1, d)), reference.predict_proba(flat), atol=2e-3)


def test_logistic_is_scikit_learns_minimum_with_an_outlier():
    """It had most of the variance of its direction, but no influence: the fit ended before the others were learned."""
    rng = np.random.default_rng(0)
    y = np.arange(100) % 3
    X = rng.normal(size=(3, 10))[y] + rng.normal(size=(100, 10))
    X[0] *= 10_000
    scaled = (X - X.mean(axis=0)) / np.sqrt(X.var(axis=0).mean())
    reference = LogisticRegression(C=1e4, tol=1e-10, max_iter=500, solver="newton-cg").fit(scaled, y)
    probe = LinearProbe("logistic", C=1e4).fit(X, y)
    np.testing.assert_allclose(probe.predict_proba(X), reference.predict_proba(scaled), atol=1e-2)


@pytest.mark.slow
def test_logistic_takes_few_passes_for_many_classes(monkeypatch):
    """Two hundred classes, one image each, whose features vary as those of encoders do."""
    rng = np.random.default_rng(1)
    X = rng.normal(size=(200, 300)) / np.arange(1, 301)
    assert LinearProbe("logistic").fit(X, np.arange(200)).n_iter_ < 250


def test_logistic_warns_when_it_did_not_converge(monkeypatch):
    X, y = noise(40, 5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        LinearProbe("logistic").fit(X, y)
    monkeypatch.setattr("probedistill.probes.logistic._LOGISTIC_MAX_ITER", 2)
    with pytest.warns(ConvergenceWarning):
        LinearProbe("logistic").fit(X, y)


# ---- sgd ----------------------------------------------------------------------------------


def start_papers(layer):
    torch.nn.init.normal_(layer.weight, std=0.01)
    torch.nn.init.zeros_(layer.bias)


def start_zero(layer):
    torch.nn.init.zeros_(layer.weight)
    torch.nn.init.zeros_(layer.bias)


STARTS = {"papers": start_papers, "zero": start_zero, "linear": torch.nn.Linear.reset_parameters}


def reference_sgd(views, y, *, epochs, lr, batch_size, seed, class_weights=None, init="papers"):
    """The papers' protocol with torch's own layer, initialisation, loss, optimiser and schedule."""
    n, d = views.shape[1:]
    X, targets = torch.from_numpy(views), torch.from_numpy(y)
    layer = torch.nn.Linear(d, int(y.max()) + 1)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        STARTS[init](layer)
        shuffling = torch.Generator()
        shuffling.set_state(torch.get_rng_state())
    layer = layer.to(X.dtype)
    batch = min(n, batch_size)
    optimizer = torch.optim.Adam(layer.parameters(), lr=lr * batch / 256)
    steps = epochs * -(-n // batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for epoch in range(epochs):
        for rows in torch.randperm(n, generator=shuffling).split(batch):
            losses = torch.nn.functional.cross_entropy(layer(X[epoch % len(X)][rows]), targets[rows], reduction="none")
            if class_weights is not None:
                losses = losses * torch.from_numpy(class_weights)[targets[rows]]
            optimizer.zero_grad()
            losses.mean().backward()
            optimizer.step()
            schedule.step()
    return layer.weight.detach().numpy(), layer.bias.detach().numpy()


@pytest.mark.parametrize("n_views", [1, 3])
@pytest.mark.parametrize(("n", "batch_size"), [(7, 100), (11, 4)])
@pytest.mark.parametrize("class_weights", [None, {0: 0.5, 1: 2.0, 2: 1.0}])
def test_sgd_equals_torch_adam_with_autograd(n_views, n, batch_size, class_weights):
    _, y = noise(n, 5)
    views = np.random.default_rng(3).normal(size=(n_views, n, 5))
    settings_ = {"epochs": 5, "lr": 2.0, "batch_size": batch_size}
    probe = LinearProbe("sgd", random_state=9, class_weight=class_weights, **settings_).fit_views(views, y)
    weights = None if class_weights is None else np.array(list(class_weights.values()))
    coef, intercept = reference_sgd(views, y, seed=9, class_weights=weights, **settings_)
    np.testing.assert_allclose(probe.coef_, coef, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(probe.intercept_, intercept, rtol=1e-9, atol=1e-12)
    assert probe.n_iter_ == 5


@pytest.mark.parametrize("init", list(STARTS))
def test_sgd_starts_with_the_requested_initialisation(init):
    _, y = noise(9, 5)
    views = np.random.default_rng(3).normal(size=(2, 9, 5))
    settings_ = {"epochs": 3, "lr": 2.0, "batch_size": 4}
    probe = LinearProbe("sgd", random_state=2, init=init, **settings_).fit_views(views, y)
    coef, intercept = reference_sgd(views, y, seed=2, init=init, **settings_)
    np.testing.assert_allclose(probe.coef_, coef, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(probe.intercept_, intercept, rtol=1e-9, atol=1e-12)


def test_sgd_starts_near_zero_with_no_bias():
    """After almost no training the weights are still N(0, 0.01²), and the bias 0."""
    X, y = blobs(n=40, d=500)
    probe = LinearProbe("sgd", epochs=1, lr=1e-12).fit(X, y)
    assert probe.coef_.std() == pytest.approx(0.01, rel=0.05)
    assert abs(probe.coef_.mean()) < 1e-3
    assert np.abs(probe.intercept_).max() < 1e-9


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sgd_is_reproducible_for_a_seed_and_differs_between_seeds(dtype):
    X, y = blobs(dtype=dtype)
    first, second = (make_probe("sgd", random_state=3).fit(X, y) for _ in range(2))
    other = make_probe("sgd", random_state=4).fit(X, y)
    assert first.coef_.dtype == first.intercept_.dtype == dtype
    np.testing.assert_array_equal(first.coef_, second.coef_)
    np.testing.assert_array_equal(first.intercept_, second.intercept_)
    assert np.abs(first.coef_ - other.coef_).max() > 1e-3
    unseeded = [make_probe("sgd", random_state=None).fit(X, y).coef_ for _ in range(2)]
    assert np.abs(unseeded[0] - unseeded[1]).max() > 1e-3
    shared = np.random.RandomState(0)
    drawn = [make_probe("sgd", random_state=shared).fit(X, y).coef_ for _ in range(2)]
    assert np.abs(drawn[0] - drawn[1]).max() > 1e-3


def test_sgd_takes_one_view_per_epoch():
    # Feature v is non-zero only in view v, so after e epochs only the weights of the first e features have
    # changed.
    y = np.array([0, 1, 2, 0])
    views = np.zeros((3, 4, 3))
    for view in range(3):
        views[view, :, view] = [1.0, -1.0, 2.0, 0.5]
    weight, _ = start_of("papers", 3, 3, torch.Generator().manual_seed(0))
    for epochs, moved in [
        (1, [True, False, False]),
        (2, [True, True, False]),
        (3, [True] * 3),
        (7, [True] * 3),
    ]:
        probe = LinearProbe("sgd", epochs=epochs, lr=1.0).fit_views(views, y)
        assert (np.abs(probe.coef_ - weight.numpy()).max(axis=0) > 1e-4).tolist() == moved


@pytest.mark.parametrize("solver", SOLVERS)
def test_fit_is_fit_views_with_one_view(solver):
    X, y = blobs()
    one = make_probe(solver).fit_views(X[None], y)
    plain = make_probe(solver).fit(X, y)
    np.testing.assert_array_equal(one.coef_, plain.coef_)
    np.testing.assert_array_equal(one.intercept_, plain.intercept_)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("class_weight", [None, "balanced"])
def test_equal_views_change_nothing(solver, class_weight):
    X, y = noise(14, 5)
    plain = make_probe(solver, class_weight=class_weight).fit(X, y)
    views = make_probe(solver, class_weight=class_weight).fit_views(np.stack([X] * 3), y)
    np.testing.assert_allclose(views.logits(X), plain.logits(X), atol=1e-5)


@pytest.mark.parametrize("solver", ["ridge", "logistic"])
def test_all_views_are_used(solver):
    # Each single view lacks the feature that separates two of the three classes.
    y = np.array([0, 1, 2] * 4)
    first, second = np.zeros((12, 2)), np.zeros((12, 2))
    first[y == 1, 0] = 1.0
    second[y == 2, 1] = 1.0
    probe = make_probe(solver).fit_views(np.stack([first, second]), y)
    assert probe.predict(np.eye(2)).tolist() == [1, 2]
    np.testing.assert_allclose(make_probe(solver).fit(first, y).coef_[:, 1], 0, atol=1e-12)


# ---- soft targets -------------------------------------------------------------------------


def soft_rows(n, classes, seed=0, views=None):
    rng = np.random.default_rng(seed)
    return rng.dirichlet(np.ones(classes), size=n if views is None else (views, n))


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("class_weight", [None, "balanced", {0: 0.3, 1: 4.0}])
@pytest.mark.parametrize("classes", [2, 4])
def test_one_hot_targets_give_the_probe_of_the_labels(solver, class_weight, classes):
    X, y = noise(17, 5, classes=classes)
    views = np.stack([X, X + 0.1, X * 1.1])
    plain = make_probe(solver, class_weight=class_weight).fit_views(views, y)
    for targets in (np.eye(classes)[y], np.tile(np.eye(classes)[y], (3, 1, 1))):
        soft = make_probe(solver, class_weight=class_weight).fit_views(views, y, targets)
        np.testing.assert_allclose(soft.logits(X), plain.logits(X), atol=1e-6)
        assert soft.classes_.tolist() == list(range(classes))


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**16), share=st.floats(0, 1), wide=st.booleans())
def test_ridge_is_linear_in_its_targets(seed, share, wide):
    n = 9
    X = np.random.default_rng(seed).normal(size=(2, n, 12 if wide else 3))
    y = np.arange(n) % 3
    one, two = soft_rows(n, 3, seed), soft_rows(n, 3, seed + 1)
    logits = [LinearProbe().fit_views(X, y, t).logits(X[0]) for t in (one, two, share * one + (1 - share) * two)]
    np.testing.assert_allclose(logits[2], share * logits[0] + (1 - share) * logits[1], atol=1e-9)
    of_units = LinearProbe().fit_views(X, np.arange(n), np.eye(n)).logits(X[0])
    np.testing.assert_allclose(of_units @ one, logits[0], atol=1e-9)


def test_soft_ridge_equals_scikit_learn():
    X, _ = noise(20, 6)
    targets = soft_rows(20, 4)
    alpha = 0.3 * np.sum((X - X.mean(0)) ** 2) / 20
    reference = Ridge(alpha=alpha, solver="cholesky").fit(X, targets)
    probe = LinearProbe(ridge=0.3).fit(X, np.zeros(20, int), targets)
    np.testing.assert_allclose(probe.logits(X), reference.predict(X), rtol=1e-8)


@pytest.mark.parametrize("per_view", [False, True])
def test_soft_ridge_of_several_views_equals_scikit_learn(per_view):
    """Each view is a sample of weight 1/V, with its image's targets or its own."""
    X, targets = np.random.default_rng(0).normal(size=(3, 8, 4)), soft_rows(8, 3, views=3 if per_view else None)
    flat = X.reshape(-1, 4)
    alpha = 0.3 * np.sum((flat - flat.mean(0)) ** 2) / 3 / 8
    rows = np.broadcast_to(targets, (3, 8, 3)).reshape(-1, 3)
    reference = Ridge(alpha=alpha, solver="cholesky").fit(flat, rows, sample_weight=np.full(24, 1 / 3))
    probe = LinearProbe(ridge=0.3).fit_views(X, np.zeros(8, int), targets)
    np.testing.assert_allclose(probe.logits(flat), reference.predict(flat), rtol=1e-8)


@pytest.mark.parametrize("per_view", [False, True])
def test_soft_logistic_equals_samples_repeated_for_each_class(per_view):
    X = np.random.default_rng(0).normal(size=(2, 15, 4))
    y, targets = np.arange(15) % 3, soft_rows(15, 3, views=2 if per_view else None)
    probe = LinearProbe("logistic", C=0.8).fit_views(X, y, targets)
    flat = X.reshape(-1, 4)
    flat = (flat - flat.mean(0)) / np.sqrt(flat.var(0).mean())
    weights = np.broadcast_to(targets, (2, 15, 3)).reshape(-1) / 2
    reference = LogisticRegression(C=0.8, tol=1e-10, max_iter=5000)
    reference.fit(np.repeat(flat, 3, axis=0), np.tile(np.arange(3), 30), sample_weight=weights)
    np.testing.assert_allclose(probe.predict_proba(X.reshape(-1, 4)), reference.predict_proba(flat), atol=1e-4)


def test_soft_sgd_equals_torch_adam_with_autograd():
    views, targets = np.random.default_rng(3).normal(size=(2, 11, 5)), soft_rows(11, 3, views=2)
    probe = LinearProbe("sgd", random_state=9, epochs=5, lr=2.0, batch_size=4).fit_views(
        views, np.arange(11) % 3, targets
    )
    X, rows_of = torch.from_numpy(views), torch.from_numpy(targets)
    layer = torch.nn.Linear(5, 3)
    with torch.random.fork_rng():
        torch.manual_seed(9)
        start_papers(layer)
        shuffling = torch.Generator()
        shuffling.set_state(torch.get_rng_state())
    layer = layer.double()
    optimizer = torch.optim.Adam(layer.parameters(), lr=2.0 * 4 / 256)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 15)
    for epoch in range(5):
        for rows in torch.randperm(11, generator=shuffling).split(4):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(layer(X[epoch % 2][rows]), rows_of[epoch % 2][rows]).backward()
            optimizer.step()
            schedule.step()
    np.testing.assert_allclose(probe.coef_, layer.weight.detach().numpy(), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(probe.intercept_, layer.bias.detach().numpy(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("solver", SOLVERS)
def test_soft_targets_include_classes_without_labels(solver):
    X, y = blobs(classes=3)
    probe = make_probe(solver).fit(torch.from_numpy(X), np.zeros(len(X), int), torch.eye(5)[torch.from_numpy(y)].half())
    assert probe.classes_.tolist() == [0, 1, 2, 3, 4]
    assert probe.score(X, y) > 0.95


def test_bad_targets():
    X, y = blobs()
    rows = np.full((120, 4), 0.25)
    for targets in (rows[:-1], rows[0], np.stack([rows, rows]), np.ones((120, 1))):
        with pytest.raises(UserError, match=r"targets must have shape .* for 120 images"):
            LinearProbe().fit(X, y, targets)
    for targets in (rows * 1.01, np.tile([1.5, -0.5, 0.0, 0.0], (120, 1)), rows * np.nan):
        with pytest.raises(UserError, match="targets must be rows of finite weights ≥ 0 that sum to 1"):
            LinearProbe().fit(X, y, targets)
    with pytest.raises(UserError, match="y has class 3, but there are 3"):
        LinearProbe().fit(X, y, np.full((120, 3), 1 / 3))
    with pytest.raises(UserError, match="y must be a list of integer"):
        LinearProbe().fit(X, np.array(list("abcd"))[y], rows)


# ---- bad input ----------------------------------------------------------------------------


def test_unknown_solver_is_named_with_the_nearest():
    with pytest.raises(UserError, match="unknown solver 'rigde'; did you mean 'ridge'"):
        LinearProbe("rigde").fit(*blobs())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ridge", 0.0),
        ("ridge", "1"),
        ("ridge", None),
        ("C", -1.0),
        ("lr", float("nan")),
        ("epochs", 0),
        ("epochs", 1.5),
        ("epochs", "10"),
        ("epochs", float("inf")),
        ("batch_size", 0),
        ("class_weight", {0: -1.0}),
        ("class_weight", {0: 0, 1: 0, 2: 0, 3: 0}),
        ("class_weight", {0: float("nan")}),
    ],
)
def test_parameter_out_of_range(name, value):
    with pytest.raises(UserError, match=name):
        LinearProbe(**{name: value}).fit(*blobs())


def test_numbers_of_numpy_are_parameters():
    probe = LinearProbe("sgd", epochs=np.int64(3), batch_size=np.float64(20), lr=np.float32(0.5)).fit(*blobs())
    assert probe.n_iter_ == 3


def test_a_missing_device_is_one_line():
    with pytest.raises(UserError, match=r"device 'gpu' cannot be used .*; try auto or cpu"):
        LinearProbe("sgd", epochs=1, device="gpu").fit(*blobs())


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_non_finite_features(solver, bad):
    X, y = blobs()
    X[3, 2] = bad
    with pytest.raises(ValueError, match=r"X contains"):
        make_probe(solver).fit(X, y)
    with pytest.raises(ValueError, match=r"X_views contains"):
        make_probe(solver).fit_views(np.stack([np.zeros_like(X), X]), y)
    probe = make_probe(solver).fit(*blobs())
    with pytest.raises(ValueError, match=r"X contains"):
        probe.predict(X)


def test_wrong_shapes_and_labels():
    X, y = blobs()
    with pytest.raises(UserError, match="1 class: 7"):
        LinearProbe().fit(X, np.full(len(X), 7))
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        LinearProbe().fit(X, y[:-1])
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        LinearProbe().fit_views(X[None], y[:-1])
    with pytest.raises(UserError, match=r"X_views must have shape .*\(120, 6\)"):
        LinearProbe().fit_views(X, y)
    with pytest.raises(ValueError, match="dim 3"):
        LinearProbe().fit(X[None], y)


def test_the_sgd_probe_is_the_papers_protocol_unless_told_otherwise():
    """1,000 epochs, a step of 0.001 · batch / 256, batches of up to 100, weights from N(0, 0.01²)."""
    probe, protocol = LinearProbe("sgd").get_params(), EvaluateConfig()
    assert (probe["epochs"], probe["lr"], probe["batch_size"], probe["init"]) == (1000, 1e-3, 100, "papers")
    assert (protocol.epochs, protocol.seeds) == (1000, 5)
    assert (probe["ridge"], probe["C"]) == (1.0, 1.0)  # λ is the kernel's mean diagonal, and C scikit-learn's


def test_diverged_sgd_is_an_error():
    X, y = blobs(dtype=np.float32)
    with pytest.raises(NonFiniteLossError, match="lr=1e\\+37"):
        LinearProbe("sgd", epochs=50, lr=1e37).fit(X * 1e3, y)


def test_a_clone_keeps_the_parameters():
    parameters = {"solver": "sgd", "epochs": 3, "ridge": 2.0, "class_weight": "balanced", "random_state": 5}
    assert parameters.items() <= clone(LinearProbe(**parameters)).get_params().items()


# ---- scores -------------------------------------------------------------------------------


def fixed(classes):
    """Return a probe whose logits are the features themselves."""
    return SimpleNamespace(classes_=np.asarray(classes), decision_function=lambda X: np.asarray(X, float))


def test_scores_of_a_hand_made_case():
    names = ["a", "b", "c", "d", "e", "f"]
    logits = [
        [9, 1, 2, 3, 4, 5],  # class 0: first
        [5, 4, 3, 2, 1, 0],  # class 0: first
        [9, 8, 7, 6, 5, 4],  # class 1: second
        [0, 1, 2, 3, 4, 5],  # class 1: fifth
        [0, 1, 2, 3, 4, 5],  # class 0: sixth
        [0, 9, 1, 2, 3, 4],  # class 5: second
    ]
    scores = score_probe(fixed(range(6)), logits, [0, 0, 1, 1, 0, 5], class_names=names, groups=list("xxxyyy"))
    assert scores.top1 == pytest.approx(2 / 6)
    assert scores.top5 == pytest.approx(5 / 6)
    assert scores.per_class == pytest.approx({"a": 2 / 3, "b": 0.0, "f": 0.0})
    assert scores.balanced == pytest.approx(2 / 9)
    assert scores.groups == pytest.approx({"x": 2 / 3, "y": 0.0})
    assert scores.worst_group == 0.0
    assert "per_class" not in repr(scores)  # as many numbers as classes
    assert scores.n == 6
    assert from_plain(json.loads(json.dumps(as_plain(scores))), Scores) == scores
    assert scores.per_class["a"] == pytest.approx(2 / 3)


def test_no_top5_below_five_classes_and_no_groups_without_groups():
    scores = score_probe(fixed(range(4)), np.eye(4), [0, 1, 2, 0], class_names=list("abcd"))
    assert (scores.top1, scores.top5, scores.groups, scores.worst_group) == (0.75, None, None, None)
    assert score_probe(fixed(range(5)), np.eye(5), [0, 1, 2, 0, 1], class_names=list("abcde")).top5 == 1


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**16), classes=st.integers(5, 60), values=st.integers(2, 40))
def test_the_five_best_match_a_stable_sort(seed, classes, values):
    """For equal logits the lower class comes first, however many classes there are."""
    rng = np.random.default_rng(seed)
    logits, y = rng.integers(0, values, (20, classes)).astype(float), rng.integers(0, classes, 20)
    order = np.argsort(-logits, axis=1, kind="stable")
    scores = score_probe(fixed(range(classes)), logits, y, class_names=[f"class {i}" for i in range(classes)])
    assert scores.top1 == pytest.approx(np.mean(order[:, 0] == y))
    assert scores.top5 == pytest.approx(np.mean((order[:, :5] == y[:, None]).any(axis=1)))


def test_classes_absent_from_training_are_never_predicted():
    X, y = blobs(classes=3)
    labels = np.array([1, 4, 5])[y]
    names = ["zero", "one", "two", "three", "four", "five", "six"]
    probe = LinearProbe("ridge").fit(X, labels)
    test = np.where(labels == 5, 2, labels)
    scores = score_probe(probe, X, test, class_names=names)
    assert scores.per_class == pytest.approx({"one": 1.0, "two": 0.0, "four": 1.0}, abs=0.05)
    assert scores.per_class["two"] == 0.0
    assert scores.top5 == pytest.approx(2 / 3)
    assert scores.top1 == pytest.approx(probe.score(X, test))


@pytest.mark.parametrize("labels", [[0, 1], [1, 3]])
def test_scores_of_a_two_class_probe(labels):
    X, y = blobs(classes=2)
    y = np.array(labels)[y]
    y_test = y.copy()
    y_test[:12] = labels[0]  # six of them are wrong now
    probe = LinearProbe("ridge").fit(torch.from_numpy(X), y)
    scores = score_probe(probe, torch.from_numpy(X), torch.from_numpy(y_test), class_names=list("abcd"))
    assert scores.top1 == pytest.approx(probe.score(X, y_test)) == pytest.approx(114 / 120)
    assert scores.per_class["abcd"[labels[1]]] == 1.0


def test_classes_with_equal_names_are_distinguished():
    scores = score_probe(fixed(range(3)), np.eye(3)[[0, 1, 1]], [0, 1, 2], class_names=["c", "d", "c"])
    assert scores.per_class == {"c (0)": 1.0, "d": 1.0, "c (2)": 0.0}


@pytest.mark.parametrize(
    ("y", "groups", "classes", "message"),
    [
        ([0, 1, 3], None, [0, 1, 2], "y has class 3, but there are 3"),
        ([0, 1, -1], None, [0, 1, 2], "y has class -1"),
        ([0, 1, 2], ["x"], [0, 1, 2], "groups has 1 entry for 3"),
        ([], None, [0, 1, 2], "y is empty"),
        ([0, 1], None, [0, 1, 2], "X has 3 rows for 2"),
        ([0.0, 1.0, 2.0], None, [0, 1, 2], "y must be a list of integer"),
        ([0, 1, 2], None, [0, 1, 7], "probe.classes_ has class 7"),
        ([0, 1, 2], None, ["a", "b", "c"], "probe.classes_ must be"),
        ([0, 1, 2], None, [0, 1], r"its scores have the shape \(3, 3\) for 2 classes"),
    ],
)
def test_bad_input_of_the_scores(y, groups, classes, message):
    with pytest.raises(UserError, match=message):
        score_probe(fixed(classes), np.eye(3), y, class_names=list("abc"), groups=groups)


def test_nan_scores_choose_no_class():
    with pytest.raises(UserError, match="are not numbers"):
        score_probe(fixed([0, 1]), np.array([[1.0, np.nan], [0.0, 1.0]]), [0, 1], class_names=["cat", "dog"])
    infinite = score_probe(fixed([0, 1]), np.array([[1.0, -np.inf], [0.0, np.inf]]), [0, 1], class_names=["cat", "dog"])
    assert infinite.top1 == 1.0


def test_what_classes_are_taken_for():
    X = np.array([[2.0, 0.0], [2.0, 0.0], [0.0, 2.0], [2.0, 0.0]])
    probe = LinearProbe("ridge").fit(np.eye(2), [0, 1])
    found = score_probe(probe, X, [0, 0, 1, 1], class_names=["cat", "dog"])
    assert found.confusion == ((2, 0), (1, 1))
    unseen = score_probe(probe, X, [0, 0, 2, 2], class_names=["cat", "dog", "owl"])
    assert unseen.confusion == ((2, 0, 0), (0, 0, 0), (1, 1, 0))
    many = score_probe(probe, X, [0, 0, 1, 1], class_names=[f"class {i}" for i in range(41)])
    assert many.confusion is None


def test_classifiers_of_scikit_learn_are_scored_by_their_probabilities():
    features = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    labels = np.arange(20) % 2
    nearest = KNeighborsClassifier(1).fit(features, labels)
    assert score_probe(nearest, torch.from_numpy(features), labels, class_names=["a", "b"]).top1 == 1
    for wrong, says in ((KNeighborsClassifier(), "is not fitted"), (LinearProbe(), "is not fitted")):
        with pytest.raises(UserError, match=says):
            score_probe(wrong, features, labels, class_names=["a", "b"])
