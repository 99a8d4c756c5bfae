"""The command line: typed configs become flags and YAML; errors become one line and exit code 2."""

from __future__ import annotations

import errno
import io
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cyclopts

from ..errors import LostProcessError, NonFiniteLossError, UserError
from ..machine.memory import keep_freed_memory
from ..machine.signals import Interrupted
from ..text import printable
from . import accept, bias, datasets, export, inspect_spaces, labels, report, runs, runs_table, statistics, transfer  # noqa: F401  registers them
from .app import app


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code: 0, 2 (bad input), 1 (failed), 130 or 143 (stopped)."""
    warnings.showwarning = _one_line_warning
    _write_what_the_streams_can_hold()
    keep_freed_memory()
    try:
        tokens = list(sys.argv[1:] if arguments is None else arguments)
        app.meta(tokens, exit_on_error=False, print_error=False, result_action="return_value")
        sys.stdout.flush()  # here, where a closed pipe or a full disk is caught
    except cyclopts.MissingArgumentError as error:
        return _fail(_missing(error), 2)
    except UserError as error:
        return _fail(" ".join(str(error).split()), 2)
    except cyclopts.CycloptsError as error:
        return _fail(_named(error), 2)
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
        _drop_output()
        return 141
    except OSError as error:
        if error.errno != errno.ENOSPC or error.filename is not None:
            raise
        _drop_output()
        return _fail(f"the output cannot be written: {error.strerror}", 1)
    return 0


def _write_what_the_streams_can_hold() -> None:
    """Replace characters that a terminal or a redirected file cannot hold (cp1252, ASCII), instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        encoding = getattr(stream, "encoding", None) or "utf-8"
        if isinstance(stream, io.TextIOWrapper) and not encoding.lower().startswith("utf"):
            stream.reconfigure(errors="replace")


def _drop_output() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains once more at its end


def _missing(error: cyclopts.MissingArgumentError) -> str:
    """What is missing, in the user's words."""
    argument, command = error.argument, " ".join(error.command_chain or ())
    if argument is None or error.keyword is not None:  # an option without its value
        return " ".join(str(error).split())
    name = argument.name.removeprefix("--")
    if argument.field_info.is_positional:
        return f"{name} is missing; give it after the command: probedistill {command} {name.upper()}"
    return f"{name} is missing; give --{name}, or --config FILE that has it (a run's is RUN/config.yaml)"


def _named(error: cyclopts.CycloptsError) -> str:
    """What the library says of an option, with its name, value and file where it says none."""
    text, argument = " ".join(str(error).split()), error.argument
    if argument is None or argument.name in text or not argument.tokens:
        return text
    given = " ".join(token.value for token in argument.tokens)
    source = argument.tokens[0].source
    return f"{argument.name} {given!r}{'' if source == 'cli' else f' in {source}'}: {text}"


def _fail(message: str, code: int, kind: str = "error: ") -> int:
    print(f"probedistill: {kind}{printable(message)}", file=sys.stderr)
    return code


def _one_line_warning(message: Any, category: Any, filename: str, *rest: Any, **more: Any) -> None:
    if filename.startswith(str(Path(__file__).parents[1])) or issubclass(category, UserWarning):
        print(f"warning: {printable(' '.join(str(message).split()))}", file=sys.stderr)


__all__ = ["app", "main"]
