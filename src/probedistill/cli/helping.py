"""The layout of --help: panels, or lines in a narrow terminal, so that option names are never cut."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cyclopts.help import HelpEntry, HelpPanel
    from rich.console import Console, ConsoleOptions

_ENOUGH = 72
"""Columns that a panel needs for the longest name and its description."""


def as_typed(default: Any) -> str | None:
    """Return the default of an option as one would type it; None where there is nothing to type.

    >>> as_typed(["random", "full"]), as_typed((0.75, 4 / 3)), as_typed({}), as_typed(False)
    ('random full', '0.75 1.33333', None, 'False')
    """
    if default is None or default in ([], (), {}):
        return None
    if isinstance(default, (list, tuple)):
        return " ".join(filter(None, map(as_typed, default)))
    return f"{default:.6g}" if isinstance(default, float) else str(default)


class Help:
    """A cyclopts formatter that adapts to the width of the terminal."""

    def __call__(self, console: Console, options: ConsoleOptions, panel: HelpPanel) -> None:
        """Print one panel."""
        from cyclopts.help.formatters import DefaultFormatter

        if console.width >= _ENOUGH:
            DefaultFormatter()(console, options, panel)
        else:
            _print_lines(console, panel)

    def render_usage(self, console: Console, options: ConsoleOptions, usage: Any) -> None:
        """Print how the command is called."""
        from cyclopts.help.formatters import DefaultFormatter

        DefaultFormatter().render_usage(console, options, usage)

    def render_description(self, console: Console, options: ConsoleOptions, description: Any) -> None:
        """Print what the command does."""
        from cyclopts.help.formatters import DefaultFormatter

        DefaultFormatter().render_description(console, options, description)


def _print_lines(console: Console, panel: HelpPanel) -> None:
    """Print each name on its own line, with its description indented below it."""
    from rich.padding import Padding
    from rich.text import Text

    if not panel.entries:
        return
    console.print(Text(str(getattr(panel.title, "plain", panel.title)), style="bold"))
    for entry in panel.entries:
        parameter = panel.format == "parameter"
        names = entry.display_labels_with_metavar if parameter else (*entry.positive_names, *entry.positive_shorts)
        console.print(Text(" ".join(map(str, names)), style="cyan"))
        said = [part for part in (entry.description, _facts(entry) if parameter else None) if part]
        for part in said:
            console.print(Padding(part, (0, 0, 0, 2)))
    console.print()


def _facts(entry: HelpEntry) -> Any:
    from rich.text import Text

    facts = [f"[choices: {', '.join(entry.choices)}]"] if entry.choices else []
    facts += [f"[default: {entry.default}]"] if entry.default is not None else []
    facts += ["[required]"] if entry.required else []
    return Text(" ".join(facts)) if facts else None
