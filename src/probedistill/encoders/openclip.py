"""``openclip:MODEL/TAG``: image towers of open_clip."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from ..config import EncoderConfig
from ..errors import UserError, first_line, unknown_name
from ..machine.network import asking_the_hub
from .source import EncoderSource, Loaded, optional


def load_openclip(name: str, config: EncoderConfig) -> Loaded:
    """The image tower of ``MODEL/TAG``; ``features="output"`` keeps its projection."""
    open_clip = optional("open_clip", "openclip", f"openclip:{name}")
    architecture, _, tag = name.partition("/")
    if architecture not in open_clip.list_models():
        raise unknown_name("openclip model", architecture, open_clip.list_models())
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if config.pretrained and tag not in tags:
        raise unknown_name(f"openclip weights for {architecture}", tag, tags)
    arguments: dict[str, Any] = dict(config.encoder_args)
    if config.input_size is not None:
        arguments["force_image_size"] = config.input_size
    on_hub = config.pretrained and "hf_hub" in (open_clip.get_pretrained_cfg(architecture, tag) or {})
    way_out = "copy ~/.cache/huggingface from a machine that has it, or take efficientnet_lite0, which needs no network"
    with asking_the_hub(f"encoder 'openclip:{name}'", way_out, needed=on_hub):
        clip = _made(name, config, arguments)
    visual = clip.visual
    if config.features == "pooled" and not _without_projection(visual):
        warnings.warn(
            f"openclip:{name} pools and projects in one step; its features are those after the projection", stacklevel=2
        )
    size = visual.image_size if isinstance(visual.image_size, int) else visual.image_size[0]
    mean = getattr(visual, "image_mean", None) or open_clip.OPENAI_DATASET_MEAN
    std = getattr(visual, "image_std", None) or open_clip.OPENAI_DATASET_STD
    return Loaded(visual, size, tuple(mean), tuple(std))


def _made(name: str, config: EncoderConfig, arguments: dict[str, Any]) -> Any:
    """The model of ``MODEL/TAG``, with its pre-trained weights or random ones."""
    import open_clip

    architecture, _, tag = name.partition("/")
    try:
        with _without_its_log():
            return open_clip.create_model(architecture, pretrained=tag if config.pretrained else None, **arguments)
    except TypeError as error:
        raise UserError(f"encoder_args {dict(config.encoder_args)} do not suit 'openclip:{name}': {error}") from error
    except (OSError, RuntimeError, ValueError) as error:
        reason = first_line(error).rstrip(".")
        raise UserError(f"encoder 'openclip:{name}' could not be loaded: {reason}; check the network") from error


@contextmanager
def _without_its_log() -> Iterator[None]:
    """Keep open_clip, which writes to the log of the process, from setting that log up; it raises what matters."""
    root, nowhere = logging.getLogger(), logging.NullHandler()
    root.addHandler(nowhere)
    try:
        yield
    finally:
        root.removeHandler(nowhere)


def _without_projection(visual: Any) -> bool:
    """Take the projection off an image tower, if it is a part of its own; return whether it was."""
    if isinstance(getattr(visual, "proj", None), Tensor):  # a ViT
        visual.proj = None
        return True
    head = getattr(visual, "head", None)  # around a timm model
    for part in ("proj", "mlp"):
        if isinstance(getattr(head, part, None), nn.Module):
            setattr(head, part, nn.Identity())
            return True
    return False


SOURCE = EncoderSource(load_openclip, gives_output=True)
