"""Help: every command, any width of the terminal, the defaults and the papers' values."""

from __future__ import annotations

import re

import pytest
from rich.console import Console

from probedistill.cli import app
from probedistill.config import DistillConfig
from probedistill.methods import PAPER

COMMANDS = [name for name in app if not name.startswith("-")]


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], [], *[[command, "--help"] for command in COMMANDS]])
def test_help_and_version(run_cli, arguments):
    result = run_cli(*arguments)
    assert result.code == 0
    assert result.err == ""
    if len(arguments) == 2:
        assert re.search(rf"Example: probedistill {arguments[0]}\b", result.out)
    if arguments == ["--help"]:
        assert {"distill", "evaluate", "info"} < set(COMMANDS)
        assert all(command in result.out for command in COMMANDS)


@pytest.fixture
def help_at(run_cli):
    """The help of a command at a width. (The app's own console would keep the width that it started with.)"""

    def show(width: int, *command: str) -> str:
        app.console = Console(width=width)
        return run_cli(*command, "--help").out

    yield show
    app.console = None


@pytest.mark.slow
@pytest.mark.parametrize("width", [20, 30, 71, 72, 80])
@pytest.mark.parametrize("command", ["distill", "evaluate", "transfer", "extend"])
def test_help_cuts_no_name_of_an_option_on_any_terminal(help_at, command, width):
    options = set(re.findall(r"(?m)^│\W*(--[\w.-]+)", help_at(200, command)))
    assert len(options) > 15
    shown = help_at(width, command)
    assert max(map(len, shown.splitlines())) <= width
    words = set(shown.split())
    if width == 20:  # a name longer than a line continues in the next line
        words = {name for name in options if name in "".join(shown.split())}
    assert options <= words


def test_options_inside_other_options_have_panels_of_their_own(help_at):
    """What everyone needs comes first; nobody has to look through sixty options in one panel."""
    panels = re.split(r"(?m)^╭─ (.+?) ─+╮$", help_at(100, "distill"))[1:]
    found = {
        title: re.findall(r"(?m)^│ (--[\w.-]+)", text) for title, text in zip(panels[::2], panels[1::2], strict=True)
    }
    assert max(map(len, found.values())) < 25
    inside = {title: {name.partition(".")[0] for name in names if "." in name} for title, names in found.items()}
    assert {title: parts for title, parts in inside.items() if parts} == {
        "Canvas": {"--canvas"},
        "Views": {"--augment"},
        "Only for --method lgm": {"--lgm"},
        "Only for --method clp and auto": {"--clp"},
        "Only for --method sfm": {"--sfm"},
    }
    order = list(found)
    assert order.index("Method") < order.index("Run") < order.index("Canvas")


def test_help_of_a_narrow_terminal_says_the_same(help_at):
    words = " ".join(help_at(30, "demo").split())
    assert "Method" not in words  # which has no panel
    assert "--steps INT Optimisation steps. [default: 200]" in words
    assert set(COMMANDS) <= set(help_at(30).splitlines())


def test_a_terminal_with_no_columns_has_an_unknown_width(run_cli, monkeypatch):
    monkeypatch.setenv("COLUMNS", "0")
    app.console = None
    assert "--steps" in run_cli("demo", "--help").out
    app.console = None


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_a_misspelt_option_comes_with_the_nearest(run_cli, command):
    arguments = app[command].assemble_argument_collection()
    names = {name for a in arguments for name in a.names if a.name.startswith("--")}
    options = {a.name for a in arguments if a.name in names and not a.children and len(a.name) > len("--k")}
    for option in ["--quiet", *sorted(options)[::7]]:  # some of each command
        if option[:-1] in names:
            continue
        error = run_cli(command, "folder", option[:-1], "1").error()
        assert f"unknown option {option[:-1]!r}; did you mean {option}?" in error, command


@pytest.mark.slow
def test_defaults_are_shown_as_one_types_them(help_at):
    defaults = {
        (command, name): default
        for command in COMMANDS
        for name, default in re.findall(r"(--[\w.-]+) .*\[default: (.*?)\]\W*$", help_at(4000, command), re.MULTILINE)
    }
    assert defaults["evaluate", "--probes"] == "ridge"
    assert defaults["transfer", "--baselines"] == "random centroids full"
    assert defaults["stats", "--augment.ratio"] == "0.75 1.33333"
    assert ("distill", "--also") not in defaults  # nothing is named unless somebody does
    assert not [option for option, default in defaults.items() if set(default) & set("[](){}'\",")]


def test_help_names_defaults_and_the_papers_values(run_cli):
    """The papers' values are written by hand in the help, but must agree with `PAPER`."""
    words = " ".join(re.sub(r"[│╭╮╰╯─]", " ", run_cli("distill", "--help").out).split())
    ours = DistillConfig()
    for method, paper in PAPER.items():
        assert f"Optimisation steps (paper: {paper['steps']}). More steps and more views gain one to" in words
        assert f"three points. [default: {ours.steps}]" in words
        assert f"learning rate (paper: {paper['lr']}). auto: 0.05 for clp from noise" in words
        assert f"schedule (paper: {paper['schedule']})." in words
        assert paper["views"] == (10 if method == "lgm" else 1)
        assert "(paper: 10 for lgm, else 1). auto: 12 for vision transformers from photos, else 3." in words
        assert f"(paper: {paper['canvas']['size']} for inputs of 224)" in words
    assert f"our reading of the paper: {PAPER['clp']['clp']['ridge']}). auto: 3 for vision transformers" in words
    assert f"(paper: {PAPER['lgm']['lgm']['sigma']}). [default: {ours.lgm.sigma}]" in words
