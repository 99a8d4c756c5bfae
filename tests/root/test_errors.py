"""Errors name arguments in Python, and flags on the command line."""

from __future__ import annotations

import importlib
import os
import pickle
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from conftest import TINY
from probedistill import Interrupted, NonFiniteLossError, UserError, distill, load_images, load_splits
from probedistill.errors import by_caller, of_a_variable, option, speaking_flags, traceback_in_own_code
from probedistill.extras import needed


@pytest.mark.parametrize(
    ("asked", "python", "flag"),
    [
        (("overwrite", True), "overwrite=True", "--overwrite"),
        (("pretrained", False), "pretrained=False", "--no-pretrained"),
        (("test_split",), "test_split=…", "--test-split"),
        (("precision", "fp32"), "precision='fp32'", "--precision fp32"),
        (("encoder_args.mask_ratio", 0), "encoder_args={'mask_ratio': 0}", "--encoder-args.mask_ratio 0"),
        (("source_args.challenge",), "source_args={'challenge': …}", "--source-args.challenge"),
    ],
)
def test_an_option_is_an_argument_or_a_flag(asked, python, flag):
    assert option(*asked) == python
    with speaking_flags():
        assert option(*asked) == flag
        assert by_caller(command="a", python="b") == "a"
    assert option(*asked) == python
    assert by_caller(command="a", python="b") == "b"


def test_flags_are_named_only_while_the_command_runs(run_cli, photos, tmp_path):
    run = {"steps": 2, "out": tmp_path / "run", "progress": False}
    distill(f"folder:{photos}", TINY, **run)
    command = ["distill", "--images", f"folder:{photos}", "--encoder", TINY, "--steps", 2, "--out", tmp_path / "run"]
    assert run_cli(*command).error().endswith("choose another folder or add --overwrite")
    with pytest.raises(UserError, match=r"choose another folder or add overwrite=True$"):
        distill(f"folder:{photos}", TINY, **run)
    with pytest.raises(UserError, match=r"^resume=True and overwrite=True cannot be combined"):
        distill(f"folder:{photos}", TINY, resume=True, overwrite=True, **run)


def test_errors_in_python_name_no_flags(tmp_path, photos):
    (tmp_path / "none/cat").mkdir(parents=True)
    for call in (
        lambda: load_images(f"folder:{tmp_path / 'none'}"),
        lambda: load_images(f"folder:{photos}", classes=["cat"]),
        lambda: load_images(f"folder:{photos}", split="tset"),
        lambda: load_splits("torchvision:CIFAR10"),
        lambda: distill(f"folder:{photos}", "timm:nonsense"),
        lambda: distill(f"folder:{photos}", TINY, preset="paper"),
    ):
        with pytest.raises(UserError) as caught:
            call()
        assert "--" not in str(caught.value)


NUMBER = "import os\ndef number(text):\n    return int(text or 5)\n\nlimit = number(os.environ.get('MINE_LIMIT'))"
AT_ONCE = "from os import getenv\nlimit = float(getenv('MINE_LIMIT', '5'))"
OTHER = "import os\nhome = os.environ.get('MINE_LIMIT')\nraise RuntimeError('a file is missing')"


@pytest.mark.parametrize("content", [NUMBER, AT_ONCE], ids=["in a function", "at once"])
def test_a_variable_that_a_library_cannot_read_is_named(tmp_path, monkeypatch, run_cli, content):
    value = "many"
    (tmp_path / "mine.py").write_text(content)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINE_LIMIT", value)
    line = run_cli("distill", "--images", "module:mine:photos", "--encoder", TINY).error()
    assert f"MINE_LIMIT '{value}' cannot be used (" in line
    assert line.endswith("set this environment variable to another value, or unset it")
    with pytest.raises(UserError, match=f"MINE_LIMIT '{value}' cannot be used"):
        needed("mine", "demo", "x needs")
    monkeypatch.delenv("MINE_LIMIT")
    with pytest.raises(UserError, match="unknown name in mine 'photos'"):
        load_images("module:mine:photos")


def test_no_variable_is_blamed_for_other_errors(monkeypatch):
    monkeypatch.setenv("MINE_LIMIT", "5")

    def fails():
        assert os.environ["MINE_LIMIT"] == "5"
        raise ValueError("of something else")

    with pytest.raises(ValueError, match="of something else") as error:
        fails()
    assert of_a_variable(error.value) is None


@pytest.mark.parametrize(
    ("place", "is_own"), [("project", True), (".local/lib/site-packages", False), ("usr/lib/dist-packages", False)]
)
def test_an_installed_library_is_not_ones_own_code(tmp_path, monkeypatch, place, is_own):
    """Wherever it is installed: pip's --user and Debian have other places than Python's own."""
    (tmp_path / place).mkdir(parents=True)
    (tmp_path / place / "broken_library.py").write_text("def fails():\n    return 1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path / place)
    monkeypatch.delitem(sys.modules, "broken_library", raising=False)
    library = importlib.import_module("broken_library")
    with pytest.raises(ZeroDivisionError) as error:
        library.fails()
    of_the_library = error.value.with_traceback(error.value.__traceback__.tb_next)
    assert (traceback_in_own_code(of_the_library) is not None) == is_own


def test_a_variable_is_not_blamed_for_an_error_that_does_not_quote_it(tmp_path, monkeypatch, run_cli):
    (tmp_path / "mine.py").write_text(OTHER)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINE_LIMIT", "many")
    line = run_cli("distill", "--images", "module:mine:photos", "--encoder", TINY).error()
    assert "a file is missing" in line
    assert "MINE_LIMIT" not in line


@pytest.mark.slow
@pytest.mark.skipif(version("numpy") < "2", reason="numpy 1 does not read the date")
def test_a_date_that_numpy_cannot_read_is_one_line(photos, tmp_path):
    words = ["distill", "--images", f"folder:{photos}", "--encoder", "timm:resnet18", "--out", tmp_path / "run"]
    found = subprocess.run(
        [sys.executable, "-m", "probedistill", *map(str, words)],
        env={**os.environ, "SOURCE_DATE_EPOCH": "today"}, capture_output=True, text=True,
    )  # fmt: skip
    assert (found.returncode, found.stdout) == (2, "")
    assert found.stderr.startswith("probedistill: error: SOURCE_DATE_EPOCH 'today' cannot be used (")
    assert found.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "error", [UserError("bad"), NonFiniteLossError("NaN"), Interrupted(2, Path("run")), Interrupted(15, None, "go on")]
)
def test_errors_survive_the_way_from_another_process(error):
    found = pickle.loads(pickle.dumps(error))
    assert (type(found), str(found), vars(found)) == (type(error), str(error), vars(error))
