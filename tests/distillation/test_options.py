"""The keywords of `distill` are typed, and they are the fields of its configs."""

from __future__ import annotations

from typing import get_type_hints

import pytest

from probedistill import DistillConfig, EncoderConfig, RunConfig, UserError, encoder_config, load_encoder
from probedistill.config import CanvasConfig, EncoderOptions
from probedistill.distillation.options import DistillOptions


def test_the_keywords_are_the_fields_of_the_configs():
    fields = DistillConfig.__dataclass_fields__.keys() | RunConfig.__dataclass_fields__.keys()
    assert get_type_hints(DistillOptions).keys() == fields


def test_the_keywords_of_an_encoder_are_the_fields_of_its_config():
    assert get_type_hints(EncoderOptions).keys() == EncoderConfig.__dataclass_fields__.keys() - {"encoder"}


def test_a_misspelt_option_of_an_encoder():
    for function in (load_encoder, encoder_config):
        with pytest.raises(
            UserError, match=f"unknown option of {function.__name__} 'inputsize'; did you mean 'input_s"
        ):
            function("efficientnet_lite0", inputsize=112)
    with pytest.raises(UserError, match="differ"):
        load_encoder("efficientnet_lite0@112", input_size=64)


# ---- options without an effect


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--method", "sfm", "--clp.ridge", 5], "clp.ridge 5.0 is for method clp, and this is sfm"),
        (["--lgm.sigma", 1], "lgm.sigma 1.0 is for method lgm, and this is clp"),
        (["--canvas.init", "noise", "--canvas.blend", 20], "canvas.blend 20 is for canvas.init average and blend"),
        (["--canvas.init", "real", "--canvas.init-noise", 0.5], "canvas.init_noise 0.5 is for canvas.init noise"),
        (["--layers", 0, "--layer-weight", 2], "layer_weight 2.0 is that of inner layers, and layers is 0"),
        (["--layers", 0, "--aim", "transfer"], None),
        (["--aim", "transfer"], None),
        (
            ["--layers", 0, "--aim", "transfer", "--canvas.init", "noise"],
            "aim transfer is about inner layers, and layers is 0",
        ),
        (
            ["--aim", "transfer", "--canvas.init", "noise"],
            "aim transfer is about inner layers, and 'helpers_encoders:tiny' gives none",
        ),
        (["--layer-weight", 2], "layer_weight 2.0 is about inner layers, and 'helpers_encoders:tiny' gives none"),
        (["--layers", 2], "layers 2 is about inner layers, and 'helpers_encoders:tiny' gives none; convolutional"),
        (["--clp.ridge", 3, "--canvas.blend", 3], None),
        (["--method", "sfm", "--preset", "paper"], None),
        (["--method", "sfm", "--clp.ridge", 3, "--grid", "method", "sfm,clp"], None),
        (["--method", "sfm", "--clp.ridge", 3, "--seeds", 0, 1], "clp.ridge 3.0 is for method clp, and this is sfm"),
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
        "canvas.init_noise 0.5 is for canvas.init noise, and this is average"
    ]
