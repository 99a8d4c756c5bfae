"""A spec string → a frozen `Encoder`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml

from ..config import EncoderConfig
from ..errors import UserError, unknown_name
from .encoder import Encoder
from .huggingface import load_hf
from .known import RECIPES, Recipe
from .module import load_module
from .openclip import load_openclip
from .source import Loaded, resolve_device
from .timm import load_timm

_KINDS: dict[str, type] = {"input_size": int, "encoder_args": dict, "precision": str, "device": str}
_A_KIND = {int: "a whole number", dict: "a mapping of names to values", str: "a word"}


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


def encoder_config(spec: str, **options: Any) -> EncoderConfig:
    """The config of an encoder that is named in one word.

    Args:
        spec: An encoder as in `EncoderConfig.encoder`, NAME@PIXELS for another input size, or a YAML file
            with the fields of `EncoderConfig` (a run's config.yaml is one; what is not of the encoder is
            passed over).
        options: Fields that hold for any encoder, e.g. ``device``; a file's own win.

    Raises:
        UserError: No such file, not a YAML mapping with an encoder, or a value of another kind than its field.
    """
    if spec.endswith((".yaml", ".yml")):
        path = Path(spec)
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            reason = " ".join(str(error).split())
            raise UserError(
                f"encoder {spec!r} cannot be read: {reason}; give a YAML file of encoder options"
            ) from error
        content = {str(k).replace("-", "_"): v for k, v in content.items()} if isinstance(content, dict) else {}
        if not isinstance(content.get("encoder"), str):
            raise UserError(f"encoder {spec!r} names no encoder; give a YAML file with an entry 'encoder'")
        known = {k: v for k, v in content.items() if k in EncoderConfig.__dataclass_fields__ and v is not None}
        for field_name, kind in _KINDS.items():
            if not isinstance(known.get(field_name, kind()), kind):
                raise UserError(
                    f"encoder {spec!r} has {field_name} {known[field_name]!r}; give {_A_KIND[kind]}, or leave it out"
                )
        if "checkpoint" in known:
            known["checkpoint"] = Path(str(known["checkpoint"]))
        return EncoderConfig(**{**options, **known})
    return EncoderConfig(encoder=spec, **options)


def display_names(entries: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Fingerprint → a name that no other encoder has: NAME, else NAME@PIXELS, else with the fingerprint's start.

    Args:
        entries: Encoders as name, fingerprint and input_size; one that occurs twice counts once.
    """
    known = {entry["fingerprint"]: entry for entry in reversed(entries)}
    sized = {fingerprint: f"{entry['name']}@{entry['input_size']}" for fingerprint, entry in known.items()}
    names, sizes = Counter(entry["name"] for entry in known.values()), Counter(sized.values())
    found = {}
    for fingerprint, entry in known.items():
        name = entry["name"] if names[entry["name"]] == 1 else sized[fingerprint]
        found[fingerprint] = f"{name} {fingerprint[:6]}" if sizes[name] > 1 else name
    return found


_SOURCES: dict[str, Callable[[str, EncoderConfig, Recipe | None], Loaded]] = {
    "timm": load_timm,
    "hf": load_hf,
    "openclip": load_openclip,
    "module": load_module,
}
