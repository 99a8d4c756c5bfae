"""Shared by all tests. No test reads or writes the user's cache, or waits for the network."""

from __future__ import annotations

import copy
import gc
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING

import cyclopts
import psutil
import pytest
from cyclopts.argument import ArgumentCollection
from hypothesis import settings

# PyTorch and other libraries have a million permanent objects; examining them again and again takes seconds.
gc.disable()

TESTS = Path(__file__).parent
SHARED = Path(__file__).parents[2] / "shared"
_SESSION = Path(tempfile.mkdtemp(prefix="probedistill-tests-"))

# Set before torch and the Hugging Face libraries are imported, because they read these variables only once.
os.environ["PROBEDISTILL_CACHE"] = str(_SESSION / "cache")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_CACHE"] = str(_SESSION / "datasets")
os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny tensors, and a worker per core; child processes inherit it
if not os.environ.get("TEST_GPU"):  # only make gpu sets it: other tests must give the same results everywhere
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # compiling the package takes a second of every process
sys.path.insert(0, str(TESTS))

from helpers_images import make_image_folder  # noqa: E402

if TYPE_CHECKING:
    from probedistill import Encoder

# No deadline, because no test asserts times. Examples are the same in every run, so that a failure is due to the
# change; new examples are searched for elsewhere.
settings.register_profile("ours", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "ours")
settings.register_profile("quick", settings(), max_examples=20)  # of the tests that do not say how many (make quick)

# Waiting for the disk a few thousand times would take minutes. What must be synced, and when, is tested by recording
# the calls (tests/store/test_power_loss.py).
os.fsync = lambda _: None


def _find_options_once() -> None:
    """Cache what cyclopts finds out about the hundred options of a command.

    It finds this out several times in each call, which takes more than half the time of a refused command line.
    """
    find, found = cyclopts.App.assemble_argument_collection, {}

    def fresh(arguments: ArgumentCollection) -> ArgumentCollection:
        """Copies that nothing has been found out about yet."""
        new = {id(argument): copy.copy(argument) for argument in arguments}
        for argument in new.values():
            argument.tokens = []
            argument.children = ArgumentCollection(new[id(child)] for child in argument.children)
        return ArgumentCollection(new.values())

    def once(app: cyclopts.App, **options: bool) -> ArgumentCollection:
        stack = (id(one) for frame in app.app_stack.stack for one in frame)  # its default_parameter takes long
        key = (app.default_command, *stack, *options.items())
        if key not in found:
            found[key] = find(app, **options)
        return fresh(found[key])

    cyclopts.App.assemble_argument_collection = once


_find_options_once()

LONGEST = ("store/test_kills.py", "distillation/test_faults.py", "distillation/test_parallel.py", "docs/test_site.py",
           "root/test_wheel.py", "report/test_report_browser.py")  # fmt: skip
"""Files that are started first, so that no worker waits for another at the end."""

TINY = "module:helpers_encoders:tiny"


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


def pytest_unconfigure() -> None:
    shutil.rmtree(_SESSION, ignore_errors=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    place = {TESTS / name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path, len(place)))


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str

    def error(self) -> str:
        """The one line that bad input must give."""
        assert self.code == 2, (self.code, self.err)
        lines = self.err.strip().splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].startswith("probedistill: error: "), self.err
        return lines[0]


@pytest.fixture(autouse=True)
def _files_of_one_test_are_not_found_by_the_next(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """Undo a ``module:`` name, which adds the current folder to the path for the rest of the process."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    last, written = next(reversed(sys.modules)), str(tmp_path_factory.getbasetemp())
    yield
    for name in list(takewhile(lambda name: name != last, reversed(sys.modules))):
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(written):
            del sys.modules[name]


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes, six images each, in train/ and test/."""
    return make_image_folder(tmp_path_factory.mktemp("data") / "photos", per_class=6, size=40)


@pytest.fixture(scope="session")
def encoder() -> Encoder:
    """The tests' encoder: 32 px, 24 features."""
    from probedistill import load_encoder

    return load_encoder(TINY, device="cpu")


@pytest.fixture
def run_cli(capfd: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Run the command line in this process.

    The tests' encoder is a ``module:`` encoder, so a run's config.yaml needs trust. ``trust=False`` is for testing what
    a stranger's file may do.
    """
    from probedistill.cli import main

    def run(*arguments: object, trust: bool = True) -> Outcome:
        capfd.readouterr()
        words = [str(a) for a in arguments]
        code = main([*words, *(["--trust"] if trust and "--config" in words else [])])
        captured = capfd.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run


@pytest.fixture
def distil_cli(run_cli: Callable[..., Outcome], photos: Path) -> Callable[..., Outcome]:
    """Run `probedistill distill` on the photos with the tiny encoder for three steps, with further arguments."""

    def run(*arguments: object, images: object = None, encoder: str = TINY, steps: object = 3) -> Outcome:
        return run_cli(
            "distill", "--images", images or f"folder:{photos}", "--encoder", encoder, "--steps", steps, *arguments
        )

    return run


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture(scope="session")
def _finished_once(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from probedistill.cli import main

    folder = tmp_path_factory.mktemp("finished") / "run"
    words = ["distill", "--images", f"folder:{photos}", "--encoder", TINY, "--steps", "3", "--out", str(folder)]
    assert main([*words, "--quiet"]) == 0
    return folder


@pytest.fixture
def finished(_finished_once: Path, out: Path) -> Path:
    """``out`` with the run that `distil_cli` makes there without further arguments."""
    return shutil.copytree(_finished_once, out)


@pytest.fixture
def refused(distil_cli: Callable[..., Outcome], out: Path) -> Callable[..., str]:
    """Distil with bad input; return the error after checking that nothing was written."""

    def run(*arguments: object, **options: object) -> str:
        error = distil_cli(*arguments, "--out", out, **options).error()
        assert not out.exists()
        return error

    return run


@pytest.fixture
def start_process() -> Callable[..., subprocess.Popen[str]]:
    """Start the command line in a new process, which ends with the test."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: object, **options: object) -> subprocess.Popen[str]:
        # Ctrl-C must also reach it if the tests run in the background, with SIGINT ignored.
        options.setdefault("preexec_fn", lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
        process = subprocess.Popen(
            [sys.executable, "-m", "probedistill", *map(str, arguments)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": str(TESTS)}, **options,
        )  # type: ignore[call-overload]  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


PATIENCE = 240.0
"""Seconds to wait for an event before giving up: on a busy machine a command may take a minute."""


def wait_for(condition: Callable[[], object], seconds: float = PATIENCE) -> None:
    """Wait until ``condition()`` holds; fail after ``seconds``."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def _shared(name: str) -> Path:
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"{path} is not there: it comes with the project's workplace, not with the repository")
    return path


@pytest.fixture(scope="session")
def shared_encoders() -> Path:
    return _shared("encoders")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    return _shared("data")


class Attempt:
    """One forked process of the command line, or several that share a run."""

    def __init__(self, server: subprocess.Popen[str], request: dict[str, object]) -> None:
        self.server, self.log, self.ended = server, Path(str(request["log"])), False
        self._say(json.dumps(request))
        self.processes = [psutil.Process(pid) for pid in self._answer()]

    def _say(self, line: str) -> None:
        self.server.stdin.write(line + "\n")
        self.server.stdin.flush()

    def _answer(self) -> list[int]:
        return json.loads(self.server.stdout.readline())

    @property
    def running(self) -> bool:
        return any(self.runs(rank) for rank in range(len(self.processes)))

    def runs(self, rank: int) -> bool:
        return self.processes[rank].status() != psutil.STATUS_ZOMBIE

    def kill(self, number: int = signal.SIGKILL, *, rank: int = 0) -> None:
        os.kill(self.processes[rank].pid, number)  # nobody has waited for it yet, so the id is still its own

    def codes(self, seconds: float = PATIENCE) -> list[int]:
        """Wait for all to end; return their exit codes (negative: the signal that ended a process)."""
        try:
            wait_for(lambda: not self.running, seconds)
        except AssertionError:
            for process in self.processes:
                os.kill(process.pid, signal.SIGUSR1)  # makes it print its stack (forked_cli.py)
            time.sleep(1)
            raise AssertionError(f"not over after {seconds} s:\n{self.log.read_text()}") from None
        self.ended = True
        self._say("wait")
        return self._answer()

    def end(self, seconds: float = PATIENCE) -> int:
        """Wait for all to end; return the exit code, which must be the same for all ranks."""
        (code,) = set(self.codes(seconds))
        return code


@pytest.fixture(scope="session")
def fork(tmp_path_factory) -> Iterator[Callable[..., Attempt]]:
    """Start the command line, forked from a process that has imported everything; only one at a time.

    With ``ranks=2`` there are two of them, which share a run.
    """
    folder = tmp_path_factory.mktemp("fork")
    server = subprocess.Popen(
        [sys.executable, str(TESTS / "forked_cli.py")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    attempts: list[Attempt] = []

    def end_the_last() -> None:
        if attempts and not attempts[-1].ended:  # left over from a failed test
            for rank in range(len(attempts[-1].processes)):
                attempts[-1].kill(rank=rank)
            attempts[-1].codes()

    def start(*arguments: object, **request: object) -> Attempt:
        end_the_last()
        request.setdefault("log", str(folder / f"{len(attempts)}.log"))
        if "ranks" in request:
            with socket.create_server(("127.0.0.1", 0)) as free:
                request["port"] = free.getsockname()[1]
        attempts.append(Attempt(server, {"argv": [str(a) for a in arguments], **request}))
        return attempts[-1]

    yield start
    end_the_last()
    server.kill()  # it has no state, and an orderly exit of PyTorch takes seconds
    server.communicate()
