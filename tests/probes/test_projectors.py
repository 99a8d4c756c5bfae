"""Linear maps between feature spaces."""

from __future__ import annotations

import numpy as np
import pytest

from probedistill.probes.projectors import low_rank_affine, procrustes
from probedistill.probes.ridge import fit_ridge


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize(("d_new", "d_old"), [(6, 6), (9, 4)])
def test_procrustes_finds_a_rotation_with_its_scale_and_offset(rng, d_new, d_old):
    basis, _ = np.linalg.qr(rng.normal(size=(d_new, d_old)))
    inside = rng.normal(size=(40, d_old)) @ basis.T
    wanted = 2.5 * inside @ basis + 3
    matrix, offset = procrustes(inside + 1, wanted)
    np.testing.assert_allclose((inside + 1) @ matrix.T + offset, wanted, atol=1e-9)


@pytest.mark.parametrize("size", [1, 1e6])
def test_procrustes_maps_directions_without_views_to_zero(rng, size):
    target, source = size * rng.normal(size=(5, 12)), size * rng.normal(size=(5, 8))
    matrix, offset = procrustes(target, source)
    centred = target - target.mean(0)
    unseen = np.linalg.svd(centred)[2][5:]
    np.testing.assert_allclose(matrix @ unseen.T, 0, atol=1e-9)
    np.testing.assert_allclose(matrix @ target.mean(0) + offset, source.mean(0))


def test_procrustes_of_equal_views_is_their_mean():
    matrix, offset = procrustes(np.ones((3, 4)), np.full((3, 2), 7.0))
    np.testing.assert_allclose(matrix, 0)
    np.testing.assert_allclose(offset, 7)


def test_low_rank_affine_of_full_rank_is_ridge_regression(rng):
    target, source = rng.normal(size=(30, 6)), rng.normal(size=(30, 4))
    matrix, offset = low_rank_affine(target, source, ridge=0.1)
    full, shift = fit_ridge(target[None], source[None], np.ones(30), ridge=0.1)
    np.testing.assert_allclose(matrix, full, atol=1e-10)
    np.testing.assert_allclose(offset, shift, atol=1e-10)


def test_low_rank_affine_has_the_requested_rank(rng):
    target, source = rng.normal(size=(30, 6)), rng.normal(size=(30, 5))
    assert np.linalg.matrix_rank(low_rank_affine(target, source, rank=2)[0]) == 2


def test_low_rank_affine_keeps_what_varies_most_over_the_views(rng):
    """No map of this rank keeps more of the full map's centred values (Eckart and Young)."""
    new, old = rng.normal(size=(30, 6)) + 5.0, rng.normal(size=(30, 7))
    full, part = (low_rank_affine(new, old, rank=rank)[0] for rank in (6, 2))
    centred = new - new.mean(axis=0)
    lost = np.linalg.norm(centred @ (full - part).T) ** 2
    assert lost == pytest.approx(np.sum(np.linalg.svd(centred @ full.T, compute_uv=False)[2:] ** 2))
