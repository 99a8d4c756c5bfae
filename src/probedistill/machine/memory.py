"""The machine's memory: how much this process may take, and how to keep what it frees."""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress
from pathlib import Path

import psutil

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # glibc's malloc.h
_CGROUP = Path("/sys/fs/cgroup")


def total_memory() -> int:
    """Bytes of memory of this machine, or of the container that this process is in."""
    total = psutil.virtual_memory().total
    with suppress(OSError, ValueError):  # no container, or one without a limit ("max")
        total = min(total, _of_container("memory.max"))
    return total


def available_memory() -> int:
    """Bytes that may still be taken on this machine, or in the container that this process is in."""
    available = psutil.virtual_memory().available
    with suppress(OSError, ValueError):
        left = _of_container("memory.max") - _of_container("memory.current")
        available = min(available, max(0, left + _file_cache()))
    return available


def _of_container(name: str) -> int:
    return int((_CGROUP / name).read_text())


def _file_cache() -> int:
    """Bytes of the container's file cache, which the kernel frees on demand."""
    lines = (_CGROUP / "memory.stat").read_text().splitlines()
    return next((int(line.split()[1]) for line in lines if line.startswith("inactive_file ")), 0)


def keep_freed_memory() -> bool:
    """Let glibc's malloc keep what is freed instead of handing it back to the system; return whether that worked.

    Each step frees and allocates the same large activations; by default every one of them is mapped and zeroed again by
    the kernel (``benchmarks/allocator.py``). The process then stays at its peak size until it ends, so only the command
    line does this, in its own process. The user's own settings of malloc win.
    """
    if any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # not glibc
        return False
    return bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, -1))
