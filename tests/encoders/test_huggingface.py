"""``hf:`` encoders: models of transformers."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from helpers_encoders import close, pictures
from probedistill import UserError, load_encoder
from probedistill.encoders.huggingface import _wrong_weights


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


@pytest.mark.slow
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
        # DINOv2's model is made for images far larger than its processor makes them
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


def test_hf_missing_folder(tmp_path):
    with pytest.raises(UserError, match="could not be loaded"):
        load_encoder(f"hf:{tmp_path / 'nothing'}", device="cpu")


def test_hf_unknown_argument(hf_folder):
    root, _ = hf_folder
    for pretrained in (True, False):
        with pytest.raises(UserError, match="no_such_argument"):
            load_encoder(
                f"hf:{root / 'vit'}", pretrained=pretrained, encoder_args={"no_such_argument": 1}, device="cpu"
            )


# ---------------------------------------------------------------- checkpoints that lack something

SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
         "patch_size": 8, "image_size": 32}  # fmt: skip


def _lacking(root: Path, to: Path, part: str) -> list[str]:
    """A copy of a stored model without the weights whose names contain ``part``."""
    shutil.copytree(root, to)
    weights = load_file(to / "model.safetensors")
    left_out = [name for name in weights if part in name]
    save_file({name: value for name, value in weights.items() if part not in name}, to / "model.safetensors")
    return left_out


@pytest.mark.parametrize("name", ["vit", "beit"])
def test_without_a_stored_pooler_features_are_the_class_token(hf_folder, tmp_path, name):
    transformers = pytest.importorskip("transformers")
    root, models = hf_folder
    model = models["vit"]
    if name == "beit":
        model = transformers.BeitModel(transformers.BeitConfig(**SMALL)).eval()
        model.save_pretrained(root / "beit")
        shutil.copy(root / "vit" / "preprocessor_config.json", root / "beit")
    assert _lacking(root / name, tmp_path / name, "pooler")
    with pytest.warns(UserWarning, match="has no pooler; using the class token") as said:
        encoder = load_encoder(f"hf:{tmp_path / name}", device="cpu")
    assert len([w for w in said if "pooler" in str(w.message)]) == 1
    images = pictures(3, 32)
    with torch.no_grad():
        assert close(encoder(images), model((images - 0.4) / 0.3).last_hidden_state[:, 0])
    # like a classifier's checkpoint, which never has a pooler
    assert load_encoder(f"hf:{root / name}", device="cpu").fingerprint != encoder.fingerprint


def test_a_map_of_features_is_averaged_over_the_image(hf_folder, tmp_path):
    """A model without a pooler returns a map (n, d, h, w), whose first channel is not a feature of the image."""
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_sizes": [8, 8, 8, 24], "depths": [1] * 4, "num_attention_heads": [1] * 4}
    model = transformers.SegformerModel(transformers.SegformerConfig(**sizes)).eval()
    _check_averaged(model, (2, 3), hf_folder, tmp_path)


@pytest.mark.filterwarnings("ignore:the checkpoint of hf")
def test_tokens_without_a_class_token_are_averaged(hf_folder, tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.SwinConfig(embed_dim=8, depths=[1, 1], num_heads=[1, 1], image_size=32, window_size=4)
    model = transformers.SwinModel(config, add_pooling_layer=False).eval()
    _check_averaged(model, 1, hf_folder, tmp_path)
    model = transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**SMALL)).eval()  # its pooler is named head
    model.save_pretrained(tmp_path / "siglip")
    shutil.copy(hf_folder[0] / "vit" / "preprocessor_config.json", tmp_path / "siglip")
    _lacking(tmp_path / "siglip", tmp_path / "without", "head")
    with pytest.raises(UserError, match=r"head.* is missing and would be random"):
        load_encoder(f"hf:{tmp_path / 'without'}", device="cpu")


def _check_averaged(model, over, hf_folder, tmp_path):
    model.save_pretrained(tmp_path / "model")
    shutil.copy(hf_folder[0] / "vit" / "preprocessor_config.json", tmp_path / "model")
    encoder = load_encoder(f"hf:{tmp_path / 'model'}", device="cpu")
    images = pictures(3, 32)
    with torch.no_grad():
        assert close(encoder(images), model((images - 0.4) / 0.3).last_hidden_state.mean(over))


def test_weights_of_another_shape_are_as_good_as_missing(hf_folder):
    for arguments in ({}, {"ignore_mismatched_sizes": True}):
        with pytest.raises(UserError, match=r"has (another )?shape.* and would be random"):
            load_encoder(
                f"hf:{hf_folder[0] / 'vit'}", encoder_args={"intermediate_size": 48, **arguments}, device="cpu"
            )


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (("layer.weight", torch.Size([32, 16]), torch.Size([48, 16])), "has shape (32, 16) instead of (48, 16)"),
        ("layer.weight", "has another shape"),  # transformers 4 says no more
    ],
)
def test_the_shapes_of_weights_are_named_if_they_are_known(found, says):
    info = {"missing_keys": [], "unexpected_keys": [], "mismatched_keys": [found]}
    assert _wrong_weights(info) == {"layer.weight": says}


def test_a_classifiers_checkpoint_gives_its_class_token(hf_folder, tmp_path):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(1)
    model = transformers.ViTForImageClassification(transformers.ViTConfig(**SMALL)).eval()
    model.save_pretrained(tmp_path / "vit")
    shutil.copy(hf_folder[0] / "vit" / "preprocessor_config.json", tmp_path / "vit")
    with pytest.warns(UserWarning, match="pooler"):
        encoder = load_encoder(f"hf:{tmp_path / 'vit'}", device="cpu")
    images = pictures(2, 32)
    with torch.no_grad():
        assert close(encoder(images), model.vit((images - 0.4) / 0.3).last_hidden_state[:, 0])


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("vit", "layer.1."),
        ("vit", "position_embeddings"),
        ("dinov2", "layernorm"),
        ("clip", "post_layernorm"),
        ("convnext", "layernorm.weight"),
    ],
)
def test_weights_that_features_depend_on_must_be_in_the_checkpoint(hf_folder, tmp_path, name, part):
    assert _lacking(hf_folder[0] / name, tmp_path / name, part)
    with pytest.raises(UserError, match=r"the checkpoint of .* is incomplete: '.*' is missing and would be random"):
        load_encoder(f"hf:{tmp_path / name}", device="cpu")


def _with_more(folder, path, more):
    shutil.copytree(folder, path)
    weights = load_file(path / "model.safetensors")
    save_file(weights | more(weights), path / "model.safetensors", metadata={"format": "pt"})
    return path


def _adapter(weights):
    return {
        name.replace(".weight", ".lora_A.weight"): torch.ones(2, 16) for name in weights if "output.dense.w" in name
    }


def _another_layer(weights):
    return {
        name.replace("layer.1.", "layer.2."): value.clone() for name, value in weights.items() if "layer.1." in name
    }


@pytest.mark.parametrize("more", [_adapter, _another_layer])
def test_weights_without_a_place_in_the_model_are_named(hf_folder, tmp_path, more):
    path = _with_more(hf_folder[0] / "vit", tmp_path / "vit", more)
    with pytest.warns(UserWarning, match=r"has [0-9]+ weights that the model does not use, such as '[a-z.]*layer"):
        load_encoder(f"hf:{path}", device="cpu")


def test_heads_and_tables_of_a_checkpoint_need_no_place(hf_folder, tmp_path, recwarn):
    names = ("classifier.weight", "decoder.layers.0.weight", "embeddings.mask_token", "embeddings.position_ids")
    path = _with_more(hf_folder[0] / "vit", tmp_path / "vit", lambda _: {name: torch.ones(2) for name in names})
    load_encoder(f"hf:{path}", device="cpu")
    assert not [said for said in recwarn if "no place" in str(said.message)]


def test_weights_that_no_feature_depends_on_may_be_missing(hf_folder, tmp_path):
    assert _lacking(hf_folder[0] / "dinov2", tmp_path / "dinov2", "mask_token")
    encoder = load_encoder(f"hf:{tmp_path / 'dinov2'}", device="cpu")
    with torch.no_grad():
        assert close(
            encoder(pictures(2, 32)), load_encoder(f"hf:{hf_folder[0] / 'dinov2'}", device="cpu")(pictures(2, 32))
        )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["vit", "convnext"])
def test_a_checkpoint_in_half_precision_is_computed_in_full(hf_folder, tmp_path, name, dtype):
    root, models = hf_folder
    copy.deepcopy(models[name]).to(dtype).save_pretrained(tmp_path / name)
    shutil.copy(root / name / "preprocessor_config.json", tmp_path / name)
    encoder = load_encoder(f"hf:{tmp_path / name}", device="cpu")
    assert {p.dtype for p in encoder.parameters()} == {torch.float32}
    images = pictures(2, 32)
    with torch.no_grad():
        reference = copy.deepcopy(models[name]).to(dtype).float()
        assert close(encoder(images), reference((images - 0.4) / 0.3).pooler_output)


def test_a_masked_autoencoder_sees_the_whole_image(hf_folder, tmp_path):
    transformers = pytest.importorskip("transformers")
    decoder = {"decoder_hidden_size": 16, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2}
    torch.manual_seed(2)
    config = transformers.ViTMAEConfig(**SMALL, **decoder, decoder_intermediate_size=16)
    transformers.ViTMAEForPreTraining(config).save_pretrained(tmp_path / "mae")
    shutil.copy(hf_folder[0] / "vit" / "preprocessor_config.json", tmp_path / "mae")
    encoder = load_encoder(f"hf:{tmp_path / 'mae'}", device="cpu")
    encoder.check_gradient()
    images = pictures(3, 32)
    with torch.no_grad():
        assert close(encoder(images), encoder(images))
    said = load_encoder(f"hf:{tmp_path / 'mae'}", device="cpu", encoder_args={"mask_ratio": 0})
    with torch.no_grad():
        assert close(said(images), encoder(images))
    with pytest.raises(
        UserError, match=r"gives different features for the same images .*encoder_args=\{'mask_ratio': 0\}"
    ):
        load_encoder(f"hf:{tmp_path / 'mae'}", device="cpu", encoder_args={"mask_ratio": 0.75})


def test_a_folder_may_be_called_like_a_model_of_a_size(hf_folder, tmp_path, monkeypatch):
    shutil.copytree(hf_folder[0] / "vit", tmp_path / "vit@24")
    monkeypatch.chdir(tmp_path)
    assert load_encoder("hf:vit@24", device="cpu").input_size == 32
    assert load_encoder("hf:vit@24@48", device="cpu").input_size == 48


# ---------------------------------------------------------------- checkpoints as they lie about


def _config(folder, path, **values):
    """A copy of a stored model with other values in its config.json."""
    shutil.copytree(folder, path)
    content = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(content | values))
    return path


def _under(prefix, folder, path):
    """A copy of a stored model whose weights have a prefix, without the pooler."""
    shutil.copytree(folder, path)
    weights = {prefix + name: value for name, value in load_file(path / "model.safetensors").items()}
    weights = {name: value for name, value in weights.items() if "pooler" not in name}
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    return path


@pytest.mark.parametrize("entry", ["dtype", "torch_dtype"])
def test_full_weights_are_not_rounded_to_what_the_config_names(hf_folder, tmp_path, entry):
    folder = hf_folder[0] / "vit"
    path = _config(folder, tmp_path / "vit", **{"dtype": None, entry: "bfloat16"})
    images = pictures(2, 32)
    with torch.no_grad():
        expected = load_encoder(f"hf:{folder}", device="cpu")(images)
        assert torch.equal(load_encoder(f"hf:{path}", device="cpu")(images), expected)


@pytest.mark.parametrize("prefix", ["backbone.", "module.", "_orig_mod.", "model.encoder."])
def test_prefixes_of_a_wrapper_are_removed(hf_folder, tmp_path, prefix):
    path = _under(prefix, hf_folder[0] / "vit", tmp_path / "vit")
    with pytest.warns(UserWarning, match="has no pooler"):
        encoder = load_encoder(f"hf:{path}", device="cpu")
    images = pictures(2, 32)
    with torch.no_grad():
        assert close(encoder(images), hf_folder[1]["vit"]((images - 0.4) / 0.3).last_hidden_state[:, 0])


def test_a_checkpoint_with_two_models_is_refused(hf_folder, tmp_path):
    path = _under("student.", hf_folder[0] / "vit", tmp_path / "vit")
    weights = load_file(path / "model.safetensors")
    weights |= {name.replace("student", "teacher"): 2 * value for name, value in weights.items()}
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"is missing \(it has 'student\.[a-z_.]*'\) and would be random"):
        load_encoder(f"hf:{path}", device="cpu")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["PoolFormer", "Levit", "ConvNext", "DeiT", "ViT"])
def test_the_crop_keeps_the_processors_share_of_an_image(hf_folder, tmp_path, kind):
    import transformers

    shutil.copytree(hf_folder[0] / "vit", tmp_path / "vit")
    processor = getattr(transformers, f"{kind}ImageProcessor")()
    processor.save_pretrained(tmp_path / "vit")
    encoder = load_encoder(f"hf:{tmp_path / 'vit'}", device="cpu")
    ramp = Image.fromarray(np.tile(np.linspace(0, 255, 512).round().astype(np.uint8)[None, :, None], (512, 1, 3)))
    values = processor(ramp, return_tensors="pt")["pixel_values"][0, 0].double()
    view = (encoder.centre_view(ramp).double() - encoder.mean[0].cpu()) / encoder.std[0].cpu()
    assert float((values.mean(0) - view[0].mean(0)).abs().max()) < 0.05


def test_vision_towers_that_have_no_class_of_their_own_in_automodel(hf_folder, tmp_path):
    import transformers

    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.BlipConfig(
        vision_config={**sizes, "image_size": 32, "patch_size": 8, "initializer_range": 0.1},
        text_config={**sizes, "vocab_size": 20, "encoder_hidden_size": 16},
    )
    torch.manual_seed(0)
    blip = transformers.BlipForConditionalGeneration(config).eval()
    blip.save_pretrained(tmp_path / "blip")
    shutil.copy(hf_folder[0] / "vit" / "preprocessor_config.json", tmp_path / "blip")
    images = pictures(2, 32)
    with torch.no_grad():
        expected = blip.vision_model((images - 0.4) / 0.3).pooler_output
        assert close(load_encoder(f"hf:{tmp_path / 'blip'}", device="cpu")(images), expected)


@pytest.mark.parametrize("content", [b"version https://git-lfs.github.com/spec/v1\noid sha256:0", None, b""])
def test_damaged_weights_are_one_line(hf_folder, tmp_path, content):
    shutil.copytree(hf_folder[0] / "vit", tmp_path / "vit")
    file = tmp_path / "vit" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:5000] if content is None else content)
    with pytest.raises(
        UserError, match=r"^encoder 'hf:.*' could not be loaded \(.*\); (check its|download the) file"
    ) as error:
        load_encoder(f"hf:{tmp_path / 'vit'}", device="cpu")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", ["objects", "noise", "nothing"])
def test_the_error_does_not_recommend_files_with_more_than_tensors(hf_folder, tmp_path, content):
    """torch's own message says how to load them nevertheless, which would run their code."""
    shutil.copytree(hf_folder[0] / "vit", tmp_path / "vit")
    (tmp_path / "vit" / "model.safetensors").unlink()
    file = tmp_path / "vit" / "pytorch_model.bin"
    torch.save({"a": Path} if content == "objects" else {}, file)
    if content != "objects":
        file.write_bytes(b"noise" * 50 * (content == "noise"))
    with pytest.raises(UserError, match=r"its weights are damaged, or not only tensors\); use a copy with"):
        load_encoder(f"hf:{tmp_path / 'vit'}", device="cpu")


def test_folders_in_a_repository_and_at_home(hf_folder, tmp_path, monkeypatch):
    shutil.copytree(hf_folder[0] / "vit", tmp_path / "repo" / "encoder")
    expected = load_encoder(f"hf:{hf_folder[0] / 'vit'}", device="cpu")(pictures())
    monkeypatch.setenv("HOME", str(tmp_path))
    encoder = load_encoder("hf:~/repo", encoder_args={"subfolder": "encoder"}, device="cpu")
    assert close(encoder(pictures()), expected)
    assert encoder.mean[0, 0] == pytest.approx(0.4)


def test_an_incomplete_checkpoint_is_one_line(hf_folder, tmp_path, photos, run_cli):
    """Without the report that transformers prints about weights."""
    _lacking(hf_folder[0] / "vit", tmp_path / "vit", "pooler")
    _lacking(tmp_path / "vit", tmp_path / "less", "layernorm_after")
    error = run_cli("features", "--images", f"folder:{photos}", "--encoder", f"hf:{tmp_path / 'less'}").error()
    assert len(error.splitlines()) == 1
    assert "is incomplete" in error


def test_code_of_a_repository_is_not_run(hf_folder, tmp_path, monkeypatch):
    """transformers would ask in the terminal, and wait."""
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked"))
    code = {"AutoConfig": "own.Config", "AutoModel": "own.Model"}
    path = _config(hf_folder[0] / "vit", tmp_path / "own", model_type="own", auto_map=code)
    with pytest.raises(
        UserError, match=r"needs code from its repository; give encoder_args={'trust_remote_code': True}"
    ):
        load_encoder(f"hf:{path}", device="cpu")
    path = _config(hf_folder[0] / "vit", tmp_path / "processor")
    content = {"image_processor_type": "Own", "auto_map": {"AutoImageProcessor": "own.Processor"}}
    (path / "preprocessor_config.json").write_text(json.dumps(content))
    with pytest.warns(UserWarning, match="has no mean and std"):
        load_encoder(f"hf:{path}", device="cpu")


@pytest.mark.parametrize(
    ("says", "mean", "std"),
    [
        ({"do_normalize": False}, 0, 1),
        ({"image_mean": 0.4, "image_std": 0.3}, 0.4, 0.3),
        ({"rescale_factor": 1 / 127.5}, 0.2, 0.15),
        ({"do_rescale": False, "image_mean": [51] * 3, "image_std": [102] * 3}, 0.2, 0.4),
        ({"image_processor_type": "EfficientNetImageProcessor", "rescale_factor": 1 / 127.5, "rescale_offset": True},
         0.7, 0.045),
    ],
)  # fmt: skip
def test_values_equal_the_processors(hf_folder, tmp_path, says, mean, std):
    path = _config(hf_folder[0] / "vit", tmp_path / "vit")
    content = json.loads((path / "preprocessor_config.json").read_text())
    (path / "preprocessor_config.json").write_text(json.dumps(content | says))
    encoder = load_encoder(f"hf:{path}", device="cpu")
    assert encoder.mean.flatten().tolist() == pytest.approx([mean] * 3)
    assert encoder.std.flatten().tolist() == pytest.approx([std] * 3)
    seen = transformers_view(path, pictures(1, 32))
    assert close((pictures(1, 32) - encoder.mean) / encoder.std, seen, 1e-2)


def transformers_view(path: Path, images: torch.Tensor) -> torch.Tensor:
    """Images as the processor in a folder makes them from bytes."""
    transformers = pytest.importorskip("transformers")
    processor = transformers.AutoImageProcessor.from_pretrained(path)
    return processor((255 * images).round().byte(), do_resize=False, return_tensors="pt")["pixel_values"]


def test_blue_before_red(hf_folder, tmp_path):
    """MobileViT's processor reverses the channels and does not normalise."""
    pytest.importorskip("transformers")
    path = _config(hf_folder[0] / "vit", tmp_path / "vit")
    content = {"image_processor_type": "MobileViTImageProcessor", "size": 32, "crop_size": 32}
    (path / "preprocessor_config.json").write_text(json.dumps(content))
    encoder = load_encoder(f"hf:{path}", device="cpu")
    images = pictures(2, 32)
    with torch.no_grad():
        assert close(encoder(images), hf_folder[1]["vit"](images.flip(1)).pooler_output)
    assert close(transformers_view(path, images), images.flip(1), 1e-2)


@pytest.mark.parametrize("more", [{"model_type": "timm_wrapper"}, {"model_args": {"num_classes": 5}}])
def test_a_repository_of_timm(tmp_path, recwarn, more):
    """Its mean and size are in a separate entry of config.json; the model needs no place for the classifier.

    timm itself writes no ``model_type``, but the arguments with which the model was made.
    """
    pytest.importorskip("transformers")
    torch.manual_seed(0)
    model = timm.create_model("test_vit", num_classes=5).eval()
    content = {
        "architecture": "test_vit", "num_classes": 5, "label_names": list("abcde"), **more,
        "pretrained_cfg": {"input_size": [3, 160, 160], "mean": [0.4] * 3, "std": [0.3] * 3, "crop_pct": 0.9,
                           "interpolation": "bilinear"},
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(content))
    save_file(model.state_dict(), tmp_path / "model.safetensors", metadata={"format": "pt"})
    encoder = load_encoder(f"hf:{tmp_path}", device="cpu")
    assert (encoder.input_size, encoder.crop_pct, encoder.interpolation) == (160, 0.9, "bilinear")
    images = pictures(2, 160)
    model.reset_classifier(0)
    with torch.no_grad():
        assert close(encoder(images), model((images - 0.4) / 0.3))
    assert not [said for said in recwarn if "no place" in str(said.message)]


SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24,
         "image_size": 32, "patch_size": 8}  # fmt: skip
WORDS = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 20}


def stored(model, folder, size=32):
    """Save a model with noise in all its weights, because some are created equal; return it with its encoder's name."""
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.3 * torch.randn(value.shape, generator=draw))
    model.eval().save_pretrained(folder)
    content = {"image_processor_type": "ViTImageProcessor", "image_mean": [0] * 3, "image_std": [1] * 3,
               "size": {"height": size, "width": size}}  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(content))
    return model, f"hf:{folder}"


def data2vec():
    from transformers import Data2VecVisionConfig, Data2VecVisionForImageClassification

    model = Data2VecVisionForImageClassification(Data2VecVisionConfig(**SMALL, use_mean_pooling=True))
    return model, lambda images: model.data2vec_vision(images).pooler_output


def sam2():
    from transformers import Sam2HieraDetConfig, Sam2VisionConfig, Sam2VisionModel

    part = Sam2HieraDetConfig(
        hidden_size=4, image_size=[32, 32], embed_dim_per_stage=[4, 8, 16, 24], blocks_per_stage=[1, 1, 1, 1],
        num_attention_heads_per_stage=[1, 1, 1, 1], window_size_per_stage=[4, 2, 2, 2], global_attention_blocks=[],
        window_positional_embedding_background_size=[4, 4],
    )  # fmt: skip
    model = Sam2VisionModel(
        Sam2VisionConfig(backbone_config=part, backbone_channel_list=[24, 16, 8, 4], fpn_hidden_size=8)
    )
    return model, lambda images: model(images).last_hidden_state.mean((1, 2))


def hgnet():
    from transformers import HGNetV2Backbone, HGNetV2Config

    four = {name: [8] * 4 for name in ("stage_in_channels", "stage_mid_channels", "stage_out_channels")}
    ones = {name: [1] * 4 for name in ("stage_num_blocks", "stage_numb_of_layers")}
    model = HGNetV2Backbone(HGNetV2Config(stem_channels=[3, 8, 8], hidden_sizes=[8] * 4, **four, **ones))
    return model, lambda images: model(images).feature_maps[-1].mean((2, 3))


def radio():
    from transformers import RadioConfig, RadioModel  # from transformers 5 on

    model = RadioModel(RadioConfig(**SMALL))
    return model, lambda images: model(images).summary


def altclip():
    from transformers import AltCLIPConfig, AltCLIPModel

    model = AltCLIPModel(AltCLIPConfig(vision_config=SMALL, text_config={**WORDS, "project_dim": 16}))
    return model, lambda images: model.vision_model(images).pooler_output


def reader(pools=True):
    from transformers import BertConfig, BertLMHeadModel, VisionEncoderDecoderModel, ViTConfig, ViTModel

    words = BertLMHeadModel(BertConfig(**WORDS, is_decoder=True, add_cross_attention=True))
    encoder = ViTModel(ViTConfig(**SMALL), add_pooling_layer=pools)
    model = VisionEncoderDecoderModel(encoder=encoder, decoder=words)
    return model, lambda images: encoder(images).pooler_output if pools else encoder(images).last_hidden_state[:, 0]


def reader_without_pooler():
    return reader(pools=False)  # as TrOCR's checkpoints are


@pytest.mark.slow
@pytest.mark.parametrize("make", [data2vec, sam2, hgnet, radio, altclip, reader, reader_without_pooler])
def test_features_are_what_the_model_itself_makes_of_a_whole_image(hf_folder, tmp_path, make):
    try:
        model, expected = make()
    except ImportError as error:
        pytest.skip(str(error))
    model, spec = stored(model, tmp_path / "model")
    with torch.no_grad():
        assert close(load_encoder(spec, device="cpu")(pictures(3, 32)), expected(pictures(3, 32)))


def test_a_detectors_features_are_said_to_be_of_its_queries(hf_folder, tmp_path):
    from transformers import DetrConfig, DetrModel, ResNetConfig

    inside = ResNetConfig(embedding_size=8, hidden_sizes=[8, 8, 8, 16], depths=[1] * 4, out_features=["stage4"])
    few = {f"{part}_{what}": n for part in ("encoder", "decoder")
           for what, n in (("layers", 1), ("attention_heads", 2), ("ffn_dim", 16))}  # fmt: skip
    model = DetrModel(DetrConfig(use_timm_backbone=False, use_pretrained_backbone=False, backbone=None,
                                 backbone_config=inside, d_model=16, num_queries=7, **few))  # fmt: skip
    _, spec = stored(model, tmp_path / "model", size=64)
    with pytest.warns(UserWarning, match="finds objects: its features are the mean of 7 queries"):
        load_encoder(spec, device="cpu")


@pytest.mark.parametrize("kind", ["BertModel", "CLIPTextModel", "Siglip2VisionModel"])
def test_models_that_take_more_than_images(hf_folder, tmp_path, kind):
    import transformers

    more = {"patch_size": 8, "num_patches": 16} if kind.startswith("Siglip2") else {}
    model = getattr(transformers, kind)(getattr(transformers, kind.replace("Model", "Config"))(**WORDS, **more))
    _, spec = stored(model, tmp_path / "model")
    with pytest.raises(UserError, match=f"is a {kind}, which takes .*; use an encoder that takes images alone"):
        load_encoder(spec, device="cpu")


def test_a_kind_of_model_without_an_encoder_of_its_own_is_named(hf_folder, tmp_path):
    from transformers import ConvNextConfig, UperNetConfig, UperNetForSemanticSegmentation

    four = [f"stage{number}" for number in range(1, 5)]
    inside = ConvNextConfig(hidden_sizes=[8] * 4, depths=[1] * 4, out_features=four)
    small = {"hidden_size": 16, "pool_scales": [1], "auxiliary_in_channels": 8, "auxiliary_channels": 8}
    _, spec = stored(
        UperNetForSemanticSegmentation(UperNetConfig(backbone_config=inside, **small)), tmp_path / "model", size=64
    )
    with pytest.raises(UserError, match="is a model of kind 'upernet', which transformers cannot load"):
        load_encoder(spec, device="cpu")


@pytest.mark.parametrize("whole", [True, False])
def test_an_adapter_is_not_an_encoder(hf_folder, tmp_path, whole):
    root, _ = hf_folder
    shutil.copytree(root / "vit", tmp_path / "vit")
    (tmp_path / "vit" / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    if not whole:
        (tmp_path / "vit" / "config.json").unlink()
        (tmp_path / "vit" / "model.safetensors").rename(tmp_path / "vit" / "adapter_model.safetensors")
    with pytest.raises(UserError, match=r"is an adapter .*; merge it into its model"):
        load_encoder(f"hf:{tmp_path / 'vit'}", device="cpu")


def test_weights_that_git_did_not_fetch(hf_folder, tmp_path):
    root, _ = hf_folder
    shutil.copytree(root / "vit", tmp_path / "vit")
    (tmp_path / "vit" / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\nsize 10\n")
    with pytest.raises(UserError, match=r"'model.safetensors' is a Git LFS pointer\); download the file itself"):
        load_encoder(f"hf:{tmp_path / 'vit'}", device="cpu")


@pytest.mark.parametrize("first", [b"<", b"{", b" "])
def test_a_header_of_any_length_begins_weights(hf_folder, tmp_path, first):
    folder = shutil.copytree(hf_folder[0] / "vit", tmp_path / "vit")
    data = (folder / "model.safetensors").read_bytes()
    size = int.from_bytes(data[:8], "little")
    more = (first[0] - size) % 256
    header = (size + more).to_bytes(8, "little") + data[8 : 8 + size] + b" " * more
    (folder / "model.safetensors").write_bytes(header + data[8 + size :])
    assert load_encoder(f"hf:{folder}", device="cpu").dim == 16


@pytest.mark.parametrize("config", [{}, {"quantization_config": {"quant_method": "fp8"}}])
@pytest.mark.parametrize("scale", ["SCB", "weight_scale_inv", ""])
def test_quantised_weights_of_a_tower_are_refused(hf_folder, tmp_path, config, scale):
    root, _ = hf_folder
    folder = shutil.copytree(root / "clip", tmp_path / "clip")
    weights = load_file(folder / "model.safetensors")
    for name in [name for name, value in weights.items() if "_proj.weight" in name and value.ndim == 2]:
        if scale != "weight_scale_inv":
            weights[name] = (weights[name] / weights[name].abs().max() * 127).round().to(torch.int8)
        if scale:
            weights[name.removesuffix("weight") + scale] = torch.ones(16)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, **config}))
    if scale == "weight_scale_inv" and not config:
        with pytest.warns(UserWarning, match="weights that the model does not use"):
            load_encoder(f"hf:{folder}", device="cpu")
    else:
        with pytest.raises(UserError, match=r"is quantised, as '.*' shows; use one in float32 or half precision"):
            load_encoder(f"hf:{folder}", device="cpu")
