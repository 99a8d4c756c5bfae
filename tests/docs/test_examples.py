"""The scripts in examples/ work, and the README suits the package's page."""

from __future__ import annotations

import importlib.util
import re
import runpy
import sys
from pathlib import Path

import pytest

from conftest import TINY

ROOT = Path(__file__).parents[2]


def run(script: str, *arguments: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
    runpy.run_path(str(ROOT / "examples" / script), run_name="__main__")


@pytest.mark.slow
def test_examples(photos, tmp_path, monkeypatch, capsys):
    images, out = f"folder:{photos}", tmp_path / "run"
    run("distil.py", images, out, "--encoder", TINY, "--steps", 2, monkeypatch=monkeypatch)
    said = capsys.readouterr().out
    assert "full real data" in said.replace("\n", " ")
    assert (out / "report.html").exists()
    run("new_encoder.py", out, f"{TINY}@40", images, monkeypatch=monkeypatch)
    assert re.search(r"% of 12 test images", capsys.readouterr().out)
    few = ["--methods", "sfm", "lgm", "--seeds", 2, "--steps", 2]
    run("compare_methods.py", images, "--encoder", TINY, *few, monkeypatch=monkeypatch)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["sfm", "lgm"]
    assert all("over 2 distillation seeds" in line for line in lines)


def test_every_example_is_run():
    text = Path(__file__).read_text(encoding="utf-8")
    assert all(path.name in text for path in (ROOT / "examples").glob("*.py"))


def built() -> dict[str, object]:
    pytest.importorskip("hatchling", reason="pip install 'probedistill[dev]'")
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    metadata: dict[str, object] = {}
    module.CustomMetadataHook(str(ROOT), {}).update(metadata)
    return metadata


def test_links_in_the_readme_are_absolute_in_a_release_build(monkeypatch):
    monkeypatch.setenv("GITHUB_SERVER_URL", "https://example.org")
    monkeypatch.setenv("GITHUB_REPOSITORY", "someone/probedistill")
    monkeypatch.setenv("GITHUB_REF_NAME", "v9.9.9")
    metadata = built()
    targets = re.findall(r"\]\(([^)]+)\)", metadata["readme"]["text"])
    assert all(target.startswith(("https://", "#")) for target in targets)
    assert "https://example.org/someone/probedistill/raw/v9.9.9/docs/images/clothing.jpg" in targets
    assert "https://example.org/someone/probedistill/blob/v9.9.9/docs/start.md" in targets
    assert metadata["urls"]["Repository"] == "https://example.org/someone/probedistill"


def test_no_address_is_invented(monkeypatch):
    monkeypatch.delenv("GITHUB_REPOSITORY", raising=False)
    metadata = built()
    assert "urls" not in metadata
    assert "](docs/start.md)" in metadata["readme"]["text"]
