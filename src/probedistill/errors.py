"""Errors the user can fix. Each is one line: the argument, its value, and what to do."""

from __future__ import annotations

import difflib
import errno
import linecache
import os
import re
import sysconfig
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any


class UserError(ValueError):
    """Bad input. The message is one line; the command line prints it and exits with code 2."""


class NonFiniteLossError(RuntimeError):
    """The loss or its gradient became NaN or infinite; the last good state has been kept."""


class LostProcessError(RuntimeError):
    """Another process of the same run died, or did not answer in time."""


@contextmanager
def explained(what: str, *kinds: type[BaseException], hint: str = "") -> Iterator[None]:
    """Turn errors raised by other people's code into one line for the user.

    >>> with explained("encoder 'x' could not be loaded", OSError, hint="check the name"):
    ...     raise OSError("no such model\\nsome more")
    Traceback (most recent call last):
    probedistill.errors.UserError: encoder 'x' could not be loaded (no such model); check the name

    Args:
        what: What went wrong, with the argument and its value.
        kinds: Types of errors to explain; others, every `UserError`, and out-of-memory errors pass through unchanged.
        hint: What the user can do about it.
    """
    try:
        yield
    except UserError:
        raise
    except kinds as error:
        if is_out_of_memory(error):  # not caused by the user's argument
            raise
        raise of_a_variable(error) or UserError(
            f"{what} ({first_line(error)})" + (f"; {hint}" if hint else "")
        ) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory has run out, on a GPU or in the main memory."""
    words = ("out of memory", "ALLOC_FAILED", "ALLOCATION_FAILED", "DefaultCPUAllocator", "Cannot allocate memory")
    of_torch = isinstance(error, RuntimeError) and any(word in str(error) for word in words)
    # oneDNN without memory for its code; "a primitive descriptor" would be an operation that it does not have.
    of_torch = of_torch or (isinstance(error, RuntimeError) and str(error) == "could not create a primitive")
    of_system = isinstance(error, OSError) and error.errno == errno.ENOMEM
    # Under a limit on address space (ulimit -v, which some clusters set), the first large library fails to load.
    of_import = isinstance(error, ImportError) and "failed to map segment" in str(error)
    return of_torch or of_system or of_import or isinstance(error, MemoryError)


_READS = re.compile(r"(?:environ|getenv)\W+(?:get\W+)?(\w+)")
_NEAR = 10  # lines from reading a variable to using its value, at most


def of_a_variable(error: BaseException) -> UserError | None:
    """Return an error about an environment variable if a library failed to parse it while being imported.

    Some libraries read numbers from the environment when they are imported, as numpy does with SOURCE_DATE_EPOCH:
    ``invalid literal for int() with base 10: 'x'``.
    """
    frames = [(frame.f_code, line) for frame, line in traceback.walk_tb(error.__traceback__)][-3:]
    if isinstance(error, UserError) or not any(code.co_name == "<module>" for code, _ in frames):  # no import
        return None
    for code, line in reversed(frames):
        near = "".join(linecache.getlines(code.co_filename)[max(line - _NEAR, 0) : line])
        values = ((name, os.environ.get(name)) for name in reversed(_READS.findall(near)))
        name = next((name for name, value in values if value is not None and repr(value) in str(error)), None)
        if name is not None:
            return UserError(
                f"{name} {os.environ[name]!r} cannot be used ({first_line(error)}); set this environment variable to "
                "another value, or unset it"
            )
    return None


_STANDARD = tuple(sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib"))
_INSTALLED = {"site-packages", "dist-packages"}  # by name: there may be several, such as the user's own


def traceback_in_own_code(error: BaseException) -> TracebackType | None:
    """The traceback of an error from where it enters the user's own code; ``None`` if it does not.

    That is a file which belongs neither to this package nor to a library.
    """
    ours, at = os.path.dirname(os.path.abspath(__file__)), error.__traceback__
    while at is not None:
        path = os.path.abspath(at.tb_frame.f_code.co_filename)
        is_library = path.startswith((ours + os.sep, *_STANDARD)) or not _INSTALLED.isdisjoint(path.split(os.sep))
        if os.path.isfile(path) and not is_library:
            return at
        at = at.tb_next
    return None


_as_flags = False


@contextmanager
def speaking_flags() -> Iterator[None]:
    """Write options as flags within the block, because errors are read at the command line."""
    global _as_flags
    before, _as_flags = _as_flags, True
    try:
        yield
    finally:
        _as_flags = before


def option(name: str, *value: Any) -> str:
    """Return an option as the reader of an error writes it: an argument in Python, a flag on the command line.

    >>> option("overwrite", True), option("input_size"), option("encoder_args.mask_ratio", 0)
    ('overwrite=True', 'input_size=…', "encoder_args={'mask_ratio': 0}")
    >>> with speaking_flags():
    ...     option("overwrite", True), option("input_size"), option("encoder_args.mask_ratio", 0)
    ('--overwrite', '--input-size', '--encoder-args.mask_ratio 0')
    >>> with speaking_flags():
    ...     option("pretrained", False)
    '--no-pretrained'

    Args:
        name: The name of the argument; after a dot, the name of an entry in it.
        value: The value, if any.
    """
    argument, _, entry = name.partition(".")
    if not _as_flags:
        given = repr(value[0]) if value else "…"
        return f"{argument}={{{entry!r}: {given}}}" if entry else f"{argument}={given}"
    flag = "--" + argument.replace("_", "-") + (f".{entry}" if entry else "")
    if not value or value[0] is True:
        return flag
    return f"--no-{flag[2:]}" if value[0] is False else f"{flag} {value[0]}"


def by_caller(*, command: str, python: str) -> str:
    """Return the text that fits the reader of an error: at the command line, or in Python."""
    return command if _as_flags else python


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or the name of its type if it has none."""
    reason = getattr(error, "strerror", None) or str(error)
    return next(iter(reason.strip().splitlines()), type(error).__name__)


def unknown_name(argument: str, value: str, known: Iterable[str], hint: str = "") -> UserError:
    """Return the error for an unknown name, with the nearest known ones.

    >>> str(unknown_name("method", "sfn", ["lgm", "clp", "sfm"]))
    "unknown method 'sfn'; did you mean 'sfm'? known: clp, lgm, sfm"
    """
    names = sorted(set(known))
    folded = {name.casefold(): name for name in names}
    near = [folded[one] for one in difflib.get_close_matches(str(value).casefold(), folded, n=2, cutoff=0.5)]
    meant = f"; did you mean {' or '.join(repr(name) for name in near)}?" if near else ";"
    listed = f" known: {', '.join(names[:20])}" + (f" … ({len(names)} in all)" if len(names) > 20 else "")
    if near and len(names) > 20:  # the first 20 of many names do not help
        listed = ""
    tail = f" {hint}" if hint else ""
    return UserError(f"unknown {argument} {value!r}{meant}{listed}{tail}")
