"""``hf:REPO``: models of transformers."""

from __future__ import annotations

import warnings
from typing import Any

from torch import Tensor, nn

from ..config import EncoderConfig
from ..errors import UserError, first_line
from .encoder import RESAMPLING
from .known import IMAGENET
from .source import EncoderSource, Loaded, Output, optional


def load_hf(repo: str, config: EncoderConfig) -> Loaded:
    """Load ``hf:REPO``."""
    transformers = optional("transformers", "hf", f"hf:{repo}")
    try:
        settings = transformers.AutoConfig.from_pretrained(repo)
        settings = getattr(settings, "vision_config", settings)
        if config.pretrained:
            # CLIP-like repositories hold two towers; AutoModel picks the vision one from its own config.
            model = transformers.AutoModel.from_pretrained(repo, config=settings, **config.encoder_args)
        else:
            model = transformers.AutoModel.from_config(settings, **config.encoder_args)
    except TypeError as error:
        raise UserError(f"encoder_args {dict(config.encoder_args)} do not suit 'hf:{repo}': {error}") from error
    except (OSError, ValueError, KeyError) as error:
        reason = first_line(error)
        raise UserError(f"encoder 'hf:{repo}' could not be loaded: {reason}; check the name or the network") from error
    own_size = getattr(settings, "image_size", 224)
    own_size = own_size if isinstance(own_size, int) else own_size[-1]
    view: dict[str, Any] = {"input_size": own_size}
    mean, std = IMAGENET
    try:
        processor = transformers.AutoImageProcessor.from_pretrained(repo)
        mean, std = tuple(processor.image_mean or mean), tuple(processor.image_std or std)
        view |= _processor_view(processor)
    except (OSError, ValueError, AttributeError, ImportError):
        warnings.warn(f"hf:{repo} names no mean and std; using ImageNet's", stacklevel=2)
    if config.input_size is not None:
        view["input_size"] = config.input_size
    interpolates = view["input_size"] != own_size and hasattr(model, "embeddings")

    def pooled(module: nn.Module, images: Tensor) -> Tensor:
        extra = {"interpolate_pos_encoding": True} if interpolates else {}
        output = module(images, **extra)
        features = getattr(output, "pooler_output", None)
        features = output.last_hidden_state[:, 0] if features is None else features
        return features.flatten(1)

    return Loaded(Output(model, pooled), mean=mean, std=std, **view)


def _processor_view(processor: Any) -> dict[str, Any]:
    """How an image processor of transformers resizes and crops: input_size, crop_pct and interpolation."""

    def side(name: str) -> int | None:
        sides = getattr(processor, name, None)
        sides = {"height": sides} if isinstance(sides, int) else dict(sides or {})
        found = sides.get("shortest_edge") or sides.get("height")
        return int(found) if found else None

    resized = side("size")
    cropped = side("crop_size") if getattr(processor, "do_center_crop", False) else None
    view: dict[str, Any] = {}
    if cropped or resized:
        view["input_size"] = cropped or resized
    if cropped and resized:
        view["crop_pct"] = min(1.0, cropped / resized)
    elif resized and resized < 384 and getattr(processor, "crop_pct", None):  # ConvNeXt's own rule
        view["crop_pct"] = float(processor.crop_pct)
    names = {int(filter_): name for name, filter_ in RESAMPLING.items()}
    if getattr(processor, "resample", None) in names:
        view["interpolation"] = names[processor.resample]
    return view


SOURCE = EncoderSource(load_hf)
