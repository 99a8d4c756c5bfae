"""Runs that several processes share, with gloo on the CPU: with a real torchrun, or forked, which starts faster."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from conftest import PATIENCE, TESTS, Attempt, wait_for
from helpers_images import make_image_folder
from probedistill import DistilledSet, extract_features, load_encoder, load_images
from probedistill.machine.processes import ALONE, Processes
from probedistill.store.tensors import load_tensors, save_tensors

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ROUNDING = 5e-4
"""Difference of pixels between one process and several, after eight steps; a level of 8 bits is 4e-3.

Processes add gradients in another order, which changes them by float32's rounding, 1e-7 of their size. Adam divides by
that size: where the sum is nearly 0, rounding is a large share of it, and a step moves the pixel by up to lr = 0.05.
2e-4 occurs with torch 2.6.
"""

Torchrun = Callable[..., subprocess.Popen[str]]
Fork = Callable[..., Attempt]


@pytest.fixture(scope="module")
def five_classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five classes, so that two and three processes get uneven slices."""
    return make_image_folder(tmp_path_factory.mktemp("five") / "photos", classes=tuple("abcde"), per_class=4)


@pytest.fixture
def torchrun() -> Iterator[Torchrun]:
    started: list[subprocess.Popen[str]] = []

    def start(count: int, *arguments: object, options: tuple[str, ...] = ()) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
        process = subprocess.Popen(
            [*command, *options, *map(str, arguments)],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
            env={**os.environ, "PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            ranks = psutil.Process(process.pid).children(recursive=True)
            process.kill()
            for rank in ranks:  # each has its own session, and would outlive torchrun
                with suppress(psutil.NoSuchProcess):
                    rank.kill()
        process.communicate()


def distil(photos: Path, out: Path, *more: object, encoder: str = "tiny", method: str = "sfm") -> list[object]:
    arguments = ["distill", "--images", f"folder:{photos}", "--encoder", f"module:helpers_encoders:{encoder}"]
    return [*arguments, "--device", "cpu", "--method", method, "--views", 2, "--out", out, *more]


def workers(process: subprocess.Popen[str]) -> dict[str, psutil.Process]:
    """The ranks that torchrun has started, by number."""
    ranks = {}
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            ranks[child.environ()["RANK"]] = child
        except (psutil.Error, KeyError):
            continue
    return ranks


@given(total=st.integers(0, 50), count=st.integers(1, 8))
def test_shares_are_an_even_partition(total: int, count: int) -> None:
    shares = [Processes(rank, count).share(total) for rank in range(count)]
    assert [i for share in shares for i in range(total)[share]] == list(range(total))
    sizes = [share.stop - share.start for share in shares]
    assert max(sizes) - min(sizes) <= 1


def test_alone_everything_is_the_identity() -> None:
    rows = torch.arange(3.0)
    assert ALONE.gather(rows, [3]) is rows
    assert ALONE.largest(7) == 7
    assert ALONE.is_first


@pytest.mark.parametrize(
    ("count", "method", "more"), [(2, "sfm", []), (2, "clp", []), (3, "lgm", []), (3, "clp", ["--micro-batch", 1])]
)
def test_many_processes_give_the_result_of_one(
    run_cli: Callable, fork: Fork, five_classes: Path, tmp_path: Path, count: int, method: str, more: list
) -> None:
    assert run_cli(*distil(five_classes, tmp_path / "one", "--steps", 8, method=method)).code == 0
    ranks = fork(*distil(five_classes, tmp_path / "many", "--steps", 8, *more, method=method), ranks=count)
    code, output = ranks.end(), ranks.log.read_text()
    assert code == 0, output
    assert output.count("images of 5 classes") == 1, "one process speaks"
    one, many = DistilledSet.load(tmp_path / "one"), DistilledSet.load(tmp_path / "many")
    torch.testing.assert_close(many.float_images, one.float_images, rtol=0, atol=ROUNDING)
    assert many.run.losses == pytest.approx(one.run.losses, abs=1e-5)


def test_two_encoders_in_two_processes_give_the_result_of_one_process(
    run_cli: Callable, fork: Fork, five_classes: Path, tmp_path: Path
) -> None:
    more = ["--steps", 8, "--also", "module:helpers_encoders:tiny@48", "--encoder-weights", 1, "--encoder-weights", 2]
    assert run_cli(*distil(five_classes, tmp_path / "one", *more, method="lgm")).code == 0
    ranks = fork(*distil(five_classes, tmp_path / "two", *more, method="lgm"), ranks=2)
    assert ranks.end() == 0, ranks.log.read_text()
    one, two = DistilledSet.load(tmp_path / "one"), DistilledSet.load(tmp_path / "two")
    torch.testing.assert_close(two.float_images, one.float_images, rtol=0, atol=ROUNDING)
    for single, shared in zip(one.run.tower_losses, two.run.tower_losses, strict=True):
        assert shared == pytest.approx(single, abs=1e-5)
    assert len(two.run.micro_batch) == 2
    names = [sorted(p.name for p in (tmp_path / run).iterdir()) for run in ("one", "two")]
    assert names[0] == names[1], "one process writes, and tidies"
    sprites = [sorted(p.name for p in (tmp_path / run / "evolution").iterdir()) for run in ("one", "two")]
    assert sprites[0] == sprites[1]


def test_feature_shards_are_split_among_processes_and_resumed(fork: Fork, five_classes: Path, tmp_path: Path) -> None:
    def extract(count: int) -> list[tuple[list[int], float]]:
        for report in tmp_path.glob("rank-*.txt"):
            report.unlink()
        script = str(TESTS / "extract_in_shards.py")
        ranks = fork(five_classes, tmp_path / "cache", tmp_path, script=script, ranks=count)
        assert ranks.end() == 0, ranks.log.read_text()
        lines = [(tmp_path / f"rank-{rank}.txt").read_text().splitlines() for rank in range(count)]
        return [(json.loads(loaded), float(total)) for loaded, total in lines]

    ranks = extract(3)
    count = len(load_images(f"folder:{five_classes}", split="train"))
    assert sorted(index for loaded, _ in ranks for index in loaded) == list(range(count)), "each image once"
    assert all(loaded for loaded, _ in ranks)
    shards = sorted((tmp_path / "cache").rglob("shard-*.safetensors"))
    for number in (1, 4):  # one rank died before it wrote these
        shards[number].unlink()
    again = extract(3)
    assert sorted(sorted(loaded) for loaded, _ in again) == [[], [2, 3], [8, 9]], "they are shared out again"
    encoder = load_encoder("module:helpers_encoders:tiny", device="cpu")
    images = load_images(f"folder:{five_classes}", split="train")
    alone = extract_features(encoder, images, views=2, cache=tmp_path / "other", progress=False)
    for _, total in [*ranks, *again]:
        assert total == pytest.approx(float(alone.augmented.double().sum()), rel=1e-6)


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2), (2, 3)])
def test_a_checkpoint_resumes_with_another_number_of_processes(
    run_cli: Callable, fork: Fork, five_classes: Path, tmp_path: Path, before: int, after: int
) -> None:
    steps = ["--steps", 60, "--checkpoint-seconds", 0]
    assert run_cli(*distil(five_classes, tmp_path / "one", *steps)).code == 0
    out = tmp_path / "many"
    ranks = fork(*distil(five_classes, out, *steps, encoder="slow"), ranks=before)
    wait_for(lambda: list((out / "checkpoints").glob("step-*")) or not ranks.running)
    ranks.kill(signal.SIGTERM, rank=before - 1)  # any rank's signal stops all of them
    code, output = ranks.end(), ranks.log.read_text()
    assert code == 128 + signal.SIGTERM, output
    assert "--resume" in output
    assert not (out / "images").exists()
    for path in (out / "checkpoints").glob("step-*"):  # a mark that only a run that continues from here can have
        tensors, values = load_tensors(path)
        values["history"]["losses"][0] = 123.0
        save_tensors(path, {name: tensor.clone() for name, tensor in tensors.items()}, values)
    ranks = fork(*distil(five_classes, out, *steps, "--resume", encoder="slow"), ranks=after)
    assert ranks.end() == 0, ranks.log.read_text()
    one, many = DistilledSet.load(tmp_path / "one"), DistilledSet.load(out)
    torch.testing.assert_close(many.float_images, one.float_images, rtol=0, atol=1e-3)
    assert many.run.losses[0] == 123.0
    assert many.run.losses[1:] == pytest.approx(one.run.losses[1:], abs=1e-4)


def test_restarted_ranks_continue_without_being_told(
    run_cli: Callable, fork: Fork, five_classes: Path, tmp_path: Path
) -> None:
    steps = ["--steps", 30, "--checkpoint-seconds", 0]
    assert run_cli(*distil(five_classes, tmp_path / "one", *steps)).code == 0
    arguments = distil(five_classes, tmp_path / "two", *steps, encoder="slow")
    ranks = fork(*arguments, ranks=2)
    wait_for(lambda: list((tmp_path / "two" / "checkpoints").glob("step-*")) or not ranks.running)
    for rank in range(2):
        ranks.kill(rank=rank)
    assert ranks.end() == -signal.SIGKILL, ranks.log.read_text()
    start = tmp_path / "two" / "evolution" / "step-0000000.webp"
    written = start.stat().st_mtime_ns
    again = fork(*arguments, ranks=2, restarts=1)
    assert again.end() == 0, again.log.read_text()
    assert start.stat().st_mtime_ns == written, "it went on"
    one, two = DistilledSet.load(tmp_path / "one"), DistilledSet.load(tmp_path / "two")
    torch.testing.assert_close(two.float_images, one.float_images, rtol=0, atol=1e-3)


def test_torchrun_restarts_after_a_killed_rank(
    run_cli: Callable, torchrun: Torchrun, five_classes: Path, tmp_path: Path
) -> None:
    steps = ["--steps", 60, "--checkpoint-seconds", 0]
    assert run_cli(*distil(five_classes, tmp_path / "one", *steps)).code == 0
    assert run_cli(*distil(five_classes, tmp_path / "two", "--steps", 2)).code == 0  # must be replaced, not returned
    arguments = distil(five_classes, tmp_path / "two", *steps, "--overwrite", encoder="slow")
    process = torchrun(2, "-m", "probedistill", *arguments, options=("--max-restarts", "3"))
    wait_for(lambda: list((tmp_path / "two" / "checkpoints").glob("step-*")))
    start = tmp_path / "two" / "evolution" / "step-0000000.webp"
    written = start.stat().st_mtime_ns  # a run that started from the beginning would write it again
    workers(process)["1"].kill()
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, output
    assert start.stat().st_mtime_ns == written, "it went on"
    one, two = DistilledSet.load(tmp_path / "one"), DistilledSet.load(tmp_path / "two")
    torch.testing.assert_close(two.float_images, one.float_images, rtol=0, atol=1e-3)
    assert len(two.run.losses) == 60


@pytest.mark.parametrize(
    ("differs", "message"),
    [
        ("out", "is not the same folder for all processes"),
        ("images", "see different images, encoders or settings"),
        ("cache", "is not the same folder for all processes; set"),
    ],
)
def test_ranks_that_see_different_data(
    fork: Fork, five_classes: Path, tmp_path: Path, differs: str, message: str
) -> None:
    photos, out = five_classes, tmp_path / "run-0"
    if differs == "images":
        for rank in range(2):
            make_image_folder(tmp_path / f"photos-{rank}", classes=tuple("abcde"), per_class=3 + rank)
        photos = tmp_path / "photos-{rank}"
    elif differs == "out":
        alone = fork(*distil(five_classes, out, "--checkpoint-seconds", 0, encoder="slow"))
        wait_for(lambda: list((out / "checkpoints").glob("step-*")) or not alone.running)
        alone.kill(signal.SIGTERM)
        alone.end()
        out = tmp_path / "run-{rank}"
    more = ["--cache", tmp_path / "cache-{rank}"] if differs == "cache" else []
    arguments = distil(photos, out, "--checkpoint-seconds", 0, "--resume", *more, encoder="slow")
    ranks = fork(*arguments, ranks=2)
    code, output = ranks.end(), ranks.log.read_text()
    assert code == 2, output
    assert message in output
    assert "probedistill: error:" in output
    assert "Traceback" not in output
    assert not (tmp_path / "run-1").exists()


def test_a_rank_that_hangs_is_reported(fork: Fork, five_classes: Path, tmp_path: Path) -> None:
    arguments = distil(five_classes, tmp_path / "two", "--timeout-seconds", 5, encoder="hanging")
    ranks = fork(*arguments, ranks=2)
    wait_for(lambda: not ranks.runs(0))
    ranks.kill(rank=1)  # as torchrun does
    codes, output = ranks.codes(), ranks.log.read_text()
    assert codes == [1, -signal.SIGKILL], output
    assert "another process of this run died or was silent for too long" in output
    assert "--resume" in output
    assert not (tmp_path / "two" / "images").exists()


def test_more_processes_than_images(fork: Fork, tmp_path: Path) -> None:
    photos = make_image_folder(tmp_path / "photos", per_class=3)
    ranks = fork(*distil(photos, tmp_path / "out", "--steps", 3, "--cache", tmp_path / "cache"), ranks=3)
    code, output = ranks.end(), ranks.log.read_text()
    assert code == 2, output
    assert "3 processes for 2 synthetic images" in output
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "cache" / "features").exists(), "said before the features of all photos are computed"
