"""One setting of the C library: memory that was freed stays with the process."""

from __future__ import annotations

import ctypes
import os

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # glibc's malloc.h


def keep_freed_memory() -> bool:
    """Let glibc's malloc keep what is freed instead of handing it back to the system; whether it could be told.

    Each step frees and allocates the same large activations; by default every one of them is mapped and zeroed
    anew by the kernel (``benchmarks/allocator.py``). The process then stays at its peak size until it ends, so
    only the command line does this, whose process is its own. The user's own settings of malloc win.
    """
    if any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # not glibc
        return False
    return bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, -1))
