"""What this process may take of the machine: limits of containers and of clusters' jobs (control groups of Linux).

A process is in a group for each kind of limit, and in all groups above it: a job of SLURM has its limit some levels
above its processes. A container sees its own group as the topmost one. Version 1 of control groups has a tree for each
kind, version 2 one for all.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_GROUPS = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")


def memory_limits() -> list[tuple[int, int]]:
    """For each group with a limit: the limit, and what is left of it, in bytes."""
    found = []
    for folder, version in _groups("memory"):
        limit, used, cache = (
            ("memory.max", "memory.current", "inactive_file ")
            if version == 2
            else ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file ")
        )
        with suppress(OSError, ValueError):  # no such group, or one without a limit ("max")
            most = left = int((folder / limit).read_text())
            with suppress(OSError, ValueError):
                freed = _line(folder / "memory.stat", cache)  # the file cache, which the kernel frees on demand
                left += freed - int((folder / used).read_text())
            found.append((most, left))
    return found


def processors() -> int:
    """How many processors this process may use at a time, at least one."""
    most = float(os.cpu_count() or 1)
    for folder, version in _groups("cpu"):
        with suppress(OSError, ValueError, ZeroDivisionError):
            if version == 2:
                quota, period = (int(word) for word in (folder / "cpu.max").read_text().split())
            else:
                quota, period = (int((folder / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period"))
            if quota > 0:  # -1: no limit
                most = min(most, quota / period)
    return math.ceil(most)


def start_no_more_threads_than_processors() -> None:
    """Have libraries start as many threads as a container or job may use, not as the machine has.

    PyTorch counts the machine's processors: in a container that may use two of sixty-four, sixty-four threads would
    share the time of two. Call this before importing PyTorch; the user's own number wins.
    """
    count = processors()
    if count < (os.cpu_count() or 1):
        os.environ.setdefault("OMP_NUM_THREADS", str(count))


def _groups(kind: str) -> Iterator[tuple[Path, int]]:
    """This process's control groups of a kind, the innermost first: (folder, version) of each."""
    try:
        lines = _OWN.read_text().splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        _, kinds, path = line.split(":", 2)
        if kinds and kind not in kinds.split(","):
            continue
        top, version = (_GROUPS / kind, 1) if kinds else (_GROUPS, 2)
        folder = top / path.strip("/")
        yield from ((group, version) for group in (folder, *folder.parents) if group.is_relative_to(top))


def _line(path: Path, name: str) -> int:
    lines = path.read_text().splitlines()
    return next((int(line.removeprefix(name)) for line in lines if line.startswith(name)), 0)
