"""Directions of objects and backgrounds in feature space, and what images resemble."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from probedistill.analysis.directions import Resemblance, group_directions, resemblance, usual_backgrounds


def additive(num_classes, num_backgrounds, counts, seed=0, d=12):
    """Features that are exactly a class vector plus a background vector, plus both vectors."""
    rng = np.random.default_rng(seed)
    a, g = rng.normal(size=(num_classes, d)), rng.normal(size=(num_backgrounds, d))
    pairs = [
        (c, b) for c, b in itertools.product(range(num_classes), range(num_backgrounds)) for _ in range(counts[c][b])
    ]
    labels, scenes = torch.tensor(pairs).T
    return torch.tensor(a)[labels] + torch.tensor(g)[scenes], labels, scenes, torch.tensor(a), torch.tensor(g)


def test_directions_of_two_classes_on_two_backgrounds():
    counts = [[19, 1], [2, 8]]
    x, y, b, a, g = additive(2, 2, counts)
    found = group_directions(x, y, b, 2, 2)
    assert found.usual.tolist() == [0, 1]
    torch.testing.assert_close(found.background, torch.stack([g[0] - g[1], g[1] - g[0]]))
    torch.testing.assert_close(found.object, torch.stack([a[0] - a[1], a[1] - a[0]]))
    torch.testing.assert_close(found.mean, a.mean(0) + g.mean(0))


def test_directions_of_three_classes_on_four_backgrounds():
    x, y, b, a, g = additive(3, 4, [[5, 1, 1, 2], [1, 5, 2, 2], [1, 1, 6, 2]])
    found = group_directions(x, y, b, 3, 4)
    assert found.usual.tolist() == [0, 1, 2]
    for c in range(3):
        torch.testing.assert_close(found.background[c], g[c] - g[[i for i in range(4) if i != c]].mean(0))
        torch.testing.assert_close(found.object[c], a[c] - a[[i for i in range(3) if i != c]].mean(0))


def test_an_empty_group_gives_no_directions():
    x, y, b, *_ = additive(2, 2, [[5, 0], [1, 5]])
    assert group_directions(x, y, b, 2, 2) is None


def test_pure_backgrounds_and_pure_objects():
    a, g = torch.eye(4, dtype=torch.float64)[:2], torch.eye(4, dtype=torch.float64)[2:]
    labels = torch.tensor([0, 0, 0, 1, 1, 1])
    scenes = torch.tensor([0, 0, 1, 1, 1, 0])
    directions = group_directions(a[labels] + g[scenes], labels, scenes, 2, 2)
    assert directions.overlap == pytest.approx(0)
    middle = directions.mean
    for images, background, thing in (
        (middle + directions.background, 1, 0),
        (middle - directions.background, -1, 0),
        (middle + 3 * directions.object, 0, 1),
        (middle + directions.object + directions.background, 0.5**0.5, 0.5**0.5),
    ):
        found = resemblance(directions, images, torch.arange(2))
        assert found.background == pytest.approx((background, background), abs=1e-12)
        assert found.object == pytest.approx((thing, thing), abs=1e-12)
        share = None if background < 0 else background / (background + thing)
        assert found.shares == (pytest.approx(share, abs=1e-12),) * 2


def test_a_cosine_below_0_counts_as_0_in_the_share():
    """An image of the wrong object must not get the same share as an image of the object."""
    found = Resemblance((0.1, 0.1, -0.1, 0.1, -0.1, 0.0), (0.9, -0.9, 0.9, 0.0, -0.9, 0.0))
    assert found.shares == (pytest.approx(0.1), 1, 0, 1, None, None)
    away = Resemblance((-0.2, 0.1), (-0.3, -0.1))
    assert (away.mean_background, away.mean_object) == (pytest.approx(-0.05), pytest.approx(-0.2))
    assert away.share is None
    assert Resemblance((-1.0,), (1e-17,)).shares == (None,), "a rounding error is not an object"


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), scale=st.floats(1e-3, 1e3), copies=st.integers(1, 4))
def test_resemblance_depends_on_neither_order_nor_rotation_nor_scale_nor_group_size(seed, scale, copies):
    rng = np.random.default_rng(seed)
    x, y, b, *_ = additive(2, 3, rng.integers(1, 5, (2, 3)), seed)
    x = x + torch.tensor(rng.normal(size=x.shape))
    images, labels = torch.tensor(rng.normal(size=(4, x.shape[1]))), torch.tensor([0, 1, 0, 1])
    directions = group_directions(x, y, b, 2, 3)
    found = resemblance(directions, images, labels)
    assert all(-1 <= value <= 1 for value in (*found.background, *found.object))
    for background, thing, share in zip(found.background, found.object, found.shares, strict=True):
        assert (share is None) == (max(background, thing) <= 0)
        assert share is None or 0 <= share <= 1

    rotation = torch.tensor(np.linalg.qr(rng.normal(size=(x.shape[1],) * 2))[0])
    shift = torch.tensor(rng.normal(size=x.shape[1]))
    rows = torch.tensor(rng.permutation(np.repeat(np.arange(len(x)), np.where(y == 0, 1, copies))))
    moved = group_directions(scale * (x[rows] + shift) @ rotation, y[rows], b[rows], 2, 3)
    again = resemblance(moved, scale * (images + shift) @ rotation, labels)
    assert torch.equal(moved.usual, directions.usual)
    assert again.background == pytest.approx(found.background, abs=1e-7)
    assert again.object == pytest.approx(found.object, abs=1e-7)


def test_usual_background_is_the_one_that_is_more_frequent_than_elsewhere():
    y = torch.tensor([0] * 10 + [1] * 10)
    b = torch.tensor([0] * 9 + [1] * 1 + [0] * 6 + [1] * 4)  # both classes are mostly on background 0
    assert usual_backgrounds(y, b, 2, 2).tolist() == [0, 1]
