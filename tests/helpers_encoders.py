"""Small encoders of known behaviour, for ``module:helpers_encoders:NAME``."""

from __future__ import annotations

import os
import time

import torch
from torch import Tensor, nn


def pictures(count: int = 2, size: int = 32, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def close(a: torch.Tensor, b: torch.Tensor, relative: float = 1e-4) -> bool:
    return float((a - b).norm() / b.norm()) < relative


class Tiny(nn.Module):
    """Two convolutions with batch norms (to be folded), 24 features; a few hundred microseconds per image."""

    def __init__(self, seed: int = 0, width: int = 24) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.input_size, self.mean, self.std = 32, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
        self.body = nn.Sequential(
            nn.Conv2d(3, 12, 3, 2, 1, bias=False),
            nn.BatchNorm2d(12),
            nn.ReLU(),
            nn.Conv2d(12, width, 3, 2, 1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        )
        for name, value in self.state_dict().items():
            if value.is_floating_point():
                noise = torch.randn(value.shape, generator=generator)
                value.copy_(noise.abs() + 0.5 if "running_var" in name else 0.3 * noise)

    def forward(self, images: Tensor) -> Tensor:
        return self.body(images).mean((2, 3))


class Slow(Tiny):
    """Tiny, but every forward pass of a distillation step takes 30 ms: time for interruptions."""

    def forward(self, images: Tensor) -> Tensor:
        if images.requires_grad:
            time.sleep(0.03)
        return super().forward(images)


class TurnsNaN(Tiny):
    """Tiny for the first distillation steps; NaN from then on."""

    calls = 0

    def forward(self, images: Tensor) -> Tensor:
        self.calls += images.requires_grad
        return super().forward(images) * (float("nan") if self.calls > 5 else 1.0)


class RunsOut(Tiny):
    """Tiny, with memory for eight images at a time."""

    def forward(self, images: Tensor) -> Tensor:
        if len(images) > 8:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a capacity of …")
        return super().forward(images)


def tiny(seed: int = 0, width: int = 24) -> nn.Module:
    return Tiny(seed, width)


def slow() -> nn.Module:
    return Slow()


def runs_out() -> nn.Module:
    return RunsOut()


def turns_nan() -> nn.Module:
    return TurnsNaN()


def not_a_module() -> str:
    return "features"


def four_dimensional() -> nn.Module:
    return Tiny().body


def picky() -> nn.Module:
    """An encoder that takes only 32 × 32 images."""
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 8))


class Hanging(Tiny):
    """Tiny; the second process hangs in its fifth distillation step."""

    calls = 0

    def forward(self, images: Tensor) -> Tensor:
        self.calls += images.requires_grad
        if self.calls > 5 and os.environ.get("RANK") == "1":
            time.sleep(600)
        return super().forward(images)


def hanging() -> nn.Module:
    return Hanging()


class InADict(Tiny):
    def forward(self, images: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        return {"features": super().forward(images)}


def in_a_dict() -> nn.Module:
    return InADict()


class WithoutAWord(Tiny):
    def forward(self, images: Tensor) -> Tensor:
        raise AssertionError


def without_a_word() -> nn.Module:
    return WithoutAWord()
