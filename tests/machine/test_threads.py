"""Workers: results in order, errors in their place, and an end whenever Ctrl-C comes."""

from __future__ import annotations

import _thread
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import probedistill
from probedistill.machine.threads import Workers


def doubled(items: range, work: Any = lambda item: 2 * item, **options: int) -> list[int]:
    with Workers(3) as workers:
        return list(workers.map(work, items, **options))


class Pressed:
    """Raise Ctrl-C at each instruction of a block in this thread, one after the other."""

    def __init__(self, at: int) -> None:
        self.left = at

    def __enter__(self) -> None:
        sys.settrace(self.trace)

    def __exit__(self, *error: object) -> None:
        sys.settrace(None)

    def trace(self, frame: FrameType, event: str, argument: object) -> Any:
        frame.f_trace_opcodes = True
        if event == "opcode":
            self.left -= 1
            if self.left == 0:
                sys.settrace(None)
                raise KeyboardInterrupt
        return self.trace


def ending(at: int) -> str:
    """How a thread's work ends if it is interrupted at some instruction."""
    ends = []

    def run() -> None:
        try:
            with Pressed(at):
                doubled(range(6), ahead=2)
            ends.append("done")
        except KeyboardInterrupt:
            ends.append("stopped")

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(60)
    assert ends, f"hangs when it is interrupted at instruction {at}"
    return ends[0]


def test_results_come_in_order():
    def slow_at_first(item: int) -> int:
        time.sleep(0.02 if item < 3 else 0)
        return 2 * item

    for ahead in (0, 1, 5, 100):
        assert doubled(range(20), slow_at_first, ahead=ahead) == list(range(0, 40, 2))
    assert doubled(range(0)) == []


def test_no_more_work_is_started_than_requested():
    begun = []
    with Workers(3) as workers:
        results = workers.map(begun.append, range(50), ahead=4)
        next(results)
        time.sleep(0.05)
        assert len(begun) <= 5
        assert len([*results]) == 49


def test_an_error_comes_in_its_place():
    found = []
    with pytest.raises(ZeroDivisionError), Workers(3) as workers:
        found.extend(workers.map(lambda item: 6 // (3 - item), range(9)))
    assert found == [2, 3, 6]


def test_the_caller_is_notified_while_waiting():
    told = threading.Event()
    with Workers() as workers:
        assert [*workers.map(lambda _: told.wait(60), range(1), while_waiting=told.set)] == [True]


def test_long_work_may_give_up():
    with Workers() as workers:

        def endless_but_the_first(item: int) -> None:
            while item and not workers.stopped:
                time.sleep(0.01)

        next(workers.map(endless_but_the_first, range(3)))


def test_fewer_threads_than_requested(monkeypatch):
    real, started = _thread.start_new_thread, []

    def at_most_one(*arguments: Any) -> int:
        if started:
            raise RuntimeError("can't start new thread")
        started.append(arguments)
        return real(*arguments)

    monkeypatch.setattr(_thread, "start_new_thread", at_most_one)
    assert doubled(range(5)) == [0, 2, 4, 6, 8]


@pytest.mark.slow
def test_ctrl_c_at_any_instruction_ends_the_work():
    """Locks taken in Python code stay taken if Ctrl-C comes just afterwards: a pool then never ends."""
    ends = [ending(at) for at in range(1, 100)]
    while ends[-1] == "stopped":
        ends.append(ending(len(ends) + 1))
    assert len(ends) > 100


def test_no_other_kind_of_thread_pool_is_used():
    files = Path(probedistill.__file__).parent.rglob("*.py")
    assert [path.name for path in files if "concurrent.futures" in path.read_text(encoding="utf-8")] == ["threads.py"]
