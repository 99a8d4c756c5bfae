"""Views: drawn only from a seed, replayed exactly, cropped like torchvision and Pillow."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from probedistill.config import AugmentConfig
from probedistill.errors import UserError
from probedistill.features.views import Views, apply_views, draw_views


def make_images(n: int, height: int, width: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(n, 3, height, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def make_views(*boxes: tuple[float, float, float, float], flip: bool = False) -> Views:
    n = len(boxes)
    return Views(torch.tensor(boxes, dtype=torch.float64), torch.full((n,), flip), torch.full((n,), -1))


WHOLE = (0.0, 0.0, 1.0, 1.0)


# ---- what a view is


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_identity_box_gives_the_image(dtype):
    images = make_images(2, 9, 9, dtype=dtype)
    views = apply_views(images, make_views(WHOLE, WHOLE), 9)
    assert views.dtype == dtype
    torch.testing.assert_close(views, images, rtol=0, atol=torch.finfo(dtype).eps)


def test_a_box_of_the_output_size_is_a_plain_crop():
    images = make_images(1, 16, 20)
    views = apply_views(images, make_views((4 / 20, 3 / 16, 8 / 20, 8 / 16)), 8)
    torch.testing.assert_close(views, images[:, :, 3:11, 4:12], rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [5, 8, 12])
@pytest.mark.parametrize("box", [(2, 3, 12, 16), (0, 0, 20, 24), (5, 1, 7, 9), (8, 8, 8, 8)])
def test_integer_boxes_agree_with_torchvision_inside(box, size):
    # Like Pillow's, the filter may use pixels outside the box; torchvision's cannot. So leave out the rim.
    left, top, width, height = box
    images = make_images(2, 24, 20, dtype=torch.float64)
    share = (left / 20, top / 24, width / 20, height / 24)
    views = apply_views(images, make_views(share, share), size)
    crop = tv.crop(images, top, left, height, width)
    expected = F.interpolate(crop, (size, size), mode="bilinear", antialias=True, align_corners=False)
    rim = 2  # output pixels whose filter reaches over the edge of the box: at most 1.5
    inside = (slice(None), slice(None), slice(rim, size - rim), slice(rim, size - rim))
    if width == 20:  # a box of the whole image has no pixels outside
        inside = (slice(None),) * 4
    assert views[inside].numel() > 0
    torch.testing.assert_close(views[inside], expected[inside], rtol=0, atol=1e-7)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    height=st.integers(3, 24),
    width=st.integers(3, 24),
    size=st.integers(1, 24),
)
def test_every_box_agrees_with_pillow(seed, height, width, size):
    views = draw_views(AugmentConfig(flip=0.0), 1, seed=seed, aspect=width / height)
    left, top, share_x, share_y = views.boxes[0].tolist()
    image = make_images(1, height, width, seed % 1000)
    box = (left * width, top * height, (left + share_x) * width, (top + share_y) * height)
    box = (box[0], box[1], min(box[2], width), min(box[3], height))
    channel = Image.fromarray(image[0, 1].numpy())
    expected = np.asarray(channel.resize((size, size), Image.Resampling.BILINEAR, box=box))
    np.testing.assert_allclose(apply_views(image, views, size)[0, 1].numpy(), expected, rtol=0, atol=2e-5)


def test_a_flip_is_a_flip():
    images = make_images(2, 17, 13)
    boxes = [(0.2, 0.1, 0.5, 0.7), (0.0, 0.3, 0.31, 0.4)]
    plain, flipped = apply_views(images, make_views(*boxes), 7), apply_views(images, make_views(*boxes, flip=True), 7)
    torch.testing.assert_close(flipped, plain.flip(-1), rtol=0, atol=1e-6)
    assert (flipped - plain).abs().max() > 0.1


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), size=st.integers(1, 20))
def test_a_constant_image_stays_constant(seed, size):
    views = draw_views(AugmentConfig(), 5, seed=seed, aspect=11 / 7)
    result = apply_views(torch.full((5, 3, 7, 11), 0.3, dtype=torch.float64), views, size)
    torch.testing.assert_close(result, torch.full_like(result, 0.3), rtol=1e-12, atol=0)


def test_views_are_linear_in_the_image_and_gradcheck_holds():
    images = make_images(2, 5, 6, dtype=torch.float64).requires_grad_()
    views = draw_views(AugmentConfig(noise_prob=1.0), 2, seed=0, aspect=6 / 5)
    assert torch.autograd.gradcheck(lambda x: apply_views(x, views, 4), (images,))


def test_float64_images_are_cut_in_float64():
    # Bilinear interpolation reproduces a ramp to the last bit of the images.
    ramp = torch.arange(64, dtype=torch.float64).div(64).expand(1, 3, 8, 64)
    box = (0.25, 0.25, 0.37, 0.5)
    result = apply_views(ramp, make_views(box), 9)[0, 0, 0]
    positions = 0.25 * 64 + (torch.arange(9, dtype=torch.float64) + 0.5) * 0.37 * 64 / 9 - 0.5
    torch.testing.assert_close(result, positions / 64, rtol=0, atol=5e-3)  # the discrete triangle is uneven
    as_float32 = apply_views(ramp.float(), make_views(box), 9)[0, 0, 0].double()
    assert 0 < (as_float32 - result).abs().max() < 1e-6


def test_each_image_gets_its_own_view():
    with pytest.raises(ValueError, match="2 images for 1 views"):
        apply_views(make_images(2, 4, 4), make_views(WHOLE), 4)


# ---- replay


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), n=st.integers(1, 8), data=st.data())
def test_a_slice_of_the_views_replays_exactly(seed, n, data):
    start = data.draw(st.integers(0, n - 1))
    stop = data.draw(st.integers(start + 1, n))
    images = make_images(n, 8, 8, seed % 1000)
    views = draw_views(AugmentConfig(noise_prob=0.6), n, seed=seed)
    assert len(views[start:stop]) == stop - start
    whole, part = apply_views(images, views, 6), apply_views(images[start:stop], views[start:stop], 6)
    torch.testing.assert_close(part, whole[start:stop], rtol=0, atol=1e-6)  # the same noise, which has size 0.2


def test_a_slice_has_the_same_noise_to_the_bit():
    views = draw_views(AugmentConfig(noise_prob=0.5), 9, seed=3)
    zeros = torch.zeros(9, 3, 4, 4)
    whole = apply_views(zeros, views, 5)
    assert 0 < (whole != 0).any(dim=(1, 2, 3)).sum() < 9
    for start, stop in [(0, 1), (2, 5), (8, 9), (3, 9)]:
        assert torch.equal(apply_views(zeros[start:stop], views[start:stop], 5), whole[start:stop])


def test_the_same_seed_gives_the_same_views():
    config = AugmentConfig(noise_prob=0.5)
    one, two, other = (draw_views(config, 20, seed=seed) for seed in (4, 4, 5))
    for name in ("boxes", "flips", "noise_seeds"):
        assert torch.equal(getattr(one, name), getattr(two, name))
        assert not torch.equal(getattr(one, name), getattr(other, name))
    before = torch.random.get_rng_state()
    apply_views(make_images(20, 8, 8), one, 6)
    draw_views(config, 3, seed=1)
    assert torch.equal(torch.random.get_rng_state(), before)


# ---- distribution


def is_fallback(boxes: Tensor) -> Tensor:
    left, top, width, height = boxes.unbind(1)
    fills = (width == 1) | (height == 1)
    return fills & torch.isclose(left, (1 - width) / 2) & torch.isclose(top, (1 - height) / 2)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**40),
    aspect=st.floats(0.2, 5.0),
    scale=st.tuples(st.floats(0.01, 1.0), st.floats(0.01, 1.0)).map(lambda s: tuple(sorted(s))),
    ratio=st.tuples(st.floats(0.4, 2.5), st.floats(0.4, 2.5)).map(lambda r: tuple(sorted(r))),
)
def test_boxes_lie_inside_and_keep_to_their_ranges(seed, aspect, scale, ratio):
    config = AugmentConfig(scale=scale, ratio=ratio)
    boxes = draw_views(config, 16, seed=seed, aspect=aspect).boxes
    left, top, width, height = boxes.unbind(1)
    assert (boxes >= 0).all()
    assert (width > 0).all()
    assert (height > 0).all()
    assert ((left + width) <= 1 + 1e-12).all()
    assert ((top + height) <= 1 + 1e-12).all()
    shape = width * aspect / height
    assert ((shape >= ratio[0] * (1 - 1e-9)) & (shape <= ratio[1] * (1 + 1e-9)) | is_fallback(boxes)).all()
    area = width * height
    assert ((area >= scale[0] * (1 - 1e-9)) & (area <= scale[1] * (1 + 1e-9)) | is_fallback(boxes)).all()


@pytest.mark.parametrize("aspect", [0.5, 0.9, 1.0, 1.2, 2.0])
def test_no_fit_falls_back_to_the_largest_centre_crop(aspect):
    # At full area no ratio in this range fits, so the fallback is used.
    ratio = (0.8, 1.25)
    config = AugmentConfig(scale=(1.0, 1.0), ratio=(ratio[0], ratio[0]) if aspect > 1 else (ratio[1], ratio[1]))
    left, top, width, height = draw_views(config, 1, seed=0, aspect=aspect).boxes[0].tolist()
    assert max(width, height) == 1
    assert width * aspect / height == pytest.approx(config.ratio[0])
    assert (left, top) == (pytest.approx((1 - width) / 2), pytest.approx((1 - height) / 2))


def test_the_fallback_of_an_image_within_the_ratio_is_the_whole_image():
    views = draw_views(AugmentConfig(scale=(1.0, 1.0)), 200, seed=0, aspect=1.1)
    assert views.boxes.tolist() == [list(WHOLE)] * 200


def test_boxes_are_distributed_like_torchvisions():
    from torchvision.transforms.v2 import RandomResizedCrop

    n, height, width = 4000, 400, 600
    torch.manual_seed(0)
    crop, image = RandomResizedCrop(8, scale=(0.08, 1.0)), torch.zeros(1, height, width)
    theirs = [crop.make_params([image]) for _ in range(n)]
    theirs = np.array(
        [[p["left"] / width, p["top"] / height, p["width"] / width, p["height"] / height] for p in theirs]
    )
    ours = draw_views(AugmentConfig(), n, seed=0, aspect=width / height).boxes.numpy()
    for column in range(4):
        grid = np.linspace(0.02, 0.98, 25)
        cdf_ours, cdf_theirs = ((boxes[:, column][:, None] <= grid).mean(axis=0) for boxes in (ours, theirs))
        assert np.abs(cdf_ours - cdf_theirs).max() < 0.04  # 0.1% of random draws differ by more
    area = ours[:, 2] * ours[:, 3]
    assert area.min() < 0.12


def test_after_ten_tries_the_crop_falls_back():
    # A crop of 90% of a square image fits if its ratio is from 0.9 to 1/0.9; the ratio's logarithm is uniform.
    share_that_fits = math.log(0.9) / math.log(0.5)
    boxes = draw_views(AugmentConfig(scale=(0.9, 0.9), ratio=(0.5, 2.0)), 4000, seed=1).boxes
    whole = (boxes == torch.tensor(WHOLE)).all(dim=1)
    assert float(whole.double().mean()) == pytest.approx((1 - share_that_fits) ** 10, abs=0.03)


def test_whole_images_are_resized_like_crops():
    views = draw_views(AugmentConfig(kind="none", antialias=False, pad="zeros"), 3, seed=0)
    assert (views.antialias, views.zeros) == (False, True)


@pytest.mark.parametrize("flip", [0.0, 0.2, 1.0])
def test_share_of_flips(flip):
    flips = draw_views(AugmentConfig(flip=flip), 5000, seed=1).flips
    assert float(flips.double().mean()) == pytest.approx(flip, abs=0.03)


@pytest.mark.parametrize("prob", [0.0, 0.3, 1.0])
def test_share_of_noisy_views(prob):
    seeds = draw_views(AugmentConfig(noise_prob=prob), 5000, seed=1).noise_seeds
    assert float((seeds >= 0).double().mean()) == pytest.approx(prob, abs=0.03)
    assert len(seeds[seeds >= 0].unique()) == (seeds >= 0).sum()


@pytest.mark.parametrize("std", [0.0, 0.05, 0.2])
def test_noise_has_its_standard_deviation(std):
    views = draw_views(AugmentConfig(noise_prob=1.0, noise_std=std), 20, seed=1)
    noise = apply_views(torch.full((20, 3, 4, 4), 0.5), views, 32) - 0.5
    assert float(noise.std()) == pytest.approx(std, rel=0.03, abs=1e-6)
    assert float(noise.mean()) == pytest.approx(0.0, abs=0.01)
    if std:
        assert (noise.flatten(1).std(dim=1) > 0.9 * std).all()
        assert not torch.allclose(noise[0], noise[1])


def test_noise_without_a_deviation_still_has_its_mean():
    views = draw_views(AugmentConfig(noise_prob=1.0, noise_std=0.0, noise_mean=0.3), 4, seed=1)
    grey = apply_views(torch.full((4, 3, 4, 4), 0.5), views, 4)
    torch.testing.assert_close(grey, torch.full_like(grey, 0.8))


# ---- errors


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"scale": (0.0, 1.0)}, r"augment.scale \(0.0, 1.0\)"),
        ({"scale": (0.5, 0.4)}, "augment.scale"),
        ({"scale": (0.5, 1.1)}, "augment.scale"),
        ({"scale": (float("nan"), 1.0)}, "augment.scale"),
        ({"ratio": (0.0, 1.0)}, "augment.ratio"),
        ({"ratio": (2.0, 1.0)}, "augment.ratio"),
        ({"flip": -0.1}, "augment.flip -0.1"),
        ({"flip": 1.5}, "augment.flip 1.5"),
        ({"noise_prob": 2.0}, "augment.noise_prob 2.0"),
        ({"noise_std": -1.0}, "augment.noise_std -1.0"),
        ({"noise_std": float("nan")}, "augment.noise_std"),
        ({"noise_std": float("inf")}, "augment.noise_std"),
        ({"ratio": (1.0, float("inf"))}, "augment.ratio"),
    ],
)
def test_values_out_of_range(values, message):
    with pytest.raises(UserError, match=message) as caught:
        AugmentConfig(**values).check()
    assert "\n" not in str(caught.value)


def test_good_values_pass():
    AugmentConfig().check()
    AugmentConfig(scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=0.0, noise_prob=0.0, noise_std=0.0).check()
    with pytest.raises(UserError, match=r"view\.flip"):
        AugmentConfig(flip=3.0).check("view")
