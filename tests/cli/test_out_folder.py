"""The folder of a run: one that is not empty, is in use, or cannot be written."""

from __future__ import annotations

import errno
import json
import shutil
import signal
from pathlib import Path

import pytest

from conftest import TINY, Outcome, wait_for
from helpers_images import make_image_folder
from probedistill import DistilledSet, UserError, load_images


def test_default_folder_is_named_after_what_was_distilled(distil_cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert distil_cli("--method", "lgm").code == 0
    (folder,) = Path("runs").iterdir()
    assert folder.name.startswith("folder_")
    assert folder.name.endswith("-module_helpers_encoders_tiny-lgm-seed-0")


def test_output_path_is_a_file_or_under_one(distil_cli, tmp_path):
    file = tmp_path / "file"
    file.write_text("mine")
    for path in (file, file / "below"):
        assert repr(str(path))[:-1] in distil_cli("--out", path).error()
    assert file.read_text() == "mine"


def test_full_disk_at_the_start_leaves_nothing(distil_cli, monkeypatch, finished):
    out = finished  # features are in the cache now
    shutil.rmtree(out)

    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tempfile.mkstemp", full)
    error = distil_cli("--out", out).error()
    assert "No space left on device" in error
    assert "free some space" in error
    assert not out.exists()


@pytest.mark.slow
def test_files_that_cannot_be_written_in_full(fork, photos, tmp_path):
    """A real failed write: no file may grow beyond 24 KiB, less than the tensors need and more than the rest."""
    out = tmp_path / "out"
    command = ["distill", "--images", f"folder:{photos}", "--encoder", TINY, "--out", out, "--steps", 3]
    limited = fork(*command, file_size=24 * 1024)
    assert "cannot write" in Outcome(limited.end(), "", limited.log.read_text()).error()
    assert not list(out.rglob("*.part")), "a half-written file is left"
    assert not list(out.rglob("*.safetensors"))
    with pytest.raises(UserError):
        DistilledSet.load(out)
    assert fork(*command, "--resume").end() == 0
    assert len(DistilledSet.load(out)) == 2


def test_folder_that_holds_a_finished_run(distil_cli, finished):
    out = finished
    before = (out / "run.json").read_bytes()
    error = distil_cli("--out", out, "--seed", 1).error()
    assert "holds a finished run" in error
    assert "--overwrite" in error
    assert (out / "run.json").read_bytes() == before
    assert distil_cli("--out", out, "--seed", 1, "--overwrite").code == 0
    assert json.loads((out / "run.json").read_text())["config"]["seed"] == 1


@pytest.mark.slow
def test_folder_that_holds_an_unfinished_run(distil_cli, out):
    assert distil_cli("--out", out, encoder="module:helpers_encoders:turns_nan", steps=9).code == 1
    kept = sorted(out.rglob("*"))
    error = distil_cli("--out", out).error()
    assert "holds an unfinished run" in error
    assert "--resume" in error
    assert sorted(out.rglob("*")) == kept
    assert "cannot be combined" in distil_cli("--out", out, "--resume", "--overwrite").error()
    error = distil_cli("--out", out, "--resume", steps=9).error()
    assert "other encoder" in error
    assert distil_cli("--out", out, "--overwrite").code == 0
    assert not (out / "checkpoints").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--seed", 4], "seed 0, now 4"),
        (["--method", "lgm"], "method 'clp', now 'lgm'"),
        (["--lr", 0.5], "lr 0.02, now"),
    ],
)
def test_resume_with_other_settings(distil_cli, arguments, says, finished):
    out = finished
    before = (out / "run.json").read_bytes()
    assert says in distil_cli("--out", out, "--resume", *arguments).error()
    assert (out / "run.json").read_bytes() == before


def test_resume_with_other_images(distil_cli, tmp_path, out):
    photos = make_image_folder(tmp_path / "photos", per_class=3)
    assert distil_cli("--out", out, images=f"folder:{photos}").code == 0
    (photos / "train/cat/0001.png").unlink()
    assert "run of other images" in distil_cli("--out", out, "--resume", images=f"folder:{photos}").error()


@pytest.mark.parametrize("arguments", [[], ["--resume"], ["--overwrite"]])
@pytest.mark.parametrize("name", ["thesis.txt", "checkpoints/epoch3.pth", "run.json", "images/cat/1.png"])
def test_folder_of_something_else_is_left_alone(distil_cli, out, arguments, name):
    (out / name).parent.mkdir(parents=True)
    (out / name).write_text("{}")
    error = distil_cli("--out", out, *arguments).error()
    assert "is not a run" in error
    assert [p for p in out.rglob("*") if p.is_file()] == [out / name]


@pytest.mark.slow
def test_what_systems_add_does_not_fill_a_folder(distil_cli, run_cli, photos, tmp_path):
    """Finder writes .DS_Store into a folder that it has shown."""
    places = {name: tmp_path / name for name in ("run", "export", "saved", "composed")}
    for place in places.values():
        (place / "@eaDir").mkdir(parents=True)
        for name in (".DS_Store", "._x", "desktop.ini"):
            (place / name).write_text("x")
    assert distil_cli("--out", places["run"]).code == 0
    assert run_cli("export", places["run"], "--out", places["export"]).code == 0
    images = ("--images", f"folder:{photos}", "--encoder", TINY)
    assert run_cli("baseline", "--save", "random", *images, "--out", places["saved"]).code == 0
    assert run_cli("compose", "--foregrounds", f"folder:{photos}", "--out", places["composed"]).code == 0
    assert len(DistilledSet.load(places["run"])) == len(DistilledSet.load(places["saved"])) == 2
    assert len(DistilledSet.load(places["export"])) == 2
    assert (places["composed"] / "groups.csv").exists()


@pytest.mark.slow
def test_a_folder_in_use_by_another_process(fork, run_cli, photos, tmp_path):
    out = tmp_path / "run"
    arguments = ["distill", "--images", f"folder:{photos}", "--encoder", "module:helpers_encoders:slow", "--out", out]
    process = fork(*arguments, "--steps", 2000, "--checkpoint-seconds", 0)
    wait_for(lambda: list((out / "checkpoints").glob("step-*")))
    for option in ("--resume", "--overwrite"):
        assert "is in use by another process; wait for it" in run_cli(*arguments, "--steps", 2000, option).error()
    process.kill(signal.SIGTERM)
    process.end()
    assert list((out / "checkpoints").glob("step-*")), "what was under way is still there"
    assert run_cli(*arguments, "--steps", 1, "--overwrite").code == 0, "it is free again"


@pytest.mark.slow
def test_a_run_among_its_images_would_be_a_class(run_cli, photos, tmp_path):
    for place, fits in (("train/run", False), ("train/cat/run", False), ("test/run", False), ("runs/run", True)):
        arguments = [
            "distill",
            "--images",
            f"folder:{photos}",
            "--encoder",
            TINY,
            "--steps",
            1,
            "--out",
            photos / place,
        ]
        if fits:
            assert run_cli(*arguments).code == 0
            shutil.rmtree(photos / "runs")
        else:
            assert "would count as a class; choose another folder" in run_cli(*arguments).error()
            assert not (photos / place).exists()
    arguments[2], arguments[-1] = f"folder:{photos / 'train'}", photos / "train" / "a" / "b"
    assert "would count as a class" in run_cli(*arguments).error()
    assert sorted(path.name for path in (photos / "train").iterdir()) == ["cat", "dog"]


@pytest.mark.parametrize("place", [".", "cache", "cat/cache"])
def test_a_cache_among_the_images_would_be_a_class(run_cli, photos, monkeypatch, place):
    root = photos / "train"
    arguments = ("features", "--images", f"folder:{root}", "--encoder", TINY, "--cache", root / place)
    assert "is inside the images" in (error := run_cli(*arguments).error())
    assert error.startswith("probedistill: error: cache ")
    monkeypatch.setenv("PROBEDISTILL_CACHE", str(root / place))
    assert run_cli(*arguments[:-2]).error() == error
    assert sorted(path.name for path in root.iterdir()) == ["cat", "dog"]
    assert not (root / "cat" / "cache").exists()
    assert run_cli(*arguments[:-1], photos / "cache").code == 0  # next to the splits


@pytest.mark.parametrize("way", ["option", "variable"])
def test_a_cache_among_the_images_of_a_run_would_be_a_class(run_cli, photos, finished, monkeypatch, way):
    place, before = finished / "images" / "cache", sorted((finished / "images").rglob("*"))
    option = ("--cache", place) if way == "option" else ()
    if way == "variable":
        monkeypatch.setenv("PROBEDISTILL_CACHE", str(place))
    error = run_cli("evaluate", finished, "--images", f"folder:{photos}", "--encoder", TINY, *option).error()
    assert f"cache {str(place)!r} is inside the run 'out'" in error
    assert sorted((finished / "images").rglob("*")) == before


def test_a_hidden_cache_among_the_images_is_no_class(run_cli, tmp_path):
    root = make_image_folder(tmp_path / "photos", splits=())
    for place in (root / ".cache", root / "cat" / ".cache"):
        assert run_cli("features", "--images", f"folder:{root}", "--encoder", TINY, "--cache", place).code == 0
    images = load_images(f"folder:{root}")
    assert (images.class_names, [name for name in images.names if "cache" in name]) == (("cat", "dog"), [])


@pytest.mark.parametrize("command", ["migrate", "audit", "geometry", "align", "transfer", "bias", "compose"])
def test_results_are_not_written_where_they_would_count_as_images(command, finished, tmp_path, run_cli):
    """Their figures would be photos of a further class the next time."""
    photos = make_image_folder(tmp_path / "all", per_class=6, size=40, splits=())
    images, out = ["--images", f"folder:{photos}"], photos / "results"
    if command == "bias":
        groups = [f"{path.relative_to(photos)},sea" for path in sorted(photos.glob("*/*"))]
        (tmp_path / "groups.csv").write_text("\n".join(["file,background", *groups]))
    words = {
        "migrate": [finished, *images, "--encoder", TINY],
        "audit": [finished, *images, "--encoder", TINY],
        "geometry": [finished, *images, "--encoder", TINY],
        "align": [*images, "--encoders", TINY],
        "transfer": [finished, *images, "--encoders", TINY],
        "bias": [finished, *images, "--groups", tmp_path / "groups.csv", "--attribute", "background"],
        "compose": ["--foregrounds", images[1], "--backgrounds", images[1]],
    }[command]
    said = run_cli(command, *words, "--out", out, *(["--trust"] if command == "bias" else [])).error()
    assert f"{str(out)!r} is inside the images 'folder:{photos}' and would count as a class" in said
    assert not out.exists()


@pytest.mark.parametrize("name", ["config.yaml", "head.safetensors"])
def test_a_head_does_not_replace_another_programs_files(name, finished, photos, tmp_path, run_cli):
    out = tmp_path / "tool"
    out.mkdir()
    (out / name).write_text("theirs: 1\n")
    command = ["migrate", finished, "--images", f"folder:{photos}", "--encoder", TINY, "--out", out]
    assert f"{name}' is a file of another kind, which would be replaced" in run_cli(*command).error()
    assert [(path.name, path.read_text()) for path in out.iterdir()] == [(name, "theirs: 1\n")]
    (out / name).unlink()
    assert [run_cli(*command).code for _ in range(2)] == [0, 0]


def test_a_new_folder_does_not_take_the_place_of_the_current_one(finished, tmp_path, run_cli, monkeypatch):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    for out in (".", tmp_path / "empty"):
        said = run_cli("rename", finished, "cat=kitten", "--out", out).error()
        assert said.endswith("is the folder that you are in; name a new one")
    assert not list((tmp_path / "empty").iterdir())


@pytest.mark.parametrize("is_there", [True, False])
def test_a_link_to_a_folder_elsewhere_is_followed_by_commands_that_make_a_new_one(
    finished, tmp_path, run_cli, is_there
):
    link, disk = tmp_path / "link", tmp_path / "disk"
    link.symlink_to("disk")
    if is_there:
        disk.mkdir()
    assert run_cli("rename", finished, "cat=kitten", "--out", link).code == 0
    assert link.is_symlink()
    assert DistilledSet.load(disk).class_names == ("kitten", "dog")
