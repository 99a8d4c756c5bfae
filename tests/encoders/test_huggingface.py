"""``hf:`` encoders: models of transformers."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from helpers_encoders import close, pictures
from probedistill import UserError, load_encoder


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
