"""One network, many requests: a thread that works them off one by one, and a queue that ends somewhere."""

import asyncio
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from dmdd.deploy.serve.limits import Refusal

Result = TypeVar("Result")


class Worker:
    """Run work in one thread of its own, so that the event loop stays free to answer.

    One thread, since the network uses all cores for one image; two would only share them. A request takes its slot
    before its body is read: what waits is bounded in memory too.

    Args:
        slots: Requests that may wait or run at once.

    Source: ours.
    """

    def __init__(self, slots: int) -> None:
        self.slots, self.taken = slots, 0
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="dmdd-inference")
        self._usual_s = 0.5

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Hold a slot in the queue.

        Raises:
            Refusal: 503, none is free.
        """
        if self.taken >= self.slots:
            raise Refusal(
                503, f"busy: {self.taken} requests are waiting already", retry_after_s=self.taken * self._usual_s
            )
        self.taken += 1
        try:
            yield
        finally:
            self.taken -= 1

    async def run(self, work: Callable[[], Result]) -> Result:
        """Wait for the thread and run ``work`` in it; work whose caller has given up is not begun.

        Args:
            work: Takes no arguments.

        Returns:
            What it returns.
        """
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._timed, work)

    def _timed(self, work: Callable[[], Result]) -> Result:
        started = time.monotonic()
        try:
            return work()
        finally:
            self._usual_s += 0.2 * (time.monotonic() - started - self._usual_s)

    def close(self) -> None:
        """Finish what runs, drop what waits."""
        self._pool.shutdown(wait=True, cancel_futures=True)
