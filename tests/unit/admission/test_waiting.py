"""Waiting by threads and by coroutines for the same change."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from sluice.admission.waiting import Course, Wait, Waiters


def course(ready: list[bool], ended: list[str], wait_s: float = 20) -> Course[bool]:
    """Waits until there is something in `ready`, and notes how it ended."""
    try:
        came = yield Wait(lambda: bool(ready), time.monotonic() + wait_s, "here", 60)
        ended.append("came" if came else "late")
        return came
    finally:
        ended.append("over")


def test_a_change_wakes_threads_and_coroutines() -> None:
    """Both carry the same course through, and neither looks again by itself before."""
    waiters, ready, ended = Waiters(), list[bool](), list[str]()
    found = list[bool]()
    thread = threading.Thread(target=lambda: found.append(waiters.run(course(ready, ended))))
    thread.start()

    def change() -> None:
        time.sleep(0.05)
        with waiters.lock:
            ready.append(True)
            waiters.wake("elsewhere")
            waiters.wake("here")

    changing = threading.Thread(target=change)
    changing.start()
    begun = time.monotonic()
    assert asyncio.run(waiters.run_async(course(ready, ended)))
    thread.join(20)
    changing.join()
    assert time.monotonic() - begun < 10
    assert (found, sorted(ended)) == ([True], ["came", "came", "over", "over"])


def test_nobody_waits_beyond_the_end() -> None:
    """The course hears that it did not come about."""
    waiters = Waiters()
    assert waiters.run(course([], [], 0.01)) is False
    assert asyncio.run(waiters.run_async(course([], [], 0.01))) is False


def test_a_fault_of_the_condition_ends_the_course() -> None:
    """What asking raises reaches the caller, and the course can tidy up."""
    waiters, ended = Waiters(), list[str]()

    def broken() -> Course[None]:
        try:
            yield Wait(lambda: 1 / 0 > 0, time.monotonic() + 1, "here")
        finally:
            ended.append("over")

    with pytest.raises(ZeroDivisionError):
        waiters.run(broken())
    with pytest.raises(ZeroDivisionError):
        asyncio.run(waiters.run_async(broken()))
    assert ended == ["over", "over"]
    assert not waiters.lock.locked()


def test_a_loop_that_is_gone_is_not_woken() -> None:
    """A coroutine that was abandoned with its loop does not disturb the others."""
    waiters = Waiters()
    loop = asyncio.new_event_loop()
    task = loop.create_task(waiters.run_async(course([], [])))
    loop.run_until_complete(asyncio.sleep(0.01))
    assert not task.done()
    loop.close()
    with waiters.lock:
        waiters.wake_all()
