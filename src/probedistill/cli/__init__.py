"""The command line: typed configs become flags and YAML; errors become one line and exit code 2."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cyclopts

from .._memory import keep_freed_memory
from .._signals import Interrupted
from ..errors import LostProcessError, NonFiniteLossError, UserError
from . import bias, commands, export, inspect_spaces, labels, report, transfer  # noqa: F401  registers them
from ._app import app


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code: 0, 2 (bad input), 1 (failed), 130 or 143 (stopped)."""
    warnings.showwarning = _one_line_warning
    keep_freed_memory()
    try:
        tokens = list(sys.argv[1:] if arguments is None else arguments)
        app.meta(tokens, exit_on_error=False, print_error=False, result_action="return_value")
    except (UserError, cyclopts.CycloptsError) as error:
        return _fail(" ".join(str(error).split()), 2)
    except (NonFiniteLossError, LostProcessError) as error:
        return _fail(str(error), 1)
    except Interrupted as stop:
        where = "; repeat the command with --resume to go on" if stop.folder is not None else ""
        if tokens[:1] == ["demo"]:
            where = "; the demo starts from the beginning when it is repeated"
        return _fail(f"stopped{where}", 128 + stop.signal, kind="")
    except KeyboardInterrupt:
        return _fail("stopped", 130, kind="")
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    return 0


def _fail(message: str, code: int, kind: str = "error: ") -> int:
    print(f"probedistill: {kind}{message}", file=sys.stderr)
    return code


def _one_line_warning(message: Any, category: Any, filename: str, *rest: Any, **more: Any) -> None:
    if filename.startswith(str(Path(__file__).parents[1])) or issubclass(category, UserWarning):
        print(f"warning: {' '.join(str(message).split())}", file=sys.stderr)


__all__ = ["app", "main"]
