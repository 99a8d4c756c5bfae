"""The keywords of `distill` are typed, and they are the fields of its configs."""

from __future__ import annotations

from typing import get_type_hints

import numpy as np
import pytest
import torch

from conftest import TINY
from probedistill import (
    DistillConfig,
    DistilledSet,
    EncoderConfig,
    RunConfig,
    UserError,
    distill,
    encoder_config,
    export,
    extract_features,
    load_encoder,
    load_splits,
)
from probedistill.config import CanvasConfig, EncoderOptions
from probedistill.distillation.options import DistillOptions


def test_the_keywords_are_the_fields_of_the_configs():
    fields = DistillConfig.__dataclass_fields__.keys() | RunConfig.__dataclass_fields__.keys()
    assert get_type_hints(DistillOptions).keys() == fields


def test_the_keywords_of_an_encoder_are_the_fields_of_its_config():
    assert get_type_hints(EncoderOptions).keys() == EncoderConfig.__dataclass_fields__.keys() - {"encoder"}


@pytest.mark.parametrize(
    "option",
    [
        "schedule", "soft_labels", "canvas.colour", "canvas.init", "canvas.new_level", "augment.kind", "augment.pad",
        "clp.outer", "clp.normalize", "lgm.normalize", "sfm.normalize", "sfm.cosine", "sfm.others",
    ],
)  # fmt: skip
def test_options_that_are_one_of_some_words(option):
    part, _, name = option.rpartition(".")
    method = part if part in ("clp", "lgm", "sfm") else "auto"
    with pytest.raises(UserError, match=rf"^unknown {option} 'other'; .*known: "):
        DistillConfig.of(method=method, **{part: {name: "other"}} if part else {name: "other"}).resolve()


@pytest.mark.parametrize("name", ["input-size", "canvas.size", "augment.real-crop"])
@pytest.mark.parametrize("pixels", [2**31, 10**30])
def test_sizes_that_overflow(refused, name, pixels):
    assert f"{name.replace('-', '_')} {pixels} must be at most 16,384" in refused(f"--{name}", pixels)


@pytest.mark.filterwarnings("ignore:.*no effect")
def test_numbers_and_lists_of_other_libraries(encoder, photos, out):
    images, _ = load_splits(f"folder:{photos}")
    numbers = {"steps": np.int64(2), "lr": torch.tensor(0.5), "images_per_class": np.int32(1), "seed": np.uint8(3)}
    distill(
        images, encoder, **numbers, canvas={"size": np.int16(32)}, augment={"scale": np.array([0.25, 1.0])}, out=out,
        evaluate_every=np.int64(0), progress=False,
    )  # fmt: skip
    config = DistilledSet.load(out).run.config
    assert (config.steps, config.lr, config.images_per_class, config.seed) == (2, 0.5, 1, 3)
    assert type(config.steps) is int
    assert (config.canvas.size, list(config.augment.scale)) == (32, [0.25, 1.0])
    assert export(out, out.with_name("small"), quality=np.int64(80)).quality == 80
    assert load_encoder(TINY, encoder_args={"seed": np.int64(1)}, device="cpu").config.encoder_args == {"seed": 1}
    assert extract_features(encoder, images, views=np.int64(1), progress=False).num_views == 1


@pytest.mark.parametrize("name", ["log", "callback"])
def test_names_that_are_not_a_list(encoder, photos, name):
    with pytest.raises(UserError, match=rf"{name} 'tensorboard' must be a list of names; write \['tensorboard'\]"):
        distill(load_splits(f"folder:{photos}")[0], encoder, steps=1, **{name: "tensorboard"})
    with pytest.raises(UserError, match=rf"{name} .* must be a list of names"):
        distill(load_splits(f"folder:{photos}")[0], encoder, steps=1, **{name: print})


def test_a_misspelt_option_of_an_encoder():
    for function in (load_encoder, encoder_config):
        with pytest.raises(
            UserError, match=f"unknown option of {function.__name__} 'inputsize'; did you mean 'input_s"
        ):
            function("efficientnet_lite0", inputsize=112)
    with pytest.raises(UserError, match="disagree"):
        load_encoder("efficientnet_lite0@112", input_size=64)


# ---- options without an effect


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--method", "sfm", "--clp.ridge", 5], "clp.ridge 5.0 is for method clp, but the method is sfm"),
        (["--lgm.sigma", 1], "lgm.sigma 1.0 is for method lgm, but the method is clp"),
        (["--canvas.init", "noise", "--canvas.blend", 20], "canvas.blend 20 is for canvas.init average or blend"),
        (["--canvas.init", "real", "--canvas.init-noise", 0.5], "canvas.init_noise 0.5 is for canvas.init noise"),
        (["--layers", 0, "--layer-weight", 2], "layer_weight 2.0 is for inner layers, but layers is 0"),
        (["--layers", 0, "--aim", "transfer"], None),
        (["--aim", "transfer"], None),
        (
            ["--layers", 0, "--aim", "transfer", "--canvas.init", "noise"],
            "aim transfer needs inner layers, but layers is 0",
        ),
        (
            ["--aim", "transfer", "--canvas.init", "noise"],
            "aim transfer needs inner layers, but those of 'helpers_encoders:tiny' cannot be used",
        ),
        (["--layer-weight", 2], "layer_weight 2.0 needs inner layers, but those of 'helpers_encoders:tiny' cannot"),
        (
            ["--layers", 2],
            "layers 2 needs inner layers, but those of 'helpers_encoders:tiny' cannot be used; those of",
        ),
        (["--clp.ridge", 3, "--canvas.blend", 3], None),
        (["--canvas.new-level", "noise"], "canvas.new_level noise is for levels opened later, but canvas.level_every"),
        (["--canvas.kind", "pixels", "--canvas.level-every", 2], "canvas.level_every 2 is for canvas.kind pyramid"),
        (["--augment.noise-std", 0.3], "augment.noise_std 0.3 is for noise, but augment.noise_prob is 0"),
        (["--augment", "none", "--augment.flip", 0], "augment.flip 0.0 is for augment.kind random, but"),
        (["--clp.outer", "mse", "--clp.temperature", 1], "clp.temperature 1.0 is for clp.outer ce, but clp.outer is"),
        (["--method", "sfm", "--preset", "paper", "--augment.noise-prob", 0], None),
        (["--method", "sfm", "--preset", "paper"], None),
        (["--method", "sfm", "--clp.ridge", 3, "--grid", "method", "sfm,clp"], None),
        (
            ["--method", "sfm", "--clp.ridge", 3, "--seeds", 0, 1],
            "clp.ridge 3.0 is for method clp, but the method is sfm",
        ),
    ],
)
def test_an_option_without_an_effect_is_named(distil_cli, tmp_path, flags, said):
    done = distil_cli("--out", tmp_path / "run", *flags, steps=1)
    assert done.code == 0, done.err
    lines = [line for line in done.err.splitlines() if "without effect" in line]
    assert [said in line for line in lines] == [True] if said else not lines


def test_without_images_the_start_is_noise():
    config = DistillConfig(canvas=CanvasConfig(init_noise=0.5))
    assert config.without_effect(config.resolve(without_images=True)) == []
    assert config.without_effect(config.resolve()) == [
        "canvas.init_noise 0.5 is for canvas.init noise, but canvas.init is average"
    ]
