"""Digests of a user's own code, so that what other code computed is not taken for what this code computes."""

from __future__ import annotations

import dis
import hashlib
import inspect
import sys
from collections.abc import Iterator, Mapping
from functools import cached_property, partial
from pathlib import Path
from types import CodeType, FunctionType, MethodType
from typing import Any

_read: dict[str, tuple[Any, Any, str]] = {}  # module → the module, its spec (a reload makes another), its digest
_NOT_BEHAVIOUR = {"__doc__", "__module__", "__firstlineno__", "__static_attributes__"}  # of a class
_PLAIN = (str, bytes, int, float, complex, type(None), type(...))


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

    This is for code without a file, as in a notebook. Other versions of Python may give other digests.
    """
    digest = hashlib.sha256()
    for part in _parts(value, set()):
        digest.update(f"{len(part)}:{part}".encode(errors="surrogatepass"))
    return digest.hexdigest()


def is_own_function(value: Any) -> bool:
    """Whether this is a function or a method of the user's."""
    value = inspect.unwrap(value) if callable(value) else value
    value = value.__func__ if isinstance(value, MethodType) else value
    return isinstance(value, FunctionType) and _is_own(value.__module__)


def _is_own(module: str) -> bool:
    """Whether a module is the user's: neither of an installed library nor of this package."""
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None:
        return module == "__main__"
    return "-packages" not in file and module.partition(".")[0] not in {__package__, *sys.stdlib_module_names}


def _parts(value: Any, seen: set[int]) -> Iterator[str]:
    """Everything that the behaviour of a value depends on, as text."""
    if isinstance(value, _PLAIN):
        yield repr(value)
    elif isinstance(value, (tuple, list)):
        for one in value:
            yield from _parts(one, seen)
    elif isinstance(value, (set, frozenset)):
        yield repr(sorted(map(repr, value)))  # their order differs between processes
    elif isinstance(value, Mapping):
        yield from _parts(list(value.items()), seen)
    elif isinstance(value, CodeType):
        yield f"{value.co_code.hex()} {value.co_names} {value.co_varnames} {value.co_freevars} {value.co_flags}"
        yield from _parts(value.co_consts, seen)
    elif isinstance(value, partial):
        yield from _parts([value.func, value.args, value.keywords], seen)
    elif isinstance(value, (staticmethod, classmethod, MethodType)):
        yield from _parts(value.__func__, seen)
    elif isinstance(value, (property, cached_property)):
        yield from _parts(value.fget if isinstance(value, property) else value.func, seen)
    elif isinstance(value, (FunctionType, type)):
        yield value.__qualname__
        if id(value) not in seen:
            seen.add(id(value))
            yield from _parts_of_class(value, seen) if isinstance(value, type) else _parts_of_function(value, seen)
    else:
        yield from _parts(type(value), seen)
        if callable(settings := getattr(value, "get_params", None)):  # a scikit-learn estimator
            yield from _parts(settings(deep=False), seen)


def _parts_of_class(kind: type, seen: set[int]) -> Iterator[str]:
    if not _is_own(kind.__module__):
        return
    for name, one in vars(kind).items():
        if name not in _NOT_BEHAVIOUR:
            yield name
            yield from _parts(one, seen)
    yield from _parts(kind.__bases__, seen)


def _parts_of_function(function: FunctionType, seen: set[int]) -> Iterator[str]:
    if (inner := inspect.unwrap(function)) is not function:  # decorated
        yield from _parts(inner, seen)
        return
    yield from _parts([function.__code__, function.__defaults__, function.__kwdefaults__], seen)
    for cell in function.__closure__ or ():
        try:
            yield from _parts(cell.cell_contents, seen)
        except ValueError:  # empty
            continue
    for name in _globals_of(function.__code__):
        one = function.__globals__.get(name)
        if isinstance(one, _PLAIN) or getattr(one, "__module__", None) == function.__module__:
            yield name
            yield from _parts(one, seen)


def _globals_of(code: CodeType) -> list[str]:
    """The global names that a function uses, functions inside it included."""
    own = {one.argval for one in dis.get_instructions(code) if one.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    inside = (_globals_of(one) for one in code.co_consts if isinstance(one, CodeType))
    return sorted(own.union(*inside))
