"""Threads that outlive a fork: the child starts its own."""

from __future__ import annotations

import gc
import itertools
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol


class Forked(Protocol):
    """Something with locks or threads that a forked child must make anew."""

    def after_fork(self) -> None:
        """Called in the child, before its own code goes on."""


_watched: weakref.WeakValueDictionary[int, Forked] = weakref.WeakValueDictionary()
_numbers = itertools.count()


def watch_forks(thing: Forked) -> None:
    """Call `thing.after_fork()` in every forked child, in the order in which things came."""
    _watched[next(_numbers)] = thing


def _after_fork() -> None:
    for _, thing in sorted(_watched.items()):
        thing.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


@contextmanager
def uncollected() -> Iterator[None]:
    """Hold the cyclic collector off while very much is read that lives long.

    It would look through all of it again and again, and find nothing.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


class Background:
    """A daemon thread that runs `work(stop)` until `stop` is set."""

    def __init__(self, name: str, work: Callable[[threading.Event], None]) -> None:
        self._name = name
        self._work = work
        self._start()
        watch_forks(self)

    def close(self, timeout_s: float = 10.0) -> None:
        """Ask the thread to end and wait for it."""
        self._stop.set()
        self._thread.join(timeout_s)

    def after_fork(self) -> None:
        """Start the child's own thread, unless the parent's had been told to end."""
        if not self._stop.is_set():
            self._start()

    def _start(self) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(
            target=self._work, args=(self._stop,), name=self._name, daemon=True
        )
        self._thread.start()
