"""Many pieces of work on as many threads as torch uses, each thread computing alone.

Splitting whole slabs over threads, and not each operation, needs no barrier between operations:
where other processes hold some of the cores, an operation that waits for all its threads is slower
by a factor of ten or more. torch releases Python's lock while it computes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from threading import Lock, Thread
from typing import Generic, TypeVar

import torch

Item = TypeVar("Item")
State = TypeVar("State")


def for_each(
    items: Sequence[Item], make_state: Callable[[], State], work: Callable[[State, Item], None]
) -> None:
    """Call `work(state, item)` for every item, in any order, without recording gradients.

    A few items run on the calling thread, each operation on all of torch's threads.

    Args:
        make_state: makes what one thread has for itself.
        work: raises to stop; the first error is raised here.
    """
    count = torch.get_num_threads()
    if count == 1 or len(items) < 2 * count:
        state = make_state()
        for item in items:
            work(state, item)
        return
    _Team(items, make_state, work).run(count)


class _Team(Generic[Item, State]):
    """Threads that take items from one queue until it is empty or one of them fails."""

    def __init__(
        self,
        items: Sequence[Item],
        make_state: Callable[[], State],
        work: Callable[[State, Item], None],
    ) -> None:
        self._queue: Iterator[Item] = iter(items)
        self._make_state, self._work = make_state, work
        self._lock = Lock()
        self._stopped = False
        self._errors: list[BaseException] = []
        self._inference = torch.is_inference_mode_enabled()

    def run(self, count: int) -> None:
        """Work with `count` threads and wait for them; raise the first error."""
        threads = [Thread(target=self._serve, daemon=True) for _ in range(count)]
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        finally:
            self._stopped = True
            # A thread's setting is its own, but also what threads made later begin with.
            torch.set_num_threads(count)
        if self._errors:
            raise self._errors[0]

    def _serve(self) -> None:
        try:
            torch.set_num_threads(1)
            # These modes belong to a thread, so that a new one has to enter them.
            with torch.inference_mode(self._inference), torch.no_grad():
                state = self._make_state()
                for item in self._items():
                    self._work(state, item)
        except BaseException as error:
            self._errors.append(error)
            self._stopped = True

    def _items(self) -> Iterator[Item]:
        while not self._stopped:
            with self._lock:
                item = next(self._queue, None)
            if item is None:
                return
            yield item
