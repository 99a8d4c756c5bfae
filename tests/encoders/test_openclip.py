"""``openclip:`` encoders."""

from __future__ import annotations

import json

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


VISION = {"image_size": 32, "layers": 1, "width": 64, "head_width": 32, "patch_size": 8}
TEXT = {"context_length": 8, "vocab_size": 100, "width": 64, "heads": 2, "layers": 1}


def _saved(path, **more):
    """A tiny CLIP, and a file of its weights."""
    import open_clip

    torch.manual_seed(1)
    clip = open_clip.CLIP(embed_dim=16, vision_cfg=dict(VISION), text_cfg=dict(TEXT), **more).eval()
    torch.save(clip.state_dict(), path)
    return clip


@pytest.mark.slow
def test_weights_that_were_trained_with_quickgelu_are_run_with_it(tmp_path, monkeypatch, recwarn):
    """OpenAI's are, and open_clip only warns if the model's name does not say so."""
    open_clip = pytest.importorskip("open_clip", minversion="3.0")
    clip = _saved(tmp_path / "clip.pt", quick_gelu=True)
    config = {"embed_dim": 16, "vision_cfg": VISION, "text_cfg": TEXT}
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "ViT-B-32", config)
    monkeypatch.setattr(open_clip.factory, "download_pretrained", lambda *_, **__: str(tmp_path / "clip.pt"))
    encoder = load_encoder("openclip:ViT-B-32/openai", features="output", device="cpu")
    images = pictures(2, 32)
    with torch.no_grad():
        assert close(encoder(images), clip.visual((images - encoder.mean) / encoder.std))
    assert not [said for said in recwarn if "QuickGELU" in str(said.message)]


@pytest.fixture
def folder(tmp_path):
    """A model as open_clip pushes it to the hub."""
    pytest.importorskip("open_clip", minversion="3.0")
    images = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "interpolation": "bilinear", "resize_mode": "squash"}
    model = {"embed_dim": 16, "vision_cfg": VISION, "text_cfg": TEXT}
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": model, "preprocess_cfg": images}))
    return tmp_path, _saved(tmp_path / "open_clip_pytorch_model.bin")


@pytest.mark.slow
def test_a_folder_says_how_images_are_prepared(folder):
    place, clip = folder
    encoder = load_encoder(f"openclip:local-dir:{place}", features="output", device="cpu")
    assert (encoder.input_size, encoder.interpolation) == (32, "bilinear")
    assert encoder.normalisation == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    images = pictures(2, 32)
    with torch.no_grad():
        assert close(encoder(images), clip.visual((images - encoder.mean) / encoder.std))


@pytest.mark.slow
def test_a_folder_may_say_anything(folder):
    place, _ = folder
    config = json.loads((place / "open_clip_config.json").read_text())

    def load(**images):
        (place / "open_clip_config.json").write_text(json.dumps({**config, "preprocess_cfg": images}))
        return load_encoder(f"openclip:local-dir:{place}", device="cpu")

    encoder = load(mean=0.5, std=0.25, interpolation=["bilinear"])
    assert encoder.normalisation == ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    assert encoder.interpolation == "bicubic"
    for wrong in ({"mean": 10**400}, {"std": "x"}, {"mean": [[0.5]] * 3}, {"std": float("nan")}):
        with pytest.raises(UserError, match=r"give (three )?numbers"):
            load(**{"mean": 0.5, "std": 0.5, **wrong})


@pytest.mark.slow
def test_a_folder_without_weights_is_not_an_encoder(folder):
    """open_clip would make random ones."""
    place, _ = folder
    (place / "open_clip_pytorch_model.bin").unlink()
    with pytest.raises(UserError, match=r"could not be loaded.*; check its files"):
        load_encoder(f"openclip:local-dir:{place}", device="cpu")
    assert load_encoder(f"openclip:local-dir:{place}", pretrained=False, device="cpu").dim == 64
