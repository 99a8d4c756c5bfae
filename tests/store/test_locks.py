"""One process at a time in a folder; processes that add to the same file lose nothing."""

from __future__ import annotations

import subprocess
import sys

import pytest

from probedistill import UserError
from probedistill.store.locks import claimed, sole_maker

ADD = """
import sys
from pathlib import Path
from probedistill.store.locks import claimed

folder, name = Path(sys.argv[1]), sys.argv[2]
for number in range(40):
    with claimed(folder, wait=30):
        file = folder / "names"
        before = file.read_text() if file.exists() else ""
        file.write_text(before + name + chr(10))
"""


def test_a_folder_is_free_again_and_nothing_is_left(tmp_path):
    for _ in range(2):
        with claimed(tmp_path / "new"):
            (tmp_path / "new/x").touch()
        assert [path.name for path in (tmp_path / "new").iterdir()] == ["x"]


def test_a_folder_in_use_is_refused(tmp_path):
    with (
        claimed(tmp_path / "run"),
        pytest.raises(UserError, match="is in use by another process"),
        claimed(tmp_path / "run"),
    ):
        pass
    assert not list((tmp_path / "run").iterdir())


def test_an_error_leaves_no_new_folder(tmp_path):
    with pytest.raises(UserError, match="no"), claimed(tmp_path / "a/b"):
        raise UserError("no")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_two_processes_lose_nothing(tmp_path):
    both = [subprocess.Popen([sys.executable, "-c", ADD, str(tmp_path), name]) for name in "ab"]
    assert [process.wait(timeout=120) for process in both] == [0, 0]
    lines = (tmp_path / "names").read_text().split()
    assert (lines.count("a"), lines.count("b")) == (40, 40)


def test_a_running_distillations_folder_is_in_use_whatever_it_contains(distil_cli, finished):
    out = finished
    with claimed(out):
        for more in ([], ["--resume"], ["--overwrite"], ["--lr", 0.5, "--resume"]):
            assert "in use by another process" in distil_cli("--out", out, *more).error()
    line = distil_cli("--out", out, "--resume", "--canvas.init", "noise", "--canvas.size", 40).error()
    assert "with lr 0.02, now 0.05, with canvas.size 'auto', now 40, with canvas.init 'average', now 'noise'" in line


@pytest.mark.parametrize("command", ["rename", "import", "compose"])
def test_one_of_two_commands_makes_a_new_folder(tmp_path, finished, photos, run_cli, command):
    """Else each would remove what the other has written so far, and the later one would replace the earlier."""
    images = f"folder:{photos}"
    words = {
        "rename": ["rename", finished, "cat=kitten"],
        "import": ["import", finished / "images"],
        "compose": ["compose", "--foregrounds", images, "--backgrounds", images, "--mask", "round"],
    }[command]
    before = set(tmp_path.iterdir())
    with sole_maker(tmp_path / "new"):
        assert "new' is in use by another process; wait for it" in run_cli(*words, "--out", tmp_path / "new").error()
    assert set(tmp_path.iterdir()) == before


def test_a_link_to_a_new_folder_is_that_folder(tmp_path, finished, run_cli):
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to("disk/new")
    with sole_maker(tmp_path / "disk" / "new"):
        said = run_cli("rename", finished, "cat=kitten", "--out", tmp_path / "link").error()
    assert "link' is in use by another process; wait for it" in said


def test_a_run_that_begins_in_a_folder_while_another_is_made_there_is_kept(tmp_path, finished, run_cli, monkeypatch):
    out = tmp_path / "new"

    def begin(*_):
        out.mkdir()
        (out / "run.json").touch()

    monkeypatch.setattr("probedistill.distillation.new_folder.save_preview", begin)
    assert "new' already exists; give another folder" in run_cli("rename", finished, "cat=kitten", "--out", out).error()
    assert [path.name for path in out.iterdir()] == ["run.json"]
    assert not list(tmp_path.glob(".*"))
