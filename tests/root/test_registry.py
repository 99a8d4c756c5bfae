"""Registries: names are resolved when they are used; a user's own file and other packages can add names."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint

import pytest

from probedistill import UserError
from probedistill.errors import explained
from probedistill.registry import Registry

COLOURS = Registry("colour", {"red": ".errors:UserError", "blue": "json:dumps"})


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A file in the current folder, which only a ``module:`` name can find."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "own_colours.py").write_text("green = 'leaves'\n")
    (tmp_path / "own_broken.py").write_text("import nowhere_to_be_found\n")
    (tmp_path / "own_program.py").write_text("import sys\nsys.exit('no data')\n")
    yield
    for name in ("own_colours", "own_broken", "own_program"):
        sys.modules.pop(name, None)


def test_a_name_is_imported_when_it_is_used():
    import json

    assert COLOURS.load("red") is UserError
    assert COLOURS.load("blue") is json.dumps
    assert "red" in COLOURS
    assert COLOURS.names() == ["red", "blue"]


def test_the_nearest_name_is_offered():
    with pytest.raises(UserError, match=r"unknown colour 'rad'; did you mean 'red'"):
        COLOURS.load("rad")


def test_a_file_in_the_current_folder(own):
    assert COLOURS.load("module:own_colours:green") == "leaves"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("module:own_colours:gren", "did you mean 'green'"),
        ("module:not_there:green", "is there a not_there.py in"),
        ("module:own_broken:green", "nowhere_to_be_found.*; correct it, or what it imports$"),
        ("module:own_program:green", r"'own_program' ends the program when it is imported \(no data\); put what it"),
        ("module:own_colours", "must be module:"),
        ("module::", "must be module:"),
    ],
)
def test_missing_names_and_modules_are_one_line(own, name, says):
    with pytest.raises(UserError, match=says) as caught:
        COLOURS.load(name)
    assert "\n" not in str(caught.value)


def test_a_package_adds_a_name(monkeypatch):
    point = EntryPoint("yellow", "json:loads", "probedistill.colour")
    shadow = EntryPoint("red", "json:loads", "probedistill.colour")
    import importlib.metadata
    import json

    points = {"probedistill.colour": [point, shadow]}
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: points.get(group, []))

    colours = Registry("colour", {"red": ".errors:UserError"})
    assert colours.names() == ["red", "yellow"]
    assert colours.load("yellow") is json.loads
    assert colours.load("red") is UserError  # a built-in name keeps its meaning


def test_explained_leaves_one_line_and_passes_other_errors():
    with pytest.raises(UserError) as caught, explained("disk", OSError, hint="free some"):
        raise OSError("full\nand more")
    assert str(caught.value) == "disk (full); free some"
    with pytest.raises(KeyError), explained("disk", OSError):
        raise KeyError("x")
    with pytest.raises(UserError, match=r"^as it is$"), explained("disk", ValueError):
        raise UserError("as it is")
