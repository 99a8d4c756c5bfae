"""The rooms, from the ground up. A room imports only from itself and from rooms above it in this table."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import probedistill

ROOMS = """
root          words everyone uses: errors, text, registry, seeds, methods, config
machine       this process and its siblings
images        labelled photos, one file a source
encoders      a spec to a frozen encoder, one file a source
store         every file format; files are whole or absent
features      features of anything, computed once
show          one look for tables and pictures
probes        heads on features
objectives    what synthetic features should do, one file a method
ship          what a finished set leaves with
evaluation    one protocol for synthetic and real images
distillation  the loop
analysis      what the images mean, one file an analysis
report        one HTML file; a run followed in the terminal
cli           flags and YAML to one call
"""
ORDER = [line.split()[0] for line in ROOMS.strip().splitlines()]
PACKAGE = Path(probedistill.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
PUBLIC = {"_version"}  # modules with an underscore that every room may import


def module_of(path: Path) -> str:
    """``show.tables`` for show/tables.py; an empty string for the package itself."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def room_of(module: str) -> str:
    first = module.partition(".")[0]
    return first if (PACKAGE / first).is_dir() and first else "root"


@cache
def imports(path: Path) -> list[tuple[str, str, int]]:
    """(module, name, line) of everything that a file imports from this package, even inside functions."""
    return [*_imports(path)]


def _imports(path: Path) -> Iterator[tuple[str, str, int]]:
    package = path.relative_to(PACKAGE).parent.parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.ImportFrom):
            continue
        if node.level:
            base = list(package[: len(package) - node.level + 1])
            module = ".".join([*base, *([node.module] if node.module else [])])
        elif (node.module or "").partition(".")[0] == "probedistill":
            module = (node.module or "").partition(".")[2]
        else:
            continue
        for alias in node.names:
            inside = f"{module}.{alias.name}".lstrip(".")
            is_module = any((PACKAGE / inside.replace(".", "/")).with_suffix(s).exists() for s in (".py", ""))
            yield (inside, "", node.lineno) if is_module else (module, alias.name, node.lineno)


def test_every_folder_is_a_room():
    assert {room_of(module_of(path)) for path in FILES} == set(ORDER)


def test_imports_go_up():
    wrong = [
        f"{module_of(path)}:{line} imports {module}"
        for path in FILES
        if module_of(path) != "__main__"
        for module, _, line in imports(path)
        if ORDER.index(room_of(module)) > ORDER.index(room_of(module_of(path)))
    ]
    assert not wrong


def test_no_room_uses_a_private_name_of_another():
    wrong = [
        f"{module_of(path)}:{line} imports {name or module}"
        for path in FILES
        for module, name, line in imports(path)
        if room_of(module) != room_of(module_of(path))
        and ((name.startswith("_") and not name.startswith("__")) or module.rpartition(".")[2].startswith("_"))
        and module not in PUBLIC
    ]
    assert not wrong


def test_imports_have_no_circle():
    graph = {module_of(path): {module for module, _, _ in imports(path)} for path in FILES}
    done: set[str] = set()

    def visit(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, f"circle: {' → '.join([*way[way.index(module) :], module])}"
        if module in done or module not in graph:
            return
        for other in sorted(graph[module]):
            visit(other, (*way, module))
        done.add(module)

    for module in graph:
        visit(module, ())
