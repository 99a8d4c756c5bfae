"""The command line's process keeps freed memory, unless the user has other settings."""

from __future__ import annotations

import ctypes
import platform
import subprocess
import sys

import pytest

from probedistill.machine.memory import keep_freed_memory

SCRIPT = """
import numpy as np, psutil
from probedistill.machine.memory import keep_freed_memory
kept = keep_freed_memory()
before = psutil.Process().memory_info().rss
block = np.ones(40_000_000)
del block
print(kept, psutil.Process().memory_info().rss - before > 250_000_000)
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's malloc has this setting")
@pytest.mark.parametrize(
    ("environment", "expected"),
    [({}, "True True"), ({"MALLOC_ARENA_MAX": "1"}, "False False"), ({"GLIBC_TUNABLES": ""}, "False False")],
)
def test_freed_memory_is_kept_unless_the_user_has_set_malloc(environment, expected):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True, env={"PATH": "", **environment}
    )
    assert done.stdout.strip() == expected


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    assert not keep_freed_memory()
