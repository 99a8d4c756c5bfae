"""Rich tables as plain text, for ``str()`` of results."""

from __future__ import annotations

from typing import Any

from rich.console import Console


def as_text(*what: Any, width: int = 100, **options: Any) -> str:
    """What ``Console.print`` makes of these on a page of that width, without colours."""
    console = Console(width=width, no_color=True)
    with console.capture() as captured:
        console.print(*what, **options)
    return captured.get().rstrip()
