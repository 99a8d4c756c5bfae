"""What a file of weights, or timm's config.json beside it, says of its timm model and of its images."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from typing import Any

from .checks import checked_preparation
from .encoder import RESAMPLING
from .weights import objects_beside

_NOT_OF_THE_MODEL = (
    *("checkpoint_path", "cache_dir", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "pretrained_strict"),
    *("scriptable", "exportable", "no_jit", "num_classes", "device", "dtype"),
)
"""Arguments of ``timm.create_model`` that a description does not set."""
_MOST_BYTES = 2**20
"""Size of a config.json up to which it is read; label names may fill some 100 kB."""


@dataclass
class Description:
    """A timm model as its weights describe it.

    Attributes:
        model: Name of the model, with a tag or without; empty if it is not stated.
        images: Fields of timm's ``pretrained_cfg`` about the preparation of images.
        arguments: Arguments of the model.
    """

    model: str = ""
    images: dict[str, Any] = field(default_factory=dict)
    arguments: dict[str, Any] = field(default_factory=dict)


def described(path: Path) -> Description:
    """Read what timm writes with weights: a config.json beside them, or the options of its training in the file."""
    beside = objects_beside(path)
    found = _in_config(_json(path.with_name("config.json"))) or _in_config(beside) or _in_options(beside)
    return found or Description()


def is_of_transformers(path: Path) -> bool:
    """Whether weights have transformers' own names, as its config.json beside them tells."""
    content = _json(path.with_name("config.json"))
    return isinstance(content, dict) and "model_type" in content and "pretrained_cfg" not in content


def _json(path: Path) -> Any:
    with suppress(OSError, ValueError, RecursionError):
        if path.stat().st_size <= _MOST_BYTES:
            return json.loads(path.read_bytes())
    return None


def _in_config(content: Any) -> Description | None:
    """From a ``pretrained_cfg``, as in the file that timm writes beside weights for the Hugging Face hub."""
    settings = content.get("pretrained_cfg") if isinstance(content, Mapping) else None
    if not isinstance(settings, Mapping):
        return None
    name, tag = content.get("architecture", settings.get("architecture")), settings.get("tag")
    if not isinstance(name, str):
        return None
    full = f"{name}.{tag}" if isinstance(tag, str) and tag else name
    return Description(full, _of_images(settings), _of_model(content.get("model_args")))


def _in_options(content: Mapping[str, Any]) -> Description | None:
    """From the options that timm's training script, and others that were made from it, store in a checkpoint."""
    options = content.get("args")
    options = options if isinstance(options, Mapping) else {}
    name = content.get("arch", options.get("model"))
    if not isinstance(name, str):
        return None
    side = options.get("input_size") or options.get("img_size")
    given = {"global_pool": options.get("gp"), "bn_eps": options.get("bn_eps")}
    arguments = {key: value for key, value in given.items() if value is not None}
    return Description(
        name, _of_images({**options, "input_size": side}), arguments | _of_model(options.get("model_kwargs"))
    )


def _of_model(arguments: Any) -> dict[str, Any]:
    given = arguments if isinstance(arguments, Mapping) else {}
    return {str(name): value for name, value in given.items() if name not in _NOT_OF_THE_MODEL}


def _of_images(values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that are stated and possible."""
    found: dict[str, Any] = {}
    mean, std, crop = values.get("mean"), values.get("std"), values.get("crop_pct")
    with suppress(ValueError, TypeError):
        if mean is not None and std is not None:
            found["mean"], found["std"], _ = checked_preparation(_of_three(mean), _of_three(std), 1.0, name="")
    with suppress(ValueError):
        if crop is not None:
            found["crop_pct"] = checked_preparation(0.0, 1.0, crop, name="")[2]
    if values.get("interpolation") in RESAMPLING:
        found["interpolation"] = values["interpolation"]
    size = values.get("input_size")
    side = size[-1] if isinstance(size, list | tuple) and size else size
    if isinstance(side, int) and not isinstance(side, bool) and side >= 8:
        found["input_size"] = (3, side, side)
    if isinstance(values.get("fixed_input_size"), bool):
        found["fixed_input_size"] = values["fixed_input_size"]
    return found


def _of_three(values: Any) -> Any:
    """timm's options may have one value for all channels."""
    is_one = isinstance(values, list | tuple) and len(values) == 1 and isinstance(values[0], Real)
    return values[0] if is_one else values
