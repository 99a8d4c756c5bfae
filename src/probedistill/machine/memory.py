"""The machine's memory: how much this process may take, and how to keep what it frees."""

from __future__ import annotations

import ctypes
import os

from .limits import memory_limits

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # glibc's malloc.h


def total_memory() -> int:
    """Bytes of memory of this machine, or of the container or job that this process is in."""
    import psutil  # here: most calls of the command line, such as --help, never ask

    return min([psutil.virtual_memory().total, *(limit for limit, _ in memory_limits())])


def available_memory() -> int:
    """Bytes that may still be taken on this machine, or in the container or job that this process is in."""
    import psutil

    return min([psutil.virtual_memory().available, *(max(0, left) for _, left in memory_limits())])


def keep_freed_memory() -> bool:
    """Make glibc's malloc keep freed memory instead of returning it to the system; return whether that worked.

    Each step frees and allocates the same large activations; by default every one of them is mapped and zeroed again by
    the kernel (``benchmarks/allocator.py``). The process then stays at its peak size until it ends, so only the command
    line does this, in its own process. The user's own malloc settings take precedence.
    """
    if any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # not glibc
        return False
    return bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, -1))
