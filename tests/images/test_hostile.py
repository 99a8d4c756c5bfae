"""A hostile corpus, generated here: each file is read or refused in one line, in bounded time and memory."""

from __future__ import annotations

import contextlib
import io
import os
import resource
import signal
import struct
import subprocess
import sys
import tarfile
import textwrap
import threading
import time
import warnings
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from conftest import PATIENCE
from helpers_images import class_image, found_by_datasets, make_image_folder
from probedistill import UserError, load_images
from probedistill.images import decode
from probedistill.images.decode import MAX_PIXELS, UnreadableImageError, decode_image
from probedistill.text import one_line

REFUSED, READ, EITHER = "refused", "read", "either"
counted: dict[str, int] = {}


@pytest.fixture(scope="module", autouse=True)
def _print_counts():
    yield
    with contextlib.suppress(ValueError):
        print(f"\nhostile corpus: {sum(counted.values())} cases ({counted})", file=sys.__stderr__)


@pytest.fixture
def in_time():
    """Stop a case that takes more than 20 seconds: that is a fault."""

    def stop(*_: object) -> None:
        raise AssertionError("took more than 20 seconds")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


PICTURE = class_image(0, size=24)


# ---- images


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_with(*chunks: bytes, behind: bool = False) -> bytes:
    """The picture with chunks before or after its pixels."""
    whole = encoded(PICTURE)
    place = len(whole) - 12 if behind else 33
    return whole[:place] + b"".join(chunks) + whole[place:]


def text_bomb(kind: bytes, megabytes: int) -> bytes:
    packed = zlib.compress(bytes(megabytes << 20), 9)
    start = {b"zTXt": b"a\0\0", b"iTXt": b"a\0\1\0\0\0", b"iCCP": b"a\0\0"}[kind]
    return chunk(kind, start + packed)


def exif_as_text() -> bytes:
    """Orientation 6, as ImageMagick writes it."""
    exif = Image.Exif()
    exif[0x0112] = 6
    info = PngImagePlugin.PngInfo()
    info.add_text("Raw profile type exif", f"\nexif\n{len(exif.tobytes()):8d}\n{exif.tobytes().hex()}\n", zip=True)
    return encoded(Image.new("RGB", (4, 8)), pnginfo=info)


def scans(count: int, size: int = 24) -> bytes:
    """A progressive JPEG whose last scan is repeated ``count`` times."""
    whole = encoded(class_image(0, size=size), "JPEG", progressive=True)
    last = whole[whole.rindex(b"\xff\xda") : -2]
    return whole[:-2] + last * count + whole[-2:]


def tiff_loop() -> bytes:
    """A TIFF whose directory points to itself."""
    whole = bytearray(encoded(PICTURE, "TIFF"))
    start = struct.unpack_from("<I", whole, 4)[0]
    entries = struct.unpack_from("<H", whole, start)[0]
    struct.pack_into("<I", whole, start + 2 + 12 * entries, start)
    return bytes(whole)


def tiff_tag(value: int) -> bytes:
    """A TIFF that claims a tag of ``value`` entries."""
    whole = bytearray(encoded(PICTURE, "TIFF"))
    start = struct.unpack_from("<I", whole, 4)[0]
    struct.pack_into("<I", whole, start + 2 + 12 * 3 + 4, value)
    return bytes(whole)


def huge(kind: str, width: int, height: int) -> bytes:
    """A header that claims this many pixels, without any pixels."""
    if kind == "PPM":
        return b"P6 %d %d 255\n" % (width, height)
    if kind == "GIF":
        return b"GIF89a" + struct.pack("<HH", width, height) + encoded(PICTURE, "GIF")[10:]
    if kind == "BMP":
        whole = bytearray(encoded(PICTURE, "BMP"))
        struct.pack_into("<ii", whole, 18, width, height)
        return bytes(whole)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))


SPARE = zlib.compress(bytes(100_000))
FRAMES = [class_image(1, size=24, rng=np.random.default_rng(i)) for i in range(300)]
IMAGES: dict[str, tuple[Callable[[], bytes], str]] = {
    **{f"{kind!r} of {megabytes} MB": (lambda kind=kind, m=megabytes: png_with(text_bomb(kind, m)), READ)
       for kind in (b"zTXt", b"iTXt", b"iCCP") for megabytes in (2, 100)},
    "texts behind the pixels": (lambda: png_with(text_bomb(b"zTXt", 80), behind=True), READ),
    "1,000 texts of 100 kB": (lambda: png_with(*[chunk(b"zTXt", b"a\0\0" + SPARE)] * 1000), READ),
    "a plain text of 2 MB": (lambda: png_with(chunk(b"tEXt", b"a\0" + b"x" * (2 << 20))), READ),
    "a colour profile of noise": (lambda: encoded(PICTURE, icc_profile=os.urandom(3 << 20)), READ),
    "a text that is no text": (lambda: png_with(chunk(b"zTXt", b"a\0\0" + b"no zlib")), EITHER),
    "a chunk longer than the file": (lambda: png_with(struct.pack(">I", 1 << 31 - 1) + b"tEXt"), EITHER),
    "20,000 empty chunks": (lambda: png_with(*[chunk(b"abCd", b"")] * 20_000), READ),
    "3,000 scans": (lambda: scans(3000), REFUSED),
    "3,000 scans of a megapixel": (lambda: scans(3000, 1000), REFUSED),
    "10 scans more": (lambda: scans(10), EITHER),
    "a usual progressive JPEG": (lambda: encoded(class_image(0, size=64), "JPEG", progressive=True), READ),
    "a TIFF directory that follows itself": (tiff_loop, EITHER),
    **{f"a TIFF tag of {n:,} entries": (lambda n=n: tiff_tag(n), EITHER) for n in (2**16, 2**31, 2**32 - 1)},
    **{f"{kind} of {w} by {h}": (lambda k=kind, w=w, h=h: huge(k, w, h), REFUSED)
       for kind in ("PNG", "PPM", "BMP") for w, h in ((8001, 8000), (65_000, 65_000), (2**31 - 1, 2**31 - 1))},
    "a GIF of 65,535 by 65,535": (lambda: huge("GIF", 65_535, 65_535), REFUSED),
    "PPM of a negative width": (lambda: b"P6 -5 5 255\n" + bytes(99), REFUSED),
    "PPM of 5,000 digits": (lambda: b"P6 " + b"9" * 5000 + b" 5 255\n", REFUSED),
    "a GIF of 300 frames": (lambda: encoded(PICTURE, "GIF", save_all=True, append_images=FRAMES), READ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", IMAGES)
def test_images(name, in_time, tmp_path):
    make, expected = IMAGES[name]
    content = make()
    (tmp_path / "x").write_bytes(content)
    for source in (content, tmp_path / "x"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                assert decode_image(source, name="x").mode == "RGB"
                outcome = READ
            except UnreadableImageError as error:
                outcome = REFUSED if len(str(error).splitlines()) == 1 else str(error)
        assert outcome == expected or (expected == EITHER and outcome in (READ, REFUSED))
    counted["images"] = counted.get("images", 0) + 1


def test_pixels_and_orientation_survive_without_an_oversized_text():
    assert np.array_equal(decode_image(png_with(text_bomb(b"iCCP", 9))), PICTURE)
    assert decode_image(exif_as_text()).size == (8, 4)
    turned = exif_as_text()
    assert decode_image(turned[:33] + text_bomb(b"zTXt", 9) + turned[33:]).size == (8, 4)


@pytest.mark.parametrize(
    "beside",
    [
        chunk(b"gAMA", b"\0"), chunk(b"iCCP", b"x"), chunk(b"pHYs", b"\0"), chunk(b"acTL", b""), chunk(b"fcTL", b"\0"),
        chunk(b"tEXt", b"a\0b")[:-4] + bytes(4),  # a wrong checksum
    ],
    ids=["gamma", "profile", "resolution", "animation", "frame", "checksum"],
)  # fmt: skip
def test_damage_outside_the_pixels_of_a_png_does_not_matter(beside):
    assert np.array_equal(decode_image(png_with(beside)), PICTURE)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encoded(Image.new("RGB", (4, 8)), exif=exif)
    assert decode_image(turned[:33] + beside + turned[33:]).size == (8, 4)
    broken = png_with(beside)
    with pytest.raises(UnreadableImageError):
        decode_image(broken[: len(broken) // 2])


def test_pillows_settings_are_not_changed():
    before = PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY, Image.MAX_IMAGE_PIXELS
    decode_image(png_with(text_bomb(b"iCCP", 9)))
    assert before == (PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY, Image.MAX_IMAGE_PIXELS)


def test_names_cannot_control_terminals():
    assert one_line("a\x1b]0;title\x07\nb\u202e") == "a\\x1b]0;title\\x07 b\\u202e"
    assert one_line("\udcff a \u2028").encode() == b"\\udcff a"  # from a name that is not UTF-8
    with pytest.raises(UnreadableImageError) as error:
        decode_image(b"x", name="\x1b[2J.png")
    assert str(error.value).isprintable()


# ---- memory


def test_threads_share_the_pixels():
    budget = decode._Budget(100)
    most = now = 0
    lock = threading.Lock()

    def work() -> None:
        nonlocal most, now
        for _ in range(20):
            with budget.hold(40):
                with lock:
                    now += 40
                    most = max(most, now)
                time.sleep(0.0005)
                with budget.hold(30):  # a thread does not wait for itself
                    pass
                with lock:
                    now -= 40

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=PATIENCE)
        assert not thread.is_alive()
    assert most == 80
    with budget.hold(10**9):  # alone, any size is allowed
        pass


def test_the_budget_is_released_whenever_ctrl_c_comes():
    code = """
        import signal, threading
        from probedistill.images.decode import _Budget

        def press(*_):
            raise KeyboardInterrupt

        budget = _Budget(100)
        signal.signal(signal.SIGALRM, press)
        for number in range(500):
            try:
                try:
                    signal.setitimer(signal.ITIMER_REAL, 2e-5 * (1 + number % 40), 0.02)
                    while True:
                        with budget.hold(60):
                            pass
                finally:
                    signal.setitimer(signal.ITIMER_REAL, 0)
            except KeyboardInterrupt:
                pass
        thread = threading.Thread(target=lambda: budget.hold(100).__enter__())
        thread.start()
        thread.join()
        print("all of them")
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "all of them", done.stderr


@pytest.mark.slow
# Decoding is bounded. The eight results have 0.2 GiB each; on a busy machine all of them may exist at the same time.
@pytest.mark.parametrize(("mode", "gigabytes"), [("RGB", 3.5), ("RGBA", 5.0), ("I;16", 4.0)])
def test_eight_threads_of_64_megapixels(tmp_path, mode, gigabytes):
    path = tmp_path / "large.png"
    Image.new(mode, (8000, 8000)).save(path, compress_level=1)
    code = f"""
        import resource
        from concurrent.futures import ThreadPoolExecutor
        from probedistill.images.decode import decode_image
        with ThreadPoolExecutor(8) as pool:
            done = list(pool.map(lambda _: decode_image({str(path)!r}).size, range(8)))
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    print(f"peak {int(done.stdout) / 2**30:.2f} GiB for eight threads, {mode}")
    assert int(done.stdout) < gigabytes * 2**30


# ---- tar shards


def header(name: str, size: int | bytes, kind: bytes = b"0") -> bytes:
    """A header with a correct checksum; a size of twelve bytes is used unchanged."""
    field = size if isinstance(size, bytes) else b"%011o" % size + bytes(1)
    block = bytearray(512)
    block[: len(name)] = name.encode()
    block[100:124] = b"".join(b"%07o" % mode + bytes(1) for mode in (0o644, 0, 0))
    block[124:136], block[136:148], block[148:156] = field, b"0" * 11 + bytes(1), b" " * 8
    block[156:157], block[257:265] = kind, b"ustar" + bytes(1) + b"00"
    block[148:156] = b"%06o" % sum(block) + b"\0 "
    return bytes(block)


def number(value: int) -> bytes:
    """A size in base 256, which may be negative."""
    return (b"\xff" if value < 0 else b"\x80") + value.to_bytes(11, "big", signed=True)


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


def pax(text: str) -> bytes:
    line = f" {text}\n"
    length = len(line) + len(str(len(line) + 2))
    data = f"{length}{line}".encode()
    return header("x", len(data), b"x") + padded(data)


def good() -> bytes:
    members = b""
    for i in range(4):
        picture = encoded(class_image(i % 2, size=8))
        members += header(f"{i}.png", len(picture)) + padded(picture) + header(f"{i}.cls", 1) + padded(b"%d" % (i % 2))
    return members


END = bytes(1024)
TARS: dict[str, Callable[[], bytes]] = {
    **{f"a size of {n:,}": (lambda n=n: good() + header("z.png", number(n)) + END)
       for n in (-1, -512, -1024, -(2**40), 2**40, 2**62, 2**80)},
    **{f"a size of {n:,} at the start": (lambda n=n: header("z.png", number(n)) + good() + END) for n in (-512, 2**62)},
    **{f"{kind!r} of {n:,} bytes": (lambda k=kind, n=n: good() + header("z", number(n), k) + good() + END)
       for kind in (b"L", b"K", b"x", b"g", b"S", b"D", b"V") for n in (-512, 2**33, 2**62)},
    **{f"pax size={n}": (lambda n=n: good() + pax(f"size={n}") + header("z.png", 8) + bytes(512) + END)
       for n in ("-512", "-99999", str(2**62), "9" * 5000, "x", "1e9", "")},
    "pax of a line that says 0 bytes": lambda: good() + header("x", 8, b"x") + padded(b"0 path=a") + END,
    "pax of a line that says 2**70 bytes": lambda: good() + header("x", 40, b"x") + padded(b"%d path=a" % 2**70) + END,
    "5,000 pax headers in a row": lambda: good() + pax("a=b") * 5000 + good() + END,
    "5,000 long names in a row": lambda: good() + (header("l", 8, b"L") + padded(b"longname")) * 5000 + good() + END,
    "sparse maps without an end": lambda: good() + (header("s", 0, b"S")[:482] + b"\1" + bytes(29)) + b"\1" * 512 * 500,
    "a link to itself": lambda: good() + header("l.png", 0, b"1")[:157] + b"l.png" + bytes(350) + END,
    "100,000 empty members": lambda: good() + header("e", 0) * 100_000 + END,
    "folders upon folders": lambda: good() + header("a/" * 49, 0, b"5") + END,
    "names of nothing": lambda: good() + b"".join(header(name, 0) for name in ("", "/", ".", "..png", "a/..")) + END,
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", TARS)
def test_tar_shards(name, in_time, tmp_path):
    (tmp_path / "x.tar").write_bytes(TARS[name]())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with contextlib.suppress(UserError):
            images = load_images(f"wds:{tmp_path}")
            assert 4 <= len(images) <= 9
            for i in range(len(images)):
                with contextlib.suppress(UnreadableImageError):
                    images.load(i)
    counted["tar shards"] = counted.get("tar shards", 0) + 1


def test_a_negative_size_is_reported(tmp_path):
    (tmp_path / "x.tar").write_bytes(TARS["a size of -1,024"]())
    with pytest.warns(UserWarning, match=r"damaged after 4 samples"):
        assert len(load_images(f"wds:{tmp_path}")) == 4
    with pytest.raises(UserError, match="download it again"):
        load_images(f"wds:{tmp_path}", strict=True)


def test_a_header_cannot_load_a_shard_into_memory(tmp_path, monkeypatch):
    """A long name with a negative size would be read to the end of the file."""
    asked: list[int] = []
    from probedistill.images import tar_shards

    read = tar_shards._Headers.read
    monkeypatch.setattr(tar_shards._Headers, "read", lambda self, count: asked.append(count) or read(self, count))
    (tmp_path / "x.tar").write_bytes(good() + header("z", number(-512), b"L") + bytes(1 << 20))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        load_images(f"wds:{tmp_path}")
    assert min(asked) < 0
    assert max(asked) <= 4096


def test_members_of_system_folders(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for name, content in [
            *[(f"{i}.png", encoded(PICTURE)) for i in range(4)], *[(f"{i}.cls", b"%d" % (i % 2)) for i in range(4)],
            ("__MACOSX/9.png", b"x"), ("__MACOSX/9.cls", b"9"), ("a/@eaDir/8.png", b"x"), ("a/@eaDir/8.cls", b"8"),
        ]:  # fmt: skip
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    assert load_images(f"wds:{tmp_path}").class_names == ("0", "1")


# ---- tables that name files


@pytest.fixture
def hub(monkeypatch, tmp_path_factory):
    datasets = pytest.importorskip("datasets", reason="the optional package datasets is not installed")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("hub"))
    return datasets


PLACES = ["{secret}", "{set}/../secret.png", "../secret.png", "~/secret.png", "file://{secret}", "{link}",
          "https://example.org/x.png", "zip://a.png::{secret}", "/dev/zero", "\0", "{set}-more/x.png"]  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("row", [0, 5])
def test_rows_that_name_files_elsewhere(hub, tmp_path, monkeypatch, in_time, place, row):
    own, secret = tmp_path / "set", tmp_path / "secret.png"
    own.mkdir()
    (tmp_path / "set-more").mkdir()
    for path in (secret, tmp_path / "set-more" / "x.png"):
        PICTURE.save(path)
    os.symlink(secret, own / "link.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    path = place.format(secret=secret, set=own, link=own / "link.png")
    rows = [{"bytes": encoded(PICTURE), "path": None} for _ in range(6)]
    rows[row] = {"bytes": None, "path": path}
    data = hub.Dataset.from_dict({"image": rows, "label": [0, 1] * 3})
    columns = {"bytes": hub.Value("binary"), "path": hub.Value("string")}
    data = data.cast(hub.Features(image=columns, label=hub.Value("int64")))
    data = data.cast_column("image", hub.Image())
    monkeypatch.setattr(hub, "load_dataset_builder", found_by_datasets(hub.DatasetDict(train=data)))
    with pytest.raises(UserError, match=r"names the file .* outside the data set") as error:
        load_images(f"hf:{own}")
    assert str(error.value).isprintable()
    counted["rows"] = counted.get("rows", 0) + 1


def test_a_row_is_checked_again_when_it_is_decoded(hub, tmp_path):
    folder = make_image_folder(tmp_path / "set", size=4)
    PICTURE.save(tmp_path / "secret.png")
    images = load_images(f"hf:{folder}")
    first = folder / "train" / "cat" / "0000.png"
    first.unlink()
    os.symlink(tmp_path / "secret.png", first)
    with pytest.raises(UnreadableImageError, match="names a file outside the data set"):
        images.load(0)


# ---- file handles


@pytest.mark.slow
def test_few_file_handles(tmp_path):
    folder = make_image_folder(tmp_path / "photos", per_class=60, size=8)
    code = f"""
        from concurrent.futures import ThreadPoolExecutor
        import resource
        from probedistill import load_splits
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        train, test = load_splits("folder:{folder}")
        with ThreadPoolExecutor(8) as pool:
            print(len(list(pool.map(train.load, range(len(train))))))
    """
    env = {**os.environ, "PROBEDISTILL_CACHE": str(tmp_path / "cache")}
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], env=env, capture_output=True, text=True)
    assert done.stdout.strip() == "120", done.stderr


def test_the_largest_image_that_is_allowed_is_the_budget():
    assert decode.decoding._size == MAX_PIXELS
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 0
