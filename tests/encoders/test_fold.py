"""Folding batch norms into convolutions does not change the function."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import timm
import torch
from torch import nn
from torch.nn.utils import prune

from helpers_encoders import Tiny, close, pictures
from probedistill import Encoder, EncoderConfig, load_encoder
from probedistill.encoders.fold import fold_batchnorms


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "mobilenetv2_050", "tf_efficientnet_lite0"])
def test_folding_keeps_the_function(name):
    """Statistics are random, so that a batch norm folded wrongly (or left out) changes the features."""
    torch.manual_seed(1)
    model = timm.create_model(name, num_classes=0).eval()
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.running_mean.normal_(0, 0.2)
        norm.running_var.uniform_(0.5, 2)
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, 0, 0.2)
    images = pictures(2, 64)
    with torch.no_grad():
        plain = Encoder(model, name=name, input_size=64, fold_batchnorm=False)
        expected, fingerprint = plain(images), plain.fingerprint
        folded = Encoder(model, name=name, input_size=64)
        assert close(folded(images), expected)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.model.modules())
    assert folded.fingerprint == fingerprint


def test_a_model_that_is_trained_between_two_encoders_keeps_what_it_has_learned():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    encoder, images = Encoder(model, name="mine", input_size=16), pictures(2, 16)
    first = encoder(images)
    with torch.no_grad():
        for weights in model.parameters():
            weights.add_(0.1)
    learned = model((images - encoder.mean) / encoder.std)
    for given in (copy.deepcopy(model), model):
        assert close(Encoder(given, name="mine", input_size=16)(images), learned)
    assert not close(learned, first)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["convnext_atto", "vit_tiny_patch16_224"])
def test_models_without_batch_norm_are_left_alone(name):
    config = EncoderConfig(encoder=f"timm:{name}", pretrained=False, input_size=32, device="cpu")
    folded, plain = load_encoder(config), load_encoder(replace(config, fold_batchnorm=False))
    ours, theirs = folded.state_dict(), plain.state_dict()
    assert all(torch.equal(ours[k], theirs[k]) for k in theirs)


def test_convolution_with_two_norms_is_left_as_it_was():
    class Fork(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, bias=False)
            self.one, self.other = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
            for k, norm in enumerate((self.one, self.other)):
                norm.running_var.fill_(4.0 + k)

        def forward(self, x):
            x = self.conv(x)
            return (self.one(x) + self.other(x)).mean((2, 3))

    torch.manual_seed(0)
    model = Fork().eval()
    plain = Encoder(copy.deepcopy(model), name="fork", input_size=16, fold_batchnorm=False)
    assert torch.equal(Encoder(model, name="fork", input_size=16)(pictures(2, 16)), plain(pictures(2, 16)))


def test_convolution_that_is_used_twice_is_not_folded():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.conv, self.one, self.two = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.BatchNorm2d(3)
            self.two.running_mean.fill_(1.0)

        def forward(self, x):
            return self.two(self.conv(self.one(self.conv(x)))).mean((2, 3))

    model = Shared().eval()
    images = pictures()
    with torch.no_grad():
        expected = model(images)
        encoder = Encoder(model, name="shared", input_size=32, mean=(0.0,) * 3, std=(1.0,) * 3)
        assert torch.allclose(encoder(images), expected, atol=1e-6)
    assert isinstance(encoder.model.two, nn.BatchNorm2d)


@pytest.mark.parametrize(
    "change",
    [
        nn.utils.parametrizations.weight_norm,
        nn.utils.parametrizations.spectral_norm,
        nn.utils.spectral_norm,
        lambda conv: prune.l1_unstructured(conv, "weight", 0.3),
    ],
    ids=["weight norm", "spectral norm", "spectral norm by hooks", "pruned"],
)
def test_convolutions_that_recompute_their_weights_are_not_folded(change):
    model = Tiny().eval()
    change(model.body[0])
    model.eval()
    images = pictures()
    with torch.no_grad():
        before = model(images)
        assert fold_batchnorms(model, images[:1]) == 1  # the other one
        assert torch.allclose(model(images), before, atol=1e-4)
