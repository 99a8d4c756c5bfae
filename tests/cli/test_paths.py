"""Paths that no file can have, or where something other than a file is: one line, and nothing is replaced."""

from __future__ import annotations

import os
import re
import shlex

import pytest

from conftest import TINY
from probedistill import DistilledSet, UserError
from probedistill.store.files import whole_file

LONG = "o" * 300
OPTIONS = [
    ["distill", "--images", "folder:PHOTOS", "--encoder", TINY, "--out", LONG],
    ["distill", "--images", "folder:PHOTOS", "--encoder", TINY, "--out", "loop"],
    ["distill", "--images", f"folder:{LONG}", "--encoder", TINY, "--out", "run"],
    ["distill", "--images", "folder:PHOTOS", "--encoder", TINY, "--out", "run", "--config", LONG],
    ["distill", "--images", "folder:PHOTOS", "--encoder", "timm:resnet18", "--out", "run", "--checkpoint", LONG],
    ["distill", "--images", "folder:PHOTOS", "--encoder", TINY, "--out", "run", "--cache", LONG],
    ["distill", "--stats", LONG, "--encoder", TINY, "--out", "run"],
    ["features", "--images", "folder:PHOTOS", "--encoder", TINY, "--cache", LONG],
    ["stats", "--images", "folder:PHOTOS", "--encoder", TINY, "--out", LONG],
    ["evaluate", LONG, "--images", "folder:PHOTOS", "--encoder", TINY],
    ["report", LONG],
    ["report", "loop"],
    ["export", "set:digits-lite0", "--out", LONG],
    ["import", LONG, "--out", "run"],
    *([name, LONG] for name in ("info", "runs", "watch", "accept")),
]


@pytest.mark.parametrize("words", OPTIONS, ids=lambda words: " ".join(w[:12] for w in words if w != TINY))
def test_impossible_paths(words, photos, run_cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.symlink("loop", "loop")
    line = run_cli(*(word.replace("PHOTOS", str(photos)) for word in words), trust=False).error()
    assert "oooo" in line or "loop" in line
    assert os.listdir() == ["loop"]


def test_in_python_too():
    with pytest.raises(UserError, match="too long"):
        DistilledSet.load(LONG)


def test_a_pipe_is_not_replaced(run_cli, tmp_path):
    pipe = tmp_path / "pipe.html"
    os.mkfifo(pipe)
    assert "not a file" in run_cli("report", "set:digits-lite0", "--out", pipe).error()
    assert pipe.is_fifo()


@pytest.mark.parametrize("kind", ["pipe", "device"])
@pytest.mark.parametrize(
    "words",
    [
        ["report", "RUN", "--transfer", "FOLDER/transfer.json"],
        ["report", "RUN", "--transfer", "FOLDER"],
        ["info", "RUN", "--config", "FOLDER"],
        ["evaluate", "RUN", "--images", "folder:PHOTOS", "--encoder", TINY, "--groups", "FOLDER/groups.csv"],
        ["rename", "RUN", "@FOLDER/names.txt", "--out", "FOLDER/out"],
    ],
    ids=lambda words: " ".join(word for word in words if word.startswith(("--", "FOLDER", "@"))),
)
def test_a_pipe_or_a_device_in_place_of_a_file_is_not_read(words, kind, photos, finished, run_cli, tmp_path):
    """Reading would block, or never end."""
    folder = tmp_path / "of-a-stranger"
    folder.mkdir()
    for name in ("transfer.json", "config.yaml", "groups.csv", "names.txt"):
        os.mkfifo(folder / name) if kind == "pipe" else (folder / name).symlink_to("/dev/zero")
    named = {"RUN": str(finished), "FOLDER": str(folder), "PHOTOS": str(photos)}
    line = run_cli(*(re.sub("RUN|FOLDER|PHOTOS", lambda match: named[match[0]], word) for word in words)).error()
    assert "is a pipe or a device; give a file" in line
    assert str(folder) in line


def test_a_list_that_a_shell_provides_is_read(photos, run_cli):
    """``--classes @<(ls photos)``"""
    reading, writing = os.pipe()
    os.write(writing, b"dog\ncat\n")
    os.close(writing)
    arguments = ("--images", f"folder:{photos}", "--encoder", TINY, "--classes", f"@/dev/fd/{reading}")
    assert run_cli("features", *arguments).code == 0
    os.close(reading)


def test_a_link_to_a_device_is_not_replaced(tmp_path):
    link = tmp_path / "out"
    link.symlink_to(os.devnull)
    with pytest.raises(UserError, match="not a file"), whole_file(link):
        pass
    assert link.is_symlink()
    assert os.listdir(tmp_path) == ["out"]


STATISTICS = (
    "\x58" + "\0" * 7 + r"""{"__metadata__":{"sha256":"0","metadata":"{\"about\": {}, \"kind\": \"statistics\"}"}}  """
)
MODEL = b"\x40" + b"\0" * 7 + b'{"head.weight":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'


@pytest.mark.parametrize(
    ("words", "earlier"),
    [
        (["predict", "HEAD", "PHOTOS", "--encoder", TINY, "--csv", "FILE"], "photo,class,percent\n"),
        (["baseline", "--images", "folder:PHOTOS", "--encoder", TINY, "--out", "FILE"], '{"kind": "evaluation"}'),
        (["stats", "--images", "folder:PHOTOS", "--encoder", TINY, "--out", "FILE"], STATISTICS),
        (["runs", "RUNS", "--csv", "FILE"], "\ufeffrun,seed,encoder,probe,top1\n"),
    ],
    ids=lambda words: words[0],
)
def test_a_file_of_another_kind_is_not_replaced(words, earlier, photos, finished, run_cli, tmp_path):
    """``--csv *.jpg`` of a shell names the first photo."""
    file, head = tmp_path / "a.jpg", tmp_path / "head"
    if words[0] == "predict":
        assert run_cli("migrate", finished, "--encoder", TINY, "--out", head).code == 0
    named = {"HEAD": head, "RUNS": tmp_path, "FILE": file, "folder:PHOTOS": f"folder:{photos}", "PHOTOS": photos}
    command = [named.get(word, word) for word in words]
    photo = next(photos.rglob("*.png")).read_bytes()
    for content in (photo, b"images: folder:photos\n", (finished / "run.json").read_bytes(), MODEL):
        file.write_bytes(content)
        assert "a.jpg' is a file of another kind, which would be replaced; choose" in run_cli(*command).error()
        assert file.read_bytes() == content
    file.write_text(earlier)
    assert run_cli(*command).code == 0
    assert file.read_text(errors="replace") != earlier


def test_heads_and_statistics_do_not_replace_each_other(photos, finished, run_cli, tmp_path):
    """Both are files of tensors that begin with the same bytes."""
    file = tmp_path / "head" / "head.safetensors"
    commands = {
        "head": ["migrate", finished, "--encoder", TINY, "--out", file.parent],
        "statistics": ["stats", "--images", f"folder:{photos}", "--encoder", TINY, "--out", file],
    }
    file.parent.mkdir()
    for mine, other in [("head", "statistics"), ("statistics", "head")]:
        assert [run_cli(*commands[mine]).code for _ in range(2)] == [0, 0]
        content = file.read_bytes()
        assert "head.safetensors' is a file of another kind, which would be" in run_cli(*commands[other]).error()
        assert file.read_bytes() == content
        file.unlink()


def test_a_printed_command_can_be_run(distil_cli, run_cli, tmp_path, monkeypatch):
    """A folder whose name begins with a dash would be taken for an option."""
    monkeypatch.chdir(tmp_path)
    shown = distil_cli("--out=-my run")
    line = next(line for line in shown.out.splitlines() if line.startswith("score:"))
    words = [word for word in shlex.split(line)[3:] if word != "--trust"]  # run_cli adds it
    assert words[:3] == ["./-my run", "--config", "./-my run/config.yaml"]
    assert run_cli("evaluate", *words, "--seeds", "1", "--no-progress").code == 0


def test_a_current_folder_that_is_gone_is_one_line(run_cli, tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    try:
        error = run_cli("info", tmp_path).error()
    finally:
        os.chdir(tmp_path)
    assert "the current folder cannot be used: No such file or directory; change to another one" in error
