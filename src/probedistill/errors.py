"""Errors the user can fix. Each is one line: the argument, its value, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class UserError(ValueError):
    """Bad input. The message is one line; the command line prints it and exits with code 2."""


class NonFiniteLossError(RuntimeError):
    """The loss or its gradient became NaN or infinite; the last good state has been kept."""


class LostProcessError(RuntimeError):
    """Another process of the same run died, or did not answer in time."""


@contextmanager
def explained(what: str, *kinds: type[BaseException], hint: str = "") -> Iterator[None]:
    """Turn errors of other people's code into one line for the user.

    >>> with explained("encoder 'x' could not be loaded", OSError, hint="check the name"):
    ...     raise OSError("no such model\\nsome more")
    Traceback (most recent call last):
    probedistill.errors.UserError: encoder 'x' could not be loaded (no such model); check the name

    Args:
        what: What went wrong, with the argument and its value.
        kinds: Types of errors to explain; others, and every `UserError`, pass through unchanged.
        hint: What the user can do about it.
    """
    try:
        yield
    except UserError:
        raise
    except kinds as error:
        raise UserError(f"{what} ({first_line(error)})" + (f"; {hint}" if hint else "")) from error


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or the name of its type if it has none."""
    reason = getattr(error, "strerror", None) or str(error)
    return next(iter(reason.strip().splitlines()), type(error).__name__)


def unknown_name(argument: str, value: str, known: Iterable[str], hint: str = "") -> UserError:
    """The error for a name that is not among the known ones, with the nearest of them.

    >>> str(unknown_name("method", "sfn", ["lgm", "clp", "sfm"]))
    "unknown method 'sfn'; did you mean 'sfm'? known: clp, lgm, sfm"
    """
    names = sorted(set(known))
    near = difflib.get_close_matches(str(value), names, n=2, cutoff=0.5)
    meant = f"; did you mean {' or '.join(repr(name) for name in near)}?" if near else ";"
    listed = ", ".join(names) if len(names) <= 20 else ", ".join(names[:20]) + f" … ({len(names)} in all)"
    tail = f" {hint}" if hint else ""
    return UserError(f"unknown {argument} {value!r}{meant} known: {listed}{tail}")
