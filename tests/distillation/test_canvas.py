"""The canvas: parameters ↔ images."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from probedistill.distillation.canvas import COLOUR_MATRIX, Canvas, pyramid_sizes
from probedistill.errors import UserError

KINDS = ["pyramid", "pixels"]


def noisy(count: int, size: int, kind: str = "pyramid", std: float = 1.0, **options) -> Canvas:
    canvas = Canvas(count, size, kind, **options)
    canvas.fill_with_noise(std, seed=0)
    return canvas


def random_images(n: int, size: int, low: float = 0.01, high: float = 0.99) -> torch.Tensor:
    return low + (high - low) * torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(0))


# ---- levels


@pytest.mark.parametrize(
    ("size", "sizes"),
    [
        (1, [1]),
        (2, [1, 2]),
        (3, [1, 2, 3]),
        (4, [1, 2, 4]),
        (112, [1, 2, 4, 8, 16, 32, 64, 112]),
        (224, [1, 2, 4, 8, 16, 32, 64, 128, 224]),
        (256, [1, 2, 4, 8, 16, 32, 64, 128, 256]),
    ],
)
def test_pyramid_sizes(size, sizes):
    assert pyramid_sizes(size) == sizes


@given(st.integers(1, 5000))
def test_pyramid_sizes_double_and_end_with_the_size(size):
    sizes = pyramid_sizes(size)
    assert sizes[-1] == size
    assert all(b <= 2 * a for a, b in pairwise(sizes))
    assert sizes == sorted(set(sizes))
    assert sizes[0] == 1


def test_a_canvas_without_pixels_is_an_error():
    with pytest.raises(UserError, match="canvas size 0 must be at least 1"):
        Canvas(1, 0)


def test_plain_pixels_have_one_level():
    canvas = Canvas(2, 12, "pixels")
    assert [tuple(level.shape) for level in canvas.levels] == [(2, 3, 12, 12)]
    assert canvas.all_open


@pytest.mark.parametrize("size", [5, 8, 12])
def test_opening_a_level_leaves_the_image_exactly_as_it_is(size):
    canvas = noisy(2, size, open_levels=1)
    seen = []
    while not canvas.all_open:
        before = canvas.images()
        level = canvas.open_level()
        assert level is canvas.levels[-1]
        # With one more level, the same sum is another matrix product, which processors may round differently.
        torch.testing.assert_close(canvas.images(), before, rtol=0, atol=1e-6)
        level.normal_(generator=torch.Generator().manual_seed(1))
        assert not torch.allclose(canvas.images(), before, rtol=0, atol=1e-3)  # the new level does take part
        seen.append(level.shape[-1])
    assert seen == pyramid_sizes(size)[1:]
    with pytest.raises(ValueError, match=r"all \d levels are open"):
        canvas.open_level()


# ---- images


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("std", [0.0, 0.1, 2.0])
def test_images_are_between_black_and_white(kind, std):
    images = noisy(3, 12, kind, std).images()
    assert images.shape == (3, 3, 12, 12)
    assert images.min() > 0
    assert images.max() < 1
    if std == 0:
        assert torch.equal(images, torch.full_like(images, 0.5))
    else:
        assert images.std() > 0.01


def test_an_image_is_the_formula():
    canvas = noisy(2, 6, dtype=torch.float64)
    total = sum(torch.nn.functional.interpolate(level, (6, 6), mode="bilinear") for level in canvas.levels)
    mixed = (COLOUR_MATRIX.double() @ total.flatten(2)).view_as(total)
    torch.testing.assert_close(canvas.images(), torch.sigmoid(2 * mixed), rtol=1e-12, atol=0)
    pixels = noisy(2, 6, "pixels", dtype=torch.float64)
    mixed = (COLOUR_MATRIX.double() @ pixels.levels[0].flatten(2)).view_as(pixels.levels[0])
    torch.testing.assert_close(pixels.images(), torch.sigmoid(2 * mixed), rtol=1e-12, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_each_ablation_leaves_the_other_part_alone(kind):
    """Without decorrelation the pyramid stays, and without the pyramid decorrelation stays."""
    plain = noisy(2, 6, kind, dtype=torch.float64, colour="none")
    total = sum(torch.nn.functional.interpolate(level, (6, 6), mode="bilinear") for level in plain.levels)
    torch.testing.assert_close(plain.images(), torch.sigmoid(2 * total), rtol=1e-12, atol=0)
    assert plain.sizes == noisy(2, 6, kind).sizes


@pytest.mark.parametrize("kind", KINDS)
def test_rendering_rows_is_rows_of_the_rendering(kind):
    canvas = noisy(5, 7, kind)
    whole = canvas.images()
    for start, stop in [(0, 1), (1, 4), (4, 5)]:
        torch.testing.assert_close(canvas.images(start, stop), whole[start:stop], rtol=0, atol=1e-6)


def test_many_images_are_rendered_in_parts():
    canvas = noisy(150, 2)
    torch.testing.assert_close(canvas.images(3, 140), canvas.render(canvas.levels)[3:140], rtol=0, atol=1e-6)


def test_columns_of_the_colour_matrix():
    # Columns are normalised together: the longest has length 1; directions and proportions stay.
    norms = COLOUR_MATRIX.norm(dim=0)
    assert float(norms.max()) == pytest.approx(1.0, abs=1e-6)
    assert norms.argmax() == 0  # brightness varies most
    torch.testing.assert_close(COLOUR_MATRIX[:, 0] / COLOUR_MATRIX[0, 0], torch.tensor([1, 27 / 26, 27 / 26]))
    assert torch.linalg.matrix_rank(COLOUR_MATRIX) == 3


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_reaches_every_level(kind):
    canvas = noisy(2, 12, kind)
    leaves = [level.clone().requires_grad_() for level in canvas.levels]
    canvas.render(leaves).square().sum().backward()
    for leaf in leaves:
        assert (leaf.grad != 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_gradcheck(kind):
    canvas = noisy(1, 3, kind, dtype=torch.float64)
    leaves = tuple(level.clone().requires_grad_() for level in canvas.levels)
    assert torch.autograd.gradcheck(lambda *levels: canvas.render(levels), leaves)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_precision(dtype):
    canvas = noisy(1, 4, dtype=dtype)
    assert {level.dtype for level in canvas.levels} == {dtype}
    assert canvas.images().dtype == dtype


# ---- starting values


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 5e-6), (torch.float64, 1e-12)])
@pytest.mark.parametrize("size", [1, 8, 13])
def test_an_image_survives_encoding(kind, dtype, tolerance, size):
    images = random_images(3, size).to(dtype)
    canvas = Canvas(3, size, kind, dtype=dtype)
    canvas.fill_with_images(images)
    torch.testing.assert_close(canvas.images(), images, rtol=0, atol=tolerance)


def test_black_and_white_are_encoded_as_nearly_so():
    canvas = Canvas(2, 8)
    canvas.fill_with_images(torch.stack([torch.zeros(3, 8, 8), torch.ones(3, 8, 8)]))
    assert all(level.isfinite().all() for level in canvas.levels)
    torch.testing.assert_close(canvas.images()[0], torch.full((3, 8, 8), 0.01), rtol=0, atol=1e-5)
    torch.testing.assert_close(canvas.images()[1], torch.full((3, 8, 8), 0.99), rtol=0, atol=1e-5)


def test_more_open_levels_come_nearer_to_the_image():
    images = random_images(2, 16)
    errors = []
    for levels in range(1, 6):
        canvas = Canvas(2, 16, open_levels=levels)
        canvas.fill_with_images(images)
        errors.append(float((canvas.images() - images).square().mean()))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-10 < errors[-2]
    one = Canvas(2, 16, open_levels=1)  # the mean colour, in the space where levels are summed
    one.fill_with_images(images)
    expected = torch.sigmoid(torch.logit(images).mean(dim=(2, 3), keepdim=True)).expand_as(images)
    torch.testing.assert_close(one.images(), expected, rtol=0, atol=1e-5)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), cut=st.integers(1, 4), levels=st.integers(1, 4))
def test_noise_does_not_depend_on_how_images_are_split(seed, cut, levels):
    whole = Canvas(5, 8, open_levels=levels)
    whole.fill_with_noise(0.5, seed=seed)
    first, second = Canvas(cut, 8, open_levels=levels), Canvas(5 - cut, 8, open_levels=levels)
    first.fill_with_noise(0.5, seed=seed)
    second.fill_with_noise(0.5, seed=seed, first=cut)
    for level, one, two in zip(whole.levels, first.levels, second.levels, strict=True):
        assert torch.equal(level, torch.cat([one, two]))
    images = whole.images()
    assert all(not torch.equal(images[i], images[j]) for i in range(5) for j in range(i))


def test_noise_depends_on_its_seed_and_has_its_size():
    canvas, other = Canvas(4, 64), Canvas(4, 64)
    canvas.fill_with_noise(0.7, seed=1)
    other.fill_with_noise(0.7, seed=2)
    assert not torch.equal(canvas.levels[0], other.levels[0])
    share = 0.7 / len(canvas.levels)
    for level in canvas.levels[4:]:
        assert float(level.std()) == pytest.approx(share, rel=0.1)
    some = Canvas(4, 64, open_levels=6)
    some.fill_with_noise(0.7, seed=1)  # divided among the open levels, so the image has the full amount at once
    assert float(some.levels[5].std()) == pytest.approx(0.7 / 6, rel=0.05)
    pixels = Canvas(1, 64, "pixels")
    pixels.fill_with_noise(0.7, seed=1)
    assert float(pixels.levels[0].std()) == pytest.approx(0.7, rel=0.05)
