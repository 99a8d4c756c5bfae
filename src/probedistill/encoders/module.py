"""``module:FILE:NAME``: your own encoder, such as ``module:mine:make`` for ``mine.py``."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..code import digest_of_source
from ..config import EncoderConfig
from ..errors import UserError, explained
from ..registry import imported
from .known import IMAGENET
from .source import EncoderSource, Loaded


def load_module(path: str, config: EncoderConfig) -> Loaded:
    """Call a factory, which returns a `torch.nn.Module`.

    Attributes of the module describe its images: ``input_size`` (default 224), ``mean`` and ``std`` (ImageNet's),
    ``crop_pct`` (1).
    """
    spec = f"module:{path}"
    factory = imported(path, f"encoder {spec!r}")
    if isinstance(factory, nn.Module):
        raise UserError(f"encoder {spec!r} is a module object; name the function or class that creates it")
    if not callable(factory):
        raise UserError(f"encoder {spec!r} is {type(factory).__name__}; name a function that returns a torch.nn.Module")
    with explained(f"encoder {spec!r} could not be made", Exception, SystemExit):
        try:
            model = factory(**config.encoder_args)
        except TypeError as error:
            raise UserError(f"encoder_args {dict(config.encoder_args)} do not suit {spec!r}: {error}") from error
    if not isinstance(model, nn.Module):
        raise UserError(f"encoder {spec!r} returned {type(model).__name__}; it must return a torch.nn.Module")
    return Loaded(
        model,
        config.input_size or _side(getattr(model, "input_size", 224), spec),
        getattr(model, "mean", IMAGENET[0]),
        getattr(model, "std", IMAGENET[1]),
        crop_pct=getattr(model, "crop_pct", 1.0),
        identity=digest_of_source(path.rpartition(":")[0]),  # without a file: what the module does (`Encoder`)
    )


def _side(size: Any, spec: str) -> int:
    """A model's ``input_size``: a number of pixels, or two equal ones."""
    sides = set(size) if isinstance(size, tuple | list) else {size}
    with explained(f"encoder {spec!r} has input_size {size!r}", TypeError, ValueError, hint="give a number of pixels"):
        (side,) = sides
        if int(side) < 8:
            raise ValueError("at least 8")
        return int(side)


SOURCE = EncoderSource(load_module)
