"""Class names of any kind: the set, torchvision's ImageFolder and Hugging Face's imagefolder agree on them."""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
from pathlib import Path
from urllib.parse import unquote

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from torchvision.datasets import ImageFolder

from probedistill import DistilledSet, UserError
from probedistill.images.labelled import check_class_names
from probedistill.store.layout import class_folders, safe_name, unique_names
from probedistill.store.pixels import to_8_bits

WORDS = ["train", "no", "yes", "null", "1.0", "2020-01-01", '"', "'", ": ", " #", "- a", "!x",
         "test", "dev", "validation", "val", "eval", "training", "metadata.jsonl", "CON", "nul.txt", ".", "..",
         "0", "10", "2", "cat", "Cat", "caf\u00e9", "cafe\u0301", "a/b", "a\\b", "~", "__pycache__", "data", "x.eval",
         "-", "_", " ", "%", "%41", "#", "?", "*", "[a]", "{a}", "a::b", "x.zip", "README.md", "\u200fx"]  # fmt: skip
name_parts = st.one_of(
    st.sampled_from(WORDS), st.text(st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp")), min_size=1, max_size=8)
)
class_names = st.lists(
    (st.lists(name_parts, min_size=1, max_size=3).map("".join) | name_parts).filter(lambda name: is_allowed(name)),
    min_size=2, max_size=6, unique=True,
)  # fmt: skip


def is_allowed(name: str) -> bool:
    try:
        check_class_names([name], "the set")
    except UserError:
        return False
    return True


def make_set(names) -> DistilledSet:
    images = torch.rand(len(names), 3, 4, 4, generator=torch.Generator().manual_seed(0))
    return DistilledSet(images, torch.arange(len(names)), tuple(names))


def routes(folder: Path) -> dict[str, dict[str, str]]:
    """Every way in which users would load the images of a run with `datasets`."""
    return {
        "the run": {"path": str(folder)},
        "its images": {"path": str(folder / "images")},
        "its images as an image folder": {"path": "imagefolder", "data_dir": str(folder / "images")},
    }


def as_datasets_reads(path: str, **options: str) -> tuple[list[str], list[tuple[int, str, bytes]]]:
    """Names of the classes, and the class index, class name and pixels of each image."""
    datasets = pytest.importorskip("datasets")
    cache = tempfile.mkdtemp()
    try:
        found = datasets.load_dataset(path, **options, cache_dir=cache)
        assert list(found) == ["train"]
        rows = [(row["label"], row["class_name"], row["image"].tobytes()) for row in found["train"]]
        return found["train"].features["label"].names, rows
    finally:
        shutil.rmtree(cache)


@pytest.mark.slow
@settings(max_examples=300)
@given(class_names)
@example(["train"])
@example(["b", "a", "c"])
def test_folders_are_safe_in_order_and_reversible(names):
    folders = class_folders(names)
    assert folders == sorted(folders)
    assert len({f.casefold() for f in folders}) == len(names)
    for name, folder in zip(names, folders, strict=True):
        assert not set(folder) & set('/\\:*?"<>|')
        assert folder[0] not in ". "
        assert folder[-1] not in ". "
        assert re.fullmatch(rf"(\d+-)?{re.escape(name)}(~\d+)?", unquote(folder), re.DOTALL)


@pytest.mark.slow
@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
@given(class_names)
@example(["red", "green", "blue"])
@example(["bus", "car", "plane", "train"])
@example(["train", "test", "dev", "validation"])
@example(["9 train", "train-9", "my_train_x"])
@example(["metadata.jsonl", "metadata.csv", "metadata.parquet"])
@example(["no", "yes", "null", "1.0", "2020-01-01", " x", 'it\'s: "so"', "- a"])
@example(["bullet train", "test tube", "dev", "caf\u00e9"])
@example([str(i) for i in range(12)])
def test_all_readers_agree(names):
    with tempfile.TemporaryDirectory() as place:
        folder = make_set(names).save(Path(place) / "run")
        distilled = DistilledSet.load(folder)
        assert distilled.class_names == tuple(names)
        pixels = [image.permute(1, 2, 0).numpy().tobytes() for image in to_8_bits(distilled.images)]
        torchvision = ImageFolder(str(folder / "images"))
        assert torchvision.classes == class_folders(names)
        assert [(label, image.tobytes()) for image, label in torchvision] == list(enumerate(pixels))
        for way, options in routes(folder).items():
            expected = list(zip(range(len(names)), names, pixels, strict=True))
            assert as_datasets_reads(**options) == (names, expected), way


@pytest.mark.parametrize(
    "name", ["line\nbreak", "a\rb", "a\u2028b", "tab\there", "\x1b[2Jclear", "half\udc80", "", "  ", "\u202ex"]
)
def test_names_that_no_file_can_hold_are_refused_before_anything_is_written(name, tmp_path):
    with pytest.raises(UserError, match=r"class .* of the set .*; rename it") as caught:
        make_set(["cat", name]).save(tmp_path / "run")
    assert str(caught.value).isprintable()
    assert not list(tmp_path.iterdir())


def test_one_rule_for_every_name():
    assert safe_name("module:mine:net") == "module%3Amine%3Anet"
    assert safe_name("COM1.txt") == "COM%31.txt"
    assert unique_names(["a", "A", "a"]) == ["a", "A~2", "a~3"]
    long = [safe_name("x" * count) for count in (300, 301)]
    assert len(set(long)) == 2
    assert max(len(name.encode()) for name in long) <= 200


def test_in_a_locale_without_utf_8_no_name_becomes_another_file(tmp_path, monkeypatch):
    make_set(["café", "dog"]).save(tmp_path / "whole")
    monkeypatch.setattr(sys, "getfilesystemencoding", lambda: "iso8859-1")
    for touch in (
        lambda: make_set(["café", "dog"]).save(tmp_path / "set"),
        lambda: DistilledSet.load(tmp_path / "whole"),
    ):
        with pytest.raises(UserError, match="names of files are read as iso8859-1 here; set PYTHONUTF8=1"):
            touch()
    assert not (tmp_path / "set").exists()
    make_set(["cat", "dog"]).save(tmp_path / "set")
