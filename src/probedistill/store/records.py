"""Typed records ↔ JSON: one writer and one reader for everything that is written and read back.

A record is a dataclass of dataclasses, numbers, strings, lists and numpy arrays. Its type annotations are the schema:
any other file content is an error of one line that names the file and the place in it. Annotations include ranges::

    top1: Annotated[float, Meta(ge=0, le=1)]

The last key, ``sha256``, is a checksum of the others, so that any changed digit is noticed. To accept a deliberate
edit, use ``probedistill accept`` or remove the key.

NaN, which JSON does not have, is written as ``null``. A field that may be NaN has the type `OrNaN`, and a float array
reads ``null`` as NaN.
"""

from __future__ import annotations

import hashlib
import json
import math
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
import numpy as np
from msgspec import Meta

from ..errors import UserError, first_line
from ..machine.places import check_plain_file
from ..text import as_argument
from .files import check_file, of_another_kind, whole_file
from .layout import RUN

Record = TypeVar("Record")
Share = Annotated[float, Meta(ge=0, le=1)]
"""An accuracy, a probability, a share."""
Count = Annotated[int, Meta(ge=0, le=2**53)]
"""A whole number that JSON, and a float, hold exactly."""
OrNaN = float | None
"""A number that may be unknown: ``null`` in JSON."""

SEAL = "sha256"
"""Key of the digest of a record's content."""

MAX_BYTES = 256 * 2**20
"""Larger files are refused before they are read: records are far smaller."""


def write_record(path: Path, record: Any, *, kind: str | None = None) -> None:
    """Write a record as indented JSON, completely or not at all.

    Args:
        path: The file.
        record: A dataclass, or plain values.
        kind: Written first, so that `read_record` can tell files of different kinds apart.
    """
    with whole_file(path) as temporary:
        temporary.write_bytes(record_bytes(record, kind=kind))


def record_bytes(record: Any, *, kind: str | None = None) -> bytes:
    """What `write_record` writes."""
    content = as_plain(record)
    if kind is not None:
        content = {"kind": kind, **content}
    if isinstance(content, dict):
        content = sealed(content)
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    return (text + "\n").encode("utf-8", "surrogatepass")


def check_record_file(path: Path, kind: str, if_folder: str = "") -> None:
    """Raise `UserError` if a record of a kind cannot be written to a file, or would replace something else.

    A damaged JSON file may have been a record of this kind, and may be replaced.

    Args:
        path: The file.
        kind: As for `write_record`.
        if_folder: The error when it is a folder.
    """
    check_file(path, if_folder, begins=rb"\s*\{")
    if path.is_file() and path.stat().st_size <= MAX_BYTES:
        with suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            if msgspec.json.decode(path.read_bytes(), type=_Kind).kind == kind:
                return
            raise of_another_kind(path)


class _Kind(msgspec.Struct):
    kind: Any = None


def sealed(content: dict[str, Any]) -> dict[str, Any]:
    """The content of a record's file with its digest, which is renewed after an edit."""
    content = {key: value for key, value in content.items() if key != SEAL}
    return {**content, SEAL: _seal(content)}


def _seal(content: dict[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def read_record(path: Path, type: type[Record], *, kind: str | None = None, what: str, hint: str) -> Record:
    """Read a file written by `write_record`.

    Args:
        path: The file.
        type: The record's dataclass.
        kind: The kind it was written with; a file of another kind is refused.
        what: Name of the file in errors: ``"transfer"`` gives ``transfer file 'x.json' …``.
        hint: What the user can do about a damaged or missing file.

    Raises:
        UserError: No such file, or it has changed since it was written. The line names the file and the place.
    """
    called = f"{what} file {str(path)!r}"
    try:
        check_plain_file(path, called)
        if path.stat().st_size > MAX_BYTES:
            raise UserError(f"{called} is larger than any file that probedistill writes; {hint}")
        data = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{called} is not there; {hint}") from None
    except OSError as error:
        raise UserError(f"{called} cannot be read ({first_line(error)}); {hint}") from error
    # A run's file is also in its SHA256SUMS, so the whole run must be accepted.
    place = path.parent if (path.parent / RUN).exists() else path
    return parse_record(data, type, kind=kind, called=called, hint=hint, place=f" {as_argument(place)}")


def parse_record(
    data: bytes | str, type: type[Record], *, kind: str | None = None, called: str, hint: str, place: str = ""
) -> Record:
    """Read a record from JSON text; see `read_record`. ``place`` is what ``probedistill accept`` takes."""
    content = parse_json(data, called, hint)
    if kind is not None and content.get("kind") != kind:
        raise UserError(f"{called} is not a probedistill {kind} file; {hint}")
    seal = content.pop(SEAL, None)
    try:
        record = from_plain({key: value for key, value in content.items() if key != "kind"}, type)
    except (msgspec.ValidationError, RecursionError) as error:
        raise UserError(f"{called} is damaged: {first_line(error)}; {hint}") from error
    if seal is not None and seal != _seal(content):
        change = "it has changed since it was written"
        raise UserError(f"{called} is damaged: {change}; {hint}, or accept it: probedistill accept{place}")
    return record


def parse_json(data: bytes | str, called: str, hint: str) -> dict[str, Any]:
    """A JSON object.

    Raises:
        UserError: Something else.
    """
    try:
        content = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, OverflowError, ValueError) as error:
        raise UserError(f"{called} is not complete JSON ({first_line(error)}); {hint}") from error
    if not isinstance(content, dict):
        raise UserError(f"{called} has no JSON object; {hint}")
    return content


def as_plain(record: Any) -> Any:
    """Plain values of a record, ready for JSON; numbers that are not finite become ``None``."""
    return without_nan(msgspec.to_builtins(record, enc_hook=_encoded))


def from_plain(content: Any, type: type[Record]) -> Record:
    """Create a record from plain values.

    Raises:
        msgspec.ValidationError: They do not fit the type.
    """
    return msgspec.convert(content, type, dec_hook=_decoded)


def without_nan(value: Any) -> Any:
    """The value with ``None`` for numbers that JSON does not know."""
    if isinstance(value, dict):
        return {key: without_nan(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _encoded(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Path):
        return str(value)
    raise NotImplementedError(f"records hold no {type(value).__name__}")


def _decoded(type: Any, value: Any) -> Any:
    """Decode arrays and paths; msgspec calls this for types that it does not know."""
    origin = getattr(type, "__origin__", type)
    if origin is np.ndarray:
        try:
            array = np.array(value, dtype=np.float64)  # None becomes NaN
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError("expected an array of numbers") from error
        if np.isinf(array).any():
            raise ValueError("expected finite numbers")
        return array
    if origin is Path:
        return Path(value)
    raise NotImplementedError(f"records hold no {type}")
