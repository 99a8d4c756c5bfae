"""Additions to the pages for mkdocs: files of the repository that are also pages, the pictures of benchmarks/, and the
notebook."""

from __future__ import annotations

import ast
import html
import json
import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "CODE_OF_CONDUCT.md": "conduct.md",
    "SECURITY.md": "security.md",
}
"""File of the repository → page of the site."""
RESULTS = "benchmarks/results"
PICTURES = "images/results"
"""Where the pictures of `RESULTS` go."""


def on_startup(**about: Any) -> None:
    """Name the program whose usage the pages show: by itself cyclopts takes the running one, ``python -m mkdocs``."""
    sys.argv[0] = "probedistill"


def on_files(files: Files, *, config: Any) -> Files:
    """Add files from outside docs/."""
    for file, page in PAGES.items():
        text = (ROOT / file).read_text(encoding="utf-8")
        text = re.sub(r"(\]\()docs/", r"\1", text)
        text = re.sub(r"\[([^\]]*)\]\(examples/?\)", r"\1", text)  # code is not part of the site
        files.append(File.generated(config, page, content=text))
    for notebook in (ROOT / "docs").glob("*.ipynb"):
        content = as_page(json.loads(notebook.read_text(encoding="utf-8")))
        files.append(File.generated(config, f"{notebook.stem}.md", content=content))
    for picture in (ROOT / RESULTS).rglob("*.png"):
        place = f"{PICTURES}/{picture.relative_to(ROOT / RESULTS).as_posix()}"
        files.append(File.generated(config, place, abs_src_path=str(picture)))
    return files


def as_page(notebook: Any) -> str:
    """A notebook with its outputs as Markdown. Unlike with the usual templates, nothing is loaded from elsewhere."""
    return "\n\n".join(part for cell in notebook["cells"] for part in _cell(cell))


def _cell(cell: Any) -> list[str]:
    source = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        return [source]
    return [f"```python\n{source}\n```", *map(_output, cell["outputs"])]


def _output(output: Any) -> str:
    data = {kind: "".join(text) for kind, text in output.get("data", {}).items()}
    if "image/png" in data:
        return f'<img alt="output" src="data:image/png;base64,{data["image/png"].strip()}">'
    if "text/html" in data:
        in_one_line = re.sub(r"\n\s*", " ", data["text/html"])
        return f'<div class="output" style="overflow-x:auto">\n{in_one_line}\n</div>'
    return f"<pre><code>{html.escape(data.get('text/plain', '')).strip()}</code></pre>"  # a code box scrolls


def _not_listed(page: str) -> str:
    """The public names that the API page does not list yet."""
    listed = ast.parse((ROOT / "src/probedistill/__init__.pyi").read_text(encoding="utf-8"))
    public = {name.name for node in listed.body if isinstance(node, ast.ImportFrom) for name in node.names}
    known = {*re.findall(r"::: probedistill\.(\w+)", page), "__version__", "RECIPES"}
    return "\n## More\n\n" + "\n".join(f"::: probedistill.{name}" for name in sorted(public - known))


def on_page_markdown(markdown: str, *, page: Any, **rest: Any) -> str:
    """Point links within the repository to pages and pictures of the site."""
    if page.file.src_uri == "api.md":
        markdown += _not_listed(markdown)
    up = "../" * page.file.src_uri.count("/")
    for file, target in PAGES.items():
        markdown = re.sub(rf"\]\((?:\.\./)*{re.escape(file)}", f"]({up}{target}", markdown)
    markdown = re.sub(r"(\]\([^)]*)\.ipynb\)", r"\1.md)", markdown)
    return re.sub(rf"\]\((?:\.\./)+{RESULTS}/", f"]({up}{PICTURES}/", markdown)
