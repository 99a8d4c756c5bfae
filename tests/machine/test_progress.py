"""Progress: live in a terminal and a notebook, lines in a log file, silent if told so, legible in any encoding."""

from __future__ import annotations

import io
import itertools
import os
import re
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from probedistill.machine import progress
from probedistill.machine.progress import ProgressBar, in_notebook

LOOP = """
from probedistill.machine import progress
progress.DELAY = 0.0
with progress.ProgressBar("caf\u00e9 \u732b \\x1b[2J", 5, initial=2) as bar:
    for i in range(3):
        bar.advance(note="loss \u2192 0.5")
"""


class Stream(io.TextIOWrapper):
    """Standard error with an encoding; raises for characters that it cannot represent."""

    def __init__(self, encoding: str, terminal: bool) -> None:
        self.bytes = io.BytesIO()
        super().__init__(self.bytes, encoding=encoding, errors="strict", write_through=True)
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal

    @property
    def text(self) -> str:
        self.flush()
        return self.bytes.getvalue().decode(self.encoding)


@pytest.fixture
def standard_error(monkeypatch):
    def put(encoding: str = "utf-8", *, terminal: bool = False, every: float = 0.0) -> Stream:
        stream = Stream(encoding, terminal)
        monkeypatch.setattr(sys, "stderr", stream)
        monkeypatch.setattr(progress, "LOG_EVERY", every)
        monkeypatch.setattr(progress, "DELAY", 0.0)
        return stream

    return put


def run(description="work", *, enabled=True):
    with ProgressBar(description, 5, initial=2, enabled=enabled) as bar:
        for _ in range(3):
            bar.advance(note="loss → 0.5")
    return bar


def test_a_log_file_has_lines(standard_error):
    stream = standard_error()
    assert run().done == 5
    assert stream.text.splitlines()[-1] == "work: 5/5, about 0 s left  loss → 0.5"
    assert "\r" not in stream.text
    assert len(stream.text.splitlines()) == 3
    quiet = standard_error(every=15.0)
    run()
    assert quiet.text == ""


def test_a_long_unit_tells_how_far_it_is(standard_error):
    stream = standard_error()
    with ProgressBar("outer", 3), ProgressBar("probes", 2) as bar:
        progress.tell("pass 5")
        bar.advance()
        progress.tell("pass 6")
    progress.tell("nobody listens")
    lines = stream.text.splitlines()
    assert lines[0] == "probes: 0/2  pass 5"
    assert lines[-1] == "probes: 1/2  pass 6"
    live = standard_error(terminal=True)
    with ProgressBar("probes", 2):
        progress.tell("pass 7")
    assert "pass 7" in live.text


def test_set_up_in_the_first_unit_does_not_affect_the_estimate(monkeypatch):
    clock = itertools.accumulate([0.0, 0.0, 100.0, *[1.0] * 10])  # created, entered, first unit, then one second each
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with ProgressBar("work", 50, enabled=False) as bar:
        bar.advance()
        bar.advance()
        assert "2/50, about 48 s left" in bar.line()


def test_a_terminal_has_a_live_bar_with_what_is_left(standard_error):
    stream = standard_error(terminal=True)
    run()
    last = stream.text.split("\r")[-1]
    assert "work: 100%" in last
    assert "5/5" in last
    assert "loss → 0.5" in last
    assert "<00:00" in last


def test_short_work_shows_no_bar(standard_error, monkeypatch):
    stream = standard_error(terminal=True)
    monkeypatch.setattr(progress, "DELAY", 5.0)
    run()
    assert stream.text.strip() == ""


def test_a_bar_appears_before_a_long_first_unit_is_done(standard_error, monkeypatch):
    stream = standard_error(terminal=True)
    monkeypatch.setattr(progress, "DELAY", 0.05)
    with ProgressBar("probes", 5):
        until = time.monotonic() + 10
        while "probes:   0%" not in stream.text and time.monotonic() < until:
            time.sleep(0.01)
        assert stream.text.count("0/5") == 1
    assert stream.text.endswith("\n"), "what is printed next has a line of its own"


def rates_shown(stream: Stream, *, pause: float, count: int) -> list[float]:
    """Units per second in the first ``count`` lines of a bar whose units take at least ``pause`` seconds each."""
    with ProgressBar("distil", 100_000) as bar:
        until = time.monotonic() + 10
        while stream.text.count("it/s") < count and time.monotonic() < until:
            time.sleep(pause)
            bar.advance()
    return [float(rate) for rate in re.findall(r"([\d.]+)it/s", stream.text)][:count]


@pytest.mark.parametrize(("pause", "delay"), [(0.01, 0.6), (0.3, 0.25)], ids=["many units", "none"])
def test_the_first_estimate_counts_from_the_start_and_not_from_when_the_bar_appeared(
    standard_error, monkeypatch, pause, delay
):
    stream = standard_error(terminal=True)
    monkeypatch.setattr(progress, "DELAY", delay)
    rates = rates_shown(stream, pause=pause, count=2)
    assert 0 < max(rates) <= 1.01 / pause


def test_silent_if_told_so(standard_error):
    for terminal in (False, True):
        stream = standard_error(terminal=terminal)
        run(enabled=False)
        assert stream.text == ""


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
@pytest.mark.parametrize("terminal", [False, True])
def test_any_encoding_and_hostile_names(standard_error, encoding, terminal):
    stream = standard_error(encoding, terminal=terminal)
    run("café 猫 \x1b[2J\u202e")
    assert "\\x1b[2J\\u202e" in stream.text
    assert "\x1b[2J" not in stream.text
    assert ("猫" in stream.text) == (encoding == "utf-8")


def test_without_standard_error(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    assert run().done == 5


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_in_a_separate_process(encoding):
    done = subprocess.run(
        [sys.executable, "-c", LOOP], env={**os.environ, "PYTHONIOENCODING": f"{encoding}:strict"}, capture_output=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_a_notebook_is_known_by_its_kernel(monkeypatch):
    assert not in_notebook()
    shell = SimpleNamespace(config={"IPKernelApp": {}})
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    assert in_notebook()


class Log:
    """What scripts put in place of standard error, to keep a log."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> None:
        self.text += text


def test_a_log_in_place_of_standard_error_needs_no_more_than_write(monkeypatch):
    monkeypatch.setattr(progress, "LOG_EVERY", 0.0)
    monkeypatch.setattr(sys, "stderr", Log())
    with ProgressBar("features", 2) as bar:
        bar.advance()
    assert sys.stderr.text.startswith("features: 1/2")


def test_a_closed_stream_stops_no_work(monkeypatch):
    monkeypatch.setattr(progress, "LOG_EVERY", 0.0)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    sys.stderr.close()
    with ProgressBar("features", 2) as bar:
        bar.advance(2)
    assert bar.done == 2
