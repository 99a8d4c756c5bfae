"""The command line: typed configs become flags and YAML; errors become one line and exit code 2."""

from __future__ import annotations

import errno
import io
import os
import sys
import traceback
from collections.abc import Sequence

import cyclopts

from ..errors import (
    LostProcessError,
    NonFiniteLossError,
    UserError,
    first_line,
    is_out_of_memory,
    of_a_variable,
    speaking_flags,
    traceback_in_own_code,
)
from ..machine.limits import start_no_more_threads_than_processors
from ..machine.memory import keep_freed_memory
from ..machine.progress import say, to_nowhere
from ..machine.signals import Interrupted, ended_by_signals, number_of, raised_as_sent
from ..text import LEGIBLE, printable
from . import (  # noqa: F401  registers them
    accept,
    audit,
    bias,
    datasets,
    export,
    hub,
    importing,
    inspect_spaces,
    labels,
    migrate,
    over_time,
    report,
    runs,
    runs_table,
    sets,
    statistics,
    transfer,
)
from .app import app, keeps_features
from .messages import shown_messages
from .wrong import in_words

_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF)
"""Error codes of a stream that accepts no more output: full disk, limit, closed terminal, opened for reading."""


_OUT_OF_MEMORY = (
    "out of memory: close other programs, or use less (fewer views or images, a smaller --input-size, "
    "--precision bf16); if the GPU's memory ran out, --device cpu also works"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code: 0, 2 (bad input), 1 (failed), 129, 130 or 143 (stopped)."""
    tokens = list(sys.argv[1:] if arguments is None else arguments)
    _replace_unsupported_characters()
    keep_freed_memory()
    start_no_more_threads_than_processors()
    with shown_messages(), speaking_flags(), ended_by_signals():
        return _run(tokens)


def _run(tokens: list[str]) -> int:
    try:
        return _ran(tokens)
    except Exception as error:
        if is_out_of_memory(error):
            what = first_line(error).split(" GPU ")[0]  # CUDA adds details and advice
            return _fail(f"{_OUT_OF_MEMORY} ({what})", 1)
        reason = of_a_variable(error)
        if reason is not None:
            return _fail(str(reason), 2)
        own = traceback_in_own_code(error)
        if own is None:
            raise
        shown = "".join(traceback.format_exception(type(error), error, own, chain=False))
        say(printable(shown, lines=True).rstrip())
        file = own.tb_frame.f_code.co_filename
        return _fail(f"your own code failed, in {file!r}, line {own.tb_lineno}: see above", 1)


def _ran(tokens: list[str]) -> int:
    try:
        os.getcwd()  # libraries fail without one, each in its own way
    except OSError as error:
        return _fail(f"the current folder cannot be used: {error.strerror}; change to another one", 2)
    try:
        with raised_as_sent():
            app.meta(tokens, exit_on_error=False, print_error=False, result_action="return_value")
        sys.stdout.flush()  # flush here, so that a closed pipe or a full disk is handled below
    except UserError as error:
        return _fail(" ".join(str(error).split()), 2)
    except cyclopts.CycloptsError as error:
        return _fail(in_words(error, tokens), 2)
    except (NonFiniteLossError, LostProcessError) as error:
        return _fail(str(error), 1)
    except Interrupted as stop:
        where = f"; {stop.way_on}" if stop.folder is not None else ""
        if tokens[:1] == ["demo"]:
            where = "; if you repeat it, the demo starts from the beginning"
        return _fail(f"stopped{where}", 128 + stop.signal, kind="")
    except KeyboardInterrupt as error:
        # Cached features are reused the next time, and so are saved rows.
        way_on = "; repeat the command to continue" if keeps_features(tokens) else ""
        return _fail(f"stopped{way_on}", 128 + number_of(error), kind="")
    except (BrokenPipeError, SystemExit) as stop:
        # rich, which prints tables and help, raises SystemExit(1) if the pipe is closed.
        if isinstance(stop, SystemExit) and not isinstance(stop.__context__, BrokenPipeError):
            raise
        to_nowhere(sys.stdout)
        return 141
    except OSError as error:
        if is_out_of_memory(error):
            raise
        if error.filename is not None:  # a path from the user that nothing checked before
            return _fail(f"{error.filename!r} cannot be used: {error.strerror}; check the path", 2)
        if error.errno == errno.ENOENT and "temporary directory" in str(error):  # from tempfile, in a library
            return _fail("no writable folder for temporary files; set TMPDIR to one", 2)
        if error.errno not in _UNWRITABLE:
            raise
        to_nowhere(sys.stdout)
        return _fail(f"the output cannot be written: {error.strerror}", 1)
    return 0


def _replace_unsupported_characters() -> None:
    """Escape characters that a terminal or a redirected file cannot represent (cp1252, ASCII), instead of failing.

    Output to a closed stream (``>&-``, a service) is dropped. COLUMNS=0 (in containers without a terminal) means an
    unknown width; rich would write nothing.
    """
    if os.environ.get("COLUMNS") == "0":
        del os.environ["COLUMNS"]
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115  for the rest of the process
    for stream in (sys.stdout, sys.stderr):
        encoding = getattr(stream, "encoding", None) or "utf-8"
        if isinstance(stream, io.TextIOWrapper) and not encoding.lower().startswith("utf"):
            stream.reconfigure(errors=LEGIBLE)


def _fail(message: str, code: int, kind: str = "error: ") -> int:
    say(f"probedistill: {kind}{printable(message)}")
    return code


__all__ = ["app", "main"]
