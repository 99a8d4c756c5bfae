"""A spec string → a frozen `Encoder`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from ..config import EncoderConfig
from ..errors import UserError, unknown_name
from .encoder import Encoder
from .huggingface import load_hf
from .known import RECIPES, Recipe
from .module import load_module
from .openclip import load_openclip
from .source import Loaded, resolve_device
from .timm import load_timm


def load_encoder(spec: str | EncoderConfig, **options: Any) -> Encoder:
    """Load a frozen encoder.

    Args:
        spec: A spec string (``"efficientnet_lite0"``, ``"timm:resnet50"``, ``"hf:facebook/dinov2-base"``,
            ``"openclip:ViT-B-32/laion2b_s34b_b79k"``, ``"module:mypackage.models:make"``), NAME@PIXELS for another
            input size, or a config.
        options: Any field of `EncoderConfig`, e.g. ``input_size=112``.

    Raises:
        UserError: Unknown name, missing package, weights that do not fit, impossible input size.
    """
    config = replace(spec, **options) if isinstance(spec, EncoderConfig) else EncoderConfig(encoder=spec, **options)
    device = resolve_device(config.device)
    if config.precision not in ("fp32", "bf16", "fp16"):
        raise unknown_name("precision", config.precision, ["fp32", "bf16", "fp16"])
    if config.features not in ("pooled", "output"):
        raise unknown_name("features", config.features, ["pooled", "output"])
    if config.input_size is not None and config.input_size < 8:
        raise UserError(f"input_size {config.input_size} is too small; use at least 8 pixels")
    recipe = RECIPES.get(config.encoder)
    source, _, rest = (recipe.spec if recipe else config.encoder).partition(":")
    name, at, pixels = config.encoder.rpartition("@")
    if at and source not in _SOURCES and name in RECIPES:
        raise UserError(f"encoder {config.encoder!r}: {pixels!r} is no number of pixels; give {name}@112 and the like")
    if source not in _SOURCES or not rest:
        if rest and source not in RECIPES:
            raise unknown_name("encoder source", source, _SOURCES, f"(in {config.encoder!r})")
        known = [*RECIPES, *(f"{name}:…" for name in _SOURCES)]
        raise unknown_name("encoder", config.encoder, known)
    if config.checkpoint is not None and source != "timm":
        raise UserError(
            f"checkpoint {str(config.checkpoint)!r} is for timm: encoders; {config.encoder!r} has its own weights"
        )
    if config.features == "output" and source not in ("timm", "openclip"):
        raise UserError(f"features 'output' is for timm: and openclip: encoders; leave it out for {config.encoder!r}")
    with torch.random.fork_rng():
        torch.manual_seed(0)  # random weights (pretrained=False) are the same in every process
        loaded = _SOURCES[source](rest, config, recipe)
    encoder = Encoder(
        loaded.model,
        name=config.encoder if recipe else rest,
        input_size=loaded.input_size,
        mean=tuple((recipe and recipe.mean) or loaded.mean),
        std=tuple((recipe and recipe.std) or loaded.std),
        interpolation=loaded.interpolation,
        crop_pct=loaded.crop_pct,
        precision=config.precision,
        device=device,
        fold_batchnorm=config.fold_batchnorm,
        identity=f"{recipe.spec if recipe else config.encoder}|{sorted(config.encoder_args.items())}{loaded.identity}",
    )
    if config.compile:
        encoder.model.compile()
    return encoder


_SOURCES: dict[str, Callable[[str, EncoderConfig, Recipe | None], Loaded]] = {
    "timm": load_timm,
    "hf": load_hf,
    "openclip": load_openclip,
    "module": load_module,
}
