"""Threads that work for the main thread, which Ctrl-C may interrupt at any moment."""

from __future__ import annotations

import _thread
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any, TypeVar

from .limits import processors

Item = TypeVar("Item")
Result = TypeVar("Result")


class Workers:
    """Threads that call a function on many items; the block's end waits for the items that are under way.

    Tasks and answers go through queues that are written in C. ``concurrent.futures`` and ``threading`` take their locks
    in Python code. A KeyboardInterrupt that arrives after a lock is taken, but before its ``with`` block is entered,
    leaves the lock taken. A thread then waits for the lock, and the pool for the thread. With many files, Ctrl-C hung
    about one time in sixty.

    Args:
        most: Number of threads at most; ``None`` for eight, or one more than there are processors if that is fewer.

    Attributes:
        stopped: The block has ended: whoever is at a long item may give up.
    """

    def __init__(self, most: int | None = None) -> None:
        self.stopped = False
        self._most = min(8, processors() + 1) if most is None else most
        self._started = 0
        self._tasks: SimpleQueue[tuple[Callable[[Any], Any], Any, SimpleQueue[Any]] | None] = SimpleQueue()
        self._ended: SimpleQueue[None] = SimpleQueue()

    def __enter__(self) -> Workers:
        return self

    def map(
        self,
        function: Callable[[Item], Result],
        items: Iterable[Item],
        ahead: int = 64,
        while_waiting: Callable[[], None] | None = None,
    ) -> Iterator[Result]:
        """Results in the order of the items; an item's error is raised in its place.

        Args:
            function: Called in the threads.
            items: What it is called on.
            ahead: Number of items that are started before the preceding result is requested.
            while_waiting: Called four times a second while waiting for a result.
        """
        answers: deque[SimpleQueue[Any]] = deque()
        for item in items:
            answers.append(SimpleQueue())
            self._tasks.put((function, item, answers[-1]))
            self._start_one()
            if len(answers) > ahead:
                yield _result(answers.popleft(), while_waiting)
        while answers:
            yield _result(answers.popleft(), while_waiting)

    def _start_one(self) -> None:
        if self._started == self._most:
            return
        try:
            _thread.start_new_thread(self._work, ())
        except RuntimeError:  # the limit of this user or container
            if not self._started:
                raise
            self._most = self._started
        else:
            self._started += 1

    def _work(self) -> None:
        try:
            while (task := self._tasks.get()) is not None and not self.stopped:
                function, item, answer = task
                try:
                    answer.put((function(item), None))
                except BaseException as error:
                    answer.put((None, error))
                del task, function, item, answer  # frees the result before the wait for the next task
        finally:
            self._tasks.put(None)  # also ends the next thread
            self._ended.put(None)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stopped = True
        self._tasks.put(None)
        while self._started:
            self._ended.get()
            self._started -= 1


def _result(answer: SimpleQueue[Any], while_waiting: Callable[[], None] | None) -> Any:
    while True:
        try:
            result, error = answer.get(timeout=None if while_waiting is None else 0.25)
            break
        except Empty:
            assert while_waiting is not None
            while_waiting()
    if error is not None:
        raise error
    return result
