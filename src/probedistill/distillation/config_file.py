"""``config.yaml``: the options that repeat a run, or that made a set."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from ..config import DistillConfig, EncoderConfig, ImagesConfig, StatisticsConfig, without_none
from ..encoders.named import fields_in_braces, is_in_braces
from ..encoders.trust import read_yaml
from ..store.files import whole_file
from ..store.layout import CONFIG


def encoder_options(folder: Path) -> dict[str, Any]:
    """The encoder's options in a run's ``config.yaml``; empty if there is no such file."""
    path = folder / CONFIG
    content = read_yaml(path, f"config {str(path)!r}") if path.is_file() else {}
    return {name: value for name, value in content.items() if name in EncoderConfig.__dataclass_fields__}


def config_options(*parts: ImagesConfig | StatisticsConfig | EncoderConfig | None) -> dict[str, Any]:
    """The fields of some configs as they are in a YAML file, without empty ones."""
    given = [_plain_values(asdict(part)) for part in parts if part is not None]
    return {name: value for fields in given for name, value in without_none(fields).items()}


def write_config(
    path: Path,
    images: ImagesConfig | None,
    encoder: EncoderConfig | None,
    settings: DistillConfig | None,
    statistics: StatisticsConfig | None = None,
) -> None:
    """Write the YAML file that repeats a run: ``probedistill distill --config FILE --out FOLDER``.

    Args:
        path: The file.
        images: The images. ``None`` for images created in Python, which a note in the run's file says.
        encoder: The encoder, likewise.
        settings: How they were distilled; ``None`` if they were not, or to write only the encoder.
        statistics: What they were distilled from instead of images.
    """
    named = {"images": images or statistics, "encoder": encoder}
    notes = [f"# {name}: created in Python; give --{name}\n" for name, part in named.items() if settings and not part]
    content = config_options(images, statistics, encoder)
    if settings is not None:
        content |= settings.to_dict()
        if settings.also:
            content["also"] = [fields_in_braces(word) if is_in_braces(word) else word for word in settings.also]
    text = yaml.safe_dump(without_none(content), sort_keys=False)
    with whole_file(path) as temporary:
        temporary.write_text("".join(notes) + text, encoding="utf-8")


def _plain_values(values: dict[str, Any]) -> dict[str, Any]:
    return {k: _plain_value(v) for k, v in values.items() if v not in (None, {})}


def _plain_value(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain_value(entry) for entry in value]
    return str(value) if isinstance(value, Path) else value
