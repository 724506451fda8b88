"""How calls end: once, with the right outcome, whatever happens."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Generator
from typing import Any

import pytest
from tests.unit.admission.messages import Sent
from tests.unit.admission.metering import Bench

from sluice.errors import OutsideError
from sluice.wire.wal import SpoolFull


def test_an_exception_is_an_error_without_its_text(bench: Bench) -> None:
    """Its class is told, its message nowhere, and it goes on its way."""
    with pytest.raises(ConnectionError), bench.call():
        raise ConnectionRefusedError("secret")
    assert (bench.event["outcome"], bench.event["error_type"]) == (
        "error",
        "ConnectionRefusedError",
    )
    assert "secret" not in repr(bench.event)


def test_a_closed_generator_bills_what_it_streamed(bench: Bench) -> None:
    """The consumer stops after two chunks: cancelled, with their bytes and tokens, estimated."""

    def answer() -> Generator[bytes, None, None]:
        with bench.call() as call:
            for chunk in call.wrap_stream([b"aa", b"bb", b"cc"]):
                call.streamed_tokens(3)
                yield chunk

    stream = answer()
    assert [next(stream), next(stream)] == [b"aa", b"bb"]
    stream.close()
    event = bench.event
    assert (event["outcome"], event["error_type"], event["slo_outcome"]) == (
        "cancelled", None, None,
    )  # fmt: skip
    assert (event["net_in_bytes"], event["output_tokens"], event["usage_source"]) == (
        4, 6, "estimated",
    )  # fmt: skip


def test_a_cancelled_task_settles_as_cancelled(bench: Bench) -> None:
    """The event loop cancels the handler in the middle of the answer."""

    async def handler() -> None:
        async with bench.call() as call:
            call.received(5)
            await asyncio.sleep(60)

    async def main() -> None:
        task = asyncio.ensure_future(handler())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert (bench.event["outcome"], bench.event["net_in_bytes"]) == ("cancelled", 5)


def test_a_client_that_went_away_is_abandoned(bench: Bench) -> None:
    """The caller says so: cancelled and abandoned, whatever exception brought the news."""
    with pytest.raises(ConnectionResetError), bench.call() as call:
        call.abandoned()
        raise ConnectionResetError
    event = bench.event
    assert (event["outcome"], event["error_type"], event["slo_outcome"]) == (
        "cancelled", None, "abandoned",
    )  # fmt: skip


def test_it_settles_once_whatever_comes_later(bench: Bench) -> None:
    """finish, finish again and the end of the block make one event, that of the first."""
    with bench.call() as call:
        call.received(1)
        call.finish("degraded")
        call.received(1)
        call.finish("error")
    assert (bench.event["outcome"], bench.event["net_in_bytes"]) == ("degraded", 1)


def test_an_unknown_outcome_is_refused(bench: Bench) -> None:
    """The list of outcomes is told, and the call can still end."""
    call = bench.call()
    with pytest.raises(ValueError, match="cancelled, degraded"):
        call.finish("fine")
    call.finish("queued_out", "QueueTimeout")
    assert (bench.event["outcome"], bench.event["error_type"]) == ("queued_out", "QueueTimeout")


class Full(Sent):
    """An emitter whose log is full for some events."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times

    def emit(self, event: Any) -> None:
        """Keep one event, or be full."""
        if self.times:
            self.times -= 1
            raise SpoolFull("full")
        self.append(event)


def test_an_event_that_was_not_taken_can_be_tried_again() -> None:
    """The block says that the log is full; `finish` later sends the same event, once."""
    bench = Bench(sent=Full(1))
    with pytest.raises(OutsideError), bench.call() as call:
        bench.after(10)
    assert not call.settled
    bench.after(99)
    call.finish("error")
    call.finish("error")
    assert (bench.event["outcome"], bench.event["latency_us"]) == ("ok", 10)


def test_trouble_of_the_emitter_does_not_hide_the_error(caplog: pytest.LogCaptureFixture) -> None:
    """The block's own exception comes out; that the event was not taken is logged."""
    bench = Bench(sent=Full(1))
    with pytest.raises(KeyError), bench.call() as call:
        raise KeyError
    assert "id0 was not emitted" in caplog.text
    call.finish()
    assert bench.event["outcome"] == "error"


@pytest.mark.parametrize(("ttft", "latency", "first_us", "whole_us", "judged"), [
    (100, 1000, 100, 1000, "good"), (100, 1000, 101, 1000, "slow"), (100, 1000, 100, 1001, "slow"),
    (None, 1000, 500, 1000, "good"), (100, None, None, 50, None), (None, None, 1, 2, None),
    (100, 1000, None, 1000, "good"),
])  # fmt: skip
def test_targets_judge_what_was_measured(
    bench: Bench, ttft: int | None, latency: int | None, first_us: int | None, whole_us: int,
    judged: str | None,
) -> None:  # fmt: skip
    """At the target is good, beyond it slow; without a target or a measurement nothing is said."""
    with bench.call(slo_ttft_us=ttft, slo_latency_us=latency) as call:
        if first_us is not None:
            bench.after(first_us)
            call.first_token()
        bench.after(whole_us - (first_us or 0))
    assert bench.event["slo_outcome"] == judged


def test_an_error_fails_its_target(bench: Bench) -> None:
    """With a target an error is failed, a plain cancellation is not judged."""
    for outcome in ("error", "cancelled", "preempted"):
        bench.call(slo_latency_us=1).finish(outcome)
    assert [event["slo_outcome"] for event in bench.sent] == ["failed", None, "failed"]


def test_threads_lose_no_byte_and_settle_once(bench: Bench) -> None:
    """Eight threads count and then all end the call: one event with every byte."""
    call = bench.call()
    gate = threading.Barrier(8)

    def work() -> None:
        gate.wait()
        for _ in range(2000):
            call.received(3)
            call.streamed_tokens(1)
        gate.wait()
        call.finish()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (bench.event["net_in_bytes"], bench.event["output_tokens"]) == (48_000, 16_000)
