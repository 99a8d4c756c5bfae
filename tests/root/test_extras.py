from __future__ import annotations

import importlib
import re
import sys
from importlib import metadata
from pathlib import Path

import pytest

import probedistill
from probedistill.errors import UserError
from probedistill.extras import needed


def test_an_installed_package():
    assert needed("json.decoder", "demo", "x needs").JSONDecoder


@pytest.mark.parametrize("name", ["no_such_package", "no_such_package.part"])
def test_a_package_that_is_not_installed(name):
    with pytest.raises(UserError) as error:
        needed(name, "demo", "x needs")
    line = "x needs the package no_such_package, which is not installed; run: pip install 'probedistill[demo]'"
    assert str(error.value) == line


@pytest.mark.parametrize(
    "content", ["import no_such_package_below", "from json import no_such_name", "raise OSError('lib.so: not found')"]
)
def test_a_package_that_is_broken_is_not_called_missing(tmp_path, monkeypatch, content):
    (tmp_path / "broken_package.py").write_text(content)
    monkeypatch.syspath_prepend(tmp_path)
    line = r"x needs the package broken_package, which cannot be imported \(.*(no_such|not found).*\); install it again"
    with pytest.raises(UserError, match=line):
        needed("broken_package", "demo", "x needs")
    sys.modules.pop("broken_package", None)


@pytest.mark.parametrize(
    ("package", "installed", "is_refused"),
    [
        ("transformers", "4.57.6", True), ("transformers", "5.0.0rc1", False), ("transformers", "5.24.0", False),
        ("open_clip", "2.7", True), ("open_clip", "2.30.0+local", False), ("json", "0.1", False),
    ],
)  # fmt: skip
def test_a_package_that_is_too_old(monkeypatch, package, installed, is_refused):
    asked = ["numpy>=1.26", "transformers>=5.0; extra == 'hf'", "open-clip-torch>=2.24; extra == 'openclip'"]
    monkeypatch.setattr(metadata, "requires", lambda _: asked)
    monkeypatch.setattr(metadata, "version", lambda _: installed)
    monkeypatch.setattr(importlib, "import_module", lambda name: name)
    if not is_refused:
        assert needed(package, "hf", "x needs") == package
        return
    with pytest.raises(UserError, match=rf"x needs the package {package} [\d.]+ or newer, not {installed}; run: pip"):
        needed(package, "hf", "x needs")


def test_a_package_of_unknown_release_is_taken(monkeypatch):
    def unknown(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", unknown)
    assert needed("json", "hf", "x needs")


def test_every_missing_package_is_worded_in_one_place():
    package = Path(probedistill.__file__).parent
    worded = [path.name for path in package.rglob("*.py") if re.search(r"pip install .probedistill", path.read_text())]
    assert worded == ["extras.py"]
