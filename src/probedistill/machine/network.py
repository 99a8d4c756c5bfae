"""Whether the Hugging Face hub answers, before a library waits for it. Imports nothing heavy.

The hub's client tries six times, and some libraries ask for two files, one after the other: without a network this
takes most of a minute, even for cached files. Here one connection is tried first. If it fails, the client is set to
offline mode: it uses what is on this machine, or reports at once that it has nothing.
"""

from __future__ import annotations

import logging
import os
import queue
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import SplitResult, urlsplit
from urllib.request import getproxies, proxy_bypass

from ..errors import UserError, first_line

_log = logging.getLogger(__name__)
_HUB = "https://huggingface.co"
_PATIENCE = 2.0
"""Seconds before a message says that the command is waiting."""
_MEMORY = 60.0
"""Seconds for which an answer is reused, because a command may load ten encoders."""
_OF_THE_NETWORK = ("LocalEntryNotFoundError", "OfflineModeIsEnabled", "ConnectionError")
"""Names of the errors that libraries raise if they cannot ask the hub."""
_WAITS = ("HF_HUB_DOWNLOAD_TIMEOUT", "HF_HUB_ETAG_TIMEOUT")
_known: dict[tuple[str, int], tuple[float, str | None]] = {}


def hub_address() -> str:
    """The address of the hub: ``$HF_ENDPOINT``, else that of Hugging Face.

    Raises:
        UserError: The variable holds no address.
    """
    given = os.environ.get("HF_ENDPOINT", _HUB).strip().rstrip("/")
    _parts(given)
    return given


def _parts(address: str) -> tuple[SplitResult, int]:
    """Return the parts of an address and its port."""
    try:
        parts = urlsplit(address)
        port = parts.port or (80 if parts.scheme == "http" else 443)
    except ValueError:
        parts, port = urlsplit(""), 0
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError(
            f"HF_ENDPOINT {address!r} is not the address of a hub; set it to one such as {_HUB}, or unset it"
        )
    return parts, port


def check_waits() -> None:
    """Raise `UserError` if a timeout variable of the hub client is not a number; the client would not start.

    timm, transformers and datasets start the client when they are imported, so call this before importing them.
    """
    for name in _WAITS:
        value = os.environ.get(name, "0").strip()
        if not value.isdecimal():
            raise UserError(
                f"{name} {value!r} is not a number of seconds; set it to a whole number such as 10, or unset it"
            )


@contextmanager
def asking_the_hub(what: str, way_out: str, *, needed: bool = True) -> Iterator[None]:
    """Load something from the hub within the block; without a network, use cached files.

    Args:
        what: What is loaded, for errors.
        way_out: What a user without a network can do.
        needed: Whether the block may ask the hub at all; if not, nothing is tried.

    Raises:
        UserError: The hub cannot be reached, and the files are not on this machine.
    """
    reason = _why_not_asked() if needed else None
    try:
        with _offline(reason is not None):
            yield
    except Exception as error:
        if reason is None or not is_of_the_network(error):
            raise
        raise UserError(f"{what}: not found on this machine, and {reason}; {way_out}") from error
    if reason is not None and not _is_told_to_be_offline():
        _log.info("%s: %s; using the cached copy", what, reason)


def is_of_the_network(error: BaseException | None) -> bool:
    """Whether an error, or one that it follows from, means that the hub could not be asked."""
    while error is not None:
        if any(kind.__name__ in _OF_THE_NETWORK for kind in type(error).__mro__):
            return True
        error = error.__cause__ or error.__context__
    return False


def _is_told_to_be_offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def _why_not_asked() -> str | None:
    """Why the hub is not asked; ``None`` if it is."""
    parts, port = _parts(hub_address())
    check_waits()
    if _is_told_to_be_offline():
        return "HF_HUB_OFFLINE forbids downloads"
    host, proxies = str(parts.hostname), getproxies()
    if (parts.scheme in proxies or "all" in proxies) and not proxy_bypass(host):
        return None  # only the proxy knows whether the hub can be reached
    when, reason = _known.get((host, port), (-_MEMORY, None))
    if time.monotonic() - when >= _MEMORY:
        reason = _why_silent(host, port)
        _known[host, port] = time.monotonic(), reason
    return reason and f"{host} cannot be reached ({reason})"


def _why_silent(host: str, port: int) -> str | None:
    """Why no connection can be made; ``None`` if one can."""
    from huggingface_hub import constants

    limit = float(constants.HF_HUB_ETAG_TIMEOUT)  # the client would wait this long for each file
    answer: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    # Name resolution has no timeout, so it runs in a thread that can be abandoned.
    threading.Thread(target=lambda: answer.put(_tried_twice(host, port, limit)), daemon=True).start()
    try:
        return answer.get(timeout=min(_PATIENCE, limit))
    except queue.Empty:
        _log.info("waiting for %s, at most %.0f seconds (set HF_HUB_OFFLINE=1 to skip this)", host, limit)
    try:
        return answer.get(timeout=max(limit - _PATIENCE, 0.1))
    except queue.Empty:
        return f"no answer in {limit:.0f} seconds"


def _tried_twice(host: str, port: int, limit: float) -> str | None:
    """Try twice if the first attempt fails at once: a network may be about to come up."""
    reason = _tried(host, port, limit)
    if reason is None:
        return None
    time.sleep(_PATIENCE / 2)
    return _tried(host, port, limit)


def _tried(host: str, port: int, limit: float) -> str | None:
    try:
        socket.create_connection((host, port), timeout=limit).close()
    except OSError as error:
        return first_line(error)
    return None


@contextmanager
def _offline(choice: bool) -> Iterator[None]:
    """Set the hub's client, and `datasets` if it is imported, to offline mode within the block."""
    if not choice:
        yield
        return
    from huggingface_hub import constants

    modules: list[Any] = [constants]
    modules += [sys.modules[name] for name in ("datasets.config",) if name in sys.modules]
    before = [module.HF_HUB_OFFLINE for module in modules]
    try:
        for module in modules:
            module.HF_HUB_OFFLINE = True
        yield
    finally:
        for module, value in zip(modules, before, strict=True):
            module.HF_HUB_OFFLINE = value
