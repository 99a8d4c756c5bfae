"""Faults: a run survives kills, full disks, torn files and missing permissions, and never shows a wrong file."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.parquet as parquet
import pytest
import torch
import yaml
from PIL import Image

from conftest import TINY, wait_for
from helpers_images import make_image_folder
from probedistill import CanvasConfig, DistilledSet, UserError, distill, evaluate, load_images
from probedistill.store.layout import unique_names
from probedistill.store.sums import read_sums
from probedistill.store.tensors import load_tensors, save_tensors

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SLOW = "module:helpers_encoders:slow"
KIB = 1024


# ---------------------------------------------------------------- what must hold at any moment


def check_files(folder: Path) -> None:
    """Check that every file with a final name is whole."""
    for path in folder.rglob("*"):
        if not path.is_file() or path.name.endswith(".part") or ".images.part" in path.parts:
            continue
        if path.name == ".lock":  # no process holds it any more
            continue
        if path.name == "SHA256SUMS":
            read_sums(path.parent)
            continue
        if path.suffix == ".safetensors":
            load_tensors(path)
        elif path.suffix in (".png", ".webp"):
            with Image.open(path) as image:
                image.load()
        elif path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".parquet":
            assert parquet.read_table(path).num_rows
        elif path.suffix == ".yaml":
            assert yaml.safe_load(path.read_text())
        elif path.name in ("README.md", "held-out.txt"):
            assert path.read_text().endswith("\n")
        else:
            raise AssertionError(f"what is {path}?")


def check_set(folder: Path, expected: torch.Tensor) -> bool:
    """Whether the set is finished; check that it is whole if it says so."""
    try:
        distilled = DistilledSet.load(folder)
    except UserError as error:
        reason = str(error)
    else:
        reason = ""
    if reason:
        assert any(says in reason for says in ("unfinished run", "no such folder", "no run.json")), reason
        return False
    assert torch.equal(distilled.float_images, expected)
    assert len(list((folder / "images").rglob("*.png"))) == len(expected)
    return True


def newest(folder: Path) -> int:
    """Steps in the newest checkpoint, which must be whole; 0 without a checkpoint."""
    paths = sorted((folder / "checkpoints").glob("step-*.safetensors"))
    if not paths:
        return 0
    _, values = load_tensors(paths[-1])
    assert values["engine"]["step"] == int(paths[-1].stem.split("-")[1]) == len(values["history"]["losses"])
    return values["engine"]["step"]


def files(folder: Path) -> list[str]:
    """A run's files, except its sprites, one per preview, and the names of held-out images, if any."""
    names = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
    return [name for name in names if not re.fullmatch(r"evolution/step-.*\.webp|held-out\.txt", name)]


FINISHED = ["README.md", "SHA256SUMS", "config.yaml", "images/cat/000.png", "images/dog/000.png",
            "images/metadata.parquet", "preview.png", "run.json", "tensors.safetensors"]  # fmt: skip


# ---------------------------------------------------------------- SIGKILL


def wait_beyond(step, attempt, out: Path, rng: random.Random) -> None:
    """Wait until a later step has been saved or the attempt has ended, and a little longer."""
    # Only look at names: a checkpoint may be replaced while it is read.
    wait_for(lambda: _last_name(out) > step or not attempt.running)
    time.sleep(rng.uniform(0, 0.15))


def test_killed_twenty_times(fork, tmp_path):
    """SIGKILL while features are computed, between steps and checkpoints, and while the set is saved."""
    rng = random.Random(0)
    photos = make_image_folder(tmp_path / "photos", per_class=800, size=24, splits=())
    out, cache, steps = tmp_path / "run", tmp_path / "cache", 60
    command = ["distill", "--images", f"folder:{photos}", "--encoder", SLOW, "--steps", steps, "--real-views", 4,
               "--evaluate-every", 7, "--checkpoint-seconds", 0]  # fmt: skip
    quiet = fork(*command, "--out", tmp_path / "quiet", "--cache", tmp_path / "quiet-cache")
    assert quiet.end() == 0, quiet.log.read_text()
    expected = DistilledSet.load(tmp_path / "quiet").float_images
    command += ["--out", out, "--cache", cache]

    def shards() -> int:
        return len(list(cache.rglob("shard-*.safetensors")))

    saved, kept = 0, 0
    kills = ["features"] * 5 + ["steps"] * 8 + ["saving"] * 7
    for number, phase in enumerate(kills):
        # The kills during saving are about seven file operations apart.
        more = {"die_after": ["images.part", number * 7 + rng.randrange(7) - 91]} if phase == "saving" else {}
        attempt = fork(*command, *(["--resume"] if number else []), **more)
        if phase == "features":  # after it has begun to read images, and just before or after a shard is written
            goal = min(number // 2, 2)
            wait_for(lambda goal=goal, a=attempt: shards() >= goal or not a.running)
            time.sleep(rng.uniform(0, 0.4))
        elif phase == "steps":
            wait_beyond(saved + rng.randrange(5), attempt, out, rng)
        if phase != "saving":
            attempt.kill()
        assert attempt.end() == -signal.SIGKILL, (phase, attempt.log.read_text())
        check_files(cache)
        if out.exists():
            check_files(out)
            # While the folder of images is incomplete, run.json must say that the set is unfinished.
            left = [path.name.split(".")[1] for path in out.rglob(".*.part")]
            assert len(left) <= 1 or sorted(left) == ["images", "run"], "what kills leave behind piles up"
        finished = check_set(out, expected)
        assert not finished or phase == "saving"
        assert shards() >= kept, "finished shards were lost"
        kept = shards()
        if not finished:  # only then may its checkpoints go
            assert newest(out) >= saved, "a checkpoint was lost"
            saved = newest(out)
            assert phase != "features" or saved < steps // 2
            assert phase != "saving" or saved == steps
    last = fork(*command, "--resume")
    assert last.end() == 0, last.log.read_text()
    assert "Traceback" not in last.log.read_text()
    assert check_set(out, expected)
    assert len(DistilledSet.load(out).run.losses) == steps
    assert files(out) == FINISHED


def test_killed_ten_times_from_statistics(fork, photos, tmp_path):
    """SIGKILL at random moments of a run without photos: every file of the set is the same as without kills."""
    rng = random.Random(1)
    for name, kind in {"a": "cat", "b": "dog"}.items():
        sums = fork("stats", "--images", f"folder:{photos}", "--encoder", SLOW, "--classes", kind, "--no-progress",
                    "--cache", tmp_path / "cache", "--out", tmp_path / f"{name}.stats")  # fmt: skip
        assert sums.end() == 0, sums.log.read_text()
    out, steps = tmp_path / "run", 40
    command = ["distill", "--stats", tmp_path / "a.stats", tmp_path / "b.stats", "--union", "--encoder", SLOW,
               "--steps", steps, "--evaluate-every", 7, "--checkpoint-seconds", 0]  # fmt: skip
    quiet = fork(*command, "--out", tmp_path / "quiet")
    assert quiet.end() == 0, quiet.log.read_text()
    expected, saved = DistilledSet.load(tmp_path / "quiet").float_images, 0
    kills = ["beginning"] * 2 + ["steps"] * 5 + ["saving"] * 3
    for number, phase in enumerate(kills):
        more = {"die_after": ["images.part", rng.randrange(20)]} if phase == "saving" else {}
        attempt = fork(*command, "--out", out, *(["--resume"] if number else []), **more)
        if phase == "beginning":
            time.sleep(rng.uniform(0, 0.3))
        elif phase == "steps":
            wait_beyond(saved + rng.randrange(4), attempt, out, rng)
        if phase != "saving":
            attempt.kill()
        assert attempt.end() == -signal.SIGKILL, (phase, attempt.log.read_text())
        if out.exists():
            check_files(out)
        if not check_set(out, expected):
            assert newest(out) >= saved, "a checkpoint was lost"
            saved = newest(out)
    last = fork(*command, "--out", out, "--resume")
    assert last.end() == 0, last.log.read_text()
    assert check_set(out, expected)
    assert files(out) == files(tmp_path / "quiet")
    for name in files(out):
        if name.startswith("images/") or name == "preview.png":
            assert (out / name).read_bytes() == (tmp_path / "quiet" / name).read_bytes(), name
    found, undisturbed = (load_tensors(folder / "tensors.safetensors")[0] for folder in (out, tmp_path / "quiet"))
    assert found.keys() == undisturbed.keys()
    assert all(torch.equal(found[key], undisturbed[key]) for key in found)
    assert DistilledSet.load(out).run.losses == DistilledSet.load(tmp_path / "quiet").run.losses


def _last_name(folder: Path) -> int:
    return max((int(p.stem.split("-")[1]) for p in (folder / "checkpoints").glob("step-*.safetensors")), default=0)


def test_killed_at_every_file_operation_of_starting_and_saving(fork, photos, tmp_path):
    """At each file operation of a short run, one after the other; also when it replaces another run."""
    command = ["distill", "--images", f"folder:{photos}", "--encoder", TINY, "--steps", 2, "--evaluate-every", 0,
               "--no-progress"]  # fmt: skip
    expected = {}
    for seed in (0, 1):
        assert fork(*command, "--seed", seed, "--out", tmp_path / f"quiet-{seed}").end() == 0
        expected[seed] = DistilledSet.load(tmp_path / f"quiet-{seed}").float_images

    count = 0
    while True:
        out = tmp_path / f"run-{count}"
        shutil.copytree(tmp_path / "quiet-0", out)
        attempt = fork(*command, "--seed", 1, "--out", out, "--overwrite", die_after=["run.json.", count])
        code = attempt.end()
        if code == 0:
            break
        assert code == -signal.SIGKILL, attempt.log.read_text()
        check_files(out)
        state = json.loads((out / "run.json").read_text())
        seed = state["config"]["seed"]
        check_set(out, expected[seed])
        resumed = fork(*command, "--seed", seed, "--out", out, "--resume")
        assert resumed.end() == 0, resumed.log.read_text()
        assert check_set(out, expected[seed])
        assert "checkpoints" not in os.listdir(out)
        assert not list(out.rglob("*.part"))
        shutil.rmtree(out)
        count += 3  # every third one: there are about sixty
    assert count > 30


def test_killed_before_the_first_file_of_a_run_was_complete(distil_cli, tmp_path):
    """The remains of run.json do not make the folder look like somebody else's."""
    out = tmp_path / "run"
    out.mkdir()
    (out / ".run.json.abc.part").write_text('{"form')
    assert distil_cli("--out", out, "--resume").code == 0
    assert files(out) == FINISHED


# ---------------------------------------------------------------- a full disk


@pytest.fixture
def disk(tmp_path) -> Iterator[Callable[[int], Path]]:
    """Mount a file system of this size in memory; return its folder."""
    mounted: list[Path] = []

    def mount(size: int) -> Path:
        path = tmp_path / f"disk-{len(mounted)}"
        path.mkdir()
        command = shutil.which("mount")
        if command is None or os.geteuid() != 0:
            pytest.skip("only root can mount a small disk")
        done = subprocess.run(
            [command, "-t", "tmpfs", "-o", f"size={size},mode=755", "tmpfs", str(path)], capture_output=True, text=True
        )
        if done.returncode:
            pytest.skip(f"no small disk can be mounted here: {done.stderr.strip()}")
        mounted.append(path)
        return path

    yield mount
    for path in mounted:
        subprocess.run(["umount", str(path)], check=True)


def fill(disk: Path, leave: int = 0) -> Path:
    """Fill the disk except ``leave`` bytes; return the file that fills it."""
    filler = disk / "filler.bin"
    free = shutil.disk_usage(disk).free
    with filler.open("wb") as file:
        file.write(b"\0" * max(0, free - leave))
    return filler


def test_output_disk_is_full(distil_cli, photos, tmp_path, disk):
    expected = distill(f"folder:{photos}", TINY, steps=3, progress=False).float_images
    folder = disk(2048 * KIB)
    out = folder / "runs" / "run"
    filler = fill(folder)
    error = distil_cli("--out", out).error()
    assert "No space left on device" in error
    assert "free some space" in error
    assert os.listdir(folder) == ["filler.bin"]
    filler.unlink()
    assert distil_cli("--out", out).code == 0
    assert check_set(out, expected)


def test_cache_disk_is_full(distil_cli, run_cli, photos, tmp_path, disk):
    folder = disk(1024 * KIB)
    cache, out = folder / "cache", tmp_path / "run"
    filler = fill(folder)
    error = distil_cli("--out", out, "--cache", cache).error()
    assert "No space left on device" in error
    assert os.listdir(folder) == ["filler.bin"]
    assert not out.exists()
    features = ["features", "--images", f"folder:{photos}", "--encoder", TINY, "--cache", cache]
    assert "No space left on device" in run_cli(*features).error()
    assert os.listdir(folder) == ["filler.bin"]
    filler.unlink()
    assert run_cli(*features).code == 0
    assert distil_cli("--out", out, "--cache", cache).code == 0
    assert files(out) == FINISHED


@pytest.mark.parametrize(("seconds", "stops"), [(0, {0, 1, 2}), (1000, {0, 8})])
def test_disk_that_fills_up_at_any_point_of_a_run(distil_cli, photos, disk, seconds, stops):
    """With more and more space left, each run gets further. None leaves half a file, and all can be finished."""
    expected = distill(f"folder:{photos}", TINY, steps=8, progress=False, evaluate_every=4).float_images
    folder = disk(4096 * KIB)
    out = folder / "run"
    arguments = ["--out", out, "--checkpoint-seconds", seconds, "--evaluate-every", 4]
    reached = set()
    for leave in (*range(0, 32, 8), *range(32, 1024, 36)):
        filler = fill(folder, leave * KIB)
        result = distil_cli(*arguments, steps=8)
        if result.code == 0:
            break
        error = result.error()
        assert "No space left on device" in error
        check_files(out)
        assert not check_set(out, expected)
        assert not list(folder.rglob("*.part"))
        started = (out / "run.json").exists()
        assert ("--resume" in error) == started, error
        if not started:
            assert os.listdir(folder) == ["filler.bin"]
        reached.add(newest(out))
        before = newest(out)
        error = distil_cli(*arguments, *(["--resume"] if started else []), steps=8).error()  # it is still full
        assert newest(out) >= before
        filler.unlink()
        assert distil_cli(*arguments, *(["--resume"] if started else []), steps=8).code == 0
        assert check_set(out, expected)
        assert files(out) == FINISHED
        shutil.rmtree(out)
    assert stops <= reached
    assert leave < 992


def test_disk_fills_up_midway_and_the_run_continues_elsewhere(fork, photos, tmp_path, disk):
    command = ["distill", "--images", f"folder:{photos}", "--encoder", SLOW, "--steps", 40, "--evaluate-every", 0]
    assert fork(*command, "--out", tmp_path / "quiet").end() == 0
    expected = DistilledSet.load(tmp_path / "quiet").float_images
    folder = disk(4096 * KIB)
    out = folder / "run"
    attempt = fork(*command, "--out", out, "--checkpoint-seconds", 0)
    wait_for(lambda: _last_name(out) >= 5 or not attempt.running)
    fill(folder)
    assert attempt.end() == 2
    (line,) = attempt.log.read_text().strip().splitlines()
    assert line.startswith("probedistill: error: cannot write ")
    assert "checkpoints/step-" in line
    assert "No space left on device" in line
    assert "--resume" in line
    check_files(out)
    assert 5 <= newest(out) < 40
    elsewhere = shutil.copytree(out, tmp_path / "elsewhere")
    assert fork(*command, "--out", elsewhere, "--resume").end() == 0
    assert check_set(elsewhere, expected)
    assert files(elsewhere) == FINISHED


# ---------------------------------------------------------------- a torn checkpoint


@pytest.fixture(scope="module")
def stopped(fork, photos, tmp_path_factory) -> tuple[list[object], Path, torch.Tensor]:
    """A command, its unfinished run with two checkpoints, and the images of the uninterrupted run."""
    folder = tmp_path_factory.mktemp("stopped")
    command = ["distill", "--images", f"folder:{photos}", "--encoder", TINY, "--steps", 6, "--evaluate-every", 0,
               "--checkpoint-seconds", 0, "--no-progress"]  # fmt: skip
    assert fork(*command, "--out", folder / "quiet").end() == 0
    killed = fork(*command, "--out", folder / "run", die_after=["step-0000005", 0])
    assert killed.end() == -signal.SIGKILL, killed.log.read_text()
    for path in folder.rglob("*.part"):
        path.unlink()
    return command, folder / "run", DistilledSet.load(folder / "quiet").float_images


def test_truncated_checkpoint_falls_back_to_the_previous_one(run_cli, stopped, tmp_path):
    """tests/store/test_whole_files.py tests that a file is torn wherever it is cut."""
    command, run, expected = stopped
    older, latest = sorted((run / "checkpoints").iterdir())
    content = latest.read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    cuts = {0, 1, 7, 8, 9, header - 1, header, header + 1, len(content) - 1}
    rng = random.Random(0)
    cuts |= {rng.randrange(8, header) for _ in range(3)} | {rng.randrange(header, len(content)) for _ in range(3)}
    for number, cut in enumerate(sorted(cuts)):
        out = shutil.copytree(run, tmp_path / f"run-{number}")
        (out / "checkpoints" / latest.name).write_bytes(content[:cut])
        result = run_cli("info", out)
        assert f"not finished: {int(older.stem.split('-')[1])} of 6 steps saved" in result.out
        result = run_cli(*command, "--out", out, "--resume")
        assert result.code == 0, result.err
        assert latest.name in result.err
        assert "using the previous checkpoint" in result.err
        assert check_set(out, expected)
        shutil.rmtree(out)


def test_torn_checkpoints_do_not_displace_new_ones(fork, run_cli, stopped, tmp_path):
    """All checkpoints are torn, the run starts again and is killed again: what it has saved since then counts."""
    command, run, expected = stopped
    out = shutil.copytree(run, tmp_path / "run")
    for path in (out / "checkpoints").iterdir():
        path.write_bytes(path.read_bytes()[:-1])
    assert fork(*command, "--out", out, "--resume", die_after=[".step-0000003", 0]).end() == -signal.SIGKILL
    assert _last_name(out) == newest(out) == 2
    assert run_cli(*command, "--out", out, "--resume").code == 0
    assert check_set(out, expected)


def test_resume_after_a_kill_still_requires_the_same_settings(fork, run_cli, stopped, tmp_path):
    """At any moment, even between the old images and the new ones, the folder says which run it contains."""
    command, run, expected = stopped
    for count in (0, 8, 16):
        out = shutil.copytree(run, tmp_path / f"run-{count}")
        killed = fork(*command, "--out", out, "--resume", die_after=["images.part", count])
        assert killed.end() == -signal.SIGKILL, killed.log.read_text()
        assert "seed 0, now 3" in run_cli(*command, "--out", out, "--resume", "--seed", 3).error()
        assert run_cli(*command, "--out", out, "--resume").code == 0
        assert check_set(out, expected)


# ---------------------------------------------------------------- permissions


NOBODY = 65534


@pytest.fixture
def as_nobody(fork, photos, tmp_path):
    """Distil as a user without permissions, in a folder (returned by ``place``) that this user can reach."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    place = Path(tempfile.mkdtemp(prefix="probedistill-nobody-"))
    place.chmod(0o755)
    images = make_image_folder(place / "photos", per_class=4)
    command = ["distill", "--images", f"folder:{images}", "--encoder", TINY, "--steps", 3, "--no-progress"]
    (place / "cache").mkdir()
    os.chown(place / "cache", NOBODY, NOBODY)

    def run(*arguments: object, cache: str = "cache") -> tuple[int, str]:
        attempt = fork(
            *command, "--cache", place / cache, *arguments,
            user=NOBODY, warm_up=[*map(str, command), "--cache", str(tmp_path / "c"), "--out", str(tmp_path / "warm"),
                                  "--overwrite"],
        )  # fmt: skip
        return attempt.end(), attempt.log.read_text()

    yield place, run
    shutil.rmtree(place)


def test_output_folder_without_permission(as_nobody):
    place, run = as_nobody
    (place / "locked").mkdir(mode=0o755)
    (place / "hidden" / "below").mkdir(parents=True)
    (place / "hidden").chmod(0o700)
    for out in ("locked", "locked/new", "locked/new/deeper", "hidden", "hidden/below", "hidden/new"):
        code, text = run("--out", place / out)
        assert code == 2, text
        (line,) = text.strip().splitlines()
        assert line.startswith("probedistill: error: "), text
        assert "ermission" in line
        assert str(place / out) in line
        assert "choose another folder" in line
        assert os.listdir(place / "locked") == []
    assert os.listdir(place / "cache") == [], "it was noticed only after the features had been computed"


def test_cache_folder_without_permission(as_nobody):
    place, run = as_nobody
    (place / "open").mkdir()
    (place / "open").chmod(0o777)
    (place / "locked").mkdir(mode=0o755)
    code, text = run("--out", place / "open/run", cache="locked/cache")
    assert code == 2, text
    (line,) = text.strip().splitlines()
    assert "ermission" in line
    assert os.listdir(place / "locked") == os.listdir(place / "open") == []
    assert run("--out", place / "open/run")[0] == 0
    assert len(DistilledSet.load(place / "open/run")) == 2


def test_read_only_finished_run(as_nobody, run_cli):
    place, run = as_nobody
    (place / "open").mkdir()
    (place / "open").chmod(0o777)
    out = place / "open/run"
    assert run("--out", out)[0] == 0
    for path in (out, *out.rglob("*")):
        os.chown(path, 0, 0)
    code, text = run("--out", out, "--resume")
    assert (code, "is already finished" in text) == (0, True), text
    code, text = run("--out", out, "--overwrite")
    assert code == 2, text
    assert "ermission" in text
    assert len(DistilledSet.load(out)) == 2


def test_output_folder_that_cannot_be_written_is_noticed_first(distil_cli, tmp_path, monkeypatch):
    """The same without root: noticed before images and encoder are even opened."""
    monkeypatch.setattr("os.access", lambda *_: False)
    error = distil_cli("--out", tmp_path / "new/run", images="folder:/nowhere", encoder="no-such-encoder").error()
    assert "no permission to write" in error
    assert os.listdir(tmp_path) == []


# ---------------------------------------------------------------- images that vanish, sets that are wrong


def test_image_that_vanishes_before_it_is_used_as_a_start(tmp_path):
    photos = make_image_folder(tmp_path / "photos", per_class=3, splits=())
    images = load_images(f"folder:{photos}")
    options = {"steps": 1, "progress": False, "cache": tmp_path / "cache"}
    distill(images, TINY, **options)
    shutil.rmtree(photos / "cat")
    with pytest.raises(UserError, match=r"cat/000\d\.png: .*restore it") as caught:
        distill(images, TINY, canvas=CanvasConfig(init="real"), out=tmp_path / "run", **options)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("baseline", ["random", "centroids", "neighbours"])
def test_image_that_vanishes_before_it_is_used_as_a_baseline(tmp_path, baseline):
    from probedistill import load_encoder

    photos = make_image_folder(tmp_path / "photos", per_class=3, splits=())
    images, encoder = load_images(f"folder:{photos}"), load_encoder(TINY, device="cpu")
    options = {"progress": False, "cache": tmp_path / "cache"}
    distilled = distill(images, encoder, steps=1, **options)
    protocol = {"baselines": [baseline], "seeds": 1, "views": 2, "full_views": 0, **options}
    evaluate(distilled, encoder, images, images, **protocol)
    shutil.rmtree(photos / "dog")
    with pytest.raises(UserError, match=r"dog/000\d\.png: .*restore it") as caught:
        evaluate(distilled, encoder, images, images, **{**protocol, "views": 3})  # two views are in the cache
    assert "\n" not in str(caught.value)


def _nan(images: torch.Tensor) -> torch.Tensor:
    return images.where(torch.arange(images.numel()).view(images.shape) != 7, float("nan"))


@pytest.mark.parametrize(
    "change",
    [
        lambda t: {"images": t["images"][:0], "labels": t["labels"][:0]},
        lambda t: {**t, "labels": t["labels"] - 1},
        lambda t: {**t, "labels": t["labels"] + 1},
        lambda t: {**t, "labels": t["labels"].float()},
        lambda t: {**t, "labels": t["labels"][:, None]},
        lambda t: {**t, "labels": t["labels"][:1]},
        lambda t: {**t, "labels": t["labels"][0]},
        lambda t: {**t, "images": _nan(t["images"])},
        lambda t: {**t, "images": t["images"] / 0},
        lambda t: {**t, "images": t["images"][:, :1].contiguous()},
        lambda t: {**t, "images": t["images"][0]},
        lambda t: {**t, "images": t["images"][..., :0]},
        lambda t: {**t, "images": (t["images"] * 255).to(torch.uint8)},
        lambda t: {"labels": t["labels"]},
    ],
)
def test_set_with_wrong_tensors_and_a_valid_digest(run_cli, tmp_path, change):
    folder = DistilledSet(torch.rand(2, 3, 8, 8), torch.tensor([0, 1]), ("cat", "dog")).save(tmp_path / "set")
    assert len(DistilledSet.load(folder)) == 2
    tensors, _ = load_tensors(folder / "tensors.safetensors")
    save_tensors(folder / "tensors.safetensors", change(tensors))
    with pytest.raises(UserError, match="damaged") as caught:
        DistilledSet.load(folder)
    assert "\n" not in str(caught.value)
    assert "damaged" in run_cli("evaluate", folder, "--images", f"folder:{tmp_path}", "--encoder", TINY).error()


def test_saving_again_without_space_leaves_a_set_or_none(tmp_path, disk):
    folder = disk(512 * KIB)
    images = torch.rand(2, 3, 64, 64)
    old = DistilledSet(images, torch.tensor([0, 1]), ("cat", "dog"))
    new = DistilledSet(1 - images, torch.tensor([0, 1]), ("cat", "dog"))

    def save_anew() -> str:
        try:
            new.save(folder / "set")
        except UserError as error:
            return str(error)
        return ""

    for leave in range(0, 256, 4):
        old.save(folder / "set")
        filler = fill(folder, leave * KIB)
        error = save_anew()
        filler.unlink()
        if not error:
            break
        assert "No space left on device" in error
        assert not list(folder.rglob("*.part"))
        check_files(folder / "set")
        check_set(folder / "set", old.float_images)
    assert leave > 60
    assert new.save(folder / "set")
    assert check_set(folder / "set", new.float_images)


# ---------------------------------------------------------------- folders of classes


def test_class_names_that_differ_only_by_case_or_accents(tmp_path):
    names = [
        "Cat",
        "cat",
        "CAT",
        "cat~2",
        "Stra\u00dfe",
        "strasse",
        "caf\u00e9",
        "cafe\u0301",
        "a/b",
        "A/B",
        "x" * 300,
        "x" * 301,
    ]
    folders = unique_names(names)
    assert folders[:4] == ["Cat", "cat~2", "CAT~3", "cat~2~2"]
    assert len({f.casefold() for f in folders}) == len(names)
    assert max(len(f.encode()) for f in folders) < 255
    assert unique_names(["cat", "dog"]) == ["cat", "dog"]

    labels = torch.arange(len(names))
    saved = DistilledSet(torch.rand(len(names), 3, 8, 8), labels, tuple(names)).save(tmp_path / "set")
    lines = parquet.read_table(saved / "images/metadata.parquet").to_pylist()
    assert [line["class_name"] for line in lines] == names
    assert all((saved / "images" / line["file_name"]).is_file() for line in lines)
    assert DistilledSet.load(saved).class_names == tuple(names)


def test_images_of_classes_that_differ_by_case_keep_their_folder(distil_cli, tmp_path):
    photos = make_image_folder(tmp_path / "photos", classes=("Cat", "cat"))
    assert distil_cli("--out", tmp_path / "run", images=f"folder:{photos}").code == 0
    assert sorted(p.name for p in (tmp_path / "run/images").iterdir() if p.is_dir()) == ["Cat", "cat~2"]


def test_disk_that_fills_up_at_any_point_of_a_first_save_leaves_nothing(disk):
    folder = disk(512 * KIB)
    made = DistilledSet(torch.rand(2, 3, 32, 32), torch.tensor([0, 1]), ("cat", "dog"))
    for leave in range(0, 256, 4):
        filler = fill(folder, leave * KIB)
        try:
            made.save(folder / "new" / "set")
            break
        except UserError as error:
            said = str(error)
        assert "No space left on device" in said
        assert os.listdir(folder) == [filler.name]
        filler.unlink()
    assert leave > 30
    assert check_set(folder / "new" / "set", made.float_images)
