"""Packages that only some sources and commands need: imported when they are, or one line that says how to get them."""

from __future__ import annotations

import importlib
from typing import Any

from .errors import UserError, first_line, of_a_variable


def needed(module: str, extra: str | None, what: str) -> Any:
    """A module of a package that only some need.

    Args:
        module: Its name, such as ``opendp.prelude``.
        extra: The extra that brings it, as in ``pip install 'probedistill[EXTRA]'``; ``None`` if none does.
        what: What needs it, with the verb: ``"images 'hf:a/b' need"``.

    Raises:
        UserError: The package is not installed, or fails while it is imported.
    """
    package = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == package:
            raise not_installed(package, extra, what) from error
        reason: Exception = error
    except Exception as error:  # another release of something below it, a library that the system lacks
        reason = error
    raise of_a_variable(reason) or UserError(
        f"{what} the package {package}, which cannot be imported ({first_line(reason)}); "
        f"install it again: pip install --upgrade --force-reinstall {_installed_as(package, extra)}"
    ) from reason


def not_installed(package: str, extra: str | None, what: str) -> UserError:
    """The error for a package that is not there; the arguments are those of `needed`."""
    called = _installed_as(package, extra)
    return UserError(f"{what} the package {package}, which is not installed; run: pip install {called}")


def _installed_as(package: str, extra: str | None) -> str:
    return package if extra is None else f"'probedistill[{extra}]'"
