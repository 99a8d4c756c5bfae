"""Limits of containers and of clusters' jobs count as the machine's own."""

from __future__ import annotations

import os

import psutil
import pytest

from probedistill.machine import limits
from probedistill.machine.limits import processors, start_no_more_threads_than_processors
from probedistill.machine.memory import available_memory, total_memory


@pytest.fixture
def groups(tmp_path, monkeypatch):
    """Write control groups, which contain this process from then on."""
    monkeypatch.setattr(limits, "_GROUPS", tmp_path / "groups")
    monkeypatch.setattr(limits, "_OWN", tmp_path / "own")

    def write(own: str, **files: str) -> None:
        (tmp_path / "own").write_text(own + "\n")
        for name, text in files.items():
            path = tmp_path / "groups" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text + "\n")

    return write


@pytest.fixture
def many_processors(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


def memory(folder: str, version: int, most: object, used: int, cache: int) -> dict[str, str]:
    if version == 2:
        names, line = ("memory.max", "memory.current"), "inactive_file"
    else:
        names, line = ("memory.limit_in_bytes", "memory.usage_in_bytes"), "total_inactive_file"
        folder = f"memory/{folder}"
    texts = {names[0]: str(most), names[1]: str(used), "memory.stat": f"anon 5\n{line} {cache}\nactive_file 3"}
    return {f"{folder}/{name}".strip("/"): text for name, text in texts.items()}


OWN = {1: "9:name=systemd:/x\n4:memory:{0}\n3:cpu,cpuacct:{0}\n0::/", 2: "0::{0}"}
UNLIMITED = {1: 9223372036854771712, 2: "max"}


@pytest.mark.parametrize("version", [1, 2])
def test_memory_of_a_container(groups, version):
    """It sees its own group at the top; in version 1 under a path that does not exist."""
    groups(OWN[version].format("/" if version == 2 else "/docker/5f"), **memory("", version, 10**6, 700_000, 100_000))
    assert total_memory() == 10**6
    assert available_memory() == 400_000


@pytest.mark.parametrize("version", [1, 2])
def test_memory_of_a_job_some_levels_up(groups, version):
    job = "slurm/job_7"
    groups(
        OWN[version].format(f"/{job}/step_0/task_0"),
        **memory("slurm", version, 5 * 10**6, 4_500_000, 0),
        **memory(job, version, 10**6, 300_000, 0),
        **memory(f"{job}/step_0", version, 9 * 10**5, 300_000, 50_000),
        **memory(f"{job}/step_0/task_0", version, UNLIMITED[version], 100, 0),
    )
    assert total_memory() == 900_000
    assert available_memory() == 500_000, "others in the group above have taken the rest"


@pytest.mark.parametrize("version", [1, 2])
def test_no_limit(groups, version):
    groups(OWN[version].format("/a"), **memory("a", version, UNLIMITED[version], 100, 0))
    assert total_memory() == psutil.virtual_memory().total
    assert available_memory() > 10**6
    assert processors() == os.cpu_count()


def test_no_groups_at_all(groups):
    assert total_memory() == psutil.virtual_memory().total
    assert processors() == os.cpu_count()
    groups("0::/gone")
    assert total_memory() == psutil.virtual_memory().total
    assert processors() == os.cpu_count()


@pytest.mark.parametrize(
    ("own", "files", "count"),
    [
        ("0::/", {"cpu.max": "250000 100000"}, 3),
        ("0::/pod/a", {"pod/a/cpu.max": "max 100000", "pod/cpu.max": "400000 100000"}, 4),
        ("0::/", {"cpu.max": "20000 100000"}, 1),
        ("0::/", {"cpu.max": "max 100000"}, 64),
        (OWN[1].format("/docker/5f"), {"cpu/cpu.cfs_quota_us": "200000", "cpu/cpu.cfs_period_us": "100000"}, 2),
        (OWN[1].format("/docker/5f"), {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 64),
    ],
)
def test_as_many_threads_as_processors(groups, many_processors, monkeypatch, own, files, count):
    groups(own, **files)
    assert processors() == count
    monkeypatch.setattr(os, "environ", dict(os.environ))
    start_no_more_threads_than_processors()
    assert os.environ.get("OMP_NUM_THREADS") == (None if count == 64 else str(count))
    os.environ["OMP_NUM_THREADS"] = "7"
    start_no_more_threads_than_processors()
    assert os.environ["OMP_NUM_THREADS"] == "7", "the user's"
