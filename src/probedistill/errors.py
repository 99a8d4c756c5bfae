"""Errors a user can mend: one line that names the argument, the value and the mend."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Bad input. The message is one line; the command line prints it and exits with code 2."""


class NonFiniteLossError(RuntimeError):
    """The loss or its gradient became NaN or infinite; the last good state has been kept."""


class LostProcessError(RuntimeError):
    """Another process of the same run died, or did not answer in time."""


def first_line(error: BaseException) -> str:
    """What an error of someone else's code says, for one line of ours: its first line, or its type's name."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def unknown_name(argument: str, value: str, known: Iterable[str], hint: str = "") -> UserError:
    """Return the error for a name that is not among the known ones, with the nearest of them.

    >>> str(unknown_name("method", "sfn", ["lgm", "clp", "sfm"]))
    "unknown method 'sfn'; did you mean 'sfm'? known: clp, lgm, sfm"
    """
    names = sorted(set(known))
    near = difflib.get_close_matches(str(value), names, n=2, cutoff=0.5)
    meant = f"; did you mean {' or '.join(repr(name) for name in near)}?" if near else ";"
    listed = ", ".join(names) if len(names) <= 20 else ", ".join(names[:20]) + f" … ({len(names)} in all)"
    tail = f" {hint}" if hint else ""
    return UserError(f"unknown {argument} {value!r}{meant} known: {listed}{tail}")
