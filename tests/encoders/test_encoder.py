"""An encoder is frozen, lets gradients through, and states its precision."""

from __future__ import annotations

import inspect
import pickle
from types import MethodType

import joblib
import pytest
import torch
from torch import Tensor, nn

from conftest import TINY
from helpers_encoders import Tiny, close, pictures
from probedistill import Encoder, load_encoder


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


def test_several_encoders_of_one_module():
    """The first encoder folds the batch norms, but the second gets the original module."""
    model, once = Tiny(), Encoder(Tiny(), name="tiny", input_size=32)
    first = Encoder(model, name="tiny", input_size=32)
    images = pictures()
    expected = first(images)
    for size in (32, 48, 32):
        encoder = Encoder(model, name="tiny", input_size=size)
        assert (encoder.fingerprint == once.fingerprint) == (size == 32)
        assert close(encoder(images) if size == 32 else first(images), expected)
    assert pickle.loads(pickle.dumps(encoder)).fingerprint == once.fingerprint


def test_an_encoder_can_be_sent_to_other_processes(encoder):
    """Pickles of `joblib`, for example, do not find the memory formats of torch by their names."""
    assert joblib.hash(encoder) == joblib.hash(encoder)
    assert "torch.channels_last" not in str(pickle.dumps(encoder))


class Pools(Tiny):
    """Tiny with a choice, a tensor and a buffer that are not among its weights."""

    def __init__(self, how: str = "mean", scale: float = 1, shift: float = 0) -> None:
        super().__init__()
        self.how, self.scale = how, torch.full((24,), float(scale))
        self.register_buffer("shift", torch.full((24,), float(shift)), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.body(images)
        pooled = maps.mean((2, 3)) if self.how == "mean" else maps.amax((2, 3))
        return pooled * self.scale + self.shift


def test_fingerprints_include_more_than_weights():
    """Features are cached by the fingerprint: with an equal one, another encoder's features would be used."""
    strided = Pools()
    strided.body[3].stride = (1, 1)

    class Pools2(Pools):  # equal weights and values
        def forward(self, images: Tensor) -> Tensor:
            return 2 * super().forward(images)

    models = [Pools(), Pools("max"), Pools(scale=2), Pools(shift=1), strided, Pools2()]
    found = {Encoder(model, name="mine", input_size=32).fingerprint for model in models}
    assert len(found) == len(models)
    assert Encoder(Pools(), name="mine", input_size=32).fingerprint in found


def test_the_text_of_a_class_is_looked_up_once(monkeypatch):
    """Finding it means parsing a file, and large models have hundreds of modules of one class."""

    class Looked(Same):
        pass

    looked_up = []
    monkeypatch.setattr(inspect, "getsource", lambda kind: looked_up.append(kind.__name__) or f"class {kind.__name__}")
    Encoder(nn.Sequential(*(Looked() for _ in range(3)), Pools()), name="mine", input_size=32)
    assert looked_up.count("Looked") == 1


def largest(images: Tensor) -> Tensor:
    return images.amax((2, 3))


def twice(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
    return 2 * output


def test_fingerprints_include_functions_that_a_library_does_not_know():
    def pooled() -> nn.Sequential:
        return nn.Sequential(nn.AvgPool2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    replaced, as_method, hooked = pooled(), pooled(), pooled()
    replaced.forward = largest
    as_method.forward = MethodType(lambda self, images: images.amin((2, 3)), as_method)
    hooked.register_forward_hook(twice)
    models = [pooled(), replaced, as_method, hooked]
    found = {Encoder(model, name="mine", input_size=32).fingerprint for model in models}
    assert len(found) == len(models)
    again = pooled()
    again.forward = largest
    assert Encoder(again, name="mine", input_size=32).fingerprint in found


class Same(nn.Module):
    def forward(self, x):
        return x
