"""Files that are not readable images: the error says what each file is, and what to do."""

from __future__ import annotations

import importlib.util
import io

import pytest
from PIL import Image

from helpers_images import class_image
from probedistill.images.decode import UnreadableImageError, decode_image


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("phone.HEIC", b"\0\0\0\x18ftypheic\0\0\0\0", "a HEIC photo; convert it to JPEG or PNG"),
        ("phone.jpg", b"\0\0\0\x1cftypmif1\0\0\0\0", "a HEIC photo; convert it to JPEG or PNG"),
        ("clip.jpg", b"\0\0\0\x18ftypmp42", "a video"),
        ("clip.webm", b"\x1a\x45\xdf\xa3\1", "a video"),
        (
            "floats.tiff",
            b"II*\0\x08\0\0\0\0\0\0\0\0\0",
            "a TIFF that is damaged or of a kind that is not read; convert it",
        ),
        ("photo.jpg", b"\r\n<!DOCTYPE html><html>", "a web page; fetch the image again"),
        ("photo.jpg", b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
        ("drawing.png", b'\xef\xbb\xbf<svg xmlns="x">', "an SVG drawing"),
        ("page.jpg", b"%PDF-1.7", "a PDF"),
        ("layers.psd", b"8BPS\0\1", "a Photoshop file"),
        ("new.jxl", b"\xff\x0a\0\0", "a JPEG XL image"),
        ("array.npy", b"\x93NUMPY\1\0", "a NumPy array"),
        ("more.zip", b"PK\3\4", "a zip file"),
        ("noise.jpg", bytes(range(1, 60)), "not an image in a known format"),
    ],
)
def test_what_a_file_is(tmp_path, name, content, says):
    if says.startswith("a HEIC") and importlib.util.find_spec("pillow_heif"):
        pytest.skip("HEIC is read here")
    (tmp_path / name).write_bytes(content)
    for source in (tmp_path / name, content, io.BytesIO(content)):
        with pytest.raises(UnreadableImageError) as error:
            decode_image(source, name=name)
        assert str(error.value).startswith(f"{name}: ")
        assert says in str(error.value)


def test_the_thumbnail_of_a_raw_file_is_not_mistaken_for_the_photo(tmp_path):
    path = tmp_path / "photo.nef"
    class_image(0).save(path, format="TIFF")
    with pytest.raises(UnreadableImageError, match="a camera's raw file; convert it to JPEG or PNG"):
        decode_image(path)


def test_heic_is_read_if_its_plugin_is_installed(tmp_path):
    pytest.importorskip("pillow_heif").register_heif_opener()
    class_image(0, size=64).save(tmp_path / "photo.heic")
    assert isinstance(decode_image(tmp_path / "photo.heic"), Image.Image)
