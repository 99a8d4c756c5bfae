"""Files of tensors with a digest of their content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import UserError, first_line
from .files import check_file, of_another_kind, whole_file

Made = TypeVar("Made")
_DIGEST = "sha256"
_LONGEST_HEADER = 10**8  # bytes, by the safetensors format
_TYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}  # names in the safetensors format


class TornFileError(Exception):
    """A file is truncated or has changed since it was written."""


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any] | None = None) -> None:
    """Write tensors and JSON-able metadata with a digest of both, whole or not at all."""
    with whole_file(path) as temporary:
        write_tensors(temporary, tensors, metadata)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any] | None = None) -> None:
    """Write the content of `save_tensors` to a file that is about to be renamed.

    Since 0.8, the library's ``save_file`` writes to its own temporary file, which a kill would leave behind under an
    unknown name, and orders its header differently each time. Here, equal content has equal bytes.
    """
    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    about = {"metadata": json.dumps(dict(metadata or {}), sort_keys=True)}
    about[_DIGEST] = _digest(plain, about["metadata"])
    # The widest dtypes first, so that every tensor is aligned to its own width.
    names = sorted(plain, key=lambda name: (-plain[name].element_size(), name))
    header: dict[str, Any] = {"__metadata__": about}
    end = 0
    for name in names:
        begin, end = end, end + plain[name].nbytes
        header[name] = {
            "dtype": _TYPES[plain[name].dtype], "shape": list(plain[name].shape), "data_offsets": [begin, end]
        }  # fmt: skip
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            file.write(_bytes_of(plain[name]))


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_tensors` wrote.

    Raises:
        TornFileError: The file is cut short, altered or something else.
    """
    if not path.is_file():  # a pipe would block
        raise TornFileError(f"{path} is not a file")
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            # Copies, because the library maps the file into memory: tensors must not change after the check below.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        metadata = header["metadata"]
        if header[_DIGEST] != _digest(tensors, metadata):
            raise TornFileError(f"{path} does not match its own checksum")
        about = json.loads(metadata)
        if not isinstance(about, dict):
            raise ValueError("its metadata are not names and values")
        return tensors, about
    except (SafetensorError, OSError, KeyError, ValueError, RecursionError) as error:
        raise TornFileError(f"{path} is truncated or not a file of probedistill: {error}") from error


def check_tensors(path: Path, tensors: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Check that a file has tensors of these shapes, with finite values.

    Raises:
        TornFileError: One is missing or is another.
    """
    for name, shape in shapes.items():
        found = tensors.get(name)
        if found is None or found.shape != shape or not bool(found.isfinite().all()):
            raise TornFileError(f"{path} has no tensor {name!r} of shape {tuple(shape)} with finite values")


def read_typed(
    path: Path,
    called: str,
    kind: str,
    newest: int,
    make: Callable[[dict[str, Tensor], dict[str, Any]], Made],
    *,
    what: str,
    maker: str,
) -> Made:
    """Read a file of tensors that says what it is: metadata ``{"kind": …, "format": …}`` and whatever ``make`` needs.

    Args:
        path: The file.
        called: Its name in errors.
        kind: The kind that its metadata must have.
        newest: The newest format that this version reads.
        make: (tensors, metadata) → the object. Errors it raises mean a damaged file; a `UserError` is passed on.
        what: What such a file contains, for errors.
        maker: The command that makes such files.

    Raises:
        UserError: No such file, a damaged one, one of another kind, or one of a newer version.
    """
    if path.is_dir():
        raise UserError(f"{called} is a folder; give a file of {maker}")
    if not path.is_file():
        raise UserError(f"{called} is not there; make it with {maker}")
    try:
        tensors, metadata = load_tensors(path)
        if metadata.get("kind") != kind:
            raise UserError(f"{called} has no {what}; give a file of {maker}")
        if isinstance(metadata.get("format"), int) and metadata["format"] > newest:
            raise UserError(
                f"{called} has format {metadata['format']}, this version reads {newest}; update probedistill"
            )
        return make(tensors, metadata)
    except UserError:
        raise
    except (TornFileError, msgspec.ValidationError, KeyError, ValueError, AttributeError) as error:
        raise UserError(f"{called} is damaged ({first_line(error)}); make it again or restore it") from error


def check_tensors_file(path: Path, kind: str, if_folder: str = "") -> None:
    """Raise `UserError` if a file of a kind cannot be written here, or would replace something else.

    Args:
        path: The file.
        kind: As for `read_typed`.
        if_folder: The error when it is a folder.
    """
    check_file(path, if_folder)
    if not path.is_file() or not path.stat().st_size:
        return
    with suppress(OSError, ValueError, KeyError, TypeError, RecursionError), path.open("rb") as file:
        header = json.loads(file.read(min(int.from_bytes(file.read(8), "little"), _LONGEST_HEADER)))
        if json.loads(header["__metadata__"]["metadata"])["kind"] == kind:
            return
    raise of_another_kind(path)


def map_tensors(path: Path, names: Iterable[str]) -> list[Tensor]:
    """Map the named tensors of a file written by `save_tensors` into memory; only what is used is read.

    Only the header is checked, so check the file once with `load_tensors` first. Memory is freed with the tensors.

    Raises:
        TornFileError: The file is gone or is a different one.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return [file.get_tensor(name) for name in names]
    except (SafetensorError, OSError) as error:
        raise TornFileError(f"{path} is truncated, missing or not a file of probedistill: {error}") from error


def _digest(tensors: Mapping[str, Tensor], metadata: str) -> str:
    digest = hashlib.sha256(metadata.encode())
    for name in sorted(tensors):
        value = tensors[name]
        digest.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
        digest.update(_bytes_of(value))
    return digest.hexdigest()


def _bytes_of(value: Tensor) -> memoryview:
    return value.contiguous().reshape(-1).view(torch.uint8).numpy().data  # as bytes: NumPy has no bfloat16
