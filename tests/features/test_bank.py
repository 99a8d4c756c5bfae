"""The feature bank: what it contains, and when it is reused."""

from __future__ import annotations

import json
import os
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from helpers_encoders import Tiny
from helpers_images import make_image_folder
from probedistill.config import AugmentConfig, CLPConfig, DistillConfig, LGMConfig
from probedistill.distillation.objective import make_objective
from probedistill.encoders.encoder import Encoder
from probedistill.errors import UserError
from probedistill.features.bank import FeatureBank
from probedistill.features.classes import medoids
from probedistill.features.encode import augmented_views
from probedistill.features.extract import extract_features
from probedistill.features.views import apply_views, draw_views
from probedistill.images.decode import UnreadableImageError
from probedistill.images.labelled import LabelledImages
from probedistill.images.splits import load_images
from probedistill.machine.places import cache_folder
from probedistill.seeds import Stream, seed_of
from probedistill.store.records import as_plain
from probedistill.text import counted

CLASSES, PER_CLASS = ("cat", "dog", "owl"), 5
N = len(CLASSES) * PER_CLASS


def make_encoder(seed: int = 0, name: str = "tiny", input_size: int = 32) -> Encoder:
    return Encoder(Tiny(seed), name=name, input_size=input_size)


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return make_encoder()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_image_folder(tmp_path / "photos", CLASSES, PER_CLASS, size=40, splits=("train",))


class Decodes:
    """Counts how often each image is decoded."""

    def __init__(self, images: LabelledImages, monkeypatch: pytest.MonkeyPatch) -> None:
        self.indices: list[int] = []
        load, lock = images.load, threading.Lock()

        def counted(index: int) -> Image.Image:
            with lock:
                self.indices.append(index)
            return load(index)

        monkeypatch.setattr(images, "load", counted)

    def take(self) -> list[int]:
        taken, self.indices = sorted(self.indices), []
        return taken


@pytest.fixture
def extract(tmp_path: Path, encoder: Encoder):
    """A function that extracts into this test's cache and returns the bank."""

    def run(images: LabelledImages, with_encoder: Encoder = encoder, **options) -> FeatureBank:
        return extract_features(with_encoder, images, **{"cache": tmp_path / "cache", "progress": False, **options})

    return run


@pytest.fixture
def no_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def shards(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache" / "features").glob("*/shard-*.safetensors"))


def break_image(images: LabelledImages, folder: Path, index: int) -> None:
    (folder / images.names[index]).write_bytes(b"not an image")


# ---- what it holds


def test_centre_features_equal_the_encoders(folder, encoder, extract):
    images = load_images(f"folder:{folder}")
    bank = extract(images)
    with torch.no_grad():
        expected = torch.cat([encoder(encoder.centre_view(images.load(i))[None]) for i in range(N)])
    torch.testing.assert_close(bank.centre, expected, rtol=1e-5, atol=1e-6)
    assert expected.std(dim=0).max() > 1e-3
    assert bank.centre.dtype == torch.float32
    assert bank.augmented.shape == (0, N, encoder.dim)
    assert bank.labels.tolist() == images.labels.tolist() == [c for c in range(3) for _ in range(PER_CLASS)]
    assert bank.indices.tolist() == list(range(N))
    assert (bank.class_names, bank.num_classes, len(bank), bank.skipped) == (CLASSES, 3, N, [])


def test_augmented_features_are_those_of_their_views(folder, encoder, extract):
    images, augment = load_images(f"folder:{folder}"), AugmentConfig(noise_prob=0.5)
    bank = extract(images, views=3, augment=augment, seed=7)
    assert bank.augmented.shape == (3, N, encoder.dim)
    for i in (0, 6, 14):
        views = augmented_views(images.load(i), 32, 3, augment, seed_of(7, Stream.REAL_VIEWS, i))
        torch.testing.assert_close(bank.augmented[:, i], encoder(views), rtol=1e-5, atol=1e-6)
    assert (bank.augmented[0] - bank.augmented[1]).abs().max() > 1e-3
    torch.testing.assert_close(bank.centre, extract(images).centre, rtol=1e-5, atol=1e-6)


def test_an_image_has_the_same_views_whatever_the_others_are(folder, encoder, extract):
    images = load_images(f"folder:{folder}")
    whole = extract(images, views=2, seed=1)
    few = extract(images.select(np.arange(4)), views=2, seed=1)
    torch.testing.assert_close(few.augmented, whole.augmented[:, :4], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("batch_size", "shard_size"), [(1, 1), (2, 4), (7, 100), (64, 6), (3, 15)])
def test_batches_and_shards_change_nothing(tmp_path, folder, extract, batch_size, shard_size):
    images = load_images(f"folder:{folder}")
    expected = extract(images, views=2, seed=1, cache=tmp_path / "other")
    bank = extract(images, views=2, seed=1, batch_size=batch_size, shard_size=shard_size)
    torch.testing.assert_close(bank.centre, expected.centre, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(bank.augmented, expected.augmented, rtol=1e-5, atol=1e-6)
    assert torch.equal(bank.labels, expected.labels)
    assert torch.equal(bank.indices, expected.indices)
    assert len(shards(tmp_path)) == -(-N // shard_size)


def test_batches_are_no_larger_than_asked_for(folder, extract):
    sizes: list[int] = []

    class Watches(Tiny):
        def forward(self, images):
            sizes.append(len(images))
            return super().forward(images)

    encoder = Encoder(Watches(), name="watches", input_size=32)
    sizes.clear()  # sizes seen in its checks
    extract(load_images(f"folder:{folder}"), encoder, views=4, batch_size=3)
    assert max(sizes) == 3


@pytest.mark.parametrize("size", [(50, 30), (31, 90), (400, 300), (16, 200)])
def test_views_of_a_photo_of_any_shape(size):
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    photo, augment = Image.fromarray(pixels), AugmentConfig()
    views = augmented_views(photo, 24, 5, augment, seed=3)
    assert views.shape == (5, 3, 24, 24)
    assert views.dtype == torch.float32
    assert views.min() >= 0
    assert views.max() <= 1 + 1e-6
    assert torch.equal(views, augmented_views(photo, 24, 5, augment, seed=3))
    assert not torch.equal(views, augmented_views(photo, 24, 5, augment, seed=4))
    if min(size) <= 48:  # not shrunk first: the same rule as for synthetic images
        tensor = torch.from_numpy(pixels).permute(2, 0, 1).float() / 255
        drawn = draw_views(augment, 5, seed=3, aspect=size[0] / size[1])
        torch.testing.assert_close(views, apply_views(tensor.expand(5, -1, -1, -1), drawn, 24))


def test_a_large_photo_is_shrunk_first_and_looks_the_same():
    x, y = np.meshgrid(np.linspace(0, 1, 800), np.linspace(0, 1, 600))
    smooth = np.stack([np.sin(6 * x) / 2 + 0.5, y, x * y], axis=-1)
    photo, augment = Image.fromarray((255 * smooth).astype(np.uint8)), AugmentConfig()
    tensor = torch.from_numpy(smooth).permute(2, 0, 1).float()
    drawn = draw_views(augment, 6, seed=3, aspect=800 / 600)
    expected = apply_views(tensor.expand(6, -1, -1, -1), drawn, 24)
    torch.testing.assert_close(augmented_views(photo, 24, 6, augment, seed=3), expected, rtol=0, atol=0.02)


def test_all_views_have_their_labels(folder, extract):
    images = load_images(f"folder:{folder}")
    plain, augmented = extract(images), extract(images, views=2)
    features, labels = plain.all_views()
    assert torch.equal(features, plain.centre)
    assert torch.equal(labels, plain.labels)
    features, labels = augmented.all_views()
    assert features.shape == (2 * N, plain.centre.shape[1])
    for view in range(2):
        for i in (0, 7, 14):
            assert torch.equal(features[view * N + i], augmented.augmented[view, i])
            assert labels[view * N + i] == augmented.labels[i]


def test_select(folder, extract):
    bank = extract(load_images(f"folder:{folder}"), views=2)
    rows = torch.tensor([14, 0, 6])
    few = bank.select(rows)
    assert len(few) == 3
    assert torch.equal(few.centre, bank.centre[rows])
    assert torch.equal(few.augmented, bank.augmented[:, rows])
    assert few.labels.tolist() == [2, 0, 1]
    assert few.indices.tolist() == [14, 0, 6]
    assert few.class_names == bank.class_names
    assert torch.equal(few.select(torch.tensor([2])).indices, torch.tensor([6]))


def test_features_of_another_encoder_are_refused(folder, encoder, extract):
    bank = extract(load_images(f"folder:{folder}"))
    bank.check_encoder(encoder)
    bank.check_encoder(make_encoder())  # equal weights, another object
    other = make_encoder(1, name="other")
    with pytest.raises(UserError, match=r"the features are of encoder 'tiny' .*, not of 'other'") as caught:
        bank.check_encoder(other)
    assert other.fingerprint[:12] in str(caught.value)
    assert "\n" not in str(caught.value)


# ---- the cache


def test_a_second_call_decodes_nothing(tmp_path, folder, extract, monkeypatch, no_warnings):
    images = load_images(f"folder:{folder}")
    decodes = Decodes(images, monkeypatch)
    first = extract(images, views=1, shard_size=4)
    assert decodes.take() == list(range(N))
    stamps = [path.stat().st_mtime_ns for path in shards(tmp_path)]
    again = extract(images, make_encoder(), views=1, shard_size=4, batch_size=2)
    assert decodes.take() == []
    assert [path.stat().st_mtime_ns for path in shards(tmp_path)] == stamps
    for name in ("centre", "augmented", "labels", "indices"):
        assert torch.equal(getattr(again, name), getattr(first, name))
    assert again.manifest == first.manifest
    manifest = json.loads((shards(tmp_path)[0].parent / "manifest.json").read_text())
    assert manifest.pop("sha256")
    assert manifest == {"kind": "features", **json.loads(json.dumps(as_plain(first.manifest)))}


CHANGES = {
    "weights": {"with_encoder": make_encoder(1)},
    "input size": {"with_encoder": make_encoder(input_size=24)},
    "number of views": {"views": 1},
    "augmentation": {"augment": AugmentConfig(flip=0.0)},
    "seed": {"seed": 1},
}


@pytest.mark.parametrize("change", CHANGES)
def test_anything_else_makes_another_bank(folder, encoder, extract, monkeypatch, change):
    images = load_images(f"folder:{folder}")
    decodes = Decodes(images, monkeypatch)
    options = {"with_encoder": encoder, "views": 2, "augment": AugmentConfig(), "seed": 0}
    first = extract(images, **options)
    decodes.take()
    other = extract(images, **{**options, **CHANGES[change]})
    assert decodes.take() == list(range(N))
    assert other.augmented.shape != first.augmented.shape or not torch.equal(other.augmented, first.augmented)
    same = extract(images, **options)  # and the first is still there
    assert decodes.take() == []
    assert torch.equal(same.augmented, first.augmented)


def test_a_bank_without_views_ignores_only_the_view_options(folder, extract, monkeypatch):
    images = load_images(f"folder:{folder}")
    decodes = Decodes(images, monkeypatch)
    extract(images)
    decodes.take()
    extract(images, seed=5, augment=AugmentConfig(flip=0.0))
    assert decodes.take() == []


def test_a_changed_file_makes_another_bank(folder, extract):
    images = load_images(f"folder:{folder}")
    before = extract(images)
    path = folder / images.names[3]
    Image.new("RGB", (40, 40), (250, 5, 5)).save(path)
    os.utime(path, (1, 1))
    after = extract(load_images(f"folder:{folder}"))
    assert not torch.equal(after.centre[3], before.centre[3])
    others = [i for i in range(N) if i != 3]
    torch.testing.assert_close(after.centre[others], before.centre[others], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty"])
def test_a_torn_shard_is_computed_again(tmp_path, folder, extract, monkeypatch, damage):
    images = load_images(f"folder:{folder}")
    decodes = Decodes(images, monkeypatch)
    before = extract(images, shard_size=4)
    decodes.take()
    path = shards(tmp_path)[1]
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes({"cut": content[:-9], "flipped": content, "empty": b""}[damage])
    with pytest.warns(UserWarning, match=r"shard-00001.*computing it again") as caught:
        after = extract(images, shard_size=4)
    assert len(caught) == 1
    assert decodes.take() == [4, 5, 6, 7]
    torch.testing.assert_close(after.centre, before.centre)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        extract(images, shard_size=4)
    assert decodes.take() == []


@pytest.mark.parametrize("other", ["of another seed", "of other rows"])
def test_a_shard_of_another_bank_is_refused(tmp_path, folder, extract, other):
    images = load_images(f"folder:{folder}")
    first = extract(images, views=1, shard_size=4)
    own = shards(tmp_path)
    if other == "of another seed":
        extract(images, views=1, shard_size=4, seed=1)
        stranger = next(path for path in shards(tmp_path) if path not in own and path.name == own[0].name)
    else:
        stranger = own[1]
    own[0].write_bytes(stranger.read_bytes())
    with pytest.warns(UserWarning, match="has the features of different images; computing it again"):
        again = extract(images, views=1, shard_size=4)
    assert torch.equal(again.augmented, first.augmented)


def test_centre_crops_of_a_bank_without_views_are_not_encoded_again(folder, extract):
    images = load_images(f"folder:{folder}")
    centre = extract(images, shard_size=4).centre
    encoder = make_encoder()
    seen: list[int] = []
    encoder.model.register_forward_hook(lambda model, inputs, output: seen.append(len(output)))
    bank = extract(images, encoder, views=2, shard_size=4)
    assert sum(seen) == 2 * N
    assert torch.equal(bank.centre, centre)


def test_finished_shards_survive_an_interruption(folder, extract, monkeypatch):
    images = load_images(f"folder:{folder}")
    load = images.load

    def interrupted(index: int) -> Image.Image:
        if index == 9:
            raise KeyboardInterrupt
        return load(index)

    with monkeypatch.context() as patch:
        patch.setattr(images, "load", interrupted)
        with pytest.raises(KeyboardInterrupt):
            extract(images, shard_size=4)
    decodes = Decodes(images, monkeypatch)
    assert len(extract(images, shard_size=4)) == N
    assert decodes.take() == list(range(8, N))


def test_where_the_cache_is(tmp_path, monkeypatch):
    assert cache_folder(tmp_path / "x") == cache_folder(str(tmp_path / "x")) == tmp_path / "x"
    monkeypatch.setenv("PROBEDISTILL_CACHE", str(tmp_path / "y"))
    assert cache_folder() == tmp_path / "y"
    monkeypatch.delenv("PROBEDISTILL_CACHE")
    assert cache_folder() == Path.home() / ".cache" / "probedistill"


def test_names_of_encoders_cannot_leave_the_cache(tmp_path, folder, extract):
    extract(load_images(f"folder:{folder}"), make_encoder(name="../../hf:some/one " + "x" * 300))
    assert len(shards(tmp_path)) == 1


def test_a_cache_that_cannot_be_written(tmp_path, folder, extract):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="is not a folder; give another folder"):
        extract(load_images(f"folder:{folder}"), cache=tmp_path / "file")


# ---- unreadable images


@pytest.mark.parametrize("views", [0, 2])
def test_unreadable_images_are_left_out_and_counted(folder, encoder, extract, caplog, monkeypatch, views):
    images = load_images(f"folder:{folder}")
    for index in (2, 6, 7):
        break_image(images, folder, index)
    images = load_images(f"folder:{folder}")
    left = [i for i in range(N) if i not in (2, 6, 7)]
    decodes = Decodes(images, monkeypatch)
    for _ in range(2):  # computed, then found in the cache
        bank = extract(images, views=views, shard_size=4, batch_size=2)
        assert bank.indices.tolist() == left
        assert bank.labels.tolist() == images.labels[left].tolist()
        assert len(bank.skipped) == 3
        (line,) = caplog.messages
        caplog.clear()
        assert line.startswith("skipped 3 unreadable of 15 images (train): train/cat/0002.png and 2 more (not an image")
        with torch.no_grad():
            expected = torch.cat([encoder(encoder.centre_view(images._load(i))[None]) for i in left])
        torch.testing.assert_close(bank.centre, expected, rtol=1e-5, atol=1e-6)
        assert bank.augmented.shape[:2] == (views, len(left))
    assert decodes.take() == sorted([*range(N), 2, 6, 7]), "the second call tries those that are not there"


def test_each_reason_is_reported_once_with_its_number_of_images(folder, extract, caplog):
    contents = [b"\0\0\0\x18ftypheic", b"\0\0\0\x18ftypheic", b"<html>404</html>", b""]
    names = load_images(f"folder:{folder}").names
    for name, content in zip(names[5:9], contents, strict=True):
        (folder / name).write_bytes(content)
    extract(load_images(f"folder:{folder}"))
    (line,) = caplog.messages
    assert line.startswith("skipped 4 unreadable of 15 images (train): train/dog/0000.png and 1 more (a HEIC photo;")
    assert line.endswith("train/dog/0003.png (the file is empty)")
    (folder / names[9]).write_bytes(b"")
    with pytest.raises(UserError, match=r"class 'dog' .*first: train/dog/0000\.png: a HEIC"):
        extract(load_images(f"folder:{folder}"))


def test_an_image_that_becomes_readable_again_is_used(folder, extract, caplog, monkeypatch):
    images = load_images(f"folder:{folder}")
    load = images.load

    def out_of_reach(index: int) -> Image.Image:
        if index in (2, 6):
            raise UnreadableImageError(f"{images.names[index]}: damaged or truncated (Input/output error)")
        return load(index)

    with monkeypatch.context() as patched:
        patched.setattr(images, "load", out_of_reach)
        assert len(extract(images, shard_size=4)) == N - 2
    assert "skipped 2 unreadable of 15" in caplog.text
    caplog.clear()
    bank = extract(images, shard_size=4, strict=True)
    assert (len(bank), bank.skipped) == (N, [])
    assert not caplog.messages
    assert torch.equal(bank.centre, extract(images, shard_size=4, cache=folder.parent / "again").centre)


def test_a_shard_with_only_unreadable_images(folder, extract, caplog):
    images = load_images(f"folder:{folder}")
    for index in (4, 5):
        break_image(images, folder, index)
    bank = extract(load_images(f"folder:{folder}"), views=2, shard_size=2)
    assert bank.indices.tolist() == [i for i in range(N) if i not in (4, 5)]
    assert bank.augmented.shape[1] == N - 2
    assert "skipped 2 unreadable of 15" in caplog.text


@pytest.mark.parametrize("cached", [False, True])
def test_strict_stops_at_an_unreadable_image(folder, extract, cached):
    images = load_images(f"folder:{folder}")
    break_image(images, folder, 7)
    images = load_images(f"folder:{folder}")
    if cached:
        extract(images)
    with pytest.raises(UserError, match=r"train/dog/0002.png: not an image.*fix or remove the file") as caught:
        extract(images, strict=True)
    assert "\n" not in str(caught.value)


def test_strict_is_quiet_when_all_is_well(folder, extract, caplog):
    assert len(extract(load_images(f"folder:{folder}"), strict=True)) == N
    assert not caplog.messages


def test_a_class_of_unreadable_images_is_an_error(folder, extract):
    images = load_images(f"folder:{folder}")
    for index in range(PER_CLASS, 2 * PER_CLASS):
        break_image(images, folder, index)
    images = load_images(f"folder:{folder}")
    for _ in range(2):
        with pytest.raises(UserError, match=r"class 'dog' .* none of which can be read; .*first: train/dog/0000"):
            extract(images)


def test_other_errors_of_loading_are_raised(folder, extract, monkeypatch):
    images = load_images(f"folder:{folder}")
    monkeypatch.setattr(images, "load", lambda index: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        extract(images)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"views": -1}, "views -1 must be 0 or more"),
        ({"seed": -1}, "seed -1 must be 0 or more"),
        ({"augment": AugmentConfig(flip=2.0)}, "augment.flip 2.0"),
    ],
)
def test_bad_arguments(folder, extract, options, message):
    with pytest.raises(UserError, match=message):
        extract(load_images(f"folder:{folder}"), **options)


# ---- progress


def test_progress_counts_all_images(folder, extract, monkeypatch):
    images = load_images(f"folder:{folder}")
    advanced: list[int] = []
    monkeypatch.setattr("probedistill.machine.progress.ProgressBar.advance", lambda self, n=1, **_: advanced.append(n))
    for _ in range(2):
        extract(images, shard_size=4, batch_size=3)
        assert sum(advanced) == N
        advanced.clear()


# ---- larger than memory


@pytest.fixture
def both(folder, extract, monkeypatch):
    """The same bank in memory and in files, with some unreadable images and a shard of nothing else."""

    def make(views: int = 2, **options) -> tuple[FeatureBank, FeatureBank]:
        images = load_images(f"folder:{folder}")
        for index in (1, 4, 5, 6, 7):
            break_image(images, folder, index)
        images = load_images(f"folder:{folder}")
        held = extract(images, views=views, shard_size=4, **options)
        return held, extract(images, views=views, shard_size=4, max_memory=0, **options)

    return make


def sorted_rows(pairs: list[tuple[torch.Tensor, torch.Tensor]]) -> list[list[float]]:
    return sorted([*map(float, x), float(y)] for features, labels in pairs for x, y in zip(features, labels))


@pytest.mark.slow
@pytest.mark.parametrize("views", [0, 1, 3])
@pytest.mark.parametrize("size", [1, 3, 100])
def test_blocks_of_a_bank_in_files_are_all_of_its_rows(both, views, size):
    held, in_files = both(views)
    assert (held.in_memory, in_files.in_memory) == (True, False)
    assert held.num_bytes == in_files.num_bytes == 10 * (1 + views) * held.dim * 4
    assert repr(in_files) == f"FeatureBank(10 images, {counted(views, 'view')}, d = {held.dim}, in files)"
    expected = sorted_rows([held.all_views()])
    for bank in (held, in_files):
        for _ in range(2):  # any number of times
            blocks = list(bank.blocks(size=size))
            assert max(len(features) for features, _ in blocks) <= size
            assert all(len(features) == len(labels) for features, labels in blocks)
            assert sorted_rows(blocks) == expected
        centres = list(bank.blocks(views="centre", size=size))
        assert torch.equal(torch.cat([features for features, _ in centres]), held.centre)
        assert torch.equal(torch.cat([labels for _, labels in centres]), held.labels)


@pytest.mark.parametrize("views", [0, 3])
def test_rows_of_a_bank_in_files(both, views):
    held, in_files = both(views)
    features, labels = held.all_views()
    generator = torch.Generator().manual_seed(0)
    for rows in (
        torch.randint(len(features), (50,), generator=generator),
        torch.arange(len(features)).flip(0),
        torch.tensor([], dtype=torch.int64),
    ):
        assert torch.equal(in_files.take(rows), features[rows])
        assert torch.equal(held.take(rows), features[rows])
    assert torch.equal(in_files.all_labels(), labels)
    rows = torch.tensor([9, 0, 4])
    for bank in (held, in_files):
        assert torch.equal(bank.take(rows, views="centre"), held.centre[rows])
        few = bank.select(rows)
        assert few.in_memory
        for name in ("centre", "augmented", "labels", "indices"):
            assert torch.equal(getattr(few, name), getattr(held.select(rows), name))


def test_a_bank_in_files_can_be_read_whole(both):
    held, in_files = both()
    assert torch.equal(in_files.augmented, held.augmented)
    assert torch.equal(in_files.centre, held.centre)
    assert torch.equal(in_files.all_views()[0], held.all_views()[0])
    assert torch.equal(in_files.labels, held.labels)
    assert in_files.skipped == held.skipped


def test_what_is_kept_in_memory(folder, encoder, extract):
    images = load_images(f"folder:{folder}")
    size = 3 * N * encoder.dim * 4
    assert extract(images, views=2, max_memory=size).in_memory
    assert not extract(images, views=2, max_memory=size - 1).in_memory
    assert extract(images, views=2).in_memory


def test_a_bank_in_files_is_checked_only_once(tmp_path, folder, extract, monkeypatch):
    images = load_images(f"folder:{folder}")
    extract(images, shard_size=4)
    checked: list[Path] = []
    from probedistill.store.tensors import load_tensors

    monkeypatch.setattr(
        "probedistill.features.shards.load_tensors", lambda path: (checked.append(path), load_tensors(path))[1]
    )
    bank = extract(images, shard_size=4, max_memory=0)
    assert checked == shards(tmp_path)
    list(bank.blocks())
    bank.take(torch.tensor([0, 14]))
    assert checked == shards(tmp_path)


def test_files_that_vanish_while_in_use(tmp_path, folder, extract):
    bank = extract(load_images(f"folder:{folder}"), shard_size=4, max_memory=0)
    shards(tmp_path)[2].unlink()
    for read in (lambda: list(bank.blocks()), lambda: bank.take(torch.tensor([9])), lambda: bank.centre):
        with pytest.raises(
            UserError, match=r"cached features were lost while in use: .*shard-00002.*run it again"
        ) as e:
            read()
        assert "\n" not in str(e.value)
    assert len(bank.take(torch.tensor([0]))) == 1


@pytest.mark.parametrize("max_memory", [None, 0])
def test_half_precision(tmp_path, folder, extract, max_memory):
    images = load_images(f"folder:{folder}")
    exact = extract(images, views=1, shard_size=4)
    bank = extract(images, views=1, shard_size=4, dtype="float16", max_memory=max_memory, cache=tmp_path / "half")
    again = extract(images, views=1, shard_size=4, dtype="float16", max_memory=max_memory, cache=tmp_path / "half")
    assert bank.manifest.dtype == "float16"
    assert bank.in_memory == (max_memory is None)
    for name in ("centre", "augmented"):
        features = getattr(bank, name)
        assert features.dtype == torch.float32
        assert torch.equal(features, getattr(exact, name).half().float())
        assert torch.equal(features, getattr(again, name))
    for features, _ in bank.blocks(size=3):
        assert features.dtype == torch.float32
    stored = sum(p.stat().st_size for p in (tmp_path / "half").rglob("shard-*"))
    assert stored < 0.75 * sum(p.stat().st_size for p in shards(tmp_path))


@pytest.mark.parametrize(
    ("precision", "fix"), [("fp32", "check its weights, or leave the"), ("bf16", "try precision='fp32'")]
)
def test_features_that_are_not_finite_are_an_error(tmp_path, folder, extract, precision, fix):
    class Overflows(Tiny):
        def forward(self, images):
            return super().forward(images) / (images.mean(dim=(1, 2, 3)) < 1e3)[:, None]

    images = load_images(f"folder:{folder}")
    encoder = Encoder(Overflows(), name="overflows", input_size=32, precision=precision)
    view = encoder.centre_view

    def bright(image: Image.Image) -> torch.Tensor:
        return view(image) * (1e6 if image == images.load(6) else 1.0)

    encoder.centre_view = bright
    with pytest.raises(
        UserError, match=rf"'overflows' returns features that are not finite in {precision}.*{fix}"
    ) as e:
        extract(images, encoder)
    assert repr(images.names[6]) in str(e.value)
    assert shards(tmp_path) == [], "nothing is kept of them"


def test_an_encoder_whose_features_are_never_finite():
    class Nothing(Tiny):
        def forward(self, images):
            return super().forward(images) * float("nan")

    with pytest.raises(UserError, match="encoder 'nothing' returns features that are not finite in fp32"):
        Encoder(Nothing(), name="nothing", input_size=32)


def test_no_images(folder, extract):
    with pytest.raises(UserError, match=r"have no images to encode"):
        extract(load_images(f"folder:{folder}").select([]))


def test_features_beyond_half_precision_are_an_error(tmp_path, folder, extract):
    class Large(Tiny):
        def forward(self, images):
            return 1e6 * (1 + super().forward(images))

    large = Encoder(Large(), name="large", input_size=32)
    with pytest.raises(UserError, match=r"dtype 'float16' cannot hold features as large as .*; use 'float32'"):
        extract(load_images(f"folder:{folder}"), large, dtype="float16")
    with pytest.raises(UserError, match="dtype 'int8'"):
        extract(load_images(f"folder:{folder}"), large, dtype="int8")
    assert shards(tmp_path) == []


METHODS = {
    "sfm": {"method": "sfm"},
    "lgm": {"method": "lgm", "lgm": LGMConfig(real_batch=0, balanced=True)},
    "lgm batch": {"method": "lgm", "lgm": LGMConfig(real_batch=5, normalize="center_l2")},
    "clp": {"method": "clp", "clp": CLPConfig(real_per_class=2)},
    "clp all": {"method": "clp", "clp": CLPConfig(real_per_class=0, normalize="none")},
}


@pytest.mark.parametrize("method", METHODS)
def test_a_run_streams_features_that_do_not_fit_in_memory(folder, extract, monkeypatch, method):
    images = load_images(f"folder:{folder}")
    held, in_files = (extract(images, views=2, shard_size=4, max_memory=m) for m in (None, 0))
    config = DistillConfig(**METHODS[method]).resolve()
    z, t = torch.randn(6, held.dim, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 3
    expected = make_objective(config, held)(z, t, 1)
    monkeypatch.setattr(FeatureBank, "_whole", property(lambda self: pytest.fail("all features were read")))
    torch.testing.assert_close(make_objective(config, in_files)(z, t, 1), expected, rtol=1e-5, atol=1e-6)


def test_medoids_of_a_bank_in_files(both, monkeypatch):
    held, in_files = both()
    expected = medoids(held, 2)
    monkeypatch.setattr(FeatureBank, "_whole", property(lambda self: pytest.fail("all features were read")))
    assert torch.equal(medoids(in_files, 2), expected)
