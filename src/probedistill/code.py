"""Digests of a user's own code, so that what other code computed is not taken for what this code computes."""

from __future__ import annotations

import dis
import hashlib
import inspect
import sys
from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property, partial, partialmethod, singledispatchmethod
from pathlib import Path
from types import CodeType, FunctionType, MappingProxyType, MethodType
from typing import Any

_read: dict[str, tuple[Any, Any, str]] = {}  # module → the module, its spec (a reload makes another), its digest
_NOT_BEHAVIOUR = {
    *("__doc__", "__module__", "__firstlineno__", "__static_attributes__"),
    *("__slotnames__", "__annotations_cache__"),  # added when an instance is copied, or annotations are looked at
}
"""Attributes of a class."""
_PLAIN = (str, bytes, int, float, complex, type(None), type(...))
_VALUES = (*_PLAIN, tuple, list, dict, set, frozenset)
_CHANGES = {
    *("add", "append", "clear", "discard", "extend", "insert", "pop", "popitem", "remove", "setdefault", "update")
}
"""Methods that change such a value."""
_MOST_PARTS = 10**6
"""Limit on the values in a digest: about two seconds. What comes after them does not count."""
_DEEPEST_SET = 5


def digest_of_source(module: str) -> str:
    """SHA-256 of an imported module's own file, not of what it imports; empty if it has none.

    The file is read once for each import. If it is edited later, the digest is still that of the code that runs.
    """
    loaded = sys.modules.get(module)
    spec = getattr(loaded, "__spec__", None)
    known = _read.get(module)
    if known is None or known[0] is not loaded or known[1] is not spec:
        try:
            digest = hashlib.sha256(Path(getattr(loaded, "__file__", None) or "").read_bytes()).hexdigest()
        except OSError:
            digest = ""
        known = _read[module] = loaded, spec, digest
    return known[2]


def digest_of_code(value: Any) -> str:
    """SHA-256 of what a function or class does: its byte code, its values, and what it calls in its own module.

    This is for code without a file, as in a notebook. Other versions of Python may give other digests. Values are
    plain ones, such as numbers and lists, but not tensors. Of libraries, only names count.
    """
    return _digest(value)


def _digest(value: Any, inside: int = 0) -> str:
    """The same for a value inside that many sets, each in another."""
    digest, seen, left = hashlib.sha256(), dict[int, Any](), [value]
    for _ in range(_MOST_PARTS):
        if not left:
            break
        one = left.pop()
        try:
            text, parts = _taken_apart(one, seen, inside)
        except Exception:  # attributes of any object may be code that fails
            text, parts = type(one).__qualname__, () if isinstance(one, type) else (type(one),)
        digest.update(f"{len(text)}:{text}".encode(errors="surrogatepass"))
        left += reversed(parts)
    return digest.hexdigest()


def is_own_function(value: Any) -> bool:
    """Whether this is a function or a method of the user's, perhaps with some arguments bound or decorated."""
    while isinstance(value, partial):
        value = value.func
    value = value.__func__ if isinstance(value, MethodType) else value
    both = (value, _undecorated(value)) if callable(value) else ()
    return any(isinstance(one, FunctionType) and _is_own(one.__globals__.get("__name__")) for one in both)


def _is_own(module: Any) -> bool:
    """Whether a module is the user's: neither of an installed library nor of this package."""
    package = str(module).partition(".")[0]
    if package in {__package__, *sys.stdlib_module_names}:
        return False
    files = (str(getattr(sys.modules.get(name), "__file__", None)) for name in (str(module), package))
    return not any("-packages" in file for file in files)


def _undecorated(value: Any) -> Any:
    with suppress(Exception):  # one may be decorated by itself
        return inspect.unwrap(value)
    return value


def _taken_apart(value: Any, seen: dict[int, Any], inside: int) -> tuple[str, Sequence[Any]]:
    """A value as text, and what else its behaviour depends on.

    Args:
        value: Any object.
        seen: What was taken apart before, by its `id`; kept, so that no other object gets the same one.
        inside: Number of sets around the value.
    """
    if isinstance(value, _PLAIN):
        return repr(value), ()
    if isinstance(value, (set, frozenset)):  # their order differs between processes
        return " ".join(sorted(_digest(one, inside + 1) for one in value)) if inside < _DEEPEST_SET else "set", ()
    if isinstance(value, (list, dict, FunctionType, type)):  # may contain itself
        if id(value) in seen:
            return getattr(value, "__qualname__", "again"), ()
        seen[id(value)] = value
    if isinstance(value, (tuple, list)):
        return f"{len(value)} values", value
    if isinstance(value, (dict, MappingProxyType)):
        return f"{len(value)} entries", [part for item in value.items() for part in item]
    if isinstance(value, CodeType):
        text = f"{value.co_code.hex()} {value.co_names} {value.co_varnames} {value.co_freevars} {value.co_flags}"
        return text, value.co_consts
    if isinstance(value, (partial, partialmethod)):
        return "partial", (value.func, value.args, value.keywords)
    if isinstance(value, (staticmethod, classmethod, MethodType)):
        return "method", (value.__func__,)
    if isinstance(value, (property, cached_property, singledispatchmethod)):
        return "property", (value.fget if isinstance(value, property) else value.func,)
    if isinstance(value, FunctionType):
        return value.__qualname__, _parts_of_function(value)
    if isinstance(value, type):
        return value.__qualname__, _parts_of_class(value)
    if (inner := _undecorated(value)) is not value:  # such as a function with a cache
        return type(value).__qualname__, (inner,)
    is_estimator = hasattr(type(value), "get_params")  # of scikit-learn
    return "object", (type(value), value.get_params(deep=False)) if is_estimator else (type(value),)


def _parts_of_class(kind: type) -> list[Any]:
    if not _is_own(kind.__module__):
        return []
    held = [part for item in vars(kind).items() if item[0] not in _NOT_BEHAVIOUR for part in item]
    return [*held, *kind.__bases__]


def _parts_of_function(function: FunctionType) -> list[Any]:
    inner = _undecorated(function)
    parts = [] if inner is function else [inner]
    if not _is_own(function.__globals__.get("__name__")):
        return parts
    parts += [function.__code__, function.__defaults__, function.__kwdefaults__]
    for cell in function.__closure__ or ():
        with suppress(ValueError):  # empty
            parts.append(cell.cell_contents)
    used, _ = _globals_of(function.__code__)
    changed = _changed_by(function)
    for name in sorted(used):
        one = function.__globals__.get(name)
        is_setting = isinstance(one, _VALUES) and name not in changed  # and no counter, log or memory of its own
        if is_setting or getattr(one, "__module__", None) == function.__module__:
            parts += [name, one]
    return parts


def _changed_by(function: FunctionType) -> set[str]:
    """The global names whose values a function changes, itself or through functions of its module."""
    changed, seen, left = set[str](), set[CodeType](), [function]
    while left:
        code = left.pop().__code__
        if code not in seen:
            seen.add(code)
            used, more = _globals_of(code)
            changed |= more
            named = map(function.__globals__.get, used)
            left += [one for one in named if isinstance(one, FunctionType) and one.__module__ == function.__module__]
    return changed


def _globals_of(code: CodeType) -> tuple[set[str], set[str]]:
    """The global names that a function uses, and those whose values it changes; functions inside it included."""
    steps = list(dis.get_instructions(code))
    used = {one.argval for one in steps if one.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    changed = {one.argval for one in steps if one.opname in ("STORE_GLOBAL", "DELETE_GLOBAL")}
    # ``x[0] = 1`` and ``x.append(1)`` begin where the name does.
    places = {
        _beginning(one)
        for one in steps
        if one.opname in ("STORE_SUBSCR", "DELETE_SUBSCR")
        or (one.opname in ("LOAD_ATTR", "LOAD_METHOD") and one.argval in _CHANGES)
    }
    changed |= {one.argval for one in steps if one.argval in used and _beginning(one) in places}
    for inside in (one for one in code.co_consts if isinstance(one, CodeType)):
        more_used, more_changed = _globals_of(inside)
        used, changed = used | more_used, changed | more_changed
    return used, changed


def _beginning(step: dis.Instruction) -> tuple[int | None, ...]:
    place = step.positions
    return () if place is None else (place.lineno, place.col_offset)
