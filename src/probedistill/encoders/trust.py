"""Which encoder a run's own folder may load."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from ..config import EncoderConfig
from ..errors import UserError
from .known import RECIPES
from .load import encoder_config


def own_encoder(folder: Path, *, mend: str, device: str | None = None) -> EncoderConfig:
    """The encoder that a run's own ``config.yaml`` describes, if it may be loaded without being asked for.

    A run's folder may come from anyone: nothing that could be code, a repository or a path.

    Args:
        folder: The run's folder.
        mend: The option that names an encoder instead, for the error.
        device: Where it is to run; ``None``: as the file says.

    Raises:
        UserError: There is no such file, or it asks for more than a recipe or timm:NAME with plain arguments.
    """
    path = Path(folder) / "config.yaml"
    if not path.is_file():
        raise UserError(
            f"run {str(folder)!r} has no config.yaml that describes its encoder; name the encoder with {mend}"
        )
    config = encoder_config(str(path))
    known = config.encoder in RECIPES or re.fullmatch(r"timm:[\w.]+", config.encoder)
    plain = all(
        isinstance(v, bool | int | float) or (k == "pad_type" and isinstance(v, str))
        for k, v in config.encoder_args.items()
    )
    if not (known and plain and config.checkpoint is None):
        raise UserError(
            f"run {str(folder)!r} is not trusted to load its encoder {config.encoder!r} by itself; "
            f"if you trust it, add {mend} {path}"
        )
    return config if device is None else replace(config, device=device)
