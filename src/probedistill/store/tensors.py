"""Files of tensors with a digest of their content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .files import whole_file

_DIGEST = "sha256"


class TornFileError(Exception):
    """A file is cut short or altered: it is not what was written."""


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any] | None = None) -> None:
    """Write tensors and JSON-able metadata with a digest of both, whole or not at all."""
    with whole_file(path) as temporary:
        write_tensors(temporary, tensors, metadata)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any] | None = None) -> None:
    """Write what `save_tensors` writes into a file that is about to get its name."""
    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    header = {"metadata": json.dumps(dict(metadata or {}), sort_keys=True)}
    header[_DIGEST] = _digest(plain, header["metadata"])
    save_file(plain, path, metadata=header)


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_tensors` wrote.

    Raises:
        TornFileError: The file is cut short, altered or something else.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            # A copy: the library maps the file into memory, and what is checked below must not change later.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        metadata = header["metadata"]
        if header[_DIGEST] != _digest(tensors, metadata):
            raise TornFileError(f"{path} does not match its own digest")
        return tensors, json.loads(metadata)
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise TornFileError(f"{path} is cut short or not a file of probedistill: {error}") from error


def map_tensors(path: Path, names: Iterable[str]) -> list[Tensor]:
    """The named tensors of a file of `save_tensors`, mapped into memory: what is not touched is not read.

    Nothing is checked but the header: check the file once with `load_tensors` first. Memory goes back when the
    tensors do.

    Raises:
        TornFileError: The file is not there any more or something else.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return [file.get_tensor(name) for name in names]
    except (SafetensorError, OSError) as error:
        raise TornFileError(f"{path} is cut short, gone or not a file of probedistill: {error}") from error


def _digest(tensors: Mapping[str, Tensor], metadata: str) -> str:
    digest = hashlib.sha256(metadata.encode())
    for name in sorted(tensors):
        value = tensors[name]
        digest.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
        digest.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().data)  # NumPy has no bfloat16
    return digest.hexdigest()
