"""An encoder is frozen, lets gradients through, and says its precision."""

from __future__ import annotations

import pytest
import torch

from conftest import TINY
from helpers_encoders import close, pictures
from probedistill import load_encoder


def test_encoder_is_frozen_and_lets_gradients_through():
    encoder = load_encoder(TINY, fold_batchnorm=False, device="cpu")
    assert encoder.train() is encoder
    assert not any(m.training for m in encoder.modules())
    before = encoder.model.body[1].running_mean.clone()
    images = pictures().requires_grad_()
    encoder(images).square().sum().backward()
    assert float(images.grad.abs().sum()) > 0
    assert all(not p.requires_grad and p.grad is None for p in encoder.parameters())
    assert torch.equal(before, encoder.model.body[1].running_mean)


def test_gradient_is_that_of_the_unfolded_model():
    folded, plain = load_encoder(TINY, device="cpu"), load_encoder(TINY, fold_batchnorm=False, device="cpu")
    gradients = []
    for encoder in (folded, plain):
        images = pictures().requires_grad_()
        encoder(images).square().sum().backward()
        gradients.append(images.grad)
    assert close(*gradients)


@pytest.mark.parametrize("size", [1.0, 1e-9])
def test_float16_passes_on_gradients_of_any_size(size):
    gradients = []
    for precision in ("fp32", "fp16"):
        images = pictures().requires_grad_()
        features = load_encoder(TINY, precision=precision, device="cpu")(images)
        features.backward(size * torch.ones_like(features))
        gradients.append(images.grad)
    assert float(gradients[0].norm()) > 0
    assert close(gradients[1], gradients[0], 0.05)


def test_low_precision_gives_float32_features_close_to_the_full_ones():
    full, low = (load_encoder(TINY, precision=p, device="cpu") for p in ("fp32", "bf16"))
    features = low(pictures())
    assert features.dtype == torch.float32
    assert close(features, full(pictures()), 0.05)
    assert not torch.equal(features, full(pictures()))
