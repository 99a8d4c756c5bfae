"""The papers' data: each layout, in a tiny copy, is read unchanged; the parser accepts the commands."""

from __future__ import annotations

import csv
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from helpers_images import class_image, make_image_folder
from probedistill import ImagesConfig, UserError, load_evaluation, load_images, load_splits, load_transfer
from probedistill.config import EvaluateConfig
from probedistill.encoders.known import RECIPES
from probedistill.images.known import DATASETS, ENCODERS, IMAGENET_100


def write(path, label=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    class_image(label, 4, size=4).save(path)


def cub(root):
    root = root / "CUB_200_2011"
    names = ["001.Black_footed_Albatross", "002.Laysan_Albatross"]
    images = [f"{name}/{name[4:]}_{i:04d}.jpg" for name in names for i in range(5)]
    for number, name in enumerate(images):
        write(root / "images" / name, number // 5)
    lists = {
        "classes.txt": [f"{i + 1} {name}" for i, name in enumerate(names)],
        "images.txt": [f"{i + 1} {name}" for i, name in enumerate(images)],
        "image_class_labels.txt": [f"{i + 1} {i // 5 + 1}" for i in range(10)],
        "train_test_split.txt": [f"{i + 1} {int(i % 5 < 3)}" for i in range(10)],
    }
    for name, lines in lists.items():
        (root / name).write_text("\n".join(lines) + "\n")
    return root


def dogs(root):
    from scipy.io import savemat

    names = ["n02085620-Chihuahua", "n02113799-standard_poodle"]
    for split, numbers in (("train", range(3)), ("test", range(3, 5))):
        files = [f"{name}/{name[:9]}_{i}.jpg" for name in names for i in numbers]
        for name in files:
            write(root / "Images" / name)
        column = np.empty((len(files), 1), dtype=object)
        column[:, 0] = files
        (root / "lists").mkdir(exist_ok=True)
        savemat(root / "lists" / f"{split}_list.mat", {"file_list": column, "labels": np.ones((len(files), 1))})
    return root


def waterbirds(root):
    rows = [("img_id", "img_filename", "y", "split", "place", "place_filename")]
    for i in range(12):
        name = f"{i % 2:03d}.bird/{i}.jpg"
        write(root / name)
        rows.append((i, name, i % 2, (0, 0, 0, 1, 2, 2)[i // 2], i % 2, "x"))
    with (root / "metadata.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return root


def spawrious(root, count=20):
    for environment in (0, 1):
        for place in ("desert", "jungle", "dirt", "snow", "beach", "mountain"):
            for breed in ("bulldog", "dachshund", "labrador", "corgi"):
                for i in range(count):
                    path = root / "spawrious224" / str(environment) / place / breed / f"{i:03d}.png"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(b"%d" % i)
    return root / "spawrious224"


def test_birds_have_their_official_split(tmp_path):
    for place in (cub(tmp_path), tmp_path):  # the folder itself, or the folder around it
        train, test = load_splits(f"cub:{place}")
        assert train.class_names == test.class_names == ("001.Black_footed_Albatross", "002.Laysan_Albatross")
        assert train.counts().tolist() == [3, 3]
        assert test.counts().tolist() == [2, 2]
        assert train.load(0).size == (4, 4)
    assert "images/001.Black_footed_Albatross/Black_footed_Albatross_0000.jpg" in train.names


def test_dogs_have_their_official_split(tmp_path):
    train, test = load_splits(f"dogs:{dogs(tmp_path)}")
    assert train.class_names == ("Chihuahua", "standard_poodle")
    assert (train.counts().tolist(), test.counts().tolist()) == ([3, 3], [2, 2])
    assert train.load(0).size == (4, 4)


def test_waterbirds_have_three_splits(tmp_path):
    train, test = load_splits(f"waterbirds:{waterbirds(tmp_path)}")
    assert train.class_names == ("landbird", "waterbird")
    assert (len(train), len(test), len(load_images(f"waterbirds:{tmp_path}", split="val"))) == (6, 4, 2)


def test_lists_saved_by_editors_and_folders_added_by_systems(tmp_path):
    """Windows editors write a mark first; a NAS adds a folder for each file."""
    root = cub(tmp_path)
    before = load_splits(f"cub:{root}")[0].fingerprint
    for path in root.glob("*.txt"):
        path.write_text("\ufeff" + path.read_text(), encoding="utf-8", newline="\r\n")
    (tmp_path / "@eaDir" / "train_test_split.txt").mkdir(parents=True)
    assert load_splits(f"cub:{tmp_path}")[0].fingerprint == before
    table = waterbirds(tmp_path) / "metadata.csv"
    table.write_text("\ufeff" + table.read_text(), encoding="utf-8")
    assert len(load_splits(f"waterbirds:{tmp_path}")[0]) == 6


@pytest.mark.parametrize("challenge", ["o2o_easy", "o2o_medium", "o2o_hard"])
def test_spawrious_ties_breeds_to_places(tmp_path, challenge):
    spec = f"spawrious:{spawrious(tmp_path)}"
    train, test = load_splits(ImagesConfig(images=spec, source_args={"challenge": challenge}))
    assert train.class_names == ("bulldog", "corgi", "dachshund", "labrador")
    assert train.counts().tolist() == test.counts().tolist() == [40] * 4
    places = [{name.split("/")[1] for name in part.names} for part in (train, test)]
    assert len(places[0]) == 5  # four usual places, and one that all breeds share
    shared = {"o2o_medium": "desert"}.get(challenge, "beach")
    assert sum(f"/{shared}/" in name for name in train.names) >= 4 * (1 + 3)
    assert not set(train.names) & set(test.names)


def test_other_sets_are_folders_or_known_to_torchvision(tmp_path):
    make_image_folder(tmp_path / "artbench-10-imagefolder-split", ("baroque", "ukiyo_e"), size=4)
    train, test = load_splits(f"folder:{tmp_path / 'artbench-10-imagefolder-split'}")
    assert train.class_names == test.class_names == ("baroque", "ukiyo_e")
    base = tmp_path / "food-101"
    (base / "meta").mkdir(parents=True)
    for split, numbers in (("train", range(3)), ("test", range(3, 5))):
        import json

        listed = {name: [f"{name}/{i}" for i in numbers] for name in ("apple_pie", "waffles")}
        (base / "meta" / f"{split}.json").write_text(json.dumps(listed))
        for names in listed.values():
            for name in names:
                write(base / "images" / f"{name}.jpg")
    train, test = load_splits(ImagesConfig(images="torchvision:Food101", data_dir=tmp_path))
    assert (len(train), len(test)) == (6, 4)
    assert train.load(0).size == (4, 4)


@pytest.mark.parametrize("place", ["/etc/passwd", "../secret.jpg", "a/../../x.jpg"])
def test_lists_that_name_files_elsewhere(tmp_path, place):
    root = waterbirds(tmp_path / "set")
    with (root / "metadata.csv").open("a") as file:
        file.write(f"99,{place},0,0,0,x\n")
    with pytest.raises(UserError, match=r"the lists name .* which is outside"):
        load_images(f"waterbirds:{root}")


@pytest.mark.parametrize(
    ("source", "make", "name", "content"),
    [("cub", cub, "images.txt", "1\n"), ("cub", cub, "classes.txt", ""), ("dogs", dogs, "lists/train_list.mat", "x"),
     ("waterbirds", waterbirds, "metadata.csv", "a,b\n1,2\n"), ("cub", cub, "images.txt", "\xff")],
)  # fmt: skip
def test_damaged_lists_are_one_line(tmp_path, source, make, name, content):
    root = make(tmp_path)
    (root / name).write_bytes(content.encode("latin-1"))
    with pytest.raises(UserError, match="cannot be read") as error:
        load_images(f"{source}:{root}")
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("source", ["cub", "dogs", "waterbirds", "spawrious"])
def test_another_folder_is_one_line(tmp_path, source):
    with pytest.raises(UserError, match="give the folder of the unpacked set"):
        load_images(f"{source}:{tmp_path}")


def test_the_list_of_classes():
    assert len(set(IMAGENET_100)) == 100
    assert list(IMAGENET_100) == sorted(IMAGENET_100)


def test_figures_of_the_paper():
    found = {name: [figure.theirs for figure in known.figures] for name, known in DATASETS.items() if known.figures}
    assert found == {"imagenet-1k": [0.630, 0.750, 0.703, 0.632], "imagenet-100": [0.849, 0.915, 0.890, 0.834]}
    assert all(figure.ours is None for known in DATASETS.values() for figure in known.figures)
    assert set(ENCODERS) <= set(RECIPES)


def test_the_command(run_cli):
    listed = run_cli("datasets")
    assert listed.code == 0, listed.err
    for name in DATASETS:
        assert name in listed.out
        one = run_cli("datasets", name)
        assert one.code == 0, one.err
        assert DATASETS[name].home in one.out.replace("\n", "")
    names = run_cli("datasets", "imagenet-100", "--class-list")
    assert names.out.split() == list(IMAGENET_100)
    assert "91.5" in run_cli("datasets", "imagenet-100").out
    assert "did you mean 'flowers'" in run_cli("datasets", "flower").error()
    assert "all its classes" in run_cli("datasets", "cub", "--class-list").error()


@pytest.mark.slow
@pytest.mark.parametrize("name", DATASETS)
def test_the_parser_accepts_the_commands(name, tmp_path, monkeypatch):
    from probedistill.cli.app import app

    monkeypatch.chdir(tmp_path)
    for encoder in ENCODERS:
        for line in DATASETS[name].commands(name, encoder):
            words = shlex.split(line)[1:]
            if "--config" in words:
                place = words.index("--config")
                words = [*words[:place], *words[place + 2 :], "--images", "folder:x", "--encoder", encoder]
            command, bound, _ = app.parse_args(words, exit_on_error=False, print_error=False)
            assert command.__name__ == words[0]
            assert bound.arguments
    EvaluateConfig(probes=["sgd"], seeds=5).check()


@pytest.mark.slow
def test_commands_of_a_table_run_one_after_the_other(run_cli, photos, tmp_path, monkeypatch):
    """The lines that end in the table across encoders, with small encoders and one step."""
    monkeypatch.chdir(tmp_path)
    encoders = ("efficientnet_lite0@32", "efficientnet_lite0@40")
    monkeypatch.setattr("probedistill.images.known.ENCODERS", dict.fromkeys(encoders, ("", "")))
    small = ("--steps", "1", "--views", "1", "--canvas.size", "40")
    known = replace(DATASETS["flowers"], images=f"folder:{photos}", options=(), steps=small)
    lines = [*(known.commands("x", one)[0] for one in encoders), known.matrix_command("x")]
    lines += known.neighbours_commands("x")
    for line in lines:
        words = shlex.split(line)[1:]
        done = run_cli(*("2" if word == "1000" else word for word in words), "--no-progress")
        assert done.code == 0, done.err
    matrix = load_transfer("runs/x-transfer")
    assert [target.input_size for target in matrix.targets] == [32, 40]
    assert matrix.same.tolist() == [[True, False], [False, True]]  # each set on the encoder of its run
    assert matrix.probes == ("sgd", "1nn")
    (scores,) = (load_evaluation(path) for path in Path("runs/x-efficientnet_lite0@32").glob("evaluation-*"))
    assert (scores.context.encoder.input_size, scores.context.chosen_by.input_size) == (40, 32)
    assert scores["neighbours"].probe == "sgd"
