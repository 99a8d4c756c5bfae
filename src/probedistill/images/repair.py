"""Bytes of damaged image files without what is damaged, if no pixel is. `decode` tries them."""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

# ---------------------------------------------------------------------------------------------------
# PNG

PNG = b"\x89PNG\r\n\x1a\n"
_ORIENTATION = (b"Raw profile type exif\0", b"Raw profile type APP1\0", b"XML:com.adobe.xmp\0")
"""Keywords of PNG texts that may contain the orientation, like an eXIf chunk."""


def png_without_metadata(png: bytes) -> Iterator[bytes]:
    """A PNG without its metadata, first with the orientation and then without it.

    Pillow refuses a whole image if a colour profile or a text is damaged or exceeds its limits. Neither is needed here.
    """
    for keep in (_ORIENTATION, ()):
        bare = _without_text(png, keep=keep)
        if bare != png:
            yield bare


def _without_text(png: bytes, keep: tuple[bytes, ...]) -> bytes:
    """Return a PNG's pixels, colours and transparency, and only the texts whose keyword is in ``keep``."""
    kept, place = [PNG], len(PNG)
    while place + 12 <= len(png):
        end = place + 12 + int.from_bytes(png[place : place + 4], "big")
        kind = png[place + 4 : place + 8]
        is_text = kind in (b"tEXt", b"zTXt", b"iTXt")
        has_orientation = png.startswith(keep, place + 8) if is_text else kind == b"eXIf" and bool(keep)
        if kind[:1].isupper() or kind == b"tRNS" or has_orientation:
            kept.append(png[place:end])
        place = end
    return b"".join(kept)


# ---------------------------------------------------------------------------------------------------
# WebP

_WEBP_CHUNKS = (b"VP8X", b"ANIM", b"ANMF", b"ALPH", b"VP8 ", b"VP8L", b"EXIF")
"""Chunks of a WebP with its pixels, and the one with its orientation."""


def is_webp(head: bytes) -> bool:
    """Whether a file begins like a WebP."""
    return head[:4] == b"RIFF" and head[8:12] == b"WEBP"


def webp_of_whole_chunks(webp: bytes) -> bytes:
    """A WebP of the chunks that are whole, for one with a wrong size in its header or with cut metadata."""
    whole, place = b"WEBP", 12
    while place + 8 <= len(webp):
        end = place + 8 + int.from_bytes(webp[place + 4 : place + 8], "little")
        if end > len(webp):
            break
        if webp[place : place + 4] in _WEBP_CHUNKS:
            whole += webp[place:end] + bytes(end % 2)
        place = end + end % 2
    return b"RIFF" + struct.pack("<I", len(whole)) + whole


# ---------------------------------------------------------------------------------------------------
# JPEG

JPEG = b"\xff\xd8"
_MARK = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # ends the compressed pixels of a scan
_MOST_SEGMENTS = 1000


def jpeg_with_ends(jpeg: bytes) -> Iterator[bytes]:
    """A JPEG that lacks its end mark, with several endings; none if it has one, or if scans are missing.

    If pixels are missing, the decoder reads whatever follows instead, so that different endings give different images.
    """
    jpeg = jpeg.rstrip(b"\xff")  # half an end mark
    last = _last_scan(jpeg)
    if last is None:
        return
    found = {mark: jpeg.rfind(b"\xff%c" % (0xD0 + mark), last) for mark in range(8)}  # the 8 restart marks take turns
    latest = max(found, key=lambda mark: found[mark])
    restart = b"\xff%c" % (0xD0 + ((latest + 1) % 8 if found[latest] >= 0 else 0))
    # No 0xff, which would be a mark. Longer than a group of blocks, some of which may lie beyond the image's edge.
    fills = np.random.default_rng(0).integers(0, 255, (4, 4096), dtype=np.uint8)
    for ending in (b"", *(mark + fill.tobytes() for mark in (b"", restart) for fill in fills)):
        yield jpeg + ending + b"\xff\xd9"


def jpeg_before_zeros(file: BinaryIO) -> bytes | None:
    """A JPEG without the zeros at its end, which a stopped download or a lost disk block leaves; ``None`` for others.

    If the end mark comes before the zeros, the JPEG is whole.
    """
    file.seek(0)
    if file.read(2) != JPEG:
        return None
    file.seek(-2, os.SEEK_END)
    if file.read(2) != b"\0\0":
        return None
    file.seek(0)
    jpeg = file.read().rstrip(b"\0")
    place = len(JPEG)
    for _ in range(_MOST_SEGMENTS):
        end = place + 2 + int.from_bytes(jpeg[place + 2 : place + 4], "big")
        if jpeg[place : place + 1] != b"\xff" or jpeg[place + 1 : place + 2] == b"\xd9" or end > len(jpeg):
            return None
        if jpeg[place + 1 : place + 2] == b"\xda":
            mark = _MARK.search(jpeg, end)
            if mark is None:
                return jpeg + bytes(jpeg.endswith(b"\xff"))  # after 0xff, a zero belongs to the pixels
            end = mark.start()
        place = end
    return None


def _last_scan(jpeg: bytes) -> int | None:
    """Where the compressed pixels of the last scan begin; ``None`` if scans are missing, or if there is an end mark."""
    place, missing = len(JPEG), {}
    for _ in range(_MOST_SEGMENTS):
        kind, body = jpeg[place + 1 : place + 2], place + 4
        end = place + 2 + int.from_bytes(jpeg[place + 2 : body], "big")
        if jpeg[place : place + 1] != b"\xff" or end <= body or end > len(jpeg):
            return None
        if b"\xc0" <= kind <= b"\xc2" and end >= body + 6 + 3 * jpeg[body + 5]:  # frame header: all 64 values missing
            missing = {jpeg[body + 6 + 3 * i]: dict.fromkeys(range(64), 1) for i in range(jpeg[body + 5])}
        if kind == b"\xda" and missing and end == body + 4 + 2 * jpeg[body]:
            first, until, bits = jpeg[end - 3 : end]
            for component in jpeg[body + 1 : end - 3 : 2]:
                missing.get(component, {}).update(dict.fromkeys(range(first, min(until, 63) + 1), bits & 15))
            mark = _MARK.search(jpeg, end)
            if mark is None:
                return end if not any(any(values.values()) for values in missing.values()) else None
            end = mark.start()
        place = end
    return None
