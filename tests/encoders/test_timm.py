"""``timm:`` encoders: the weights are right, whatever file they come from."""

from __future__ import annotations

import argparse
import bz2
import copy
import datetime
import enum
import gzip
import io
import json
import os
import pathlib
import pickle
import re
import shutil
import signal
import tarfile
import warnings
import zipfile
from collections import defaultdict, deque
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

from helpers_encoders import close, pictures
from probedistill import UserError, load_encoder


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


@pytest.mark.slow
@pytest.mark.parametrize(("file", "wrap"), [("w.safetensors", None), ("w.pth", None), ("w.pth", "state_dict")])
def test_checkpoint_gives_the_models_own_features(tmp_path, resnet, file, wrap):
    path = _saved(resnet, tmp_path / file, wrap)
    encoder = load_encoder("timm:resnet18", checkpoint=path, input_size=64, device="cpu")
    assert encoder.dim == 512  # the classifier in the file is dropped
    images = pictures(2, 64)
    with torch.no_grad():
        expected = resnet.forward_head(resnet.forward_features((images - encoder.mean) / encoder.std), pre_logits=True)
    assert close(encoder(images), expected)


@pytest.mark.slow
def test_checkpoint_with_classifier_kept_by_num_classes(tmp_path, resnet):
    path = _saved(resnet, tmp_path / "w.safetensors")
    options = {"checkpoint": path, "input_size": 64, "device": "cpu", "encoder_args": {"num_classes": 7}}
    pooled = load_encoder("timm:resnet18", **options)
    output = load_encoder("timm:resnet18", features="output", **options)
    assert (pooled.dim, output.dim) == (512, 7)
    images = pictures(2, 64)
    with torch.no_grad():
        assert close(output(images), resnet((images - output.mean) / output.std))


@pytest.mark.slow
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


@pytest.mark.slow
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


def write_tar(file: io.BytesIO) -> None:
    with tarfile.open(fileobj=file, mode="w") as tar:
        tar.add(__file__)


def packed(write: Callable[[io.BytesIO], object]) -> bytes:
    write(file := io.BytesIO())
    return file.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "a Git LFS pointer"),
        (b"\n<!DOCTYPE html><title>404</title>", "a web page"),
        (b'{"metadata": {}, "weight_map": {}}', "JSON, such as an index of shards"),
        (gzip.compress(b"weights"), "a gzip file"),
        (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
        (
            packed(lambda file: np.savez(file, weight=np.zeros(3))),
            "a zip archive of something else, such as NumPy arrays",
        ),
        (packed(write_tar), "damaged, or not only tensors"),
        (bz2.compress(b"weights"), "a bzip2 file"),
        (
            packed(lambda file: torch.save({"a": torch.zeros(99)}, file))[:-40],
            "damaged, or a download that was cut off",
        ),
    ],
    ids=range(9),
)
def test_other_files_instead_of_weights_are_recognised(tmp_path, content, says):
    (tmp_path / "w.safetensors").write_bytes(content)
    with pytest.raises(UserError, match=rf"w\.safetensors' cannot be read as weights \({says}\); give"):
        load_encoder("timm:resnet18", checkpoint=tmp_path / "w.safetensors", device="cpu")


def test_archives_that_unpack_to_a_multiple_of_their_size_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("probedistill.encoders.weights._MOST_PACKED", 2**20)
    torch.save({"conv1.weight": torch.zeros(2**20)}, tmp_path / "plain.pth")
    with zipfile.ZipFile(tmp_path / "plain.pth") as plain, zipfile.ZipFile(tmp_path / "w.pth", "w", 8) as bomb:
        for name in plain.namelist():
            bomb.writestr(name, plain.read(name))
    with pytest.raises(UserError, match=r"cannot be read as weights \(its \S+ bytes unpack to 4,\S+\); give"):
        load_encoder("timm:resnet18", checkpoint=tmp_path / "w.pth", device="cpu")


@pytest.mark.parametrize("name", ["timm/resnet18.a1_in1k", "local-dir:/models/resnet", "./models"])
def test_folders_and_repositories_are_for_hf(name):
    with pytest.raises(UserError, match=rf"is a folder or a repository; give hf:{name.removeprefix('local-dir:')}, or"):
        load_encoder(f"timm:{name}", device="cpu")


def test_missing_checkpoints_and_files_of_other_kinds(tmp_path):
    with pytest.raises(UserError, match="is not a file"):
        load_encoder("timm:resnet18", checkpoint=tmp_path / "none.pth", device="cpu")
    torch.save({"epoch": 3}, tmp_path / "w.pth")
    with pytest.raises(UserError, match="has no state dict"):
        load_encoder("timm:resnet18", checkpoint=tmp_path / "w.pth", device="cpu")
    with pytest.raises(UserError, match="is not possible for 'hf:some/repo', which has its own weights"):
        load_encoder("hf:some/repo", checkpoint=tmp_path / "w.pth", device="cpu")


@pytest.mark.slow
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


@pytest.mark.slow
def test_local_weights_of_a_vit_run_at_another_size_and_random_weights_stand_in(tmp_path):
    """Position embeddings are resampled, as timm does it for its own weights; the path may be a string."""
    native = timm.create_model("vit_tiny_patch16_224", num_classes=0)
    save_file(native.state_dict(), tmp_path / "vit.safetensors")
    encoder = load_encoder("timm:vit_tiny_patch16_224", checkpoint=str(tmp_path / "vit.safetensors"), input_size=112)
    native.set_input_size(img_size=112)
    images = pictures(size=112)
    with torch.no_grad():
        assert close(encoder(images), native.eval()((images - encoder.mean) / encoder.std))


# ---------------------------------------------------------------- checkpoints as trainers write them


def _features(path: Path, **options: object) -> torch.Tensor:
    encoder = load_encoder("timm:test_resnet", checkpoint=path, input_size=32, device="cpu", **options)
    with torch.no_grad():
        return encoder(pictures())


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(4)
    return timm.create_model("test_resnet", num_classes=7).eval()


@pytest.fixture(scope="module")
def expected(small, tmp_path_factory):
    return _features(_saved(small, tmp_path_factory.mktemp("plain") / "w.safetensors"))


def _other(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: torch.zeros_like(value) + 0.1 for name, value in state.items()}


def _under(prefix: str, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {prefix + name: value for name, value in state.items()}


TRAINERS = {
    "timm's train.py": lambda s: {"state_dict": s, "args": argparse.Namespace(lr=0.1, model="x"), "epoch": 1,
                                  "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]}},
    "timm, averaged": lambda s: {"state_dict": _other(s), "state_dict_ema": s, "args": argparse.Namespace()},
    "timm, nothing averaged": lambda s: {"state_dict": s, "state_dict_ema": None},
    "DeiT, averaged": lambda s: {"model": _other(s), "model_ema": s},
    "torch.compile": lambda s: _under("_orig_mod.", s),
    "torch.compile of a part": lambda s: {n.replace("layer1.", "layer1._orig_mod."): v for n, v in s.items()},
    "DataParallel": lambda s: {"model": _under("module.", s)},
    "DDP of a compiled model": lambda s: {"state_dict": _under("module._orig_mod.", s)},
    "Lightning": lambda s: {"state_dict": {**_under("model.", s), "criterion.weight": torch.ones(7)},
                            "pytorch-lightning_version": "2.5", "hyper_parameters": {"lr": 0.1}, "callbacks": {}},
    "Lightning, averaged": lambda s: {"state_dict": {**_under("model.", _other(s)), **_under("model_ema.", s)}},
    "DINO": lambda s: {"student": _under("module.backbone.", _other(s)), "teacher": _under("backbone.", s), "epoch": 1},
    "SwAV": lambda s: _under("module.", {**s, "projection_head.0.weight": torch.ones(2, 2),
                                         "prototypes.weight": torch.ones(2, 2)}),
    "MoCo": lambda s: {"state_dict": {**_under("module.encoder_k.", _other(s)), **_under("module.encoder_q.", s),
                                      "module.queue": torch.ones(2, 2)}},
    "MoCo v3": lambda s: {"state_dict": {**_under("module.momentum_encoder.", _other(s)),
                                         **_under("module.base_encoder.", s)}},
    "solo-learn": lambda s: {"state_dict": {**_under("momentum_backbone.", _other(s)), **_under("backbone.", s)}},
    "lightly": lambda s: {"state_dict": {**_under("backbone_momentum.", _other(s)), **_under("backbone.", s)}},
    "BYOL": lambda s: {**_under("target_encoder.net.", _other(s)), **_under("online_encoder.net.", s),
                       "online_predictor.0.weight": torch.ones(2, 2)},
    "BYOL in entries": lambda s: {"online_network_state_dict": s, "target_network_state_dict": _other(s)},
    "I-JEPA": lambda s: {"encoder": _under("module.", _other(s)), "predictor": {"module.a": torch.ones(2)},
                         "target_encoder": _under("module.", s), "epoch": 300},
    "VISSL": lambda s: {"classy_state_dict": {"base_model": {"model": {"trunk": _under("_feature_blocks.", s),
                                                                       "heads": {"0.weight": torch.ones(3)}}}}},
    "an encoder and a head": lambda s: {"backbone": s, "head": {"weight": torch.ones(3)}},
    "BasicSR, averaged": lambda s: {"params": _other(s), "params_ema": s},
    "Lightning's WeightAveraging": lambda s: {"state_dict": _under("net.", s),
                                              "current_model_state": _under("net.", _other(s))},
    "an entry of one's own": lambda s: {"net": s, "epoch": 3, "optimizer": {"state": {}, "param_groups": []}},
    "what was best, and where": lambda s: {"model": s, "best": np.float64(0.9), "out": Path("runs")},
    "a wrapper of one's own": lambda s: {"network": {"state_dict": _under("student.backbone.", s)}},
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("trainer", TRAINERS)
def test_checkpoints_of_trainers_give_the_models_features(tmp_path, small, expected, trainer):
    torch.save(TRAINERS[trainer](small.state_dict()), tmp_path / "w.pth.tar")
    assert torch.equal(_features(tmp_path / "w.pth.tar"), expected)


def test_averaged_weights_without_names_are_said_to_be_left_out(tmp_path, small, expected):
    state = small.state_dict()
    averages = [torch.zeros_like(value) for value in small.parameters()]
    torch.save({"state_dict": state, "ema": {"decay": 0.9, "shadow_params": averages}}, tmp_path / "w.pth")
    with pytest.warns(UserWarning, match=r"averaged weights without names \('ema.shadow_params'\), which are not used"):
        assert torch.equal(_features(tmp_path / "w.pth"), expected)
    torch.save({"state_dict": state, "shadow_params": []}, tmp_path / "none.pth")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _features(tmp_path / "none.pth")


@pytest.mark.slow
@settings(max_examples=12, deadline=None)
@given(
    st.lists(st.sampled_from(["module", "model", "_orig_mod", "net", "encoder", "layer1", "conv1", "0"]), max_size=4),
    st.sampled_from(["w.safetensors", "w.pth"]),
    st.booleans(),
)  # fmt: skip
def test_any_prefix_is_removed(tmp_path_factory, small, expected, words, file, more):
    state = _under("".join(f"{word}." for word in words), small.state_dict())
    if more and any(word != "_orig_mod" for word in words):
        state["loss.weight"] = torch.ones(3)
    path = tmp_path_factory.getbasetemp() / file
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    assert torch.equal(_features(path), expected)


def test_the_first_bytes_decide_the_kind_of_checkpoint(tmp_path, small, expected):
    save_file(small.state_dict(), tmp_path / "pytorch_model.bin")
    torch.save(small.state_dict(), tmp_path / "w.safetensors")
    for name in ("pytorch_model.bin", "w.safetensors"):
        assert torch.equal(_features(tmp_path / name), expected)


def test_a_requested_classifier_that_is_left_out_is_reported(tmp_path, small):
    with pytest.warns(
        UserWarning, match=r"using the pooled features .* because the size of the classifier in the file is not given"
    ):
        _features(_saved(small, tmp_path / "w.pth"), features="output")


def test_a_checkpoint_of_two_models_is_refused(tmp_path, small):
    state = small.state_dict()
    torch.save({"actor": state, "critic": state, "epoch": 3}, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"has several models, 'actor', 'critic'; save the state dict"):
        _features(tmp_path / "w.pth")
    averaged = {**_under("module.", state), "n_averaged": torch.tensor(3)}
    torch.save({"model": state, "swa_model": averaged}, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"has several models, 'model', 'swa_model'; save the state dict"):
        _features(tmp_path / "w.pth")
    torch.save({"model": state, "best_model": state, "optimizer": {"state": {}}}, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"has several models, 'model', 'best_model'; save the state dict"):
        _features(tmp_path / "w.pth")
    torch.save(_under("student.", state) | _under("teacher.", state), tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"under 'student\.', 'teacher\.'; save the state dict of one, or .*student"):
        _features(tmp_path / "w.pth")


@pytest.mark.slow
@pytest.mark.parametrize(
    "content",
    [
        lambda s: _under("student.", s) | _under("teacher.", _other(s)),
        lambda s: {"state_dict": _under("module.student.backbone.", s) | _under("module.teacher.", _other(s))},
        lambda s: {"student": {"state_dict": s}, "model_ema": _other(s), "teacher": _other(s)},
        lambda s: {"student": s, "best.student": _other(s), "epoch": 3},
    ],
    ids=["flat", "wrapped", "beside averaged ones", "one of two entries"],
)
def test_one_of_several_models_is_named_by_its_key(tmp_path, small, expected, content):
    torch.save(content(small.state_dict()), tmp_path / "w.pth")
    for key in ("student", "student."):
        assert torch.equal(_features(tmp_path / "w.pth", checkpoint_key=key), expected)


def test_a_key_that_no_weights_have_is_refused(tmp_path, small):
    torch.save(_under("student.", small.state_dict()), tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"checkpoint_key 'stud': .* no weights under this name; it has 'student\."):
        _features(tmp_path / "w.pth", checkpoint_key="stud")
    with pytest.raises(UserError, match="checkpoint_key 'student' is for a checkpoint"):
        load_encoder("timm:resnet18", pretrained=False, checkpoint_key="student")


def test_wrapped_weights_that_do_not_fit_are_named_as_the_model_does(tmp_path, small):
    state = dict(small.state_dict())
    del state["layer2.0.conv1.weight"]
    torch.save({"state_dict": _under("model.", state)}, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"layer2\.0\.conv1\.weight is missing \(1 missing, 0 unexpected"):
        _features(tmp_path / "w.pth")


@pytest.mark.parametrize(
    "beside",
    [
        {"losses": np.arange(3.0), "numpy": np.random.MT19937(0).state},
        {"log": defaultdict(list, {"loss": [1.0]}), "last": deque([1, 2])},
        {"at": datetime.datetime.now(), "on": datetime.date.today(), "took": datetime.timedelta(1)},
        {"folder": pathlib.PureWindowsPath("C:/runs")},
        {
            "best": np.bool_(True),
            "step": np.int16(3),
            "name": np.str_("a"),
            "loss": np.float16(1),
            "of": np.complex64(1),
        },
    ],
    ids=["arrays", "containers", "times", "paths", "scalars"],
)
def test_plain_values_next_to_the_weights_do_not_matter(tmp_path, small, expected, beside):
    torch.save({"state_dict": small.state_dict(), **beside}, tmp_path / "w.pth")
    assert close(_features(tmp_path / "w.pth"), expected)


@pytest.mark.parametrize("inner", ["_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module."])
def test_wrappers_of_parts_are_removed(tmp_path, small, expected, inner):
    weights = {inner + name.replace("layer1.", f"layer1.{inner}"): v for name, v in small.state_dict().items()}
    weights |= {"total_ops": torch.zeros(1), "layer1.total_params": torch.zeros(1)}  # of thop
    torch.save(weights, tmp_path / "w.pth")
    assert close(_features(tmp_path / "w.pth"), expected)


def test_a_checkpoint_below_the_home_folder(tmp_path, small, expected, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    _saved(small, tmp_path / "w.pth")
    assert torch.equal(_features("~/w.pth"), expected)


@pytest.mark.parametrize(
    "adapted",
    [
        lambda s: {"state_dict": s, "lora": {"layer1.0.conv1.A": torch.ones(2)}},
        lambda s: {**_under("model.", s), "loras.layer1.lora_B.weight": torch.ones(2)},
        lambda s: {**s, "layer1.0.conv1.lora_A": torch.ones(2)},
    ],
)
def test_an_adapter_beside_the_weights_is_not_left_out_in_silence(tmp_path, small, expected, adapted):
    torch.save(adapted(small.state_dict()), tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"has an adapter beside the weights \('.*'\); merge it into them, or"):
        _features(tmp_path / "w.pth")
    torch.save({"state_dict": small.state_dict(), "lora": {"a": torch.ones(2)}}, tmp_path / "w.pth")
    assert torch.equal(_features(tmp_path / "w.pth", checkpoint_key="state_dict"), expected)


def test_a_torchscript_model_is_recognised(tmp_path, small):
    torch.jit.save(torch.jit.trace(small, pictures(1, 32)), tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"\(a whole model of TorchScript\); give a .safetensors file"):
        _features(tmp_path / "w.pth")


def _of_training(state):
    return {"teacher": {**_under("backbone.", state), "dino_head.mlp.0.weight": torch.ones(3)}, "iteration": 9}


def _in_chunks(state):
    return _of_training({name.replace("blocks.0.", "blocks.3.0."): value for name, value in state.items()})


@pytest.mark.parametrize("wrap", [dict, _of_training, _in_chunks])
def test_weights_as_the_authors_of_dinov2_publish_and_store_them(tmp_path, monkeypatch, wrap):
    """They have a mask token, other names for registers, and a position embedding for the class token."""
    make = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda *a, **k: make(*a, **k, depth=1))
    name, size = "vit_small_patch14_reg4_dinov2", 56
    native = timm.create_model(name, num_classes=0, img_size=size).eval()
    nn.init.normal_(native.pos_embed, std=0.5)
    weights = {key.replace("reg_token", "register_tokens"): value for key, value in native.state_dict().items()}
    weights["pos_embed"] = torch.cat([torch.zeros(1, 1, 384), weights["pos_embed"]], dim=1)
    weights["mask_token"] = torch.zeros(1, 384)
    torch.save(wrap(weights), tmp_path / "w.pth")
    encoder = load_encoder(f"timm:{name}", checkpoint=tmp_path / "w.pth", input_size=size, device="cpu",
                           encoder_args={"img_size": size})  # fmt: skip
    images = pictures(2, size)
    with torch.no_grad():
        assert close(encoder(images), native((images - encoder.mean) / encoder.std))


class Options(argparse.Namespace):
    pass


class Switch(enum.Enum):
    ON = 1


class Settings(dict):
    """A dictionary with its own state, as in yacs, addict and others."""

    def __init__(self, *given, **more):
        super().__init__(*given, **more)
        self.__dict__["frozen"] = True


class Names(list):
    pass


class Springs:
    def __reduce__(self):
        return (shutil.rmtree, ("never",))

    def __init__(self):
        raise AssertionError("an object of a file was made")


@pytest.mark.parametrize(
    "beside",
    [
        Options(lr=1),
        Settings(a={"b": Names([1]), "c": Switch.ON}),
        partial(torch.optim.SGD, lr=0.1),
        object.__new__(Springs),
        slice(1),
        np.random.default_rng(0),
    ],
    ids=["options", "settings", "function", "code", "builtin", "generator"],
)
def test_objects_of_any_class_next_to_the_weights_are_left_out(tmp_path, small, expected, beside, monkeypatch):
    torch.save({"hyper_parameters": {"x": beside}, "state_dict": small.state_dict()}, tmp_path / "w.pth")
    monkeypatch.setattr(shutil, "rmtree", lambda *_: pytest.fail("what a file says was run"))
    assert torch.equal(_features(tmp_path / "w.pth"), expected)


def test_weights_may_be_in_a_subclass_of_dict(tmp_path, small, expected):
    torch.save({"model": Settings(small.state_dict())}, tmp_path / "w.pth")
    assert torch.equal(_features(tmp_path / "w.pth"), expected)


@pytest.mark.parametrize("ways", [1, 50])
def test_dictionaries_that_contain_themselves_are_not_a_state_dict(tmp_path, ways):
    inside: dict[str, object] = {}
    inside.update({"model": inside} | {str(way): inside for way in range(1, ways)})
    torch.save(inside, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"has no state dict; save model\.state_dict\(\) instead"):
        _features(tmp_path / "w.pth")


def test_a_whole_model_is_not_a_state_dict(tmp_path, small):
    torch.save(small, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"has no state dict; save model\.state_dict\(\) instead"):
        _features(tmp_path / "w.pth")


@pytest.mark.slow
@pytest.mark.parametrize("size", [56, 112, None])
@pytest.mark.parametrize("stored", [518, 224])
def test_dinov2_weights_of_any_size_load_under_the_recipes_name(tmp_path, monkeypatch, size, stored):
    """timm's own weights are for 518 pixels; here with one block, for speed."""
    make = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda *a, **k: make(*a, **k, depth=1))
    torch.manual_seed(0)
    native = timm.create_model("vit_base_patch14_dinov2", num_classes=0, img_size=stored).eval()
    nn.init.normal_(native.pos_embed, std=0.5)
    save_file(native.state_dict(), tmp_path / "dinov2.safetensors")
    encoder = load_encoder("dinov2_vitb14", checkpoint=tmp_path / "dinov2.safetensors", input_size=size, device="cpu")
    assert encoder.input_size == (size or 224)
    native.set_input_size(img_size=encoder.input_size)
    images = pictures(2, encoder.input_size)
    with torch.no_grad():
        assert close(encoder(images), native((images - encoder.mean) / encoder.std))


@pytest.fixture(scope="module")
def of_64():
    """A small vision transformer that was trained on images of 64 pixels."""
    torch.manual_seed(0)
    model = timm.create_model("test_vit", num_classes=7, img_size=64).eval()
    nn.init.normal_(model.pos_embed, std=0.5)
    return model


@pytest.mark.slow
@pytest.mark.parametrize("has_classifier", [True, False])
@pytest.mark.parametrize("size", [64, 96, None])
def test_weights_of_another_size_than_the_models_own(tmp_path, of_64, size, has_classifier):
    """The model's own size is 160; resampling to it on the way would blur the embeddings."""
    state = {name: value for name, value in of_64.state_dict().items() if has_classifier or "head" not in name}
    torch.save(state, tmp_path / "w.pth")
    encoder = load_encoder("timm:test_vit", checkpoint=tmp_path / "w.pth", input_size=size, device="cpu")
    assert encoder.input_size == (size or 160)
    native = copy.deepcopy(of_64)
    native.reset_classifier(0)
    native.set_input_size(img_size=encoder.input_size)
    images = pictures(2, encoder.input_size)
    with torch.no_grad():
        assert close(encoder(images), native((images - encoder.mean) / encoder.std))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning:timm")
@pytest.mark.parametrize("classes", [0, 3])
def test_windows_of_another_size(tmp_path, classes):
    """A Swin made for 112 pixels has smaller windows at its end, which timm would resample twice."""
    name = "swin_tiny_patch4_window7_224"
    blocks = {"depths": [1, 1, 1, 2]}
    model = timm.create_model(name, img_size=112, num_classes=classes, **blocks).eval()
    for part, value in model.named_parameters():
        if "relative" in part:
            nn.init.normal_(value, std=0.5)
    path = _saved(model, tmp_path / "w.pth")
    model.reset_classifier(0)
    with pytest.raises(UserError, match=r"bias_table has shape \(.*\) instead .*, such as img_size if it was trained"):
        load_encoder(f"timm:{name}", checkpoint=path, input_size=112, encoder_args=blocks, device="cpu")
    images = pictures(2, 112)
    for size in (112, None):
        options = {"checkpoint": path, "input_size": size, "encoder_args": {"img_size": 112, **blocks}}
        encoder = load_encoder(f"timm:{name}", device="cpu", **options)
        with torch.no_grad():
            assert close(encoder(images), model((images - encoder.mean) / encoder.std))


@pytest.mark.slow
def test_models_with_windows_take_another_size():
    encoder = load_encoder("timm:swin_tiny_patch4_window7_224", pretrained=False, input_size=64, device="cpu")
    assert (encoder.input_size, encoder.dim) == (64, 768)


def test_a_size_below_a_patch_is_one_line(tmp_path, of_64):
    path = _saved(of_64, tmp_path / "w.pth")
    with pytest.raises(
        UserError, match=r"timm model 'test_vit' cannot take images of 8 pixels .*; choose another input"
    ):
        load_encoder("timm:test_vit", checkpoint=path, input_size=8, device="cpu")


def test_the_size_that_the_model_is_made_for_is_its_input(tmp_path, of_64):
    path = _saved(of_64, tmp_path / "w.pth")
    encoder = load_encoder("timm:test_vit", checkpoint=path, encoder_args={"img_size": 64}, device="cpu")
    assert encoder.input_size == 64


@pytest.mark.parametrize("has_classifier", [True, False])
def test_patches_of_another_size_are_those_of_another_model(tmp_path, of_64, has_classifier):
    """timm would silently resample them."""
    state = {name: value for name, value in of_64.state_dict().items() if has_classifier or "head" not in name}
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"patch_embed\.proj\.weight has shape \(64, 3, 16, 16\) instead of"):
        load_encoder(
            "timm:test_vit", checkpoint=tmp_path / "w.pth", encoder_args={"patch_size": 8}, input_size=64, device="cpu"
        )


def test_a_masked_autoencoder_with_its_decoder(tmp_path, of_64):
    state = {name: value for name, value in of_64.state_dict().items() if "head" not in name}
    other = {"mask_token": torch.zeros(1, 1, 64), "decoder_pos_embed": torch.zeros(1, 17, 8),
             "decoder_blocks.0.norm1.weight": torch.ones(8)}  # fmt: skip
    torch.save({"model": state | other}, tmp_path / "mae.pth")
    torch.save(state, tmp_path / "w.pth")
    first, second = (
        load_encoder("timm:test_vit", checkpoint=tmp_path / name, input_size=64, device="cpu")
        for name in ("mae.pth", "w.pth")
    )
    assert first.fingerprint == second.fingerprint


@pytest.mark.filterwarnings("ignore")  # torch is moving its quantisation elsewhere
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda value: (50 * value).to(torch.int8), "is torch.int8"),
        (lambda value: torch.quantize_per_tensor(value.float(), 0.01, 0, torch.qint8), "is torch.qint8"),
        (lambda value: value.to_sparse(), "torch.sparse_coo"),
        (lambda value: value.to(torch.complex64), "is torch.complex64"),
        (lambda value: value.to("meta"), "on meta"),
    ],
    ids=["bytes", "quantised", "sparse", "complex", "nowhere"],
)
def test_weights_that_are_not_floats(tmp_path, small, change, says):
    state = {name: change(value) if value.ndim == 4 else value for name, value in small.state_dict().items()}
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(UserError, match=rf"w.pth' cannot be used: conv1\.0\.weight .*{re.escape(says)}.*; save the"):
        _features(tmp_path / "w.pth")


@pytest.mark.slow
def test_position_embeddings_of_another_model_are_not_resampled(tmp_path):
    save_file(timm.create_model("vit_tiny_patch16_224", num_classes=0).state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(UserError, match="does not fit timm model 'vit_base_patch14_dinov2"):
        load_encoder("dinov2_vitb14", checkpoint=tmp_path / "w.safetensors", input_size=56, device="cpu")


@pytest.mark.parametrize("features", ["pooled", "output"])
def test_weights_that_timm_does_not_know_are_named_with_the_nearest(features):
    with pytest.raises(UserError, match=r"unknown weights of timm model 'resnet18' 'a2_in1'; did you mean 'a2_in1k'"):
        load_encoder("timm:resnet18.a2_in1", features=features)
    with pytest.raises(UserError, match=r"timm has no weights for 'beit3_giant_patch14_224'; give checkpoint"):
        load_encoder("timm:beit3_giant_patch14_224.best", features=features)


def test_a_classifier_of_another_size_than_its_weights_is_refused():
    """timm creates a new classifier of that size, whose weights are random."""
    with pytest.raises(
        UserError, match=r"num_classes 10 differs from the 1000 .* would be random; leave it out or give"
    ):
        load_encoder("timm:resnet18.a1_in1k", features="output", encoder_args={"num_classes": 10})


@pytest.mark.slow
@pytest.mark.parametrize("name", ["levit_128s", "caformer_s18"])  # with norms, and with a hidden layer
def test_a_classifier_of_several_layers_is_left_out(tmp_path, name):
    model = timm.create_model(name)
    torch.save(model.state_dict(), tmp_path / "w.pth")
    encoder = load_encoder(f"timm:{name}", checkpoint=tmp_path / "w.pth", device="cpu")
    assert encoder.dim == model.num_features


@pytest.mark.parametrize("size", [48, (48, 48), [48, 48]])
def test_the_size_that_a_model_is_made_for_is_one_number_or_two(size):
    args = {"img_size": size}
    encoder = load_encoder("timm:test_vit", pretrained=False, encoder_args=args, device="cpu")
    assert encoder.input_size == 48


def _as_openai_names(state, under="visual."):
    """A timm CLIP tower's weights under the names of OpenAI's and open_clip's files."""
    new = [
        ("patch_embed.proj", "conv1"), ("norm_pre", "ln_pre"), ("blocks.", "transformer.resblocks."),
        ("norm1", "ln_1"), ("norm2", "ln_2"), ("attn.qkv.", "attn.in_proj_"), ("attn.proj", "attn.out_proj"),
        ("mlp.fc1", "mlp.c_fc"), ("mlp.fc2", "mlp.c_proj"),
    ]  # fmt: skip
    renamed = {}
    for name, value in state.items():
        for old, theirs in new:
            name = name.replace(old, theirs)
        name = {"cls_token": "class_embedding", "pos_embed": "positional_embedding"}.get(name, name)
        name = name.replace("norm.", "ln_post.") if name.startswith("norm.") else name
        if name == "class_embedding":
            value = value.flatten()
        renamed[under + name] = value[0] if name == "positional_embedding" else value
    return renamed


TINY = {"depth": 1, "embed_dim": 32, "num_heads": 2}


def _tiny(name, monkeypatch, **more):
    """A timm model of one narrow block, and the same for every model that is made after it."""
    make = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda *a, **k: make(*a, **{**k, **TINY}))
    torch.manual_seed(2)
    model = timm.create_model(name, num_classes=0, **more).eval()
    nn.init.normal_(model.pos_embed, std=0.5)
    return model


def _are_of(model, encoder):
    images = pictures(2, encoder.input_size)
    with torch.no_grad():
        theirs = model((images - encoder.mean) / encoder.std)
        return torch.allclose(encoder(images), theirs, atol=1e-5 * float(theirs.abs().max()))


@pytest.mark.parametrize("under", ["visual.", ""], ids=["whole", "tower"])
def test_clips_own_files_of_another_size_are_resampled_once(tmp_path, monkeypatch, under):
    """They were resampled to the size of the model's name, and from there to the input size."""
    name = "vit_base_patch16_clip_224"
    model = _tiny(name, monkeypatch, img_size=64)
    text = {"positional_embedding": torch.zeros(64, 32), "logit_scale": torch.tensor(1.0)} if under else {}
    if under:  # timm leaves out the text's part, which may be anything
        text["text.positions"] = torch.ones(64, 32).to_sparse()
    torch.save(text | _as_openai_names(model.state_dict(), under), tmp_path / "clip.pt")
    encoder = load_encoder(f"timm:{name}", checkpoint=tmp_path / "clip.pt", input_size=64, device="cpu")
    assert _are_of(model, encoder)


@pytest.mark.slow
def test_clips_own_files_with_other_patches_are_those_of_another_model(tmp_path, monkeypatch):
    model = _tiny("vit_base_patch16_clip_224", monkeypatch)
    torch.save(_as_openai_names(model.state_dict()), tmp_path / "clip.pt")
    with pytest.raises(UserError, match="does not fit timm model 'vit_base_patch32_clip_224'"):
        load_encoder("timm:vit_base_patch32_clip_224", checkpoint=tmp_path / "clip.pt", input_size=64, device="cpu")


def test_registers_of_dinov2_at_the_size_of_its_training(tmp_path, monkeypatch):
    """Its authors' files have a position for the class token, which timm adds to the token."""
    name = "vit_small_patch14_reg4_dinov2"
    model = _tiny(name, monkeypatch, img_size=112)
    state = {key.replace("reg_token", "register_tokens"): value for key, value in model.state_dict().items()}
    state["pos_embed"] = torch.cat([torch.zeros(1, 1, 32), state["pos_embed"]], dim=1)
    torch.save(state | {"mask_token": torch.zeros(1, 32)}, tmp_path / "dinov2.pth")
    encoder = load_encoder(f"timm:{name}", checkpoint=tmp_path / "dinov2.pth", input_size=112, device="cpu")
    assert _are_of(model, encoder)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "has_classifier"),
    [("vit_tiny_r_s16_p8_224", True), ("vit_tiny_r_s16_p8_224", False), ("vitamin_small_224", True)],
)
def test_transformers_behind_convolutions_that_were_trained_at_another_size(tmp_path, name, has_classifier):
    """A position of theirs is more pixels wide than a patch."""
    torch.manual_seed(2)
    model = timm.create_model(name, img_size=64, num_classes=3).eval()
    nn.init.normal_(model.pos_embed, std=0.5)
    state = {key: value for key, value in model.state_dict().items() if has_classifier or "head" not in key}
    torch.save(state, tmp_path / "w.pth")
    model.reset_classifier(0)
    assert _are_of(model, load_encoder(f"timm:{name}", checkpoint=tmp_path / "w.pth", input_size=64, device="cpu"))


@pytest.mark.slow
def test_relative_positions_of_another_size_are_refused(tmp_path):
    """timm would resample those of MViT in silence, for the size of the model's name."""
    torch.save(timm.create_model("mvitv2_tiny", img_size=64, num_classes=3).state_dict(), tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"rel_pos_h has shape \(31, 96\) instead of .*such as img_size if it was"):
        load_encoder("timm:mvitv2_tiny", checkpoint=tmp_path / "w.pth", input_size=64, device="cpu")


@pytest.mark.slow
def test_the_authors_files_of_deit3(tmp_path, monkeypatch):
    model = _tiny("deit3_small_patch16_224", monkeypatch)
    state = {re.sub(r"ls(\d)\.gamma", r"gamma_\1", key): value for key, value in model.state_dict().items()}
    torch.save({"model": state | {"head.weight": torch.ones(3, 32), "head.bias": torch.ones(3)}}, tmp_path / "w.pth")
    assert _are_of(model, load_encoder("timm:deit3_small_patch16_224", checkpoint=tmp_path / "w.pth", device="cpu"))


@pytest.mark.slow
def test_timms_conversion_writes_nothing(tmp_path, monkeypatch, capfd, recwarn):
    """It prints each bias that a DINOv3 file has and the model has not."""
    model = timm.create_model("vit_small_patch16_dinov3", num_classes=0, depth=1).eval()
    state = {re.sub(r"gamma_(\d)", r"ls\1.gamma", key): value for key, value in model.state_dict().items()}
    state["storage_tokens"] = state.pop("reg_token")
    state["blocks.0.attn.qkv.bias"] = torch.zeros(3 * 384)
    torch.save(state, tmp_path / "dinov3.pth")
    encoder = load_encoder("timm:vit_small_patch16_dinov3", checkpoint=tmp_path / "dinov3.pth", input_size=64,
                           device="cpu", encoder_args={"depth": 1})  # fmt: skip
    assert _are_of(model, encoder)
    assert capfd.readouterr() == ("", "")
    assert not recwarn.list


IMAGENETS = (0.485, 0.456, 0.406)


@pytest.fixture
def described(tmp_path, monkeypatch):
    """A model that was trained on ImageNet's mean at 64 pixels, under a name whose default is another mean."""
    model = _tiny("vit_small_patch16_224.dino", monkeypatch, img_size=64)
    assert timm.create_model("vit_small_patch16_224").pretrained_cfg["mean"] == (0.5, 0.5, 0.5)
    return model


def _for_the_hub(model, folder, **arguments):
    """What timm writes to be uploaded: weights, and a description of the model beside them."""
    save_file(model.state_dict(), folder / "model.safetensors")
    settings = {"tag": "dino", "input_size": [3, 64, 64], "fixed_input_size": True, "crop_pct": 0.8, "mean": IMAGENETS,
                "std": [0.229, 0.224, 0.225], "interpolation": "bilinear", "classifier": "head"}  # fmt: skip
    content = {"architecture": "vit_small_patch16_224", "num_classes": 0, "pretrained_cfg": settings}
    (folder / "config.json").write_text(json.dumps(content | {"model_args": arguments | {"num_classes": 7}}))
    return folder / "model.safetensors"


def _mean(path, name="vit_small_patch16_224", **options):
    encoder = load_encoder(f"timm:{name}", checkpoint=path, device="cpu", **options)
    return tuple(round(value, 3) for value in encoder.normalisation[0]), encoder


@pytest.mark.parametrize("size", [None, 96])
def test_timms_config_beside_the_weights_says_how_images_are_prepared(tmp_path, described, size, recwarn):
    mean, encoder = _mean(_for_the_hub(described, tmp_path), input_size=size)
    assert (mean, encoder.input_size) == (IMAGENETS, size or 64)
    assert (encoder.crop_pct, encoder.interpolation) == (0.8, "bilinear")
    described.set_input_size(encoder.input_size)
    assert _are_of(described, encoder)
    assert not recwarn.list


def test_timms_config_says_how_features_are_pooled(tmp_path, monkeypatch):
    model = _tiny("vit_small_patch16_224", monkeypatch, img_size=64, global_pool="avg", class_token=False)
    file = _for_the_hub(model, tmp_path, global_pool="avg", class_token=False)
    assert _are_of(model, _mean(file)[1])


@pytest.mark.parametrize(
    "options",
    [
        {"arch": "vit_small_patch16_224.dino"},
        {"args": argparse.Namespace(model="vit_small_patch16_224.dino", mean=None, std=None, crop_pct=None)},
        {"arch": "vit_small_patch16_224", "args": argparse.Namespace(mean=IMAGENETS, std=[0.2], img_size=64)},
        {"pretrained_cfg": {"architecture": "vit_small_patch16_224", "mean": IMAGENETS, "std": [0.2, 0.2, 0.2]}},
    ],
    ids=["name", "option", "values", "settings"],
)
def test_options_of_the_training_in_a_file_say_how_images_are_prepared(tmp_path, described, options, recwarn):
    torch.save({"state_dict": described.state_dict(), **options}, tmp_path / "last.pth.tar")
    assert _mean(tmp_path / "last.pth.tar", input_size=64)[0] == IMAGENETS
    assert not recwarn.list


@pytest.mark.parametrize(
    "options",
    [
        {"mean": [123, 116, 103], "std": "x", "crop_pct": "all", "interpolation": "random", "img_size": 1},
        {"mean": torch.rand(3), "std": [torch.ones(())] * 3, "input_size": torch.tensor([3, 32, 32]),
         "crop_pct": torch.ones(()), "interpolation": torch.ones(2), "gp": torch.ones(2), "bn_eps": torch.ones(())},
        {"mean": argparse.Namespace(), "interpolation": [], "gp": argparse.Namespace(),
         "model_kwargs": {"a": argparse.Namespace()}},
    ],
    ids=["values", "tensors", "objects"],
)  # fmt: skip
def test_statistics_of_the_training_that_cannot_be_are_ignored(tmp_path, described, options):
    options = argparse.Namespace(**options)
    torch.save({"arch": "vit_small_patch16_224", "args": options, "model": described.state_dict()}, tmp_path / "w.pth")
    with pytest.warns(UserWarning, match="does not tell its own"):
        assert _mean(tmp_path / "w.pth", input_size=64)[0] == (0.5, 0.5, 0.5)


def test_the_tag_that_the_user_gives_decides(tmp_path, described, recwarn):
    torch.save(described.state_dict(), tmp_path / "w.pth")
    assert _mean(tmp_path / "w.pth", "vit_small_patch16_224.dino", input_size=64)[0] == IMAGENETS
    assert not recwarn.list
    file = _for_the_hub(described, tmp_path)
    with pytest.warns(UserWarning, match=r"timm model 'vit_small_patch16_224\.dino', not 'vit_.*augreg_in21k'; give"):
        mean, _ = _mean(file, "vit_small_patch16_224.augreg_in21k", input_size=64)
    assert mean == (0.5, 0.5, 0.5)


def test_weights_that_do_not_say_which_mean_they_need_are_a_warning(tmp_path, described):
    torch.save(described.state_dict(), tmp_path / "w.pth")
    with pytest.warns(UserWarning, match=r"differ in mean and std.* such as timm:vit_small_patch16_224\.dino"):
        _mean(tmp_path / "w.pth", input_size=64)


def test_weights_of_a_model_with_another_activation_are_a_warning(tmp_path, monkeypatch):
    """Their shapes are the same."""
    model = _tiny("vit_base_patch16_clip_quickgelu_224", monkeypatch)
    torch.save({"arch": "vit_base_patch16_clip_quickgelu_224", "state_dict": model.state_dict()}, tmp_path / "w.pth")
    with pytest.warns(UserWarning, match="describes itself as timm model 'vit_base_patch16_clip_quickgelu_224', not"):
        _mean(tmp_path / "w.pth", "vit_base_patch16_clip_224", input_size=64)


def test_the_epsilon_of_batch_norms_is_the_trainings(tmp_path):
    torch.manual_seed(2)
    model = timm.create_model("test_efficientnet", num_classes=0, bn_eps=0.5).eval()
    options = argparse.Namespace(bn_eps=0.5, gp=None, model_kwargs={})
    torch.save({"arch": "test_efficientnet", "args": options, "state_dict": model.state_dict()}, tmp_path / "w.pth")
    assert _are_of(model, _mean(tmp_path / "w.pth", "test_efficientnet", input_size=64)[1])


def _says(**fields):
    settings = {"mean": [0.5] * 3, "std": [0.5] * 3}  # those of the name, too
    return json.dumps({"architecture": "test_resnet", "pretrained_cfg": settings | fields})


@pytest.mark.parametrize(
    "text",
    [
        *("{", "[]", '{"architecture": 5, "pretrained_cfg": {}}', '{"model_type": "vit"}'),
        *(_says(mean=value) for value in ([float("nan")] * 3, 10**400, "111", True, [[0.1]] * 3, [0.1] * 2)),
        *(_says(std=value) for value in (10**400, [10**400] * 3, [0.0] * 3, "111")),
        *(_says(crop_pct=value) for value in (10**400, float("inf"), [1], -1)),
        *(_says(input_size=value) for value in (10**400, 10**9, [3, -1, -1], [[3]], {})),
        *(_says(interpolation=["bicubic"]), _says(interpolation={}), _says(tag=["x"])),
    ],
    ids=lambda text: text[-30:],
)
def test_other_files_called_config_do_not_matter(tmp_path, small, expected, text):
    (tmp_path / "config.json").write_text(text)
    torch.save(small.state_dict(), tmp_path / "w.pth")
    encoder = load_encoder("timm:test_resnet", checkpoint=tmp_path / "w.pth", device="cpu")
    assert (encoder.input_size, encoder.crop_pct, encoder.interpolation) == (160, 0.95, "bilinear")
    assert torch.equal(_features(tmp_path / "w.pth"), expected)


@pytest.mark.parametrize("kind", ["folder", "pipe", "device", "circle"])
def test_what_is_called_config_but_is_no_file_does_not_matter(tmp_path, small, expected, kind):
    torch.save(small.state_dict(), tmp_path / "w.pth")
    config = tmp_path / "config.json"
    if kind == "folder":
        config.mkdir()
    elif kind == "pipe":
        os.mkfifo(config)
    else:
        config.symlink_to("/dev/zero" if kind == "device" else config)

    def give_up(*_):
        raise AssertionError("it waits for the pipe, or reads the device")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(20)
    try:
        assert torch.equal(_features(tmp_path / "w.pth"), expected)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize(
    "arguments",
    [{"embed_dim": 2048}, {"reg_tokens": 8_000}, {"window_size": 1}, {"act_layer": "none"},
     {"global_pool": "none"}, {"patch_size": 0}, {"num_heads": 0}, {"img_size": []}, {"norm_layer": "none"}],
    ids=str,
)  # fmt: skip
def test_arguments_in_a_description_that_cannot_be_are_one_line(tmp_path, arguments):
    """Nor is a model made that is larger than the file; it might fill the memory."""
    save_file(timm.create_model("test_vit", num_classes=0).state_dict(), tmp_path / "w.safetensors")
    content = {"architecture": "test_vit", "pretrained_cfg": {}, "model_args": arguments}
    (tmp_path / "config.json").write_text(json.dumps(content))
    (name,) = arguments
    with pytest.raises(UserError, match=rf"checkpoint's own .*{name}|itself .*{name}.* bytes; remove") as error:
        load_encoder("timm:test_vit", checkpoint=tmp_path / "w.safetensors", device="cpu")
    assert "\n" not in str(error.value)


def test_a_model_that_is_too_large_is_not_made_to_its_end(tmp_path, monkeypatch):
    """Making thousands of layers took a minute and a half, even without memory for their weights."""
    save_file(timm.create_model("test_vit", num_classes=0).state_dict(), tmp_path / "w.safetensors")
    content = {"architecture": "test_vit", "pretrained_cfg": {}, "model_args": {"depth": 400}}
    (tmp_path / "config.json").write_text(json.dumps(content))
    made = []
    monkeypatch.setattr(nn.LayerNorm, "reset_parameters", lambda self: made.append(self))
    with pytest.raises(UserError, match=r"has over .* weights, but the file has only as many bytes; remove"):
        load_encoder("timm:test_vit", checkpoint=tmp_path / "w.safetensors", device="cpu")
    assert len(made) < 200


@pytest.mark.parametrize("arguments", [{"depth": 10**9}, {"depths": [10**4] * 100}, {"a": {"b": {"c": {"d": {}}}}}])
def test_arguments_without_sense_are_not_followed(tmp_path, small, expected, arguments):
    torch.save({"arch": "test_resnet", "args": {"model_kwargs": arguments, "gp": 10.0, "bn_eps": "x"},
                "state_dict": small.state_dict()}, tmp_path / "w.pth")  # fmt: skip
    assert torch.equal(_features(tmp_path / "w.pth"), expected)


@pytest.mark.parametrize("arguments", [{"act_layer": "none"}, {"global_pool": "none"}, {"patch_size": 0}])
def test_encoder_args_that_timm_cannot_use_are_one_line(arguments):
    with pytest.raises(UserError, match=r"timm model 'test_vit' could not be made: .*; check encoder_args"):
        load_encoder("timm:test_vit", pretrained=False, encoder_args=arguments, device="cpu")


def test_settings_that_the_user_gives_come_before_those_of_the_file(tmp_path, small):
    (tmp_path / "config.json").write_text(_says(mean=[0.1] * 3))
    torch.save(small.state_dict(), tmp_path / "w.pth")
    assert _mean(tmp_path / "w.pth", "test_resnet")[0] == (0.1, 0.1, 0.1)
    for name in ("pretrained_cfg", "pretrained_cfg_overlay"):
        given = {name: {"mean": (0.2, 0.2, 0.2), "std": (1.0, 1.0, 1.0), "input_size": (3, 64, 64), "classifier": "fc"}}
        assert _mean(tmp_path / "w.pth", "test_resnet", encoder_args=given)[0] == (0.2, 0.2, 0.2)


def test_weights_of_transformers_are_not_those_of_another_timm_model(tmp_path, small):
    (tmp_path / "config.json").write_text('{"model_type": "resnet", "hidden_sizes": [8]}')
    torch.save({f"embedder.{name}": value for name, value in small.state_dict().items() if "conv" in name},
               tmp_path / "pytorch_model.bin")  # fmt: skip
    with pytest.raises(UserError, match=re.escape(f"it is a model of transformers: give hf:{tmp_path}")):
        _features(tmp_path / "pytorch_model.bin")
