"""What every source of encoders gives and needs."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UserError, first_line


def resolve_device(device: str) -> torch.device:
    """``"auto"`` → CUDA, then MPS, then CPU; anything else as torch names it."""
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        resolved = torch.device(device)
        torch.empty(0, device=resolved)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = first_line(error)
        raise UserError(f"device {device!r} cannot be used ({reason}); try auto or cpu") from error
    return resolved


# ---------------------------------------------------------------------------------------------------
# Sources: the part of a spec before the colon


@dataclass
class Loaded:
    """What a source gives: the model and how its images are prepared."""

    model: nn.Module
    input_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bicubic"
    crop_pct: float = 1.0
    identity: str = ""  # what neither the spec nor the weights say


class Output(nn.Module):
    """Applies ``function`` to a model's inputs; keeps weights registered."""

    def __init__(self, model: nn.Module, function: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.model, self._function = model, function

    def forward(self, images: Tensor) -> Tensor:
        """Features of normalised images."""
        return self._function(self.model, images)


def optional(module: str, extra: str, spec: str) -> Any:
    """Import a module that an extra of this package brings."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(f"encoder {spec!r} needs {module}; run: pip install 'probedistill[{extra}]'") from error
