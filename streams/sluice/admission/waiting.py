"""Waiting for a change, by threads and by coroutines, over one lock.

What has to wait is written once, as a generator that yields what it waits for; `run` and
`run_async` carry it through.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Generator, Hashable
from typing import NamedTuple, TypeVar

Result = TypeVar("Result")

# Channels of what a point waits for; a queued request waits on its own ticket.
LEASES = "leases"
CONTROL = "control"


class Wait(NamedTuple):
    """Until `ready()` is true, which is asked with the lock held, or `until` has passed.

    `until` is in seconds of the monotonic clock. It is asked anew when `channel` is woken, and
    after `look_again_s` also without that.
    """

    ready: Callable[[], bool]
    until: float
    channel: Hashable
    look_again_s: float = 0.25


# Yields what it waits for, and is sent whether that came about.
Course = Generator[Wait, bool, Result]


class _Channel:
    """Who waits for one kind of change."""

    def __init__(self, lock: threading.Lock) -> None:
        self.changed = threading.Condition(lock)
        self.threads = 0
        self.sleepers: dict[asyncio.Future[None], asyncio.AbstractEventLoop] = {}

    def wake(self) -> None:
        if self.threads:
            self.changed.notify_all()
        for future, loop in self.sleepers.items():
            # A loop that was closed waits for nothing.
            if not loop.is_closed():
                loop.call_soon_threadsafe(_resolve, future)
        self.sleepers.clear()


class Waiters:
    """One lock, and everybody who waits for what it guards to change."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._channels: dict[Hashable, _Channel] = {}

    def wake(self, channel: Hashable) -> None:
        """Let all who wait on a channel ask again; the caller holds the lock."""
        found = self._channels.get(channel)
        if found is not None:
            found.wake()

    def wake_all(self) -> None:
        """Let everybody ask again; the caller holds the lock."""
        for channel in self._channels.values():
            channel.wake()

    def _enter(self, name: Hashable) -> _Channel:
        found = self._channels.get(name)
        if found is None:
            found = self._channels[name] = _Channel(self.lock)
        return found

    def _leave(self, name: Hashable, channel: _Channel) -> None:
        if not channel.threads and not channel.sleepers and self._channels.get(name) is channel:
            del self._channels[name]

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
            channel = self._enter(wait.channel)
            channel.threads += 1
            try:
                while not wait.ready():
                    left_s = wait.until - time.monotonic()
                    if left_s <= 0:
                        return False
                    channel.changed.wait(min(left_s, wait.look_again_s))
            finally:
                channel.threads -= 1
                self._leave(wait.channel, channel)
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
                channel = self._enter(wait.channel)
                channel.sleepers[future] = loop
            left_s = wait.until - time.monotonic()
            try:
                if left_s <= 0:
                    return False
                await asyncio.wait((future,), timeout=min(left_s, wait.look_again_s))
            finally:
                with self.lock:
                    channel.sleepers.pop(future, None)
                    self._leave(wait.channel, channel)


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
