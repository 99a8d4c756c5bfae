"""The environment variables of torchrun: understood, or refused in one line that names the variable."""

from __future__ import annotations

import pytest
import torch.distributed as dist

from probedistill import UserError
from probedistill.machine import processes
from probedistill.machine.launch import Launch, launch, number, speaks


@pytest.fixture
def said(monkeypatch):
    """Set these variables of torchrun, and no others."""

    def set_(**variables: str) -> None:
        for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR"):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return set_


def test_a_process_of_torchrun(said):
    said(RANK="1", WORLD_SIZE="3", MASTER_ADDR="localhost")
    assert launch() == Launch(rank=1, count=3)
    assert not speaks()
    said(RANK="0", WORLD_SIZE="1", MASTER_ADDR="localhost")
    assert launch() == Launch(rank=0, count=1)


@pytest.mark.parametrize(
    "variables", [{}, {"RANK": "0"}, {"RANK": ""}, {"WORLD_SIZE": "1"}, {"RANK": "0", "WORLD_SIZE": "1"}]
)
def test_a_process_on_its_own(said, variables):
    said(**variables)
    assert launch() is None
    assert speaks()


@pytest.mark.parametrize(
    ("variables", "line"),
    [
        ({"RANK": "1"}, "RANK is '1', but WORLD_SIZE is not set"),
        ({"WORLD_SIZE": "4"}, "WORLD_SIZE is '4', but RANK is not set"),
        ({"RANK": "gold"}, "RANK 'gold' must be a whole number"),
        ({"RANK": "-1", "WORLD_SIZE": "2"}, "RANK '-1' must be a whole number"),
        ({"RANK": "0", "WORLD_SIZE": "0"}, "WORLD_SIZE '0' must be a whole number from 1"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK 2 must be below WORLD_SIZE 2"),
    ],
)
def test_inconsistent_variables_are_refused_by_commands_that_share_work(said, variables, line):
    said(**variables)
    with pytest.raises(UserError, match=line):
        launch()
    assert speaks()


def test_other_numbers(monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "x")
    with pytest.raises(UserError, match="LOCAL_WORLD_SIZE 'x' must be a whole number from 1"):
        number("LOCAL_WORLD_SIZE", 1, least=1)


@pytest.mark.parametrize("name", ["RANK", "LOCAL_WORLD_SIZE", "TORCHELASTIC_RESTART_COUNT"])
def test_distill_says_which_variable_is_wrong(distil_cli, tmp_path, monkeypatch, name):
    monkeypatch.setenv(name, "gold")
    outcome = distil_cli("--out", tmp_path / "run")
    assert f"{name} 'gold'" in outcome.error()
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_master_without_a_name_that_resolves(said, monkeypatch):
    said(RANK="1", WORLD_SIZE="2", MASTER_ADDR="nobody.invalid")
    monkeypatch.setenv("MASTER_PORT", "29500")
    monkeypatch.setattr(processes, "_NAME_SECONDS", 0.5)
    with (
        pytest.warns(UserWarning, match="MASTER_ADDR 'nobody.invalid' cannot be resolved .*; trying for"),
        pytest.raises(UserError, match=r"MASTER_ADDR 'nobody.invalid' cannot be resolved .*; set it to the name"),
        processes.processes("cpu"),
    ):
        pass


@pytest.mark.slow
def test_a_master_whose_name_resolves_later(monkeypatch):
    answers = iter([OSError("not yet")])

    def resolve(*_):
        for error in answers:
            raise error

    monkeypatch.setenv("MASTER_ADDR", "host-0")
    monkeypatch.setattr(processes.socket, "getaddrinfo", resolve)
    with pytest.warns(UserWarning, match="'host-0' cannot be resolved .not yet"):
        processes._find_master()


def test_a_gpu_for_each_rank():
    assert [processes._own_gpu(rank, 4) for rank in range(4)] == [0, 1, 2, 3]
    assert processes._own_gpu(3, 1) == 0, "a launcher that shows each process its own alone"
    with pytest.raises(UserError, match="PyTorch finds no usable GPU; give --device cpu"):
        processes._own_gpu(0, 0)
    with pytest.raises(UserError, match=r"LOCAL_RANK 2, but 2 GPUs here; .*--nproc-per-node 2"):
        processes._own_gpu(2, 2)


@pytest.mark.parametrize(
    ("gpus", "shared"), [("abc", None), ("aba", (0, 2)), ("abb", (1, 2)), ("a", None), (["", ""], None)]
)
def test_ranks_that_share_a_gpu_notice_it(gpus, shared):
    store = dist.HashStore()
    for rank, gpu in enumerate(gpus):
        store.set(f"gpu-{rank}", gpu)
    assert {processes._shared_gpu(store, rank, len(gpus), gpu) for rank, gpu in enumerate(gpus)} == {shared}
