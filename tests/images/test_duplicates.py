"""The same picture in two classes, or in training and test images, is reported in one line."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path

import pytest

from helpers_images import encoded, make_image_folder, samples, write_tar
from probedistill import load_images, load_splits


def _said(images: Path | str, load=load_splits, **options: object) -> list[str]:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        load(f"folder:{images}" if isinstance(images, Path) else images, **options)
    return [str(warning.message) for warning in said]


def test_a_folder_without_duplicates_says_nothing(tmp_path):
    assert _said(make_image_folder(tmp_path / "photos")) == []


def test_a_picture_in_two_classes_is_named_once_with_both_places(tmp_path):
    photos = make_image_folder(tmp_path / "photos", ("cat", "cow", "dog"))
    for other in ("cow", "dog"):
        shutil.copy(photos / "train/cat/0001.png", photos / f"train/{other}/same.png")
    for load in (load_splits, load_images):
        (line,) = _said(photos, load)
        assert "1 image is in more than one class" in line
        assert "'train/cat/0001.png' and 'train/cow/same.png'" in line


def test_test_images_that_are_trained_on_are_counted(tmp_path):
    photos = make_image_folder(tmp_path / "photos")
    for name in ("0000.png", "0001.png"):
        shutil.copy(photos / "train/cat" / name, photos / "test/cat" / f"copy-{name}")
    (line,) = _said(photos)
    assert "2 test images are also among the training images" in line
    assert "'test/cat/copy-0000.png' and 'train/cat/0000.png'" in line


def test_a_held_out_share_is_checked_too(tmp_path):
    photos = make_image_folder(tmp_path / "photos", splits=())
    for path in list(photos.glob("cat/*.png")):
        for number in range(5):
            shutil.copy(path, path.with_name(f"copy-{number}-{path.name}"))
    (line,) = _said(photos)
    assert "also among the training images" in line


def test_duplicates_within_a_class_are_not_reported(tmp_path):
    photos = make_image_folder(tmp_path / "photos")
    shutil.copy(photos / "train/cat/0000.png", photos / "train/cat/again.png")
    assert _said(photos) == []


@pytest.mark.parametrize("kind", ["empty", "dead link"])
def test_files_without_a_picture_are_not_duplicates(tmp_path, kind):
    photos = make_image_folder(tmp_path / "photos")
    for name in ("train/cat", "train/dog", "test/dog"):
        path = photos / name / "no.png"
        path.touch() if kind == "empty" else path.symlink_to("nowhere.png")
    assert _said(photos) == []


def test_pictures_of_a_users_own_source_are_compared_by_pixels(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "from PIL import Image\n"
        "from probedistill.images.sources import Items, Source\n"
        "def source(place, config):\n"
        "    images = [Image.new('RGB', (8, 8), (10 * i, 0, 0)) for i in (0, 1, 2, 0, 4, 5)]\n"
        "    return Source(config.images, {'all': lambda: Items(images, [0, 0, 0, 1, 1, 1], ['a', 'b'])})\n"
    )
    monkeypatch.chdir(tmp_path)
    with pytest.warns(UserWarning, match="1 image is in more than one class"):
        load_images("module:mine:source")


def test_only_chosen_classes_are_checked(tmp_path):
    photos = make_image_folder(tmp_path / "photos", ("cat", "cow", "dog"))
    shutil.copy(photos / "train/cat/0001.png", photos / "train/dog/same.png")
    assert _said(photos, load_images, classes=["cat", "cow"]) == []
    assert len(_said(photos, load_images, classes=["dog", "cat"])) == 1


def test_pictures_in_shards_are_compared(tmp_path):
    for split in ("train", "test"):
        members = [*samples(0, 6), ("twice.png", encoded(0, 0)), ("twice.cls", b"1"), ("none.cls", b"2")]
        write_tar(tmp_path / f"{split}-000.tar", [*members, ("bad.png", b""), ("bad.cls", b"0")])
    two, seen = _said(f"wds:{tmp_path}")
    assert "1 image is in more than one class, such as 'train-000.tar/0000.png' and 'train-000.tar/twice.png'" in two
    assert "7 test images are also among the training images" in seen
    assert _said(f"wds:{tmp_path}") == [two, seen]


def test_pictures_in_the_rows_of_a_table_are_compared(tmp_path):
    datasets = pytest.importorskip("datasets")
    rows = {"image": [{"bytes": encoded(0, i % 5), "path": None} for i in range(6)], "label": [0, 0, 0, 1, 1, 1]}
    kinds = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    for split in ("train", "test"):
        datasets.Dataset.from_dict(rows, features=kinds).to_parquet(tmp_path / f"{split}.parquet")
    two, seen = _said(f"hf:{tmp_path}")
    assert "1 image is in more than one class, such as 'train/000000' and 'train/000005'" in two
    assert "6 test images are also among the training images" in seen
