"""README and docs: links work, the parser accepts all command lines, and the API page is complete."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

import probedistill
from probedistill.cli.app import SHARED, app

ROOT = Path(__file__).parents[2]
WIDTH = 120  # prose is wrapped at 118; two characters more are tolerated
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
GENERATED = re.compile(r"<!-- [\w-]+: benchmarks/tables\.py -->.*?<!-- end -->", re.DOTALL)
FENCE = re.compile(r"^(```|~~~).*?^\1[^\n]*$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"!?\[[^\]]*\]\(([^()\s]+)\)")
INLINE = re.compile(r"`(probedistill [^`]+)`")


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def blank(match: re.Match[str]) -> str:
    """The same number of empty lines, so that line numbers stay correct."""
    return "\n" * match.group().count("\n")


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub makes from the headings of a page."""
    found = set()
    for heading in re.findall(r"^#+ (.+)$", FENCE.sub(blank, page.read_text(encoding="utf-8")), re.MULTILINE):
        found.add(re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-"))
    return found


def broken_links(page: Path) -> Iterator[str]:
    for link in LINK.findall(FENCE.sub(blank, page.read_text(encoding="utf-8"))):
        if re.match(r"\w+:", link):
            continue
        place, _, anchor = link.partition("#")
        target = (page.parent / place).resolve() if place else page
        leads = target.exists() and (not anchor or target.suffix != ".md" or anchor in anchors(target))
        if not leads:
            yield link


def command_lines(text: str) -> Iterator[str]:
    """The command lines in code blocks and in running text."""
    for block in FENCE.finditer(text):
        joined = re.sub(r"\\\n\s*", " ", block.group())
        for line in joined.splitlines():
            line = line.strip().removeprefix("$ ")
            if line.startswith("probedistill "):
                yield line
    for call in INLINE.findall(FENCE.sub(blank, text)):
        yield " ".join(call.split())


def wrong_with(line: str) -> str | None:
    """The parser's message about a command line that it does not accept."""
    words = shlex.split(re.split(r"\s[|>;&]", line)[0], comments=True)[1:]
    while words and words[0] in SHARED:
        words = words[1:]
    if not words or not words[0].islower() or words[0].startswith("-"):
        return None  # COMMAND, or probedistill --help
    if words[0] not in app:
        return f"no command {words[0]!r}"
    known = app[words[0]].assemble_argument_collection()
    for word in words[1:]:
        flag = word.partition("=")[0]
        if flag.startswith("--") and flag not in SHARED:
            try:
                known.match(flag)
            except ValueError:
                return f"{words[0]} has no option {flag}"
    # An ellipsis stands for further options, and a file of options may contain what is missing.
    if "--help" in words or {"--config", "…"} & set(words) or "…" in line or any(w.isupper() for w in words):
        return None
    words = [word for word in words if word not in SHARED]
    try:
        app.parse_args(words, exit_on_error=False, print_error=False)
    except Exception as error:  # a reader of the page would get it, whatever it is
        return " ".join(str(error).split())
    return None


def too_long(page: Path) -> Iterator[str]:
    text = GENERATED.sub(blank, page.read_text(encoding="utf-8"))
    for number, line in enumerate(FENCE.sub(blank, text).splitlines(), 1):
        is_free = line.lstrip().startswith(("|", "<!--", "![")) or "](http" in line or re.search(r"https?://\S+", line)
        if len(line) > WIDTH and not is_free:
            yield f"{named(page)}:{number} has {len(line)} characters"


def test_links_work():
    assert {named(page): found for page in PAGES if (found := [*broken_links(page)])} == {}


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_the_parser_accepts_the_command_lines(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    found = {line: wrong_with(line) for line in command_lines(page.read_text(encoding="utf-8"))}
    assert {line: what for line, what in found.items() if what} == {}


def test_prose_is_wrapped():
    assert [line for page in PAGES for line in too_long(page)] == []


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("probedistill distil --images x", "no command 'distil'"),
        ("probedistill distill --imagess x", "distill has no option --imagess"),
        ("probedistill distill --images x --encoder y --steps many", "steps"),
        ("probedistill evaluate … --sed 3", "evaluate has no option --sed"),
        ("probedistill evaluate runs/x --config runs/x/config.yaml --probes ridge", None),
        ("probedistill COMMAND --help", None),
        ("probedistill distill --images folder:x --encoder y --seeds 0 1 2   # three of them", None),
    ],
)
def test_what_the_checks_notice(line: str, says: str | None):
    found = wrong_with(line)
    assert (found is None) if says is None else (found is not None and says in found)


def test_the_page_of_the_python_api_has_every_public_name():
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^::: probedistill\.(\w+)$", page, re.MULTILINE))
    assert listed == set(probedistill.__all__) - {"__version__"}


def test_the_tests_behind_the_guarantees_exist():
    page = (ROOT / "docs" / "guarantees.md").read_text(encoding="utf-8")
    files = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py")}
    known = {name for text in files.values() for name in re.findall(r"def (test_\w+)\(", text)} | files.keys()
    named = re.findall(r"`(tests/[\w/.]+|test_\w+(?:\.py)?)`", page)
    assert named
    assert [
        name for name in named if name not in known and not (name.startswith("tests/") and (ROOT / name).exists())
    ] == []
