"""Every command and function that takes a run accepts ``hub:`` and ``set:``; these sets are never changed."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

import probedistill
from conftest import TINY
from probedistill import DistilledSet, RunConfig, UserError, load_encoder, load_images
from probedistill.cli.app import app as cli
from probedistill.report.info import run_info
from probedistill.report.watch import read_progress
from probedistill.ship.hub import push
from probedistill.store.layout import RUN
from probedistill.store.named import is_from_elsewhere, results_folder, run_folder
from probedistill.store.sums import file_digest

SET = "set:textures-lite0"
PHOTOS = ("--images", "textures:procedural")
ENCODER = ("--encoder", TINY, "--trust")

COMMANDS = {
    "accept": ["set:nothing"],
    "audit": ["set:nothing", *PHOTOS, *ENCODER],
    "baseline": [*PHOTOS, *ENCODER, "--by-bytes", "--runs", "set:nothing"],
    "bias": ["set:nothing", *PHOTOS, "--groups", "groups.csv"],
    "evaluate": ["set:nothing", *PHOTOS, *ENCODER],
    "export": ["set:nothing", "--out", "small"],
    "extend": ["set:nothing", *PHOTOS, "--out", "more"],
    "forget": ["set:nothing", "--class", "bricks", "--out", "less"],
    "geometry": ["set:nothing", *PHOTOS, *ENCODER],
    "info": ["set:nothing"],
    "label": ["set:nothing", *PHOTOS, *ENCODER, "--keep-head"],
    "merge": [SET, "set:nothing", "--out", "both"],
    "migrate": ["set:nothing", *ENCODER, "--out", "head"],
    "push": ["set:nothing", "me/set", "--dry-run"],
    "rename": ["set:nothing", "bricks=walls", "--out", "named"],
    "report": ["set:nothing", "--out", "report.html"],
    "runs": ["set:nothing"],
    "transfer": ["set:nothing", "--encoders", TINY, "--trust", *PHOTOS],
    "watch": ["set:nothing"],
}
"""Every command that takes a run, with its other arguments."""


def test_every_command_that_takes_a_run_is_tested_here():
    takes_a_run = {
        name
        for name in cli
        if not name.startswith("-") and {"folder", "run", "runs"} & _positional(cli[name].default_command)
    }
    assert takes_a_run <= COMMANDS.keys() | {"predict"}  # predict takes the folder of a head


def _positional(function: Callable[..., object]) -> set[str]:
    """Positional arguments that take paths."""
    return {name for name, one in inspect.signature(function).parameters.items() if "Path" in str(one.annotation)}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_looks_for_the_set(command, run_cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "unknown set 'nothing'" in run_cli(command, *COMMANDS[command]).error()
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(
    "call",
    [
        DistilledSet.load,
        run_info,
        read_progress,
        probedistill.watch,
        probedistill.collect_runs,
        lambda run: push(run, "me/set", dry_run=True),
        lambda run: probedistill.write_report([run], "report.html"),
        lambda run: probedistill.bias([run], "textures:procedural", "groups.csv"),
        lambda run: probedistill.merge([SET, run]),
        lambda run: probedistill.forget(run, ["bricks"], run=RunConfig(out=Path("less"))),
        lambda run: probedistill.extend(run, textures(), load_encoder(TINY), run=RunConfig(out=Path("more"))),
        lambda run: probedistill.transfer([run], [TINY], textures(), textures()),
        lambda run: probedistill.by_bytes(load_encoder(TINY), textures(), textures(), runs=[run]),
        lambda run: probedistill.audit(
            DistilledSet.load(SET), load_encoder(TINY), textures(), folder=run, progress=False
        ),
    ],
)
def test_every_function_looks_for_the_set(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="unknown set 'nothing'"):
        call("set:nothing")


@cache
def textures():
    return load_images("textures:procedural", progress=False)


@pytest.mark.slow
def test_results_of_commands_are_next_to_the_set(run_cli, tmp_path):
    folder = run_folder(SET)
    before = contents(folder)
    few = ("--seeds", 1, "--views", 1, "--full-views", 0, "--baselines", "random")
    for command, *options in (["evaluate", *few], ["geometry"]):
        done = run_cli(command, SET, *PHOTOS, *ENCODER, *options, "--no-progress")
        assert done.code == 0, done.err
    assert contents(folder) == before
    names = {path.name.partition("-")[0] for path in results_folder(folder).iterdir()}
    assert {"evaluation", "geometry.json"} <= names
    assert run_cli("report", SET, "--out", tmp_path / "report.html").code == 0
    page = (tmp_path / "report.html").read_text()
    assert "random real" in page
    assert "Where the images lie" in page


def test_commands_that_would_change_the_set_are_refused(run_cli, tmp_path):
    folder = run_folder(SET)
    before = contents(folder)
    for command in (["label", SET, *PHOTOS, *ENCODER, "--keep-head"], ["accept", SET]):
        assert "probedistill export" in run_cli(*command).error()
    with pytest.raises(UserError, match="is read-only"):
        probedistill.evaluate(None, load_encoder(TINY), textures(), textures(), out=folder / "evaluation-x.json")
    assert contents(folder) == before


def contents(folder: Path) -> dict[str, str]:
    return {path.name: file_digest(path) for path in folder.rglob("*") if path.is_file()}


def test_a_run_of_this_machine_keeps_its_results(tmp_path):
    assert results_folder(tmp_path / "run") == tmp_path / "run"
    assert not is_from_elsewhere(tmp_path / "run")
    assert is_from_elsewhere(run_folder(SET))
    assert (run_folder(SET) / RUN).is_file()
