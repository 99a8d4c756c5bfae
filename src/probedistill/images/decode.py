"""One image file, bytes or picture → 8-bit RGB, or a one-line reason why not."""

from __future__ import annotations

import io
import os
import stat
from functools import lru_cache
from typing import BinaryIO

import numpy as np
import PIL
from PIL import Image, ImageOps

MAX_PIXELS = 64_000_000
"""Images with more pixels than this are refused from their header, before any pixel is decoded."""

MAX_RATIO = 100
"""Images with one side more than this many times the other are refused: their resized short side is as long as an
encoder's input, whatever the long one becomes."""


class UnreadableImageError(ValueError):
    """One image cannot be decoded; the message is one line, ``"<name>: <why>"``."""


_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "DIB", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF")


@lru_cache(maxsize=1)
def _formats() -> tuple[str, ...]:
    """Return those of the usual formats that this Pillow can open."""
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def decode_image(
    source: str | os.PathLike[str] | bytes | BinaryIO | Image.Image, *, name: str | None = None
) -> Image.Image:
    """Decode one image to 8-bit RGB, upright.

    Transparency is composited on white. 16-bit grey is divided by 257; so is 32-bit integer grey
    within 0 … 65535, which is how Pillow hands over some 16-bit files. Floating-point grey is read as
    0 … 1, 0 … 255 or 0 … 65535, the first that holds all values. Values outside these ranges
    are stretched from their minimum and maximum. Of an animation the first frame is taken. EXIF
    orientation is applied. A file object is read from its start and is left open.

    Args:
        source: Path, encoded bytes, open binary file, or a PIL image (left unchanged).
        name: What errors call the image; by default the path or what there is.

    Returns:
        A new image of mode ``"RGB"``, width × height at most ``MAX_PIXELS``, one side at most ``MAX_RATIO`` times
        the other.

    Raises:
        UnreadableImageError: The image is missing, empty, corrupt, truncated, too large, not finite,
            or not in a known format.
    """
    called = name if name is not None else _name_of(source)
    try:
        if isinstance(source, Image.Image):
            return _to_upright_rgb(source)
        if isinstance(source, str | os.PathLike):
            status = os.stat(source)
            if not stat.S_ISREG(status.st_mode):
                raise _RefusedError("not a file")
            if status.st_size == 0:
                raise _RefusedError("the file is empty")
            with open(source, "rb") as file:
                return _decode_stream(file)
        if isinstance(source, bytes):
            if not source:
                raise _RefusedError("the file is empty")
            return _decode_stream(io.BytesIO(source))
        return _decode_stream(source)
    except MemoryError:
        raise
    except Exception as error:  # decoders raise nearly anything on damaged files
        raise UnreadableImageError(f"{one_line(called)}: {reason_of(error)}") from error


class _RefusedError(Exception):
    """A reason of ours, already in words, for not decoding an image."""


def _name_of(source: object) -> str:
    if isinstance(source, str | os.PathLike):
        return os.fspath(source)
    if isinstance(source, bytes):
        return f"<{len(source)} bytes>"
    known = getattr(source, "filename", None) or getattr(source, "name", None)
    return str(known) if known else f"<{type(source).__name__}>"


def reason_of(error: Exception) -> str:
    """Why an image could not be read, in a few words."""
    if isinstance(error, _RefusedError):
        return str(error)
    if isinstance(error, PIL.UnidentifiedImageError):
        return "not an image in a known format (JPEG, PNG, WebP, GIF, BMP, TIFF, PPM …)"
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return f"too many pixels ({one_line(str(error))})"
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, PermissionError):
        return "permission denied"
    return f"damaged or truncated ({one_line(str(error)) or type(error).__name__})"


def one_line(text: str) -> str:
    """The text without line breaks."""
    return " ".join(text.split()) or text.strip()


def as_utf8(text: str) -> str:
    """The text itself, or where it cannot be written as UTF-8 (a file's name may be any bytes) with those escaped."""
    try:
        text.encode()
        return text
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace").decode()


def _decode_stream(file: BinaryIO) -> Image.Image:
    with Image.open(file, formats=_formats()) as image:
        return _to_upright_rgb(image)


def _to_upright_rgb(image: Image.Image) -> Image.Image:
    width, height = image.size
    if width < 1 or height < 1:
        raise _RefusedError(f"has no pixels ({width} × {height})")
    if width * height > MAX_PIXELS:
        raise _RefusedError(f"{width} × {height} = {width * height} pixels; the limit is {MAX_PIXELS}")
    if max(width, height) > MAX_RATIO * min(width, height):
        raise _RefusedError(f"{width} × {height} pixels; one side may be at most {MAX_RATIO} times the other")
    image.load()
    try:
        upright = ImageOps.exif_transpose(image)
    except Exception:  # damaged EXIF does not make the pixels unreadable
        upright = image.copy()
    if upright.mode[0] in "IF":
        upright = _deep_grey_to_8_bits(upright)
    if upright.has_transparency_data:
        colour = upright.convert("RGBA")
        white = Image.new("RGBA", colour.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, colour).convert("RGB")
    return upright.convert("RGB")


def _deep_grey_to_8_bits(image: Image.Image) -> Image.Image:
    """Scale 16-bit, 32-bit or floating-point grey to 8 bits; ``decode_image`` says how."""
    values = np.asarray(image).astype(np.float64)
    if not np.isfinite(values).all():
        raise _RefusedError("holds values that are not finite")
    low, high = float(values.min()), float(values.max())
    tops = (1.0, 255.0, 65535.0) if image.mode == "F" else (65535.0,)
    bottom, top = 0.0, next((top for top in tops if low >= 0 and high <= top), None)
    if top is None:
        bottom, top = low, high
    scaled = np.rint((values - bottom) * (255.0 / (top - bottom))) if top > bottom else np.zeros_like(values)
    return Image.fromarray(scaled.astype(np.uint8))
