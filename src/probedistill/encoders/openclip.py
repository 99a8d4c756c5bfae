"""``openclip:MODEL/TAG``: image towers of open_clip."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..config import EncoderConfig
from ..errors import UserError, first_line, unknown_name
from ..machine.network import asking_the_hub
from ..machine.places import at_home
from ..methods import check_name
from .encoder import RESAMPLING
from .source import EncoderSource, Loaded, optional

_ELSEWHERE = ("hf-hub:", "local-dir:")
"""How the names of models begin whose settings and weights are in a repository or a folder."""


def load_openclip(name: str, config: EncoderConfig) -> Loaded:
    """The image tower of ``MODEL/TAG``, ``hf-hub:REPO`` or ``local-dir:FOLDER``.

    ``features="output"`` keeps its projection.
    """
    open_clip = optional("open_clip", "openclip", config.encoder)
    tagged: dict[str, Any] = {}
    if name.startswith(_ELSEWHERE):
        schema, _, place = name.partition(":")
        on_hub = schema == "hf-hub"
        architecture, tag = name if on_hub else f"{schema}:{at_home(Path(place))}", ""
    else:
        architecture, _, tag = name.partition("/")
        check_name("openclip model", architecture, open_clip.list_models())
        tags = open_clip.list_pretrained_tags_by_model(architecture)
        if config.pretrained and tag not in tags:
            raise unknown_name(f"openclip weights for {architecture}", tag, tags)
        tagged = (open_clip.get_pretrained_cfg(architecture, tag) if config.pretrained else None) or {}
        on_hub = "hf_hub" in tagged
    way_out = "copy ~/.cache/huggingface from a machine that has it, or use efficientnet_lite0, which needs no network"
    with asking_the_hub(f"encoder {config.encoder!r}", way_out, needed=on_hub):
        clip = _made(architecture, tag, config, {"force_quick_gelu": True} if tagged.get("quick_gelu") else {})
    visual = clip.visual
    if getattr(visual, "output_tokens", False):  # CoCa returns its tokens next to the features
        visual.output_tokens = False
    if config.features == "pooled" and not _without_projection(visual):
        warnings.warn(
            f"{config.encoder} pools and projects in one step; using the features after the projection",
            stacklevel=2,
        )
    size = visual.image_size if isinstance(visual.image_size, int) else visual.image_size[0]
    mean = getattr(visual, "image_mean", None) or open_clip.OPENAI_DATASET_MEAN
    std = getattr(visual, "image_std", None) or open_clip.OPENAI_DATASET_STD
    mean, std = (tuple(values) if isinstance(values, list) else values for values in (mean, std))
    interpolation = (getattr(visual, "preprocess_cfg", None) or {}).get("interpolation")
    if not (isinstance(interpolation, str) and interpolation in RESAMPLING):
        interpolation = "bicubic"
    return Loaded(visual, size, mean, std, interpolation)


def _made(architecture: str, tag: str, config: EncoderConfig, needed: dict[str, Any]) -> Any:
    """The model, with its pre-trained weights or random ones.

    Args:
        architecture, tag: Names of the model and its weights.
        config: Options of the encoder.
        needed: Arguments that the weights need, which the user may override.
    """
    import open_clip

    arguments = dict(config.encoder_args)
    size = {} if config.input_size is None else {"force_image_size": config.input_size}
    weights: dict[str, Any] = {"pretrained": tag or None, "require_pretrained": True}
    if not config.pretrained:
        weights = {"load_weights": False} if architecture.startswith(_ELSEWHERE) else {}
    try:
        with _without_its_log():
            return open_clip.create_model(architecture, **weights, **{**needed, **size, **arguments})
    except TypeError as error:
        raise UserError(f"encoder_args {arguments} do not suit {config.encoder!r}: {error}") from error
    except Exception as error:
        reason = first_line(error).rstrip(".")
        fix = "check its files" if architecture.startswith("local-dir:") else "check the network"
        raise UserError(f"encoder {config.encoder!r} could not be loaded: {reason}; {fix}") from error


@contextmanager
def _without_its_log() -> Iterator[None]:
    """Keep open_clip from configuring the root logger, which happens only if that has no handler."""
    root, nowhere = logging.getLogger(), logging.NullHandler()
    root.addHandler(nowhere)
    try:
        yield
    finally:
        root.removeHandler(nowhere)


def _without_projection(visual: Any) -> bool:
    """Remove the projection from an image tower, if it is a separate part; return whether it was."""
    if isinstance(visual, torch.jit.ScriptModule):  # has no parts that can be replaced
        return False
    if isinstance(getattr(visual, "proj", None), Tensor):  # a ViT
        visual.proj = None
        return True
    head = getattr(visual, "head", None)  # a wrapped timm model
    for part in ("proj", "mlp"):
        if isinstance(getattr(head, part, None), nn.Module):
            setattr(head, part, nn.Identity())
            return True
    return False


SOURCE = EncoderSource(load_openclip, gives_output=True)
