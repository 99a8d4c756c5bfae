"""``module:`` encoders and other people's sources."""

from __future__ import annotations

import importlib.util
import sys

import pytest
import torch

from conftest import TINY
from helpers_encoders import Tiny, close, pictures
from probedistill import UserError, load_encoder
from probedistill.encoders.load import SOURCES


def test_module_factory_with_arguments():
    encoder = load_encoder(TINY, encoder_args={"width": 10}, device="cpu")
    images = pictures()
    with torch.no_grad():
        expected = Tiny(width=10).eval()((images - 0.5) / 0.25)
        assert close(encoder(images), expected)
    assert (encoder.dim, encoder.input_size) == (10, 32)


def test_fingerprint_of_a_module_encoder_sees_its_code(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    source = """
from torch import nn

class Pool(nn.Module):
    def forward(self, images):
        return images.POOL((2, 3))
"""
    found = []
    for name, pool in (("one", "mean"), ("other", "amax"), ("same", "mean")):
        (tmp_path / f"pooled_{name}.py").write_text(source.replace("POOL", pool))
        module = importlib.import_module(f"pooled_{name}")
        monkeypatch.setitem(sys.modules, "pooled", module)
        found.append(load_encoder("module:pooled:Pool", device="cpu").fingerprint)
    assert found[0] == found[2] != found[1]


@pytest.mark.parametrize(
    ("factory", "says"),
    [
        ("in_a_dict", "returns dict; it must return a tensor"),
        ("without_a_word", "cannot take images of 32 pixels \\(AssertionError\\)"),
    ],
)
def test_models_that_are_not_encoders(factory, says):
    with pytest.raises(UserError, match=says):
        load_encoder(f"module:helpers_encoders:{factory}", device="cpu")


@pytest.mark.parametrize(
    ("size", "says"),
    [
        ("big", "has input_size 'big'"),
        (None, "has input_size None"),
        ((32, 48), r"has input_size \(32, 48\)"),
        (4, r"has input_size 4 \(at least 8\); give a number of pixels"),
    ],
)
def test_sizes_that_a_model_declares(size, says, monkeypatch):
    model = Tiny()
    model.input_size = size
    monkeypatch.setattr("helpers_encoders.tiny", lambda: model)
    with pytest.raises(UserError, match=f"^encoder '{TINY}' {says}"):
        load_encoder(TINY, device="cpu")


def test_a_model_may_declare_both_sides_of_its_images(monkeypatch):
    model = Tiny()
    model.input_size = (32, 32)
    monkeypatch.setattr("helpers_encoders.tiny", lambda: model)
    assert load_encoder(TINY, device="cpu").input_size == 32


def test_a_model_instead_of_its_factory(monkeypatch):
    monkeypatch.setattr("helpers_encoders.tiny", Tiny())
    with pytest.raises(UserError, match="is a module object; name the function or class that creates it"):
        load_encoder(TINY, device="cpu")


def test_module_factory_refuses_arguments():
    with pytest.raises(UserError, match="no_such_argument"):
        load_encoder(TINY, encoder_args={"no_such_argument": 1}, device="cpu")


# ---------------------------------------------------------------- from outside the package


MINE = """
from torch import nn
from probedistill.encoders.source import EncoderSource, Loaded

class Mean(nn.Module):
    def forward(self, images):
        return images.mean((2, 3))

def load(name, config):
    return Loaded(Mean(), input_size=config.input_size or int(name))

SOURCE = EncoderSource(load)
NOT_A_SOURCE = load
make = Mean
"""


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """An empty current folder that is not on the path, as with the console script."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", str(tmp_path))])
    yield tmp_path
    for name in ("mine_in_this_folder", "mine_installed"):
        sys.modules.pop(name, None)


def test_a_file_in_the_current_folder_is_found(elsewhere, run_cli, photos):
    (elsewhere / "mine_in_this_folder.py").write_text(MINE)
    assert load_encoder("module:mine_in_this_folder:make", device="cpu").dim == 3
    spec = ["--encoder", "module:mine_in_this_folder:make", "--input-size", 16]
    result = run_cli("features", "--images", f"folder:{photos}", *spec)
    assert result.code == 0, result.err


def test_another_package_adds_a_source_of_encoders(elsewhere, monkeypatch, run_cli, photos):
    (elsewhere / "mine_installed.py").write_text(MINE)
    about = elsewhere / "mine-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    points = "[probedistill.encoder_source]\nmine = mine_installed:SOURCE\nbad = mine_installed:NOT_A_SOURCE\n"
    (about / "entry_points.txt").write_text(points)
    monkeypatch.syspath_prepend(elsewhere)
    monkeypatch.delitem(SOURCES.__dict__, "plugins", raising=False)  # read once per process

    encoder = load_encoder("mine:24", device="cpu")
    assert (encoder.dim, encoder.input_size, encoder.name) == (3, 24, "24")
    assert load_encoder("mine:24@16", device="cpu").input_size == 16
    with pytest.raises(UserError, match="'bad' is function; it must be an EncoderSource"):
        load_encoder("bad:24")
    with pytest.raises(UserError, match=r"checkpoint 'w\.pth' is not possible for 'mine:24', which"):
        load_encoder("mine:24", checkpoint="w.pth")
    with pytest.raises(UserError, match="unknown encoder source 'min'; did you mean 'mine'"):
        load_encoder("min:24")
    result = run_cli("features", "--images", f"folder:{photos}", "--encoder", "mine:16")
    assert result.code == 0, result.err
    monkeypatch.delitem(SOURCES.__dict__, "plugins")


def test_a_factory_that_fails_is_one_line(elsewhere):
    (elsewhere / "mine_in_this_folder.py").write_text("def make():\n    open('no weights')\n\nmake2 = 3")
    with pytest.raises(UserError, match=r"make' could not be made \(No such file"):
        load_encoder("module:mine_in_this_folder:make")
    with pytest.raises(UserError, match="make2' is int; name a function that returns"):
        load_encoder("module:mine_in_this_folder:make2")


@pytest.mark.parametrize(
    ("place", "says"),
    [
        ("pkg/inner.py:make", "names a path; write module:pkg.inner:make$"),
        ("./mine.py:make", "names a path; write module:mine:make$"),
        ("mine.py:make", "names a path; write module:mine:make$"),
        ("/elsewhere/mine.py:make", "names a path; write module:mine:make, in the folder of that file$"),
        ("../mine:make", "names a path; write module:mine:make, in the folder of that file$"),
        ("C:\\\\code\\\\mine.py:make", "names a path; write module:mine:make, in the folder of that file$"),
    ],
)
def test_a_path_instead_of_a_module(place, says):
    with pytest.raises(UserError, match=says):
        load_encoder(f"module:{place}")
