"""Say how long an evaluation will take before it starts."""

from __future__ import annotations

import time

import torch

from ..encoders.encoder import Encoder
from ..features.encode import encode
from ..machine.progress import say
from ..text import duration

SAID_FROM = 60.0
"""The cost is printed if it is at least this many seconds."""
_BATCH = 16
_FEW = 500  # passes, below which measuring is not worth it


def seconds_per_pass(encoder: Encoder) -> float:
    """Time for one image, from the faster of two batches, because the machine may be busy during one of them."""
    images = torch.rand(_BATCH, 3, encoder.input_size, encoder.input_size)
    # The first pass includes set-up, on a GPU for each batch size.
    encode(encoder, images[:1] if encoder.device.type == "cpu" else images)
    times = []
    for _ in range(2):
        started = time.perf_counter()
        encode(encoder, images)
        times.append(time.perf_counter() - started)
    return min(times) / _BATCH


def say_cost(encoder: Encoder, passes: int, way_out: str, *, enabled: bool = True) -> None:
    """Say on standard error how long some passes through the encoder take, if that is over a minute.

    Args:
        encoder: The encoder.
        passes: Number of images that go through it.
        way_out: What makes it faster.
        enabled: ``False`` prints nothing.
    """
    if not enabled or passes < _FEW:
        return
    seconds = passes * seconds_per_pass(encoder)
    if seconds >= SAID_FROM:
        say(
            f"about {duration(seconds)} to encode {passes:,} images with {encoder.name} at {encoder.input_size} px"
            f"{way_out}"
        )
