"""The environment variables of processes that ``torchrun`` started. Imports nothing heavy."""

from __future__ import annotations

import os
from dataclasses import dataclass

from ..errors import UserError


@dataclass(frozen=True)
class Launch:
    """The place of this process among those that ``torchrun`` started.

    Attributes:
        rank: Number of this process, from 0.
        count: Number of processes.
    """

    rank: int
    count: int


def launch() -> Launch | None:
    """What RANK and WORLD_SIZE say; ``None`` if this process is alone.

    If only one of them is set, it does not come from ``torchrun``; it is ignored if it fits a single process: RANK=0,
    WORLD_SIZE=1.

    Raises:
        UserError: A variable is not a number, or does not fit the other one.
    """
    given = [name for name in ("RANK", "WORLD_SIZE") if os.environ.get(name, "").strip()]
    rank, count = number("RANK", 0), number("WORLD_SIZE", 1, least=1)
    if len(given) == 1 and (rank, count) != (0, 1):
        other = "WORLD_SIZE" if given == ["RANK"] else "RANK"
        raise UserError(
            f"{given[0]} is {os.environ[given[0]]!r}, but {other} is not set: torchrun sets both; start with torchrun, "
            f"or unset {given[0]} for one process"
        )
    if rank >= count:
        raise UserError(f"RANK {rank} must be below WORLD_SIZE {count}; start with torchrun, or unset both")
    is_alone = count == 1 and not os.environ.get("MASTER_ADDR")
    return None if is_alone or len(given) < 2 else Launch(rank, count)


def speaks() -> bool:
    """Whether this process prints; under ``torchrun``, only one does."""
    try:
        found = launch()
    except UserError:  # only commands that share work need a valid launch, and they raise this error themselves
        return True
    return found is None or found.rank == 0


def processes_here() -> int:
    """How many processes of this machine share its memory.

    Raises:
        UserError: LOCAL_WORLD_SIZE is not a number.
    """
    return number("LOCAL_WORLD_SIZE", 1, least=1)


def restarts() -> int:
    """How often ``torchrun`` has started these processes again after one of them died.

    Raises:
        UserError: TORCHELASTIC_RESTART_COUNT is not a number.
    """
    return number("TORCHELASTIC_RESTART_COUNT", 0)


def number(variable: str, default: int, *, least: int = 0) -> int:
    """The whole number of an environment variable; ``default`` if it is unset or empty.

    Raises:
        UserError: It is not a whole number of at least ``least``.
    """
    text = os.environ.get(variable, "").strip()
    if not text:
        return default
    if not (text.isascii() and text.isdecimal() and int(text) >= least):
        raise UserError(f"{variable} {text!r} must be a whole number from {least}; torchrun sets it, or unset it")
    return int(text)
