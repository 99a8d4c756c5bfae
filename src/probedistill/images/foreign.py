"""Recognise files that are not read as images, and say what to do: raw photos, web pages, pointers.

Names are unreliable: a phone may send a HEIC photo as ``.jpg``, and a failed download is a web page with any name.
"""

from __future__ import annotations

RAW_SUFFIXES = frozenset(
    [
        "3fr", "arw", "cr2", "cr3", "crw", "dcr", "dng", "erf", "iiq", "kdc", "mef", "mos", "mrw", "nef", "nrw", "orf",
        "pef", "raf", "raw", "rw2", "rwl", "sr2", "srf", "srw", "x3f",
    ]
)  # fmt: skip
"""Suffixes of cameras' raw files, without the dot. Some are TIFF files from which Pillow would read a thumbnail."""

HEIC_BRANDS = frozenset([b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"])

_CONVERT = "convert it to JPEG or PNG"
RAW = f"a camera's raw file; {_CONVERT}"
_VIDEO = "a video; extract frames from it"
_HEIC = f"a HEIC photo; {_CONVERT}, or: pip install pillow-heif"
_BEGINNINGS = (
    (b"version https://git-lfs", "a Git LFS pointer; fetch the images with: git lfs pull"),
    (b"<!doctype html", "a web page; fetch the image again"),
    (b"<html", "a web page; fetch the image again"),
    (b"<svg", f"an SVG drawing; {_CONVERT}"),
    (b"<?xml", "an XML file, not an image"),
    (b"%pdf", f"a PDF; {_CONVERT}"),
    (b"8bps", f"a Photoshop file; {_CONVERT}"),
    (b"\xff\x0a", f"a JPEG XL image; {_CONVERT}"),
    (b"\x00\x00\x00\x0cjxl ", f"a JPEG XL image; {_CONVERT}"),
    (b"v/1\x01", f"an OpenEXR image; {_CONVERT}"),
    (b"simple  =", f"a FITS image; {_CONVERT}"),
    (b"\x93numpy", "a NumPy array; read arrays with your own image source, module:FILE:NAME"),
    (b"pk\x03\x04", "a zip file; unpack it"),
    (b"\x1f\x8b", "a gzip file; unpack it"),
    (b"\x1a\x45\xdf\xa3", _VIDEO),
    (b"ii*\0", f"a TIFF that is damaged or of a kind that is not read; {_CONVERT}"),
    (b"mm\0*", f"a TIFF that is damaged or of a kind that is not read; {_CONVERT}"),
)


def what_it_is(name: str, head: bytes) -> str | None:
    """What a file is that no decoder took for an image, with the way out; ``None`` if that is unknown.

    >>> what_it_is("photo.jpg", b"<!DOCTYPE html><title>404")
    'a web page; fetch the image again'

    Args:
        name: Its name.
        head: Its first 64 bytes.
    """
    if is_raw(name):
        return RAW
    if head[4:8] == b"ftyp":
        brand = head[8:12]
        if brand in HEIC_BRANDS:
            return _HEIC
        return f"an AVIF image, which this Pillow cannot read; {_CONVERT}" if brand[:3] == b"avi" else _VIDEO
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    return next((what for start, what in _BEGINNINGS if head.startswith(start) or text.startswith(start)), None)


def is_raw(name: str) -> bool:
    """Whether a name is that of a camera's raw file."""
    stem, dot, suffix = name.rpartition(".")
    return bool(stem and dot) and suffix.lower() in RAW_SUFFIXES
