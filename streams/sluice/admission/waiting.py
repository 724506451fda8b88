"""Waiting for a change, by threads and by coroutines, over one lock.

What has to wait is written once, as a generator that yields what it waits for; `run` and
`run_async` carry it through.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Generator
from typing import NamedTuple, TypeVar

Result = TypeVar("Result")


class Wait(NamedTuple):
    """Until `ready()` is true, which is asked with the lock held, or `until` has passed.

    `until` is in seconds of the monotonic clock; `look_again_s`: ask anew after so long, also
    without a change.
    """

    ready: Callable[[], bool]
    until: float
    look_again_s: float = 0.25


# Yields what it waits for, and is sent whether that came about.
Course = Generator[Wait, bool, Result]


class Waiters:
    """One lock, and everybody who waits for what it guards to change."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._changed = threading.Condition(self.lock)
        self._sleepers: dict[asyncio.Future[None], asyncio.AbstractEventLoop] = {}
        self._threads = 0

    def wake(self) -> None:
        """Let all who wait ask again; the caller holds the lock."""
        if self._threads:
            self._changed.notify_all()
        if not self._sleepers:
            return
        sleepers, self._sleepers = self._sleepers, {}
        for future, loop in sleepers.items():
            # A loop that was closed waits for nothing.
            if not loop.is_closed():
                loop.call_soon_threadsafe(_resolve, future)

    def run(self, course: Course[Result]) -> Result:
        """Carry a course through on this thread."""
        try:
            wait = next(course)
            while True:
                wait = course.send(self._outwait(wait))
        except StopIteration as done:
            result: Result = done.value
            return result
        finally:
            course.close()

    def _outwait(self, wait: Wait) -> bool:
        with self.lock:
            self._threads += 1
            try:
                while not wait.ready():
                    left_s = wait.until - time.monotonic()
                    if left_s <= 0:
                        return False
                    self._changed.wait(min(left_s, wait.look_again_s))
            finally:
                self._threads -= 1
        return True

    async def run_async(self, course: Course[Result]) -> Result:
        """Carry a course through without holding up the loop."""
        try:
            wait = next(course)
            while True:
                wait = course.send(await self._outwait_async(wait))
        except StopIteration as done:
            result: Result = done.value
            return result
        finally:
            course.close()

    async def _outwait_async(self, wait: Wait) -> bool:
        loop = asyncio.get_running_loop()
        while True:
            future = loop.create_future()
            with self.lock:
                if wait.ready():
                    return True
                self._sleepers[future] = loop
            left_s = wait.until - time.monotonic()
            try:
                if left_s <= 0:
                    return False
                await asyncio.wait((future,), timeout=min(left_s, wait.look_again_s))
            finally:
                with self.lock:
                    self._sleepers.pop(future, None)


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
