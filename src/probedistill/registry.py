"""Registries: a name → an object in another file, imported when it is used.

A built-in name maps to ``"module:attribute"``. Other packages add names with entry points. A user's own file needs no
entry: it is named as ``module:FILE_OR_PACKAGE:ATTRIBUTE``. An entry point::

    [project.entry-points."probedistill.method"]
    mine = "my_package.objective:objective"

Imports nothing heavy, so that ``--help`` stays quick.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import PurePath
from typing import Any

from .code import digest_of_code, digest_of_source
from .errors import UserError, explained, unknown_name

OWN = "module:"
"""Prefix of a name that contains the location of its object."""


@dataclass(frozen=True)
class Registry:
    """Names of one kind of object.

    Attributes:
        kind: The kind, for errors: ``"method"``, ``"probe"`` …; ``probedistill.KIND`` is the entry-point group.
        built_in: Name → ``"module:attribute"``; a leading dot means a module of this package.
    """

    kind: str
    built_in: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def plugins(self) -> dict[str, str]:
        """Names that other installed packages add."""
        from importlib.metadata import entry_points  # imported late: it would add 27 ms to --help

        group = "probedistill." + self.kind.replace(" ", "_")
        return {point.name: point.value for point in entry_points(group=group) if point.name not in self.built_in}

    def names(self) -> list[str]:
        """All names, the built-in ones first."""
        return [*self.built_in, *self.plugins]

    def __contains__(self, name: object) -> bool:
        return name in self.built_in or name in self.plugins

    def load(self, name: str) -> Any:
        """Import and return the object of that name.

        Args:
            name: One of `names`, or ``module:PACKAGE.MODULE:ATTRIBUTE`` for your own.

        Raises:
            UserError: No such name, or it cannot be imported.
        """
        if name.startswith(OWN):
            return imported(name.removeprefix(OWN), f"{self.kind} {name!r}")
        place = self.built_in.get(name) or self.plugins.get(name)
        if place is None:
            raise unknown_name(self.kind, name, [*self.names(), "module:FILE:NAME"])
        if place.startswith("."):
            module, _, attribute = place.partition(":")
            return getattr(importlib.import_module(module, __package__), attribute)
        return imported(place, f"{self.kind} {name!r}")

    def code_of(self, name: str) -> str:
        """Digest of the code that a name from outside this package refers to, once it is imported; else empty.

        That is its file, or the object itself if it has none: it may be defined in a notebook.
        """
        module, _, attribute = (
            name.removeprefix(OWN) if name.startswith(OWN) else self.plugins.get(name, "")
        ).rpartition(":")
        if module not in sys.modules:
            return ""
        return digest_of_source(module) or digest_of_code(getattr(sys.modules[module], attribute, None))


def name_wanted(argument: str, value: Any) -> UserError | None:
    """Return the error for an object where its name is expected, with that name; ``None`` for anything else."""
    if isinstance(value, (str, list, tuple)) or not (callable(value) or hasattr(value, "fit")):
        return None
    name = getattr(value, "__qualname__", "<locals>")
    wanted, where = f"{OWN}{value.__module__}:{name}", ""
    if "<" in name:
        wanted, where = (
            f"{OWN}FILE:NAME",
            f", where NAME is a variable of FILE.py, or of {OWN}__main__:NAME in a notebook",
        )
    shown = " ".join(f"{value!r:.80}".split())
    return UserError(f"{argument} {shown} is an object; give its name, which files can keep: {wanted!r}{where}")


def imported(place: str, called: str) -> Any:
    """``"package.module:attribute"`` → the attribute. A module in the current folder is found, too.

    Args:
        place: Where it is.
        called: Its name in errors.

    Raises:
        UserError: No such module or attribute, or the module fails while it is imported.
    """
    module_name, colon, attribute = place.rpartition(":")
    if not (colon and module_name and attribute):
        raise UserError(f"{called} must be module:PACKAGE.MODULE:NAME, such as module:mine:make for mine.py")
    if "/" in module_name or "\\" in module_name or module_name.endswith(".py"):
        path = PurePath(module_name.replace("\\", "/")).with_suffix("")
        inside = not path.is_absolute() and ".." not in path.parts and ":" not in module_name
        name, where = (".".join(path.parts), "") if inside else (path.name, ", in the folder of that file")
        raise UserError(f"{called} names a path; write module:{name}:{attribute}{where}")
    here = os.getcwd()
    if here not in sys.path:
        # ``python -m`` adds the current folder, the console script does not. At the end, so that it shadows nothing.
        sys.path.append(here)
    first = module_name.partition(".")[0]
    hint = f"is there a {first}.py in {here} or an installed package of that name?"
    if first in sys.modules or importlib.util.find_spec(first) is not None:
        hint = "correct it, or what it imports"
    with explained(f"{called}: {module_name!r} cannot be imported", Exception, hint=hint):
        try:
            module = importlib.import_module(module_name)
        except SystemExit as stop:
            raise UserError(
                f"{called}: {module_name!r} ends the program when it is imported ({stop}); put what it runs below "
                "if __name__ == '__main__':"
            ) from stop
    digest_of_source(module_name)  # now, because the file may be edited while this process runs
    if not hasattr(module, attribute):
        names = [name for name in vars(module) if not name.startswith("_")]
        raise unknown_name(f"name in {module_name}", attribute, names, f"({called})")
    return getattr(module, attribute)
