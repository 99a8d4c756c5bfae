"""Where the cache goes: where the user says, at home, or among the temporary files."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from probedistill import UserError, extract_features, load_images
from probedistill.machine.places import cache_folder, hindrance
from probedistill.store.files import check_writable


@pytest.fixture
def nowhere(monkeypatch):
    """A user without a home: a container with an arbitrary user id."""

    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("PROBEDISTILL_CACHE", raising=False)
    monkeypatch.setattr(Path, "home", staticmethod(no_home))


def test_where_the_user_says(monkeypatch, tmp_path):
    monkeypatch.setenv("PROBEDISTILL_CACHE", str(tmp_path / "of the environment"))
    assert cache_folder(tmp_path / "mine") == tmp_path / "mine"
    assert cache_folder() == tmp_path / "of the environment"


def test_at_home(monkeypatch, tmp_path):
    monkeypatch.delenv("PROBEDISTILL_CACHE", raising=False)
    monkeypatch.setattr(Path, "home", staticmethod(lambda: tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "probedistill"


def test_without_a_home(nowhere):
    folder = cache_folder()
    assert folder.is_absolute()
    assert folder.name.startswith("probedistill-")


def test_a_home_that_cannot_be_written_to(monkeypatch, tmp_path):
    monkeypatch.delenv("PROBEDISTILL_CACHE", raising=False)
    monkeypatch.setattr(Path, "home", staticmethod(lambda: tmp_path))
    monkeypatch.setattr("os.access", lambda path, mode: not str(path).startswith(str(tmp_path)))
    assert tmp_path not in cache_folder().parents


def test_a_user_without_a_home_distils(nowhere, distil_cli, tmp_path, monkeypatch):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path / "temporary"))
    assert distil_cli("--out", tmp_path / "run").code == 0
    assert list((tmp_path / "temporary").glob("probedistill-*/features/*"))


_NOBODY = """
import getpass, os, pwd

def unknown(number):
    raise KeyError(number)

pwd.getpwuid = unknown
import probedistill.images.splits
from huggingface_hub import constants
print(getpass.getuser(), constants.HF_HOME, os.environ.get("MPLCONFIGDIR"), sep="\\n")
"""


@pytest.mark.parametrize("home", [None, "no such folder", "theirs"])
def test_other_libraries_work_without_a_name_and_a_home(tmp_path, home):
    """torchvision asks for the name; datasets created a folder called ~ in the current folder."""
    nothing = ("HOME", "USER", "LOGNAME", "LNAME", "USERNAME", "XDG_CACHE_HOME", "HF_HOME", "MPLCONFIGDIR")
    environment = {name: value for name, value in os.environ.items() if name not in nothing}
    (tmp_path / "theirs" / ".cache").mkdir(parents=True)
    if home is not None:
        environment["HOME"] = str(tmp_path / home / "nobody" if home != "theirs" else tmp_path / home)
    (tmp_path / "no such folder").touch()  # so that no home can be created there
    code = subprocess.run([sys.executable, "-c", _NOBODY], capture_output=True, text=True, env=environment, check=False)
    assert code.returncode == 0, code.stderr
    name, caches, of_matplotlib = code.stdout.splitlines()
    assert name == str(os.getuid())
    if home == "theirs":  # weights may be there, even if it is not writable
        assert (caches, of_matplotlib) == (str(tmp_path / "theirs" / ".cache" / "huggingface"), "None")
    else:
        assert Path(caches).is_absolute()
        assert f"probedistill-{os.getuid()}" in caches
        assert of_matplotlib == str(Path(caches).parent / "matplotlib")


@pytest.mark.slow
def test_a_tilde_is_the_home_folder_even_without_a_shell(distil_cli, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PROBEDISTILL_CACHE", "~/kept")
    assert cache_folder() == tmp_path / "kept"
    assert cache_folder("~nobody-of-this-name/x") == Path("~nobody-of-this-name/x")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "options.yaml").write_text("out: ~/in-a-file\n")
    assert distil_cli("--out=~/run", "--cache=~/other").code == 0
    assert distil_cli("--config", "options.yaml").code == 0
    assert {"run", "other", "in-a-file", "kept"} <= {path.name for path in tmp_path.iterdir()}
    assert not (tmp_path / "~").exists()


def test_no_place_for_the_cache_is_one_line(nowhere, distil_cli, run_cli, tmp_path, monkeypatch):
    def no_place() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found in ['/tmp', '/var/tmp']")

    with monkeypatch.context() as patch:
        patch.setattr("tempfile.gettempdir", no_place)
        error = distil_cli("--out", tmp_path / "run").error()
    assert "there is no place for the cache" in error
    assert "set PROBEDISTILL_CACHE or TMPDIR to a writable folder" in error
    assert not (tmp_path / "run").exists()
    with monkeypatch.context() as patch:  # libraries ask when they are imported
        patch.setattr("probedistill.cli.app.show", lambda *what: no_place())
        patch.setattr("probedistill.cli.sets.show", lambda *what: no_place())
        assert "set TMPDIR to one" in run_cli("sets").error()


@pytest.fixture
def a_file(tmp_path):
    path = tmp_path / "a file"
    path.write_text("x")
    return path


@pytest.mark.slow
@pytest.mark.parametrize("below", ["", "sub/folder"])
def test_a_cache_that_is_a_file_is_reported_before_any_work(distil_cli, run_cli, tmp_path, a_file, monkeypatch, below):
    place, out = a_file / below, tmp_path / "run"
    why = f"cannot be used: {str(a_file)!r} is not a folder"
    error = distil_cli("--cache", place, "--out", out).error()
    assert error.endswith(f"cache {str(place)!r} {why}; give another folder with --cache")
    monkeypatch.setenv("PROBEDISTILL_CACHE", str(place))
    for words in (("info", "set:clothing-lite0"), ("info", "hub:someone/set")):
        error = run_cli(*words).error()
        assert error.endswith(f"PROBEDISTILL_CACHE {str(place)!r} {why}; set it to another folder, or unset it")
    assert "PROBEDISTILL_CACHE" in distil_cli("--out", out).error()
    assert not out.exists()
    assert distil_cli("--cache", tmp_path / "mine", "--out", out).code == 0  # the option wins over the variable
    assert run_cli("info", out).code == 0  # info needs no cache


def test_an_unwritable_cache_is_reported_before_features_are_computed(
    distil_cli, tmp_path, monkeypatch, encoder, photos
):
    place, images = tmp_path / "kept", load_images(f"folder:{photos}", split="train")
    place.mkdir()
    monkeypatch.setattr("os.access", lambda path, mode: not str(path).startswith(str(place)))
    error = distil_cli("--cache", place, "--out", tmp_path / "run").error()
    why = f"cache {str(place)!r} cannot be used: no permission to write in {str(place)!r}; give another folder with "
    assert error.endswith(f"{why}--cache")
    with pytest.raises(UserError, match=re.escape(f"{why}cache=…")):
        extract_features(encoder, images, cache=place, progress=False)
    assert not list(place.iterdir())
    with monkeypatch.context() as patch:
        patch.setattr("os.access", lambda path, mode: True)
        whole = extract_features(encoder, images, cache=place, progress=False)
    again = extract_features(encoder, images, cache=place, progress=False)  # everything is there, so nothing is written
    assert again.centre.equal(whole.centre)


def test_a_blank_variable_counts_as_unset(monkeypatch, tmp_path):
    monkeypatch.setenv("PROBEDISTILL_CACHE", " ")
    monkeypatch.setattr(Path, "home", staticmethod(lambda: tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "probedistill"


@pytest.mark.parametrize("option", ["--out", "--cache"])
def test_an_empty_path_is_not_the_current_folder(distil_cli, tmp_path, monkeypatch, option):
    monkeypatch.chdir(tmp_path)
    assert f"{option}: '' is not a path" in distil_cli(option, "").error()
    assert not list(tmp_path.iterdir())


# ---- what hinders a folder


def test_a_folder_that_can_be_made_has_no_hindrance(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in (tmp_path, tmp_path / "new/below", Path("new/below"), Path("../new"), Path()):
        assert hindrance(path) is None
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("as_given", [lambda path: path, lambda path: Path(os.path.relpath(path))])
def test_the_nearest_existing_parent_is_the_hindrance(tmp_path, a_file, monkeypatch, as_given):
    monkeypatch.chdir(tmp_path)
    nearest = as_given(a_file)
    for path in (nearest, nearest / "below/it"):
        why = f"{str(nearest)!r} is not a folder"
        assert hindrance(path, writes=False) == why
        with pytest.raises(UserError, match=re.escape(f"cannot write {str(path)!r}: {why};")):
            check_writable(path)


def test_a_folder_without_permission_only_hinders_writing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("os.access", lambda *_: False)
    (tmp_path / "mine").mkdir()
    assert hindrance(Path("mine/run")) == "no permission to write in 'mine'"
    assert hindrance(Path("run")) == "no permission to write in the current folder"
    assert hindrance(tmp_path / "run") == f"no permission to write in {str(tmp_path)!r}"
    assert hindrance(Path("run"), writes=False) is None
