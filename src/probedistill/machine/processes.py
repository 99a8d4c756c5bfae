"""Many processes: each owns a slice of the synthetic images; in a step only features travel, never images.

Processes that ``torchrun`` started find each other through its environment variables. In a single process every
operation here is the identity.
"""

from __future__ import annotations

import gc
import itertools
import os
import socket
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from ..errors import LostProcessError, UserError, first_line, is_out_of_memory, option
from .launch import launch, number, restarts

_LEAVE_SECONDS = 10.0  # for which a rank waits for the others before it closes
_NAME_SECONDS = 60.0  # for a host's name to resolve: a cluster may start hosts before it registers their names
_departures = itertools.count()


@dataclass(frozen=True)
class Processes:
    """This process among all that share a run.

    Attributes:
        rank: Number of this process, from 0.
        count: Number of processes.
        device: Where collectives take their tensors: the CPU for gloo, this rank's GPU for nccl.
    """

    rank: int = 0
    count: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def restarted(self) -> bool:
        """Whether ``torchrun`` has started these processes again after one of them died."""
        return restarts() > 0

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and shows progress."""
        return self.rank == 0

    def shares(self, total: int) -> list[slice]:
        """The contiguous slices of ``total`` items that the ranks own; sizes differ by one at most."""
        bounds = [total * rank // self.count for rank in range(self.count + 1)]
        return [slice(start, stop) for start, stop in itertools.pairwise(bounds)]

    def share(self, total: int) -> slice:
        """The slice of ``total`` items that this rank owns."""
        return self.shares(total)[self.rank]

    def gather(self, local: Tensor, sizes: list[int]) -> Tensor:
        """Rows of all ranks in order, on every rank.

        Args:
            local: (sizes[rank], …) this rank's rows, without a graph.
            sizes: Rows of each rank.

        Returns:
            (sum of sizes, …) on the device of ``local``.
        """
        if self.count == 1:
            return local
        padded = torch.zeros(max(sizes), *local.shape[1:], dtype=local.dtype, device=self.device)
        padded[: len(local)] = local
        parts = [torch.empty_like(padded) for _ in sizes]
        with _others_present():
            dist.all_gather(parts, padded)
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)]).to(local.device)

    def gather_to_first(self, local: Tensor, sizes: list[int]) -> Tensor:
        """Rows of all ranks in order, on the CPU of the first rank; other ranks get no rows.

        Ranks send one after the other, so that no device holds more than its own rows and those of one other rank.

        Args:
            local: (sizes[rank], …) this rank's rows, without a graph.
            sizes: Rows of each rank.
        """
        if self.count == 1:
            return local
        whole = torch.empty(sum(sizes) if self.is_first else 0, *local.shape[1:], dtype=local.dtype)
        with _others_present():
            if not self.is_first:
                dist.send(local.to(self.device).contiguous(), dst=0)
                return whole
            whole[: sizes[0]] = local
            start = sizes[0]
            for rank, size in enumerate(sizes[1:], start=1):
                rows = torch.empty(size, *local.shape[1:], dtype=local.dtype, device=self.device)
                dist.recv(rows, src=rank)
                whole[start : start + size] = rows
                start += size
        return whole

    def agree(self, value: int) -> bool:
        """Whether ``value`` is the same on every rank."""
        return self.largest(value) == -self.largest(-value)

    def largest(self, value: int) -> int:
        """The largest ``value`` of any rank, on every rank."""
        if self.count == 1:
            return value
        shared = torch.tensor(value, device=self.device)
        with _others_present():
            dist.all_reduce(shared, op=dist.ReduceOp.MAX)
        return int(shared)

    def wait(self) -> None:
        """Wait until every rank is here."""
        self.largest(0)


ALONE = Processes()


@contextmanager
def _others_present() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if is_out_of_memory(error):  # this rank's own error
            raise
        reason = " ".join(str(error).split())[:200]
        raise LostProcessError(
            f"another process of this run died or was silent for too long ({reason}); "
            f"repeat it with {option('resume', True)}, or start it with torchrun --max-restarts"
        ) from error


@contextmanager
def processes(device: str = "auto", timeout_seconds: float = 1800.0) -> Iterator[Processes]:
    """Join the processes that ``torchrun`` started; without ``torchrun``, yield `ALONE`.

    Args:
        device: ``"auto"`` gives each rank its own GPU (nccl) if there are GPUs, otherwise the CPU (gloo).
        timeout_seconds: A rank that is silent for longer stops the run with an error.

    Raises:
        UserError: The environment of ``torchrun`` is incomplete or wrong, the ranks cannot reach each other, or
            there is not a GPU for each.
    """
    if dist.is_initialized():  # the caller's process group, which stays open
        yield Processes(dist.get_rank(), dist.get_world_size(), _collective_device(dist.get_backend()))
        return
    started = launch()
    if started is None:
        yield ALONE
        return
    on_gpu = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    backend = "nccl" if on_gpu else "gloo"
    local_rank, attempt = number("LOCAL_RANK", 0), restarts()
    number("MASTER_PORT", 0)
    _find_master()
    gpu = _name_of_own_gpu(local_rank) if on_gpu else ""
    try:
        timeout = timedelta(seconds=timeout_seconds)
        store, rank, count = next(iter(dist.rendezvous("env://", timeout=timeout)))
        # After a restart the store still has the addresses of the dead processes: keep the attempts apart.
        store = dist.PrefixStore(f"attempt-{attempt}", store)
        shared = _shared_gpu(store, rank, count, gpu)
        if shared is None:
            dist.init_process_group(backend, store=store, rank=rank, world_size=count, timeout=timeout)
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"the {started.count} processes cannot reach each other: {reason}") from error
    if shared is not None:
        _leave_together(store, count)
        raise UserError(
            f"ranks {shared[0]} and {shared[1]} are on the same GPU; start one process for each GPU "
            "(torchrun --nproc-per-node), or give --device cpu"
        )
    team = Processes(dist.get_rank(), dist.get_world_size(), _collective_device(backend))
    try:
        yield team
        team.wait()
        _leave_together(store, count)
    finally:
        dist.destroy_process_group()
        gc.collect()  # gloo aborts at exit if the process still references the group


def _own_gpu(local_rank: int, count: int) -> int:
    """The index of a rank's GPU among the ``count`` that it sees.

    Some launchers show each process a single GPU, its own.

    Raises:
        UserError: There is none for this rank.
    """
    if count == 0:
        raise UserError("device cuda: PyTorch finds no usable GPU; give --device cpu")
    if local_rank < count:
        return local_rank
    if count == 1:
        return 0
    raise UserError(
        f"LOCAL_RANK {local_rank}, but {count} GPUs here; start one process for each GPU "
        f"(torchrun --nproc-per-node {count}), or give --device cpu"
    )


def _name_of_own_gpu(local_rank: int) -> str:
    """Select this rank's GPU; return a name that is unique among all GPUs of all machines.

    Raises:
        UserError: There is none, or it cannot be used.
    """
    index = _own_gpu(local_rank, torch.cuda.device_count())
    try:
        torch.cuda.set_device(index)
        return str(torch.cuda.get_device_properties(index).uuid)
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        raise UserError(f"GPU {index} cannot be used ({first_line(error)}); give --device cpu") from error


def _shared_gpu(store: dist.Store, rank: int, count: int, gpu: str) -> tuple[int, int] | None:
    """Return the first two ranks with the same GPU, if any: nccl would fail later, with an obscure message.

    Ranks on a CPU (``""``) share nothing.
    """
    store.set(f"gpu-{rank}", gpu)
    first_on: dict[bytes, int] = {}
    for other in range(count):
        name = store.get(f"gpu-{other}")
        if name and first_on.setdefault(name, other) != other:
            return first_on[name], other
    return None


def _find_master() -> None:
    """Wait until MASTER_ADDR resolves. PyTorch would wait for the whole timeout and ignore Ctrl-C."""
    address, until, told = os.environ.get("MASTER_ADDR", ""), time.monotonic() + _NAME_SECONDS, False
    while address:
        try:
            socket.getaddrinfo(address, None)
            return
        except (OSError, UnicodeError) as error:  # UnicodeError: a name that is too long or has invalid characters
            line = f"MASTER_ADDR {address!r} cannot be resolved ({first_line(error)})"
            if time.monotonic() >= until:
                raise UserError(f"{line}; set it to the name or address of the host of rank 0") from error
            if not told:
                warnings.warn(f"{line}; trying for {_NAME_SECONDS:.0f} seconds", stacklevel=2)
            told = True
            time.sleep(1)


def _leave_together(store: dist.Store, count: int) -> None:
    """Wait, outside the process group, until every rank has done its last collective operation.

    gloo aborts a rank that is still in one while its peers close.
    """
    key, until = f"done-{next(_departures)}", time.monotonic() + _LEAVE_SECONDS
    with suppress(RuntimeError):  # the process with the store may leave first
        store.add(key, 1)
        while store.add(key, 0) < count and time.monotonic() < until:
            time.sleep(0.005)


def _collective_device(backend: str) -> torch.device:
    return torch.device("cuda", torch.cuda.current_device()) if backend == "nccl" else torch.device("cpu")
