"""Watching a run: what is shown in each state, and that the run's folder is only read."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from dataclasses import replace

import pytest
from filelock import FileLock
from hypothesis import example, given
from hypothesis import strategies as st
from rich.console import Console

from conftest import PATIENCE, wait_for
from helpers_report import make_run, write
from helpers_runs import run_record
from probedistill import DistillConfig, UserError
from probedistill.report.watch import _view, bucket_means, read_progress, sparkline, watch
from probedistill.show.tables import as_text
from probedistill.store.run_record import write_run

ABOUT = run_record(finished=False, class_names=("cat",), config=DistillConfig(steps=40))
SO_FAR = {"kind": "progress", "step": 10, "steps": 40, "losses": [2.0, 1.0], "accuracy": [[5, 0.25]], "seconds": 5.0}


@pytest.fixture
def under_way(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    write_run(folder, ABOUT)
    write(folder / "progress.json", SO_FAR)
    (folder / "preview.png").write_bytes(b"png")
    with FileLock(folder / ".lock"):
        yield folder


def test_states(tmp_path, under_way):
    assert read_progress(tmp_path / "later").state == "waiting"
    now = read_progress(under_way)
    assert (now.state, now.step, now.steps, now.remaining) == ("running", 10, 40, 15.0)
    assert now.line() == "step 10 of 40, loss 1.0000, probe 25.0% at step 5, about 15 s left"
    (under_way / "progress.json").unlink()
    assert read_progress(under_way).line() == "starting: images, encoder and real features"
    done = read_progress(make_run(tmp_path / "done"))
    assert done.state == "finished"
    assert done.line() == "finished: step 40 of 40, loss 0.0500, probe 50.0% at step 40, 12 s"


def test_what_a_terminal_shows(under_way):
    folder = under_way.rename(under_way.with_name("a [red] [b] run"))
    text = as_text(_view(folder, read_progress(folder)), width=300)
    for part in ("a [red] [b] run: step 10 of 40", "2.0000 → 1.0000", "step 5: 25.0%", str(folder / "preview.png")):
        assert part in text


def test_a_killed_run_is_reported_as_quiet(under_way):
    past = time.time() - 300
    os.utime(under_way / "progress.json", (past, past))
    assert "no progress for 5 min: was it killed?" in read_progress(under_way).line()
    (under_way / ".lock").unlink()
    (under_way / ".lock").touch()  # as after kill -9: nobody holds it
    line = read_progress(under_way).line()
    if sys.platform != "win32":
        assert "no progress for 5 min, and no process on this machine has its folder; repeat its command" in line
    else:
        assert "was it killed?" in line


@pytest.mark.parametrize("begun", [True, False])
def test_a_run_that_nobody_continues_ends_watching(under_way, run_cli, begun):
    past = time.time() - 4
    if not begun:
        (under_way / "progress.json").unlink()
    for name in ("progress.json", "run.json")[not begun :]:
        os.utime(under_way / name, (past, past))
    (under_way / ".lock").unlink()
    where = "step 10 of 40, loss 1.0000, probe 25.0% at step 5" if begun else "starting: images, encoder and real"
    assert f"stopped: {where}" in read_progress(under_way).line()
    error = run_cli("watch", under_way).error()
    assert f"run '{under_way}' was stopped: {where}" in error
    assert "--resume" in error


def test_a_run_that_stops_while_it_is_watched(under_way, monkeypatch, capsys):
    with pytest.raises(UserError, match="was stopped: step 10 of 40"):
        followed(under_way, monkeypatch, capsys, {4: (under_way / ".lock").unlink})
    shown = capsys.readouterr().out.splitlines()
    assert len(shown) > 3
    assert "stopped" not in "".join(shown[:-1])


def test_files_from_the_future_are_reported(under_way):
    future = time.time() + 4000
    os.utime(under_way / "progress.json", (future, future))
    now = read_progress(under_way)
    assert now.quiet == 0
    assert re.search(r"step 10 of 40.* \(its files are dated 67 min ahead of the clock", now.line())


def test_watching_a_missing_run_names_it(under_way, monkeypatch, capsys):
    """watch used to wait for a misspelt folder without saying which one."""

    def stop(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("probedistill.report.watch.time.sleep", stop)
    for name, meant in (("rum", f"; did you mean '{under_way}'? "), ("elsewhere", ". ")):
        with pytest.raises(KeyboardInterrupt):
            watch(under_way.with_name(name))
        said = capsys.readouterr().out.splitlines()[0]
        waiting = f"Waiting for a run in '{under_way.with_name(name)}', which has none yet"
        assert said == f"{waiting}{meant}Press Ctrl-C to stop waiting."


@pytest.mark.parametrize(("option", "shown"), [("--json", True), ("--quiet", False)])
def test_what_is_watched_is_no_json(run_cli, tmp_path, option, shown):
    done = run_cli("watch", make_run(tmp_path / "run"), option)
    assert (done.code, done.out) == (0, "")
    assert ("finished: step 40 of 40" in done.err) == shown


def followed(folder, monkeypatch, capsys, meanwhile):
    """What watch logs until the test finishes the run; ``meanwhile`` maps the number of a look to what happens then."""
    looks = iter(range(100))

    def look(_: float) -> None:
        number = next(looks)
        if number == 8:
            write_run(folder, replace(ABOUT, finished=True, losses=[1.0]))
        meanwhile.get(number, lambda: None)()

    clock = iter(range(0, 100_000, 10))
    monkeypatch.setattr("probedistill.report.watch.time.sleep", look)
    monkeypatch.setattr("probedistill.report.watch.time.monotonic", lambda: next(clock))
    watch(folder)
    return capsys.readouterr().out.splitlines()


def test_a_stopped_run_with_future_time_stamps_is_noticed(under_way, monkeypatch, capsys):
    future = time.time() + 4000
    os.utime(under_way / "progress.json", (future, future))
    lines = followed(under_way, monkeypatch, capsys, {})
    assert "ahead of the clock" in lines[0]
    assert re.search(r"no progress for \d+ (s|min): was it killed\?", lines[-3])
    assert not any("-" in line for line in lines[:-1]), "no negative ages"


def test_a_run_with_another_clock_is_alive_while_it_changes(under_way, monkeypatch, capsys):
    def step(number):
        def happen():
            write(under_way / "progress.json", {**SO_FAR, "step": number})
            past = time.time() - 500
            os.utime(under_way / "progress.json", (past, past))

        return happen

    step(10)()
    lines = followed(under_way, monkeypatch, capsys, {number: step(11 + number) for number in range(8)})
    assert "no progress for 8 min" in lines[0]
    assert "no progress" not in "".join(lines[1:])


@pytest.mark.parametrize(
    "content", ["", "[]", '{"step": "x", "losses": 3, "accuracy": [1, [2]]}', '{"losses": [null]}']
)
def test_a_damaged_progress_file_is_named(under_way, content, run_cli):
    (under_way / "progress.json").write_text(content)
    assert f"progress file '{under_way / 'progress.json'}'" in run_cli("watch", under_way).error()


def test_other_folders_are_refused(tmp_path, run_cli):
    (tmp_path / "notes.txt").write_text("")
    assert "holds no run" in run_cli("watch", tmp_path).error()
    assert "is a file" in run_cli("watch", tmp_path / "notes.txt").error()


@pytest.mark.parametrize("command", ["watch", "info", "report"])
def test_a_folder_of_runs_is_refused_with_the_newest_of_them(command, tmp_path, run_cli):
    for name, age in (("old", 100), ("new", 0), ("older", 200)):
        path = make_run(tmp_path / "runs" / name) / "run.json"
        os.utime(path, (time.time() - age,) * 2)
    where = ["--out", tmp_path / "r.html"] if command == "report" else []
    says = f"'{tmp_path / 'runs'}' holds no run; give the folder of a run, such as '{tmp_path / 'runs' / 'new'}'"
    assert says in run_cli(command, tmp_path / "runs", *where).error()


def test_a_finished_run_ends_watching(tmp_path, run_cli):
    result = run_cli("watch", make_run(tmp_path / "run"))
    assert result.code == 0
    assert result.out.splitlines()[0].startswith("finished: step 40 of 40")
    assert str(tmp_path / "run" / "preview.png") in result.out


def test_it_waits_for_the_run_and_follows_it_to_its_end(tmp_path, run_cli, monkeypatch):
    folder = tmp_path / "run"

    def begin() -> None:
        folder.mkdir()
        write(folder / "progress.json", SO_FAR)
        write_run(folder, ABOUT)

    def finish() -> None:
        (folder / "progress.json").unlink()
        write_run(folder, replace(ABOUT, finished=True, losses=[2.0, 1.0], seconds=6.0))

    scenes = iter((begin, finish))
    monkeypatch.setattr("probedistill.report.watch.time.sleep", lambda _: next(scenes)())
    result = run_cli("watch", folder)
    assert result.code == 0
    _, first, second, last, _ = result.out.splitlines()
    assert first == "waiting for the run to start"
    assert second.startswith("step 10 of 40")
    assert last == "finished: step 2 of 2, loss 1.0000, 6 s"


@pytest.mark.slow
def test_the_folder_is_only_read_and_ctrl_c_ends_it(under_way, start_process):
    before = {path: path.stat().st_mtime_ns for path in under_way.iterdir()}
    process = start_process("watch", under_way)
    assert process.stdout.readline().startswith("step 10 of 40")
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE) == 130
    assert process.stderr.read() == "probedistill: stopped\n"
    assert {path: path.stat().st_mtime_ns for path in under_way.iterdir()} == before


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_a_terminal_of_any_encoding(under_way, encoding):
    folder = under_way.rename(under_way.with_name("caf\u00e9 \u732b \x1b[2J"))
    with (folder / "shown.txt").open("w", encoding=encoding, errors="strict") as file:
        Console(file=file, width=300).print(_view(folder, read_progress(folder), encoding))
    text = (folder / "shown.txt").read_text(encoding=encoding)
    assert "\x1b" not in text
    assert ("█" in text) == (encoding == "utf-8")
    assert ("#" in text) == (encoding != "utf-8")


@pytest.mark.slow
def test_a_real_run(photos, tmp_path, start_process, fork):
    """Watched from before its start until its end."""
    watching = start_process("watch", tmp_path / "run")
    wait_for(lambda: watching.stdout.readline().startswith("waiting"))
    made = fork(
        "distill", "--images", f"folder:{photos}", "--encoder", "module:helpers_encoders:slow", "--steps", 60,
        "--out", tmp_path / "run", "--no-progress",
    )  # fmt: skip
    assert made.end() == 0
    out, _ = watching.communicate(timeout=PATIENCE)
    assert watching.returncode == 0
    assert "finished: step 60 of 60" in out


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=300), st.integers(1, 80))
@example([0.0, 2.2250738585e-313], 2)
def test_buckets_keep_the_mean_and_the_order(values, most):
    means = bucket_means(values, most)
    assert len(means) == min(most, len(values))
    assert all(min(values) - 1e-6 <= mean <= max(values) + 1e-6 for mean in means)
    if len(values) <= most:
        assert means == values
    assert len(sparkline(values, most)) == len(means)
    assert sparkline(sorted(values), most) == "".join(sorted(sparkline(sorted(values), most)))
