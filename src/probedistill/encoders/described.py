"""What a file of weights, or timm's config.json beside it, says of its timm model and of its images."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .checks import checked_preparation
from .encoder import RESAMPLING
from .trust import is_word, plain_arguments
from .weights import objects_beside

_MOST_BYTES = 2**20
"""Size of a config.json up to which it is read; label names may fill some 100 kB."""
_MOST_PIXELS = 2048
"""Input size up to which a description is followed; more could fill the memory without the user's asking for it."""


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
        if path.is_file():  # not a pipe or a device, which may block or have no end
            with path.open("rb") as file:
                data = file.read(_MOST_BYTES + 1)
            return json.loads(data) if len(data) <= _MOST_BYTES else None
    return None


def _in_config(content: Any) -> Description | None:
    """From a ``pretrained_cfg``, as in the file that timm writes beside weights for the Hugging Face hub."""
    settings = content.get("pretrained_cfg") if isinstance(content, Mapping) else None
    if not isinstance(settings, Mapping):
        return None
    name, tag = content.get("architecture", settings.get("architecture")), settings.get("tag")
    if not is_word(name):
        return None
    full = f"{name}.{tag}" if is_word(tag) and tag else name
    return Description(full, _of_images(settings), plain_arguments(content.get("model_args")))


def _in_options(content: Mapping[str, Any]) -> Description | None:
    """From the options that timm's training script, and others that were made from it, store in a checkpoint."""
    options = content.get("args")
    options = options if isinstance(options, Mapping) else {}
    name = content.get("arch", options.get("model"))
    if not is_word(name):
        return None
    images = {**_of_images({"input_size": options.get("img_size")}), **_of_images(options)}
    pool, epsilon = options.get("gp"), options.get("bn_eps")
    arguments = {"global_pool": pool} if is_word(pool) else {}
    arguments |= {"bn_eps": epsilon} if _is_number(epsilon) else {}
    return Description(name, images, arguments | plain_arguments(options.get("model_kwargs")))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _of_images(values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that are stated and possible."""
    found: dict[str, Any] = {}
    mean, std, crop = (values.get(name) for name in ("mean", "std", "crop_pct"))
    with suppress(ValueError):
        found["mean"], found["std"], _ = checked_preparation(_of_channels(mean), _of_channels(std), 1.0, name="")
    with suppress(ValueError):
        found["crop_pct"] = checked_preparation(0.0, 1.0, crop, name="")[2]
    if is_word(values.get("interpolation")) and values["interpolation"] in RESAMPLING:
        found["interpolation"] = values["interpolation"]
    size = values.get("input_size")
    side = size[-1] if isinstance(size, list | tuple) and size else size
    if isinstance(side, int) and 8 <= side <= _MOST_PIXELS:
        found["input_size"] = (3, side, side)
    if isinstance(values.get("fixed_input_size"), bool):
        found["fixed_input_size"] = values["fixed_input_size"]
    return found


def _of_channels(values: Any) -> Any:
    """Three numbers, or the one for all channels that timm's options may have."""
    numbers = values if isinstance(values, list | tuple) else [values]
    if len(numbers) not in (1, 3) or not all(map(_is_number, numbers)):
        raise ValueError("not numbers of channels")
    return numbers if len(numbers) == 3 else numbers[0]
