"""``openclip:`` encoders."""

from __future__ import annotations

import pytest
import torch

from helpers_encoders import close, pictures
from probedistill import UserError, load_encoder


@pytest.mark.slow
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


@pytest.mark.slow
def test_openclip_with_random_weights():
    open_clip = pytest.importorskip("open_clip")
    with pytest.warns(UserWarning, match="the features after the projection"):
        encoder = load_encoder("openclip:RN50", pretrained=False, input_size=64, device="cpu")
    torch.manual_seed(0)
    reference = open_clip.create_model("RN50", pretrained=None, force_image_size=64).visual.eval()
    assert encoder.dim == 1024
    assert encoder.input_size == 64
    assert encoder.mean.flatten().tolist() == pytest.approx([0.4815, 0.4578, 0.4082], abs=1e-3)
    images = pictures(2, 64)
    with torch.no_grad():
        assert close(encoder(images), reference((images - encoder.mean) / encoder.std))


@pytest.mark.slow
def test_openclip_unknown_names():
    pytest.importorskip("open_clip")
    with pytest.raises(UserError, match="did you mean 'ViT-B-32"):
        load_encoder("openclip:ViT-B-3/laion2b_s34b_b79k", device="cpu")
    with pytest.raises(UserError, match="unknown openclip weights for ViT-B-32 'laion2b_s34b'; did you mean"):
        load_encoder("openclip:ViT-B-32/laion2b_s34b", device="cpu")


@pytest.mark.slow
def test_coca_gives_its_features_without_its_tokens(monkeypatch):
    open_clip = pytest.importorskip("open_clip")
    config = open_clip.get_model_config("coca_ViT-B-32")
    config["vision_cfg"] |= {"layers": 1, "width": 64, "head_width": 32}
    config["text_cfg"] |= {"layers": 1, "vocab_size": 100}
    config["multimodal_cfg"] |= {"layers": 1}
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "coca_ViT-B-32", config)
    encoder = load_encoder("openclip:coca_ViT-B-32", pretrained=False, input_size=64, device="cpu")
    assert encoder.dim == 512
    encoder.check_gradient()


@pytest.mark.slow
def test_arguments_that_openclip_fails_on_are_one_line():
    pytest.importorskip("open_clip")
    arguments = {"force_preprocess_cfg": "bicubic"}
    with pytest.raises(UserError, match=r"do not suit|could not be loaded") as error:
        load_encoder("openclip:ViT-S-32-alt", pretrained=False, encoder_args=arguments, input_size=64, device="cpu")
    assert "\n" not in str(error.value)
