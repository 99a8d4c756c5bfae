"""Mathematical facts about the objectives, in float64 on random features."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from probedistill.errors import UserError
from probedistill.features.classes import class_means, means_of_sums, summed_by_class
from probedistill.objectives import formulas as objectives
from probedistill.objectives.clp import clp_objective, summed_clp_loss
from probedistill.objectives.formulas import (
    class_flows,
    closed_form_head,
    clp_loss,
    flows_of_sums,
    head_gradient,
    lgm_loss,
    rows_of_a_block,
    sfm_loss,
)
from probedistill.objectives.lgm import lgm_objective, summed_head_gradient
from probedistill.objectives.real import RealFeatures
from probedistill.objectives.sfm import sfm_objective

NORMALIZATIONS = ["none", "center", "center_l2"]


def make_features(n: int, d: int, classes: int, seed: int = 0, *, balanced: bool = False) -> tuple[Tensor, Tensor]:
    """Random float64 features (n, d) away from the origin; every class is present."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(n, d, generator=generator, dtype=torch.float64) + 0.7
    labels = torch.arange(n) % classes
    if not balanced:
        labels[classes:] = torch.randint(classes, (n - classes,), generator=generator)
    return features, labels[torch.randperm(n, generator=generator)]


def make_real(normalization: str = "none", n: int = 40, d: int = 7, classes: int = 4, *, balanced: bool = True):
    return RealFeatures(*make_features(n, d, classes, seed=100, balanced=balanced), classes, normalization)


def make_objectives(real: RealFeatures, **sampling: int):
    """One objective of each method, by name; ``sampling`` sets real_batch and real_per_class."""
    return {
        "lgm": lgm_objective(real, sigma=0.3, balanced=False, real_batch=sampling.get("real_batch", 0), seed=5),
        "clp": clp_objective(
            real, ridge=0.1, temperature=0.2, real_per_class=sampling.get("real_per_class", 0), seed=5
        ),
        "sfm": sfm_objective(real),
    }


def random_head(classes: int, d: int, seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    head = torch.randn(classes, d + 1, generator=generator, dtype=torch.float64)
    return head[:, :d].clone(), head[:, d].clone()


def value_and_gradient(loss: Callable[[Tensor], Tensor], features: Tensor) -> tuple[Tensor, Tensor]:
    leaf = features.clone().requires_grad_()
    value = loss(leaf)
    return value.detach(), torch.autograd.grad(value, leaf)[0]


def assert_close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-11, atol=1e-13)


# ---- the head's gradient in closed form


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("with_bias", [False, True])
def test_head_gradient_equals_autograds(balanced, with_bias):
    features, labels = make_features(23, 6, 4)
    weight, bias = random_head(4, 6)
    bias = bias if with_bias else torch.zeros_like(bias)
    weight.requires_grad_()
    bias.requires_grad_()
    class_weights = 1 / torch.bincount(labels).double() if balanced else None
    F.cross_entropy(F.linear(features, weight, bias), labels, weight=class_weights).backward()
    expected = torch.cat([weight.grad, bias.grad[:, None]], dim=1)
    actual = head_gradient(features, labels, weight, bias if with_bias else None, balanced=balanced)
    torch.testing.assert_close(actual.detach(), expected, rtol=1e-12, atol=1e-14)


def test_balanced_head_gradient_counts_only_classes_that_occur():
    features, labels = make_features(12, 5, 3)
    weight, bias = random_head(6, 5)  # classes 3, 4 and 5 have no sample
    weight.requires_grad_()
    loss = torch.stack([F.cross_entropy(F.linear(features, weight, bias)[labels == c], labels[labels == c])
                        for c in range(3)]).mean()  # fmt: skip
    (expected,) = torch.autograd.grad(loss, weight)
    torch.testing.assert_close(head_gradient(features, labels, weight, bias, balanced=True)[:, :5], expected)


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_at_the_origin_the_gradient_is_the_flow(classes):
    features, labels = make_features(5 * classes, 6, classes, balanced=True)
    weight = torch.zeros(classes, 6, dtype=torch.float64)
    gradient = head_gradient(features, labels, weight)
    flows = class_flows(features, labels, classes)
    torch.testing.assert_close(gradient[:, :-1], (classes - 1) / classes**2 * flows, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(gradient[:, -1], torch.zeros(classes, dtype=torch.float64), rtol=0, atol=1e-15)


def test_sfm_is_lgm_at_the_origin_class_by_class():
    real, synthetic = make_features(40, 7, 4, seed=1, balanced=True), make_features(12, 7, 4, seed=2, balanced=True)
    weight = torch.zeros(4, 7, dtype=torch.float64)
    row = [lgm_loss(head_gradient(*synthetic, weight)[c], head_gradient(*real, weight)[c]) for c in range(4)]
    loss = sfm_loss(class_flows(*synthetic, 4), class_flows(*real, 4))
    assert 0.05 < loss < 1.95
    torch.testing.assert_close(torch.stack(row).mean(), loss, rtol=1e-12, atol=0)


# ---- class means and flows


def test_means_and_flows_of_a_hand_made_case():
    features = torch.tensor([[0.0, 2.0], [2.0, 4.0], [10.0, 0.0], [4.0, 4.0]], dtype=torch.float64)
    labels = torch.tensor([0, 0, 1, 2])
    assert class_means(features, labels, 3).tolist() == [[1, 3], [10, 0], [4, 4]]
    # the centre of all other samples, not the mean of the other centres
    assert class_flows(features, labels, 3).tolist() == [[6, -1], [-8, pytest.approx(10 / 3)], [0, -2]]


def test_the_mean_of_an_absent_class_is_nan():
    means = class_means(torch.ones(2, 3), torch.tensor([0, 2]), 3)
    assert means.isnan().all(dim=1).tolist() == [False, True, False]


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 6), st.integers(0, 20), st.integers(0, 2**31))
def test_flows_are_differences_of_means(classes, more, seed):
    features, labels = make_features(classes + more, 3, classes, seed)
    flows = class_flows(features, labels, classes)
    for c in range(classes):
        expected = features[labels != c].mean(dim=0) - features[labels == c].mean(dim=0)
        torch.testing.assert_close(flows[c], expected, rtol=1e-9, atol=1e-12)


# ---- the head in closed form


def sample_space_head(features: Tensor, targets: Tensor, ridge: float) -> Tensor:
    return features.T @ torch.linalg.inv(features @ features.T + ridge * torch.eye(len(features)).double()) @ targets


def feature_space_head(features: Tensor, targets: Tensor, ridge: float) -> Tensor:
    kernel = features.T @ features + ridge * torch.eye(features.shape[1]).double()
    return torch.linalg.inv(kernel) @ features.T @ targets


@pytest.mark.parametrize(("n", "d"), [(5, 12), (8, 8), (9, 8), (30, 6)])
@pytest.mark.parametrize("ridge", [0.01, 3.0])
def test_sample_space_and_feature_space_give_the_same_head(n, d, ridge):
    features, labels = make_features(n, d, 4)
    targets = F.one_hot(labels, 4).double()
    head = closed_form_head(features, targets, ridge)
    torch.testing.assert_close(head, sample_space_head(features, targets, ridge), rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(head, feature_space_head(features, targets, ridge), rtol=1e-8, atol=1e-9)


def test_both_branches_agree_where_they_meet():
    # A feature that is always zero changes nothing, except that n > d becomes n <= d.
    features, labels = make_features(9, 8, 3)
    targets = F.one_hot(labels, 3).double()
    padded = F.pad(features, (0, 1))
    by_features, by_samples = closed_form_head(features, targets, 0.2), closed_form_head(padded, targets, 0.2)
    torch.testing.assert_close(by_samples[:-1], by_features, rtol=1e-10, atol=1e-12)
    assert by_samples[-1].tolist() == [0, 0, 0]


@pytest.mark.parametrize("outer", ["ce", "mse"])
@pytest.mark.parametrize("normalize_head", [False, True])
@pytest.mark.parametrize("n", [4, 9])
def test_gradcheck_through_head_and_loss(outer, normalize_head, n):
    real, labels = make_features(11, 6, 3, seed=1)
    features, t = make_features(n, 6, 3, seed=2)
    features.requires_grad_()

    def loss(z: Tensor) -> Tensor:
        head = closed_form_head(z, F.one_hot(t, 3).double(), 0.3)
        return clp_loss(head, real, labels, temperature=0.5, outer=outer, normalize_head=normalize_head)

    assert torch.autograd.gradcheck(loss, (features,))


# ---- the CLP loss


def test_clp_loss_by_hand():
    head = torch.tensor([[2.0, 0.0], [0.0, 4.0]], dtype=torch.float64)
    real, labels = torch.eye(2, dtype=torch.float64), torch.tensor([0, 1])
    ce = clp_loss(head, real, labels, temperature=0.5, normalize_head=False)
    assert float(ce) == pytest.approx((math.log1p(math.exp(-4)) + math.log1p(math.exp(-8))) / 2)
    unit = clp_loss(head, real, labels, temperature=0.5)
    assert float(unit) == pytest.approx(math.log1p(math.exp(-2)))
    mse = clp_loss(head, real, labels, outer="mse", temperature=0.5)
    assert float(mse) == pytest.approx((1 + 9) / 4)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(1e-3, 1e3), min_size=3, max_size=3), st.integers(0, 2**31))
def test_normalized_head_ignores_the_size_of_features(scales, seed):
    features, labels = make_features(10, 5, 3, seed)
    head = torch.randn(5, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    scaled = head * torch.tensor(scales, dtype=torch.float64)
    torch.testing.assert_close(
        clp_loss(scaled, features, labels), clp_loss(head, features, labels), rtol=1e-9, atol=1e-12
    )


def test_size_matters_if_the_head_is_not_normalized():
    features, labels = make_features(10, 5, 3)
    head = random_head(5, 3)[0]
    for options in ({"outer": "mse"}, {"normalize_head": False}):
        assert not torch.isclose(
            clp_loss(2 * head, features, labels, **options), clp_loss(head, features, labels, **options)
        )


def simplex(classes: int) -> Tensor:
    """Unit vectors (C, C) with the same angle between any two: the optimum of normalised features."""
    centred = torch.eye(classes, dtype=torch.float64) - 1 / classes
    return F.normalize(centred, dim=1)


def test_clp_is_at_its_known_optimum_on_a_simplex():
    # Unit features in C equal bundles, and unit columns: cross-entropy is least if both are the same simplex.
    classes, tau = 4, 0.5
    features, labels = simplex(classes).repeat(3, 1), torch.arange(classes).repeat(3)
    real = RealFeatures(features, labels, classes, "center_l2")
    objective = clp_objective(real, ridge=0.1, temperature=tau)
    z, t = simplex(classes).requires_grad_(), torch.arange(classes)
    loss = objective(z, t, 0)
    least = math.log1p((classes - 1) * math.exp(-classes / (classes - 1) / tau))
    assert float(loss.detach()) == pytest.approx(least, abs=1e-12)
    (gradient,) = torch.autograd.grad(loss, z)
    assert gradient.abs().max() < 1e-12
    generator = torch.Generator().manual_seed(0)
    for size in (1e-3, 0.1, 1.0):
        other = z.detach() + size * torch.randn(z.shape, generator=generator, dtype=torch.float64)
        assert objective(other, t, 0) > least


def test_mse_is_at_its_optimum_on_the_real_features_themselves():
    # At Z = Φ, t = y and λ → 0 the induced head is least squares on the real features, so no head is better.
    real, y = make_features(30, 6, 3, balanced=True)
    head = closed_form_head(real, F.one_hot(y, 3).double(), 1e-10).requires_grad_()
    loss = clp_loss(head, real, y, outer="mse")
    (gradient,) = torch.autograd.grad(loss, head)
    assert gradient.abs().max() < 1e-9
    other = head.detach() + 0.01 * random_head(6, 3)[0]
    assert clp_loss(other, real, y, outer="mse") > loss
    objective = clp_objective(RealFeatures(real, y, 3), ridge=1e-12, temperature=1.0, outer="mse")
    assert float(objective(real, y, 0)) == pytest.approx(float(loss.detach()), rel=1e-6)


def test_the_outer_option_of_the_objective_is_used():
    real = make_real("center")
    features, labels = make_features(8, 7, 4, seed=3)
    ce, mse = (clp_objective(real, ridge=0.1, temperature=0.2, outer=o)(features, labels, 0) for o in ("ce", "mse"))
    z = features - real.mean
    ridge = 0.1 * z.square().sum(dim=1).mean()
    head = closed_form_head(z, F.one_hot(labels, 4).double(), float(ridge))
    torch.testing.assert_close(ce, clp_loss(head, real.features, real.labels, temperature=0.2))
    torch.testing.assert_close(mse, F.mse_loss(real.features @ head, F.one_hot(real.labels, 4).double()))


@pytest.mark.parametrize("normalize_head", [False, True])
def test_the_gradient_of_clp_treats_the_penalty_as_fixed(normalize_head):
    """λ scales with the features, but is a constant within a step: no gradient goes through it."""
    real = make_real("center")
    features, labels = make_features(8, 7, 4, seed=3)
    options = {"temperature": 0.2, "normalize_head": normalize_head}
    penalty = 3.0 * float((features - real.mean).square().sum(dim=1).mean())

    def by_hand(x: Tensor) -> Tensor:
        head = sample_space_head(x - real.mean, F.one_hot(labels, 4).double(), penalty)
        head = head / head.norm(dim=0) if normalize_head else head
        return F.cross_entropy(real.features @ head / 0.2, real.labels)

    loss, gradient = value_and_gradient(lambda x: clp_objective(real, ridge=3.0, **options)(x, labels, 0), features)
    expected, slope = value_and_gradient(by_hand, features)
    assert_close(loss, expected)
    assert_close(gradient, slope)


# ---- the three objectives


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("name", ["lgm", "sfm"])
@pytest.mark.parametrize("balanced", [False, True])
def test_loss_is_zero_on_the_real_features_themselves(normalization, name, balanced):
    features, labels = make_features(40, 7, 4, seed=100, balanced=balanced)
    real = RealFeatures(features, labels, 4, normalization)
    objective = make_objectives(real)[name]
    assert abs(float(objective(features, labels, 3))) < 1e-12
    others, t = make_features(8, 7, 4, seed=9)
    assert objective(others, t, 3) > 0.05


@pytest.mark.parametrize("cosine", ["classes", "all"])
@pytest.mark.parametrize("others", ["samples", "centres"])
def test_every_sfm_is_zero_on_the_real_features_themselves(cosine, others):
    features, labels = make_features(40, 7, 4)
    assert len(torch.bincount(labels).unique()) > 1  # otherwise both ends of a flow are the same point
    objective = sfm_objective(RealFeatures(features, labels, 4), cosine=cosine, others=others)
    assert abs(float(objective(features, labels, 0))) < 1e-12


def test_balanced_lgm_is_zero_on_balanced_real_features():
    features, labels = make_features(40, 7, 4, balanced=True)
    objective = lgm_objective(RealFeatures(features, labels, 4), sigma=0.3, balanced=True)
    assert abs(float(objective(features, labels, 0))) < 1e-12


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), n=st.integers(4, 20), step=st.integers(0, 5))
def test_order_of_samples_does_not_matter(normalization, seed, n, step):
    real = make_real(normalization)
    features, labels = make_features(n, 7, 4, seed)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    for name, objective in make_objectives(real, real_batch=10, real_per_class=3).items():
        before, after = objective(features, labels, step), objective(features[order], labels[order], step)
        torch.testing.assert_close(after, before, rtol=1e-8, atol=1e-10, msg=name)


def test_order_of_real_samples_does_not_matter_without_sampling():
    features, labels = make_features(40, 7, 4, seed=100)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    z, t = make_features(8, 7, 4, seed=1)
    one = make_objectives(RealFeatures(features, labels, 4, "center_l2"))
    two = make_objectives(RealFeatures(features[order], labels[order], 4, "center_l2"))
    for name in one:
        torch.testing.assert_close(one[name](z, t, 0), two[name](z, t, 0), rtol=1e-9, atol=1e-12, msg=name)


def test_objectives_depend_only_on_seed_and_step():
    real = make_real()
    z, t = make_features(8, 7, 4, seed=1)
    first, second = (make_objectives(real, real_batch=10, real_per_class=2) for _ in range(2))
    for name in first:
        losses = [float(first[name](z, t, step)) for step in (0, 1, 2, 1, 0)]
        torch.manual_seed(len(name))  # the global generator has no effect
        assert losses[3:] == losses[1::-1]
        assert [float(second[name](z, t, step)) for step in (2, 0, 1)] == [losses[2], losses[0], losses[1]]
        assert len(set(losses)) == (1 if name == "sfm" else 3)
    for make in (
        lambda seed: lgm_objective(real, sigma=0.3, balanced=False, seed=seed),
        lambda seed: clp_objective(real, ridge=0.1, temperature=0.2, real_per_class=2, seed=seed),
    ):
        assert float(make(0)(z, t, 0)) != float(make(1)(z, t, 0))


def test_lgm_draws_real_features_and_a_head_of_sigma():
    # With a tiny sigma the head is at the origin, so steps differ only in the real features that are drawn.
    real = make_real(balanced=False)
    z, t = make_features(8, 7, 4, seed=1)
    everything = lgm_objective(real, sigma=1e-9, balanced=False)
    drawn = lgm_objective(real, sigma=1e-9, balanced=False, real_batch=12)
    assert float(everything(z, t, 0)) == pytest.approx(float(everything(z, t, 1)), abs=1e-7)
    assert abs(float(drawn(z, t, 0)) - float(drawn(z, t, 1))) > 1e-4
    at_origin = torch.zeros(4, 7, dtype=torch.float64)
    expected = lgm_loss(head_gradient(z, t, at_origin), head_gradient(real.features, real.labels, at_origin))
    assert float(everything(z, t, 0)) == pytest.approx(float(expected), abs=1e-7)


def test_clp_draws_the_same_number_of_every_class():
    # Class 0 has different real features, other classes have one each. So with one per class, the loss must be
    # the mean over classes for one of class 0's features.
    features, labels = make_features(12, 5, 3, balanced=True)
    rows = torch.cat(
        [torch.nonzero(labels == 0)[:, 0], torch.nonzero(labels == 1)[:1, 0], torch.nonzero(labels == 2)[:1, 0]]
    )
    real = RealFeatures(features[rows], labels[rows], 3)
    z, t = make_features(6, 5, 3, seed=1)
    objective = clp_objective(real, ridge=0.1, temperature=0.5, real_per_class=1)
    head = closed_form_head(z, F.one_hot(t, 3).double(), 0.1 * float(z.square().sum(dim=1).mean()))
    possible = [
        float(clp_loss(head, real.features[[i, 4, 5]], real.labels[[i, 4, 5]], temperature=0.5)) for i in range(4)
    ]
    seen = {min(range(4), key=lambda i: abs(possible[i] - loss)): loss for loss in
            (float(objective(z, t, step)) for step in range(30))}  # fmt: skip
    assert set(seen) == {0, 1, 2, 3}
    for i, loss in seen.items():
        assert loss == pytest.approx(possible[i], rel=1e-9)


def make_equal_within_classes() -> tuple[RealFeatures, Tensor]:
    """Real features of 30, 6 and 6 images that equal their class's centre, in any order; and the centres (3, 5)."""
    generator = torch.Generator().manual_seed(4)
    centres = torch.randn(3, 5, generator=generator, dtype=torch.float64)
    labels = torch.tensor([0] * 30 + [1] * 6 + [2] * 6)[torch.randperm(42, generator=generator)]
    fresh_labels = torch.tensor([1, 0, 0, 2, 0])
    return RealFeatures(centres[labels], labels, 3, fresh=lambda *_: (centres[fresh_labels], fresh_labels)), centres


def test_clp_draws_each_class_from_its_own_features():
    real, centres = make_equal_within_classes()
    z, t = make_features(6, 5, 3, seed=1)
    drawn = clp_objective(real, ridge=0.1, temperature=0.5, real_per_class=2)(z, t, 0)
    of_centres = clp_objective(RealFeatures(centres, torch.arange(3), 3), ridge=0.1, temperature=0.5)(z, t, 0)
    assert_close(drawn, of_centres)


@pytest.mark.parametrize("sampling", [{}, {"real_batch": 40}, {"real_batch": -1, "fresh": True}])
def test_in_balanced_lgm_every_real_class_counts_the_same(sampling):
    """Whichever 40 of the 42 features are drawn: every class is among them, and all of a class equal its centre."""
    real, centres = make_equal_within_classes()
    z, t = make_features(6, 5, 3, seed=1)
    once_each = RealFeatures(centres, torch.arange(3), 3)
    expected = lgm_objective(once_each, sigma=0.3)(z, t, 2)
    assert_close(lgm_objective(real, sigma=0.3, balanced=True, **sampling)(z, t, 2), expected)
    assert abs(lgm_objective(real, sigma=0.3, balanced=False, **sampling)(z, t, 2) - expected) > 1e-3


def test_a_fresh_batch_depends_on_the_step_and_is_normalised_like_the_rest():
    features, labels = make_features(40, 7, 4, seed=100)

    def fresh(step: int, count: int) -> tuple[Tensor, Tensor]:
        return features[step : step + count], labels[step : step + count]

    real = RealFeatures(features, labels, 4, fresh=fresh).normalized("center_l2")
    batch, of_batch = real.fresh_batch(5, 20)
    assert_close(batch, F.normalize(features[5:25] - real.mean, dim=1))
    assert torch.equal(of_batch, labels[5:25])
    z, t = make_features(20, 7, 4, seed=1)
    objective = lgm_objective(real, sigma=1e-9, real_batch=-1, fresh=True)
    at_origin = torch.zeros(4, 7, dtype=torch.float64)
    expected = lgm_loss(head_gradient(real.normalize(z), t, at_origin), head_gradient(batch, of_batch, at_origin))
    assert float(objective(z, t, 5)) == pytest.approx(float(expected), abs=1e-6)
    assert float(objective(z, t, 6)) != pytest.approx(float(expected), abs=1e-3)


def test_without_images_there_is_no_fresh_batch():
    with pytest.raises(UserError, match="a fresh batch needs the real images"):
        make_real().fresh_batch(0, 5)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_the_penalty_of_clp_is_the_distance_of_the_means_in_units_of_the_spread(normalization):
    features, labels = make_features(40, 7, 4, seed=100)
    real = RealFeatures(features, labels, 4, normalization)
    z, t = make_features(12, 7, 4, seed=3)
    plain, with_mean = (clp_objective(real, ridge=0.1, temperature=0.2, mean=weight)(z, t, 0) for weight in (0.0, 3.0))
    mean = class_means(features, labels, 4).mean(dim=0)
    spread = torch.stack([(features[labels == c] - mean).square().sum(dim=1).mean() for c in range(4)]).mean()
    torch.testing.assert_close(with_mean - plain, 3.0 * (z.mean(dim=0) - mean).square().sum() / spread)
    slopes = [
        value_and_gradient(lambda x, w=w: clp_objective(real, ridge=0.1, temperature=0.2, mean=w)(x, t, 0), z)[1]
        for w in (0.0, 3.0)
    ]
    pull = 3.0 * 2 / 12 * (z.mean(dim=0) - mean) / spread  # the same for every feature vector
    torch.testing.assert_close(slopes[1] - slopes[0], pull.expand(12, 7))


@settings(max_examples=20, deadline=None)
@given(scale=st.floats(0.01, 100), seed=st.integers(0, 2**31))
def test_the_penalty_of_clp_does_not_depend_on_the_size_of_features(scale, seed):
    z, t = make_features(8, 5, 4, seed=seed)
    values = []
    for size in (1.0, scale):
        features, labels = make_features(20, 5, 4, seed=9)
        real = RealFeatures(size * features, labels, 4, "center_l2")
        values.append(clp_objective(real, ridge=1.0, temperature=0.2, mean=2.0)(size * z, t, 0))
    torch.testing.assert_close(*values)


@pytest.mark.parametrize("name", ["lgm", "clp", "sfm"])
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_a_gradient_step_lowers_the_loss(name, normalization):
    objective = make_objectives(make_real(normalization))[name]
    z, t = make_features(8, 7, 4, seed=1)
    z.requires_grad_()
    loss = objective(z, t, 0)
    (gradient,) = torch.autograd.grad(loss, z)
    assert gradient.norm() > 1e-6
    lower = objective(z.detach() - 1e-3 * gradient / gradient.norm(), t, 0)
    assert lower < loss


# ---- the real side


def test_centring_uses_the_mean_of_class_means():
    features, labels = make_features(40, 7, 4)
    assert len(torch.bincount(labels).unique()) > 1  # otherwise any mean would do
    real = RealFeatures(features, labels, 4, "center")
    means = class_means(real.features, labels, 4)
    torch.testing.assert_close(means.mean(dim=0), torch.zeros(7).double(), rtol=0, atol=1e-14)
    assert real.features.mean(dim=0).abs().max() > 1e-3
    assert real.counts.tolist() == torch.bincount(labels).tolist()


def test_normalizations():
    features, labels = make_features(40, 7, 4)
    plain, centred, unit = (RealFeatures(features, labels, 4, name).features for name in NORMALIZATIONS)
    assert torch.equal(plain, features)
    torch.testing.assert_close(unit.norm(dim=1), torch.ones(40).double())
    torch.testing.assert_close(unit * centred.norm(dim=1, keepdim=True), centred)
    synthetic = make_features(5, 7, 4, seed=1)[0]
    real = RealFeatures(features, labels, 4, "center_l2")
    torch.testing.assert_close(real.normalize(synthetic), F.normalize(synthetic - real.mean, dim=1))


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_precision_of_real_features(given, kept):
    features, labels = make_features(12, 7, 4)
    real = RealFeatures(features.to(given), labels, 4, "center")
    assert real.features.dtype == real.mean.dtype == kept
    # The mean is computed after the cast: float16 would lose eight of its bits
    exact = features.to(given).double()
    torch.testing.assert_close(real.mean.double(), class_means(exact, labels, 4).mean(dim=0), rtol=1e-6, atol=1e-6)


def test_a_class_without_real_features_is_an_error():
    with pytest.raises(UserError, match="class number 2 has no real features"):
        RealFeatures(torch.ones(3, 2), torch.tensor([0, 1, 3]), 5)


def test_an_unknown_normalization_is_an_error():
    with pytest.raises(UserError, match="normalize 'l2' must be one of none, center, center_l2"):
        RealFeatures(torch.ones(2, 2), torch.tensor([0, 1]), 2, "l2")


# ---- real features that are read in blocks


class InBlocks:
    """Float64 features in blocks of uneven size, in another order than their rows; counts passes."""

    dtype = torch.float64

    def __init__(self, features: Tensor, labels: Tensor, size: int) -> None:
        self.all, self.labels, self.size, self.dim = features, labels, size, features.shape[1]
        self.passes, self.rows = 0, 0

    def blocks(self):
        self.passes += 1
        order = torch.arange(len(self.all)).flip(0)
        for rows in order.split(self.size):
            yield self.all[rows], self.labels[rows]

    def take(self, rows: Tensor) -> Tensor:
        self.rows += len(rows)
        return self.all[rows]


SIZES = [1, 7, 39, 40, 100]


def make_both(size: int, normalization: str) -> tuple[RealFeatures, RealFeatures, InBlocks]:
    features, labels = make_features(40, 7, 4, seed=100)
    source = InBlocks(features, labels, size)
    return RealFeatures(features, labels, 4, normalization), RealFeatures(source, labels, 4, normalization), source


@pytest.mark.parametrize("size", SIZES)
def test_sums_of_blocks_give_means_and_flows(size):
    features, labels = make_features(40, 7, 4)
    sums, counts = summed_by_class(InBlocks(features, labels, size).blocks(), 4, 7)
    assert counts[:, 0].tolist() == torch.bincount(labels).tolist()
    assert_close(means_of_sums(sums, counts), class_means(features, labels, 4))
    assert_close(flows_of_sums(sums, counts), class_flows(features, labels, 4))


def test_sums_are_exact_when_float32_would_not_be():
    # One sample of 2²⁴ and many of 1: float32 would lose all the small ones.
    features = torch.ones(1001, 1)
    features[0] = 2.0**24
    blocks = zip(features.split(1), torch.zeros(1001, dtype=torch.int64).split(1))
    assert float(summed_by_class(blocks, 1, 1)[0]) == 2.0**24 + 1000


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("balanced", [False, True])
def test_the_head_gradient_of_blocks_adds_up(size, balanced):
    features, labels = make_features(40, 7, 4)
    weight = random_head(4, 7)[0]
    blocks = InBlocks(features, labels, size).blocks()
    actual = summed_head_gradient(blocks, torch.bincount(labels), weight, balanced=balanced)
    assert_close(actual, head_gradient(features, labels, weight, balanced=balanced))


@pytest.mark.parametrize("balanced", [False, True])
def test_the_head_gradient_of_blocks_with_a_class_that_does_not_occur(balanced):
    features, labels = make_features(12, 5, 3)
    weight = random_head(6, 5)[0]
    counts = torch.bincount(labels, minlength=6)
    actual = summed_head_gradient(InBlocks(features, labels, 5).blocks(), counts, weight, balanced=balanced)
    assert_close(actual, head_gradient(features, labels, weight, balanced=balanced))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_real_features_in_blocks_equal_those_in_memory(size, normalization):
    held, streamed, source = make_both(size, normalization)
    assert source.passes == 0
    assert_close(streamed.mean, held.mean)
    assert_close(streamed.class_means(), held.class_means())
    assert_close(held.class_means(), class_means(held.features, held.labels, 4))
    assert source.passes == (2 if normalization == "center_l2" else 1)
    assert_close(streamed.features, held.features)
    rows = torch.tensor([3, 39, 0, 3])
    assert_close(streamed.take(rows), held.features[rows])
    assert (streamed.dim, streamed.dtype, streamed.counts.tolist()) == (7, torch.float64, held.counts.tolist())


STREAMED = {
    "sfm": sfm_objective,
    "lgm": lambda real: lgm_objective(real, sigma=0.3, balanced=False, seed=5),
    "lgm balanced": lambda real: lgm_objective(real, sigma=0.3, balanced=True, seed=5),
    "lgm batch": lambda real: lgm_objective(real, sigma=0.3, balanced=True, real_batch=9, seed=5),
    "clp batch": lambda real: clp_objective(real, ridge=0.1, temperature=0.2, real_per_class=3, seed=5),
    "clp all": lambda real: clp_objective(real, ridge=0.1, temperature=0.2, seed=5),
    "clp mse": lambda real: clp_objective(real, ridge=0.1, temperature=0.2, outer="mse", seed=5),
}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("name", STREAMED)
def test_objectives_on_blocks_equal_those_in_memory(name, normalization, size):
    held, streamed, source = make_both(size, normalization)
    z, t = make_features(8, 7, 4, seed=1)
    results = []
    for real in (held, streamed):
        objective, leaf = STREAMED[name](real), z.clone().requires_grad_()
        before = source.passes
        for step in (0, 3):
            loss = objective(leaf, t, step)
            results += [loss.detach(), torch.autograd.grad(loss, leaf)[0]]
            with torch.no_grad():
                assert_close(objective(z, t, step), loss.detach())
    for actual, expected in zip(results[4:], results[:4]):
        assert_close(actual, expected)
    # Read only as often as necessary: once for the mean, and at most once per step.
    passes = source.passes - before - (normalization != "none" and name != "sfm")
    assert passes == {"sfm": 0, "lgm batch": 0, "clp batch": 0}.get(name, 4)
    assert source.rows == {"lgm batch": 4 * 9, "clp batch": 4 * 12}.get(name, 0)


def test_the_clp_loss_on_all_real_features_is_the_plain_mean():
    features, labels = make_features(40, 7, 4, seed=100)
    head = random_head(7, 4)[0].requires_grad_()
    expected = clp_loss(head, features, labels)
    actual = summed_clp_loss(InBlocks(features, labels, 7).blocks(), 40, head, clp_loss)
    assert_close(actual.detach(), expected.detach())
    assert_close(torch.autograd.grad(actual, head)[0], torch.autograd.grad(expected, head)[0])


def test_many_features_in_memory_are_processed_in_blocks(monkeypatch):
    real = make_real(balanced=False)
    z, t = make_features(8, 7, 4, seed=1)
    expected = {name: make(real)(z, t, 2) for name, make in STREAMED.items()}
    monkeypatch.setattr("probedistill.objectives.real._BLOCK", 9)
    assert [len(x) for x, _ in real.blocks()] == [9, 9, 9, 9, 4]
    for name, make in STREAMED.items():
        assert_close(make(make_real(balanced=False))(z, t, 2), expected[name])


def test_a_singular_kernel_gives_nan_and_no_exception() -> None:
    features = torch.full((3, 5), float("nan"), dtype=torch.float64)
    assert closed_form_head(features, torch.eye(3, dtype=torch.float64), 0.1).isnan().all()
    negative = closed_form_head(torch.zeros(3, 5, dtype=torch.float64), torch.eye(3, dtype=torch.float64), -1.0)
    assert negative.isnan().all()


# ---- blocks of logits


@pytest.mark.parametrize("logits", [1, 7, 24, 10_000])
@pytest.mark.parametrize("make", ["lgm", "clp", "clp, all"])
def test_blocks_of_logits_change_nothing(monkeypatch, make, logits):
    """The value and the gradient of an objective do not depend on the number of rows per block."""
    generator = torch.Generator().manual_seed(3)
    features, labels = torch.randn(30, 5, generator=generator, dtype=torch.float64), torch.arange(30) % 3
    real = RealFeatures(features, labels, 3, "center_l2")
    z = torch.randn(12, 5, generator=generator, dtype=torch.float64)
    results = []
    for size in (2**24, logits):
        monkeypatch.setattr(objectives, "_LOGITS", size)
        objective = {
            "lgm": lambda: lgm_objective(real, sigma=0.5, balanced=True),
            "clp": lambda: clp_objective(real, ridge=1.0, temperature=0.1, real_per_class=4),
            "clp, all": lambda: clp_objective(real, ridge=1.0, temperature=0.1),
        }[make]()
        leaf = z.clone().requires_grad_()
        loss = objective(leaf, torch.arange(12) % 3, 0)
        results += [loss.detach(), *torch.autograd.grad(loss, leaf)]
    torch.testing.assert_close(results[0], results[2])
    torch.testing.assert_close(results[1], results[3])
    assert float(results[1].abs().sum()) > 0


@pytest.mark.parametrize("classes", [2, 10, 1000, 21_841, 2**25])
def test_the_logits_of_a_block_take_at_most_64_megabytes(classes):
    rows = rows_of_a_block(classes)
    assert rows == 1 or 4 * rows * classes <= 2**26
    assert 4 * (rows + 1) * classes > 2**26  # and as many rows as fit


@pytest.mark.parametrize("count", [3, 12])  # fewer samples than features, and more
def test_labels_equal_one_hot_targets(count):
    generator = torch.Generator().manual_seed(0)
    z, t = torch.randn(count, 5, generator=generator, dtype=torch.float64), torch.arange(count) % 3
    expected = closed_form_head(z, F.one_hot(t, 4).double(), 0.3)
    torch.testing.assert_close(closed_form_head(z, t, 0.3, num_classes=4), expected)
