"""A spec becomes an encoder: names, sizes, fingerprints."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import TESTS, TINY
from helpers_encoders import Tiny, close, pictures
from probedistill import Encoder, EncoderConfig, UserError, load_encoder


def test_features_option_of_a_source_with_one_kind():
    with pytest.raises(UserError, match="unknown features 'ouput'; did you mean 'output'"):
        load_encoder("timm:resnet18", pretrained=False, features="ouput", device="cpu")
    with pytest.raises(UserError, match="features 'output' is not possible for '"):
        load_encoder(TINY, features="output", device="cpu")


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("module:helpers_encoders:tinny", "did you mean 'tiny'"),
        ("module:no_such_module_here:make", "'no_such_module_here' cannot be imported"),
        ("module:helpers_encoders", "must be module:PACKAGE.MODULE:NAME, such as module:mine:make"),
        ("module:helpers_encoders:not_a_module", "returned str; it must return"),
        ("module:helpers_encoders:four_dimensional", r"returns features of shape \(2, 24"),
        ("timm:resnet19", "did you mean 'resnet1"),
        ("efficientnet_lite", "did you mean 'efficientnet_lite"),
        ("tim:resnet18", "did you mean 'timm'"),
        ("timm:", "unknown encoder 'timm:'"),
        ("resnet18", "did you mean 'timm:resnet18'"),
        ("vit_base_patch16_clip_224", "did you mean 'timm:vit_base_patch16_clip_224'"),
        ("", "unknown encoder ''"),
    ],
)
def test_unknown_encoders_name_the_nearest(spec, says):
    with pytest.raises(UserError, match=says):
        load_encoder(spec, device="cpu", pretrained=False)


@pytest.mark.parametrize(
    ("spec", "size"),
    [("timm:vit_tiny_patch16_224", 8), ("module:helpers_encoders:picky", 48)],
)
def test_input_size_that_the_model_cannot_take(spec, size):
    with pytest.raises(UserError, match=f"{size}|input-size"):
        load_encoder(spec, pretrained=False, input_size=size, device="cpu")


def test_options_out_of_range():
    with pytest.raises(UserError, match="input_size 3 is too small"):
        load_encoder(TINY, input_size=3)
    with pytest.raises(UserError, match="unknown precision 'fp8'"):
        load_encoder(TINY, precision="fp8", device="cpu")
    with pytest.raises(UserError, match="device 'cudda' cannot be used"):
        load_encoder(TINY, device="cudda")
    with pytest.raises(UserError, match=r"device 'meta' cannot be used \(it holds no values\); try auto or cpu"):
        load_encoder(TINY, device="meta")
    for size in ("64", 64.5):
        with pytest.raises(UserError, match=f"input_size {size!r} is not a whole number; give a number of pixels"):
            load_encoder(TINY, input_size=size)
    with pytest.raises(UserError, match=r"encoder_args \[1\] is not a dictionary; give {name: value}"):
        load_encoder(TINY, encoder_args=[1])


@pytest.mark.parametrize("shape", [(33, 57), (57, 33), (31, 31), (1, 200), (500, 333)])
def test_centre_view_of_any_shape(shape):
    encoder = load_encoder(TINY, device="cpu")
    encoder.crop_pct = 0.875
    view = encoder.centre_view(Image.fromarray(np.full((*shape, 3), 128, np.uint8)))
    assert view.shape == (3, 32, 32)
    assert view.dtype == torch.float32
    assert torch.allclose(view, torch.tensor(128 / 255))  # no padding is visible


def test_centre_view_takes_the_centre():
    pixels = np.zeros((32, 96, 3), np.uint8)
    pixels[:, 32:64] = 255
    view = load_encoder(TINY, device="cpu").centre_view(Image.fromarray(pixels))
    assert float(view.min()) == 1.0


def test_forward_resizes_images_of_another_size():
    encoder = load_encoder(TINY, device="cpu")
    images = pictures(2, 8).repeat_interleave(12, 2).repeat_interleave(12, 3)  # 96 px, coarse content
    smaller = torch.nn.functional.avg_pool2d(images, 3)
    assert encoder(images).shape == (2, 24)
    assert close(encoder(images), encoder(smaller), 0.05)
    wide = torch.cat([torch.zeros(2, 3, 32, 32), pictures(2, 32), torch.zeros(2, 3, 32, 32)], dim=3)
    assert close(encoder(wide), encoder(pictures(2, 32)), 1e-5)


@pytest.mark.slow
def test_fingerprint_is_the_same_in_another_process():
    here = [load_encoder(TINY, device="cpu").fingerprint]
    here.append(load_encoder("timm:vit_tiny_patch16_224", pretrained=False, input_size=32, device="cpu").fingerprint)
    code = (
        "from probedistill.encoders.load import load_encoder as l\n"
        f"print(l({TINY!r}, device='cpu').fingerprint)\n"
        "print(l('timm:vit_tiny_patch16_224', pretrained=False, input_size=32, device='cpu').fingerprint)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(TESTS)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.split() == here


def test_fingerprint_tells_encoders_apart():
    base = load_encoder(TINY, device="cpu")
    assert load_encoder(TINY, device="cpu", fold_batchnorm=False).fingerprint == base.fingerprint
    others = [
        load_encoder(TINY, device="cpu", input_size=48),
        load_encoder(TINY, device="cpu", encoder_args={"seed": 1}),
        Encoder(Tiny(), name="tiny", input_size=32, mean=(0.4,) * 3, std=(0.25,) * 3),
        Encoder(Tiny(), name="tiny", input_size=32, mean=(0.5,) * 3, std=(0.25,) * 3, interpolation="bilinear"),
        Encoder(Tiny(), name="tiny", input_size=32, mean=(0.5,) * 3, std=(0.25,) * 3, crop_pct=0.9),
    ]
    prints = {base.fingerprint, *(e.fingerprint for e in others)}
    assert len(prints) == 1 + len(others)


def test_loading_leaves_the_random_state_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    load_encoder("timm:vit_tiny_patch16_224", pretrained=False, input_size=32, device="cpu")
    assert torch.equal(torch.rand(3), expected)


def test_a_size_after_the_name_is_understood_everywhere():
    expected = load_encoder(TINY, input_size=48).fingerprint
    assert load_encoder(f"{TINY}@48").fingerprint == expected
    assert load_encoder(EncoderConfig(encoder=f"{TINY}@48", input_size=48)).fingerprint == expected
    assert replace(EncoderConfig(encoder=f"{TINY}@40"), input_size=48) == EncoderConfig(encoder=f"{TINY}@48")
    with pytest.raises(UserError, match=f"encoder '{TINY}@48' and input_size 40 disagree; give only one size"):
        load_encoder(f"{TINY}@48", input_size=40)
