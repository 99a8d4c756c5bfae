"""The contract of a source of encoders.

A source is the word before the colon in ``timm:resnet18``. To add one, write a file with an `EncoderSource` and name it
in `load.SOURCES`, or, from another package, under the entry point ``probedistill.encoder_source``::

    def load(name: str, config: EncoderConfig) -> Loaded:
        model = my_library.load(name, **config.encoder_args)
        return Loaded(model, input_size=config.input_size or 224)

    SOURCE = EncoderSource(load)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..config import EncoderConfig
from ..errors import explained
from ..extras import needed
from ..machine.network import check_waits
from .known import IMAGENET


@dataclass
class Loaded:
    """What a source returns: a model, and how images are prepared for it.

    Attributes:
        model: Maps normalised images (n, 3, S, S) to features (n, d). It may be on any device and in training mode.
        input_size: S in pixels; the config's, if the config has one.
        mean, std: Mean and standard deviation per channel, for images in [0, 1].
        interpolation: Interpolation of the resize: nearest, bilinear, bicubic or lanczos.
        crop_pct: The short side of a real image is resized to ``input_size / crop_pct`` before the centre crop.
        identity: What else the features depend on, if neither the spec nor the weights show it.
    """

    model: nn.Module
    input_size: int
    mean: tuple[float, ...] = IMAGENET[0]
    std: tuple[float, ...] = IMAGENET[1]
    interpolation: str = "bicubic"
    crop_pct: float = 1.0
    identity: str = ""


Loader = Callable[[str, EncoderConfig], Loaded]
"""(what follows the colon, options) → a model.

``pretrained``, ``encoder_args`` and ``input_size`` must be followed by the loader; it raises `UserError` for what it
cannot follow. Random weights are drawn from torch's generator, which is seeded before. The loader need not care for
precision, device, gradients, evaluation mode and checks of the features.
"""


@dataclass(frozen=True)
class EncoderSource:
    """A source of encoders.

    Attributes:
        load: Makes a model.
        takes_checkpoint: The loader follows ``config.checkpoint``.
        gives_output: The loader follows ``config.features == "output"``.
    """

    load: Loader
    takes_checkpoint: bool = False
    gives_output: bool = False


class Output(nn.Module):
    """Applies ``function`` to a model and its images; keeps the weights registered."""

    def __init__(self, model: nn.Module, function: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.model, self._function = model, function

    def forward(self, images: Tensor) -> Tensor:
        """Features of normalised images."""
        return self._function(self.model, images)


def resolve_device(device: str) -> torch.device:
    """``"auto"`` → CUDA, then MPS, then CPU; anything else as torch names it."""
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    with explained(
        f"device {device!r} cannot be used", RuntimeError, AssertionError, NotImplementedError, hint="try auto or cpu"
    ):
        resolved = torch.device(device)
        torch.empty(0, device=resolved)
        if resolved.type == "meta":
            raise RuntimeError("it holds no values")
    return resolved


def optional(module: str, extra: str, spec: str) -> Any:
    """Import a module that an extra of this package brings, and that imports the hub's client."""
    check_waits()
    return needed(module, extra, f"encoder {spec!r} needs")
