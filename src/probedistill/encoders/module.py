"""``module:PACKAGE.MODULE:FACTORY``: a user's own encoder."""

from __future__ import annotations

import hashlib
import importlib
from pathlib import Path
from types import ModuleType

from torch import nn

from ..config import EncoderConfig
from ..errors import UserError, unknown_name
from .known import IMAGENET, Recipe
from .source import Loaded


def load_module(path: str, config: EncoderConfig, recipe: Recipe | None) -> Loaded:
    """Load ``module:PATH``."""
    module_name, _, factory_name = path.rpartition(":")
    if not module_name:
        raise UserError(f"encoder 'module:{path}' must be module:PACKAGE.MODULE:FACTORY")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise UserError(f"encoder 'module:{path}': cannot import {module_name!r} ({error})") from error
    factory = getattr(module, factory_name, None)
    if not callable(factory):
        names = [n for n in dir(module) if callable(getattr(module, n)) and not n.startswith("_")]
        raise unknown_name(f"factory in {module_name}", factory_name, names)
    try:
        model = factory(**config.encoder_args)
    except TypeError as error:
        raise UserError(f"encoder_args {dict(config.encoder_args)} do not suit 'module:{path}': {error}") from error
    if not isinstance(model, nn.Module):
        raise UserError(
            f"encoder 'module:{path}' gave {type(model).__name__}; the factory must return a torch.nn.Module"
        )
    return Loaded(
        model,
        config.input_size or int(getattr(model, "input_size", 224)),
        getattr(model, "mean", IMAGENET[0]),
        getattr(model, "std", IMAGENET[1]),
        crop_pct=getattr(model, "crop_pct", 1.0),
        identity=_source_digest(module),
    )


def _source_digest(module: ModuleType) -> str:
    """SHA-256 of a module's own file, not of what it imports: other code over the same weights gives other features."""
    try:
        return hashlib.sha256(Path(module.__file__ or "").read_bytes()).hexdigest()
    except OSError:  # it has none, such as one made by hand
        return ""
