"""A spec string → a frozen `Encoder`."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import replace
from numbers import Integral
from typing import Unpack

import torch

from ..config import EncoderConfig, EncoderOptions, with_options
from ..errors import UserError, option, unknown_name
from ..machine.network import check_waits
from ..machine.torch_state import own_torch_state
from ..methods import MOST_PIXELS, check_choices, check_number
from ..registry import Registry
from .encoder import IMAGENET, Encoder, check_encoder
from .known import RECIPES
from .named import YAML, encoder_config, is_in_braces
from .source import EncoderSource, resolve_device

SOURCES = Registry(
    "encoder source",
    {
        "timm": ".encoders.timm:SOURCE",
        "hf": ".encoders.huggingface:SOURCE",
        "openclip": ".encoders.openclip:SOURCE",
        "module": ".encoders.module:SOURCE",
    },
)
"""Sources of encoders, by the word before the colon."""


@own_torch_state()
def load_encoder(spec: str | EncoderConfig, **options: Unpack[EncoderOptions]) -> Encoder:
    """Load a frozen encoder.

    Args:
        spec: A spec string (``"efficientnet_lite0"``, ``"timm:resnet50"``, ``"hf:facebook/dinov2-base"``,
            ``"openclip:ViT-B-32/laion2b_s34b_b79k"``, ``"module:mypackage.models:make"``), NAME@PIXELS for another
            input size, a YAML file (`encoder_config`), or a config.
        options: Any field of `EncoderConfig`, e.g. ``input_size=112``. They override those of a file.

    Raises:
        UserError: Unknown name or option, missing package, weights that do not fit, impossible input size.
    """
    config = _config(spec, options)
    device = resolve_device(config.device)
    _check(config)
    recipe, papers = RECIPES.get(config.encoder), config.preprocess == "papers"
    source, _, rest = (recipe.spec if recipe else config.encoder).partition(":")
    where = _source(source, rest, config)
    if papers and source == "openclip":
        config = replace(config, features="output")  # the papers' CLIP uses the projected features
    with torch.random.fork_rng():
        torch.manual_seed(0)  # random weights (pretrained=False) are the same in every process
        loaded = where.load(rest, config)
    encoder = Encoder(
        loaded.model.float(),
        name=config.encoder if recipe else rest,
        input_size=loaded.input_size,
        mean=IMAGENET[0] if papers else (recipe and recipe.mean) or loaded.mean,
        std=IMAGENET[1] if papers else (recipe and recipe.std) or loaded.std,
        interpolation="bilinear" if papers else loaded.interpolation,
        crop_pct=224 / 256 if papers else loaded.crop_pct,
        cuts=papers,
        precision=config.precision,
        device=device,
        fold_batchnorm=config.fold_batchnorm,
        identity=f"{recipe.spec if recipe else config.encoder}|{sorted(config.encoder_args.items())}{loaded.identity}",
    )
    encoder.config = config
    if config.compile:
        encoder.model.compile()
    return encoder


def _config(spec: str | EncoderConfig, options: EncoderOptions) -> EncoderConfig:
    """The config that the arguments of `load_encoder` describe."""
    called = "load_encoder"
    if not isinstance(spec, (str, EncoderConfig)):
        check_encoder(spec)
        raise UserError(f"encoder {spec.name!r} is already loaded; use it as it is")
    if isinstance(spec, str) and (spec.endswith(YAML) or is_in_braces(spec)):
        spec = encoder_config(spec)
    return EncoderConfig.of(spec, options, called) if isinstance(spec, str) else with_options(spec, options, called)


def _check(config: EncoderConfig) -> None:
    """Refuse options that no source knows."""
    check_choices(config)
    if not isinstance(config.encoder_args, Mapping):
        raise UserError(f"encoder_args {config.encoder_args!r} is not a dictionary; give {{name: value}}")
    if config.input_size is not None and not isinstance(config.input_size, Integral):
        raise UserError(f"input_size {config.input_size!r} is not a whole number; give a number of pixels")
    if config.input_size is not None and config.input_size < 8:
        raise UserError(f"input_size {config.input_size} is too small; use at least 8 pixels")
    if config.input_size is not None:
        check_number("input_size", config.input_size, most=MOST_PIXELS)


def _source(source: str, rest: str, config: EncoderConfig) -> EncoderSource:
    """Return the source of that name if it supports what the config requests; ``rest`` is the part after the colon."""
    if source not in SOURCES or not rest:
        raise _unknown_encoder(config.encoder)
    where = SOURCES.load(source)
    if not isinstance(where, EncoderSource):
        raise UserError(f"encoder source {source!r} is {type(where).__name__}; it must be an EncoderSource")
    if config.checkpoint is not None and not where.takes_checkpoint:
        raise UserError(
            f"checkpoint {str(config.checkpoint)!r} is not possible for {config.encoder!r}, which has its own weights; "
            "leave it out"
        )
    if config.checkpoint_key is not None and config.checkpoint is None:
        raise UserError(
            f"checkpoint_key {config.checkpoint_key!r} is for a checkpoint; give {option('checkpoint', 'FILE')}, or "
            "leave it out"
        )
    if config.features == "output" and not where.gives_output:
        raise UserError(f"features 'output' is not possible for {config.encoder!r}; leave it out")
    return where


def _unknown_encoder(spec: str) -> UserError:
    """The error for a spec that names no encoder, with suggestions."""
    if spec.endswith(YAML):
        return UserError(f"encoder {spec!r} is a file of options; encoder_config({spec!r}) reads it")
    name, at, pixels = spec.rpartition("@")
    source, _, rest = spec.partition(":")
    if at and source not in SOURCES and name in RECIPES:
        return UserError(f"encoder {spec!r}: {pixels!r} is not a number of pixels; give {name}@112, for example")
    if rest and source not in RECIPES:
        return unknown_name("encoder source", source, SOURCES.names(), f"(in {spec!r})")
    check_waits()
    import timm

    of_timm = [f"timm:{near}" for near in difflib.get_close_matches(spec, timm.list_models(), cutoff=0.8)]
    return unknown_name("encoder", spec, [*RECIPES, *of_timm, *(f"{name}:…" for name in SOURCES.names())])
