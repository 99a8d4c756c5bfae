"""One image file, bytes or picture → 8-bit RGB, or a one-line reason why not.

Files may come from anyone. An image is refused from its header when it has too many pixels, too many scans or an
extreme shape, and all threads together decode at most `MAX_PIXELS` pixels at a time.
"""

from __future__ import annotations

import importlib
import io
import os
import stat
import struct
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import lru_cache
from typing import BinaryIO

import numpy as np
import PIL
from PIL import Image, ImageOps

from ..text import one_line
from .foreign import RAW, is_raw, what_it_is
from .repair import JPEG, PNG, is_webp, jpeg_before_zeros, jpeg_with_ends, png_without_metadata, webp_of_whole_chunks

MAX_PIXELS = 64_000_000
"""Images with more pixels than this are refused from their header, before any pixel is decoded."""

MAX_RATIO = 100
"""Images with one side more than this many times the other are refused. The short side is resized to an encoder's
input, and the long one grows with it."""

MAX_SCANS = 100
"""Progressive JPEGs with more scans than this are refused; encoders write about ten."""

_MAX_SCANNED_PIXELS = 1_500_000_000  # scans × pixels of a progressive JPEG: each scan visits all pixels
MAX_FILE_BYTES = 1 << 29
"""No image file is larger."""
_LOOK_SECONDS = 0.002  # between checks of the budget; decoding a full budget takes about fifty times as long


class UnreadableImageError(ValueError):
    """One image cannot be decoded; the message is one line, ``"<name>: <why>"``."""


class _Budget:
    """A budget of pixels that all threads share: a thread that needs more than is left waits for the others.

    Ctrl-C may arrive at any moment. So nothing here takes a lock in Python code, as `threading.Condition` does (see
    `machine.threads`). A thread's share is an entry of a dictionary, which a single instruction changes.
    """

    def __init__(self, pixels: int) -> None:
        self._size = pixels
        self._held: defaultdict[int, int] = defaultdict(int)  # thread id → pixels
        self._turn = threading.Lock()  # first come, first served: small images do not starve a large one

    @contextmanager
    def hold(self, pixels: int) -> Iterator[None]:
        """Take ``pixels`` out of the budget until the block ends.

        A thread that already holds some does not wait for more, because two threads would wait for each other.
        """
        thread, pixels, taken = threading.get_ident(), min(pixels, self._size), 0
        waits = not self._held[thread]
        try:
            with self._turn if waits else nullcontext():
                while waits and sum(self._held.copy().values()) + pixels > self._size:
                    time.sleep(_LOOK_SECONDS)
                self._held[thread] += pixels
                taken = pixels
            yield
        finally:
            self._held[thread] -= taken


decoding = _Budget(MAX_PIXELS)
"""Pixels that may be decoded at the same time; ``with decoding.hold(n)`` limits the memory for them."""


_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "DIB", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF", "HEIF")


@lru_cache(maxsize=1)
def _formats() -> tuple[str, ...]:
    """Return the supported formats that this Pillow can open; HEIF needs pillow-heif."""
    Image.init()
    with suppress(ImportError):
        importlib.import_module("pillow_heif").register_heif_opener()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def decode_image(
    source: str | os.PathLike[str] | bytes | BinaryIO | Image.Image, *, name: str | None = None
) -> Image.Image:
    """Decode one image to 8-bit RGB, upright.

    Transparency is composited on white. 16-bit grey is divided by 257; so is 32-bit integer grey
    within 0 … 65535, which is how Pillow hands over some 16-bit files. Floating-point grey is read as
    0 … 1, 0 … 255 or 0 … 65535, the first range that contains all values. Values outside these ranges
    are stretched from their minimum and maximum. Only the first frame of an animation is used. EXIF
    orientation is applied; colour profiles are not. A file object is read from its start and is left open.

    Several threads may decode at once. Together they work on at most `MAX_PIXELS` pixels.

    Args:
        source: Path, encoded bytes, open binary file, or a PIL image (left unchanged).
        name: Name of the image in errors; by default the path or the kind of source.

    Returns:
        A new image of mode ``"RGB"``, width × height at most ``MAX_PIXELS``, one side at most ``MAX_RATIO`` times
        the other.

    Raises:
        UnreadableImageError: The image is missing, empty, corrupt, truncated, too large, too costly, not finite,
            or not in a known format.
    """
    called = name if name is not None else _name_of(source)
    try:
        if isinstance(source, Image.Image):
            _check_size(source)
            return _to_upright_rgb(source)
        if isinstance(source, str | os.PathLike):
            status = os.stat(source)
            if is_raw(called):
                raise _RefusedError(RAW)
            if not stat.S_ISREG(status.st_mode):
                raise _RefusedError("not a file")
            if status.st_size == 0:
                raise _RefusedError("the file is empty")
            with open(source, "rb") as file:
                return _decode_stream(file, called)
        if isinstance(source, bytes):
            if not source:
                raise _RefusedError("the file is empty")
            return _decode_stream(io.BytesIO(source), called)
        return _decode_stream(source, called)
    except MemoryError:
        raise
    except Exception as error:  # decoders raise almost anything on damaged files
        raise UnreadableImageError(f"{one_line(called)}: {reason_of(error)}") from error


class _RefusedError(Exception):
    """Our own reason for not decoding an image, already in words."""


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


def _decode_stream(file: BinaryIO, called: str) -> Image.Image:
    try:
        image = _decode_once(file)
        return image if (cut := jpeg_before_zeros(file)) is None else _whole(cut)
    except (MemoryError, _RefusedError):
        raise
    except Exception as error:
        file.seek(0)
        head = file.read(64)
        image = None
        if head.startswith(PNG):
            image = _first(png_without_metadata(_content(file)))
        elif is_webp(head):
            image = _first([webp_of_whole_chunks(_content(file))])
        elif head.startswith(JPEG) and isinstance(error, OSError):
            image = _same_of_all(jpeg_with_ends(jpeg_before_zeros(file) or _content(file)))
        elif isinstance(error, PIL.UnidentifiedImageError) and (what := what_it_is(called, head)) is not None:
            raise _RefusedError(what) from error
        if image is None:
            raise
        return image


def _content(file: BinaryIO) -> bytes:
    file.seek(0)
    return file.read(MAX_FILE_BYTES)


def _whole(cut: bytes) -> Image.Image:
    """The image of a JPEG before the zeros at its end, which the decoder takes for pixels."""
    image = _same_of_all(jpeg_with_ends(cut))
    if image is None:
        raise _RefusedError("damaged or truncated (zeros in place of its last pixels)")
    return image


_DAMAGE = (ValueError, SyntaxError, OSError, struct.error)
"""What Pillow raises for a damaged image."""


def _first(files: Iterable[bytes]) -> Image.Image | None:
    """The image of the first file that can be decoded; ``None`` if there is none."""
    for data in files:
        with suppress(*_DAMAGE):
            return _decode_once(io.BytesIO(data))
    return None


def _same_of_all(files: Iterable[bytes]) -> Image.Image | None:
    """The image of the files; ``None`` if there are none, if one cannot be decoded, or if their images differ."""
    found: Image.Image | None = None
    for data in files:
        try:
            image = _decode_once(io.BytesIO(data))
        except _DAMAGE:
            return None
        if found is not None and found != image:
            return None
        found = image
    return found


def _decode_once(file: BinaryIO) -> Image.Image:
    with Image.open(file, formats=_formats()) as image:
        _check_size(image)
        if image.info.get("progressive"):
            _check_scans(file, image)
        if image.format == "PNG" and isinstance(key := image.info.get("transparency"), int) and image.tile:
            image.info["transparency"] = key * _WIDENED.get(str(image.tile[0][3]), 1)
        return _to_upright_rgb(image)


def _check_scans(file: BinaryIO, image: Image.Image) -> None:
    """Refuse a progressive JPEG with many scans: a few bytes per scan make the decoder process all pixels again."""
    here = file.tell()
    file.seek(0)
    scans, last = 0, b""
    while chunk := file.read(1 << 20):
        scans += (last + chunk).count(b"\xff\xda")  # not in compressed pixels, where 0 follows 0xff
        last = chunk[-1:]
    file.seek(here)
    pixels = image.width * image.height
    if scans > MAX_SCANS or scans * pixels > _MAX_SCANNED_PIXELS:
        raise _RefusedError(
            f"a progressive JPEG of {scans} scans; the limit for its size is "
            f"{min(MAX_SCANS, _MAX_SCANNED_PIXELS // pixels)}"
        )


def _check_size(image: Image.Image) -> None:
    width, height = image.size
    if width < 1 or height < 1:
        raise _RefusedError(f"has no pixels ({width} × {height})")
    if width * height > MAX_PIXELS:
        raise _RefusedError(f"{width} × {height} = {width * height} pixels; the limit is {MAX_PIXELS}")
    if max(width, height) > MAX_RATIO * min(width, height):
        raise _RefusedError(f"{width} × {height} pixels; one side may be at most {MAX_RATIO} times the other")


def _to_upright_rgb(image: Image.Image) -> Image.Image:
    with decoding.hold(image.width * image.height):
        return _converted(image)


def _converted(image: Image.Image) -> Image.Image:
    image.load()
    upright = _upright(image)
    if upright.mode[0] in "IF":
        upright = _deep_grey_to_8_bits(upright)
    return _on_white(upright) if upright.has_transparency_data else upright.convert("RGB")


def _upright(image: Image.Image) -> Image.Image:
    try:
        # Only if the image must be turned: the copy doubles the memory of a large image.
        return ImageOps.exif_transpose(image) if image.getexif().get(_EXIF_ORIENTATION, 1) != 1 else image
    except Exception:  # the pixels are readable even if the EXIF data are damaged
        return image


_EXIF_ORIENTATION = 0x0112
_WIDENED = {"L;2": 85, "L;4": 17}
"""Grey PNGs of 2 and 4 bits → the factor by which Pillow widens their pixels, but not their transparent value."""
_ROWS = 256  # per block: a whole image in a wider type would take several times the memory


def _on_white(image: Image.Image) -> Image.Image:
    whole = Image.new("RGB", image.size)
    for top in range(0, image.height, _ROWS):
        rows = image.crop((0, top, image.width, min(top + _ROWS, image.height))).convert("RGBA")
        white = Image.new("RGBA", rows.size, (255, 255, 255, 255))
        whole.paste(Image.alpha_composite(white, rows).convert("RGB"), (0, top))
    return whole


def _deep_grey_to_8_bits(image: Image.Image) -> Image.Image:
    """Scale 16-bit, 32-bit or floating-point grey to 8 bits, as documented in `decode_image`."""
    values = np.asarray(image)
    low, high = float(values.min()), float(values.max())  # NaN if any value is NaN
    if not (np.isfinite(low) and np.isfinite(high)):
        raise _RefusedError("has values that are not finite")
    tops = (1.0, 255.0, 65535.0) if image.mode == "F" else (65535.0,)
    bottom, top = 0.0, next((top for top in tops if low >= 0 and high <= top), None)
    if top is None:
        bottom, top = low, high
    scaled = np.zeros(values.shape, dtype=np.uint8)
    if top > bottom:
        for row in range(0, len(values), _ROWS):
            block = values[row : row + _ROWS].astype(np.float64)
            scaled[row : row + _ROWS] = np.rint((block - bottom) * (255.0 / (top - bottom)))
    grey = Image.fromarray(scaled)
    if isinstance(key := image.info.get("transparency"), int):  # of a PNG: pixels of this value are transparent
        grey.putalpha(Image.fromarray(np.where(values == key, 0, 255).astype(np.uint8)))
    return grey
