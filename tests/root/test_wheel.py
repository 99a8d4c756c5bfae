"""The built wheel works outside the checkout, in an environment of its own."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from conftest import TESTS

ROOT = TESTS.parent

pytestmark = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("build", "hatchling")),
    reason="needs build and hatchling: pip install 'probedistill[dev]'",
)


def _run(command: list[object], folder: Path, **environment: str) -> str:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_ENV"))}
    done = subprocess.run(
        [str(part) for part in command], cwd=folder, env={**kept, **environment}, capture_output=True, text=True,
        timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy of the sources, so that nothing is left in the checkout."""
    copy = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md"):
        shutil.copy(ROOT / name, copy)
    shutil.copytree(ROOT / "src", copy / "src", ignore=shutil.ignore_patterns("__pycache__"))
    _run([sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", copy / "dist"], copy)
    (built,) = (copy / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """The bin folder of a fresh environment: the wheel, and this environment's packages but not its probedistill."""
    home = tmp_path_factory.mktemp("fresh") / "env"
    venv.create(home, with_pip=False, symlinks=True)
    scripts = home / ("Scripts" if os.name == "nt" else "bin")
    python = scripts / Path(sys.executable).name
    python = python if python.exists() else scripts / "python"
    _run(
        [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel], home
    )
    site = Path(_run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], home).strip())
    # A .pth file's paths come behind the environment's own packages, and .pth files in them (ours is
    # how the editable install is found) are not read.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return scripts


def test_wheel_holds_the_package_alone(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {"probedistill/cli/__init__.py", "probedistill/__init__.pyi", "probedistill/py.typed"} < set(names)
    assert {name.split("/")[0].split("-")[0] for name in names} == {"probedistill"}
    assert any(name.endswith("LICENSE") for name in names)


def test_package_is_the_installed_one(installed, tmp_path):
    code = "import probedistill; print(probedistill.__file__, probedistill.__version__)"
    file, version = _run([installed / "python", "-c", code], tmp_path).split()
    assert Path(file).is_relative_to(installed.parent)
    assert _run([installed / "probedistill", "--version"], tmp_path).strip() == version


def test_command_distils(installed, photos, tmp_path):
    assert "efficientnet_lite0" in _run([installed / "probedistill", "encoders"], tmp_path)
    command = [installed / "probedistill", "distill", "--images", f"folder:{photos}", "--steps", 2, "--out", "run"]
    out = _run([*command, "--encoder", "module:helpers_encoders:tiny"], tmp_path, PYTHONPATH=str(TESTS))
    assert "2 images of 2 classes" in out
    assert len(list((tmp_path / "run/images").rglob("*.png"))) == 2
