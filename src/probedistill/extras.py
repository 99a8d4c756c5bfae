"""Packages that only some sources and commands need: imported when needed, or one line that says how to get them."""

from __future__ import annotations

import importlib
import re
from importlib import metadata
from typing import Any

from .errors import UserError, first_line, of_a_variable


def needed(module: str, extra: str | None, what: str) -> Any:
    """Import a module of a package that only some sources and commands need.

    Args:
        module: Its name, such as ``opendp.prelude``.
        extra: The extra that installs it, as in ``pip install 'probedistill[EXTRA]'``; ``None`` if none does.
        what: Who needs it, with the verb: ``"images 'hf:a/b' need"``.

    Raises:
        UserError: The package is not installed, is too old, or fails while it is imported.
    """
    package = module.partition(".")[0]
    if least := _too_old(package):
        installed = metadata.version(_distribution(package))
        raise UserError(
            f"{what} the package {package} {least} or newer, not {installed}; "
            f"run: pip install {_installed_as(package, extra)}"
        )
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == package:
            raise not_installed(package, extra, what) from error
        reason: Exception = error
    except Exception as error:  # an incompatible dependency, a missing system library
        reason = error
    raise of_a_variable(reason) or UserError(
        f"{what} the package {package}, which cannot be imported ({first_line(reason)}); "
        f"install it again: pip install --upgrade --force-reinstall {_installed_as(package, extra)}"
    ) from reason


def not_installed(package: str, extra: str | None, what: str) -> UserError:
    """Return the error for a missing package; the arguments are those of `needed`."""
    called = _installed_as(package, extra)
    return UserError(f"{what} the package {package}, which is not installed; run: pip install {called}")


def _too_old(package: str) -> str | None:
    """The oldest supported release if the installed one is older: nothing else checks extras after installation."""
    try:
        asked, installed = metadata.requires("probedistill") or [], metadata.version(_distribution(package))
    except metadata.PackageNotFoundError:
        return None
    least = next((line[1] for one in asked if (line := re.match(rf"{_distribution(package)}>=([\d.]+)", one))), None)
    return least if least is not None and _release(installed) < _release(least) else None


def _release(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version.partition("+")[0])[:3]))


def _distribution(package: str) -> str:
    return {"open_clip": "open-clip-torch"}.get(package, package)


def _installed_as(package: str, extra: str | None) -> str:
    return package if extra is None else f"'probedistill[{extra}]'"
