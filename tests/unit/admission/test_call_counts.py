"""What a call counts and times, and what its event says of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from tests.unit.admission.messages import NOW
from tests.unit.admission.metering import CHAT, Bench

from sluice.admission.metered import Call
from sluice.errors import WireError


def test_an_untouched_call_measures_only_its_time(bench: Bench) -> None:
    """Nothing counted is null, not 0; identities, estimate and times are there."""
    with bench.call(stream=True, conversation_id="c") as call:
        bench.after(1500)
    assert call.settled
    assert {name: value for name, value in bench.event.items() if value is not None} == {
        "event_id": "id0", "event_type": "inference", "tenant_id": "acme", "project_id": "chat",
        "request_model": "m1", "end_user_hash": "u", "api_key_hash": "k", "region": "eu",
        "pool": "p", "estimated_cost_pusd": 9, "max_output_tokens": 500, "provider_name": "openai",
        "operation_name": "chat", "stream": True, "conversation_id": "c", "step": 0, "depth": 0,
        "started_at": NOW, "occurred_at": NOW + 1500, "latency_us": 1500, "outcome": "ok",
        "usage_source": "estimated", "priority": "standard",
    }  # fmt: skip
    assert not {"net_in_bytes", "net_out_bytes", "io_read_bytes"} & bench.event.keys()


def test_bytes_are_counted_each_in_its_field(bench: Bench) -> None:
    """Bytes, buffers and numbers add up; zero bytes counted are 0."""
    with bench.call() as call:
        call.sent(b"12345")
        call.sent(bytearray(2))
        call.sent(memoryview(bytes(8)).cast("I"))
        call.received(10)
        call.read(3)
        call.wrote(b"")
    names = ("net_out_bytes", "net_in_bytes", "io_read_bytes", "io_write_bytes")
    assert [bench.event[name] for name in names] == [15, 10, 3, 0]


@pytest.mark.parametrize(("wrong", "error"), [("text", TypeError), (1.5, TypeError),
                                              (True, TypeError), (-1, ValueError)])  # fmt: skip
def test_what_is_no_byte_count_is_refused(bench: Bench, wrong: Any, error: type[Exception]) -> None:
    """Text, fractions, truth values and negative numbers are named, and nothing is counted."""
    call = bench.call()
    with pytest.raises(error, match="bytes"):
        call.received(wrong)
    call.finish()
    assert "net_in_bytes" not in bench.event


def test_a_stream_is_counted_and_its_first_chunk_timed(bench: Bench) -> None:
    """Chunks pass as the same objects; an empty one is no first token."""

    def upstream() -> Iterator[bytes]:
        for size in (0, 4, 6):
            bench.after(100)
            yield bytes(size)

    with bench.call() as call:
        bench.after(50)
        call.scheduled()
        assert [len(chunk) for chunk in call.wrap_stream(upstream())] == [0, 4, 6]
    event = bench.event
    assert (event["net_in_bytes"], event["queue_us"], event["ttft_us"], event["latency_us"]) == (
        10, 50, 250, 350,
    )  # fmt: skip
    assert (event["scheduled_at"], event["first_token_at"]) == (NOW + 50, NOW + 250)


def test_chunks_pass_without_a_copy(bench: Bench) -> None:
    """What comes out is the very object that went in."""
    chunk = bytearray(b"abc")
    with bench.call() as call:
        assert next(call.wrap_stream([chunk])) is chunk


def test_chunks_that_are_objects_are_sized_by_the_caller(bench: Bench) -> None:
    """With a size the bytes count; without one the time of the first chunk still does."""
    with bench.call() as call:
        list(call.wrap_stream(["äb"], lambda text: len(text.encode())))
        bench.after(5)
        list(call.wrap_stream([object()], lambda _: None))
    assert (bench.event["net_in_bytes"], bench.event["ttft_us"]) == (3, 0)


def test_an_abandoned_stream_closes_its_source(bench: Bench) -> None:
    """Closing the wrapper closes what it wraps, at once, in both worlds."""
    closed = []

    def upstream() -> Iterator[bytes]:
        try:
            yield b"1"
            yield b"2"
        finally:
            closed.append("plain")

    async def later() -> AsyncIterator[bytes]:
        try:
            yield b"1"
            yield b"2"
        finally:
            closed.append("async")

    async def consume(call: Call) -> None:
        stream = call.wrap_async_stream(later())
        assert await anext(stream) == b"1"
        await stream.aclose()
        assert closed == ["plain", "async"]

    with bench.call() as call:
        stream = call.wrap_stream(upstream())
        next(stream)
        stream.close()
        asyncio.run(consume(call))
    assert bench.event["net_in_bytes"] == 2


def test_an_async_block_counts_an_async_stream(bench: Bench) -> None:
    """`async with` and an asynchronous answer do what their plain twins do."""

    async def upstream() -> AsyncIterator[bytes]:
        yield b"12"
        yield b"345"

    async def main() -> None:
        async with bench.call() as call:
            assert [chunk async for chunk in call.wrap_async_stream(upstream())] == [b"12", b"345"]

    asyncio.run(main())
    assert (bench.event["outcome"], bench.event["net_in_bytes"]) == ("ok", 5)


def test_provider_usage_wins_over_what_was_streamed(bench: Bench) -> None:
    """A whole answer carries the provider's counts."""
    with bench.call() as call:
        call.streamed_tokens(7)
        call.usage({"input_tokens": 10, "output_tokens": 5, "cache_read_input_tokens": None})
        call.usage(response_model="m1-0806", finish_reason="stop")
    event = bench.event
    assert (event["input_tokens"], event["output_tokens"], event["usage_source"]) == (
        10, 5, "provider",
    )  # fmt: skip
    assert (event["response_model"], event["finish_reason"]) == ("m1-0806", "stop")
    assert "cache_read_input_tokens" not in event


def test_a_broken_stream_bills_more_than_its_first_count(bench: Bench) -> None:
    """A count that came at the stream's beginning does not stand for what followed."""
    with pytest.raises(TimeoutError), bench.call() as call:
        call.usage(input_tokens=10, output_tokens=1)
        call.streamed_tokens(40)
        raise TimeoutError
    event = bench.event
    assert (event["input_tokens"], event["output_tokens"], event["usage_source"]) == (
        10, 40, "estimated",
    )  # fmt: skip


def test_an_estimate_gives_way_to_the_provider(bench: Bench) -> None:
    """Who counted is told by the last one who did."""
    with bench.call() as call:
        call.usage(input_tokens=11, usage_source="tokenizer")
        call.usage(input_tokens=10)
    assert (bench.event["input_tokens"], bench.event["usage_source"]) == (10, "provider")


@pytest.mark.parametrize(("fields", "reason"), [
    ({"output_tokns": 1}, "unencodable"), ({"output_tokens": "1"}, "unencodable"),
    ({"output_tokens": True}, "unencodable"), ({"output_tokens": -1}, "negative_value"),
    ({"units": [{"key": "images", "value": -1}]}, "negative_value"),
    ({"finish_reason": "x" * 257}, "text_too_long"), ({"tenant_id": "other"}, "own_field"),
    ({"net_in_bytes": 4}, "own_field"), ({"outcome": "ok"}, "own_field"),
    ({"attributes": [{"key": "k", "value": "v"}] * 17}, "too_many_items"),
])  # fmt: skip
def test_faulty_usage_is_named_where_it_is_given(
    bench: Bench, fields: dict[str, Any], reason: str
) -> None:
    """A field that would spoil the event is refused, and the event goes without it."""
    call = bench.call()
    with pytest.raises(WireError) as caught:
        call.usage(fields)
    assert caught.value.reason == reason
    call.finish()
    assert bench.event["outcome"] == "ok"
    with pytest.raises(WireError):
        bench.metered.call(CHAT, provider_name="x", **fields)


def test_totals_hold_their_parts(bench: Bench) -> None:
    """Parts above their total are refused whole; a total that never comes is its parts."""
    call = bench.call()
    with pytest.raises(WireError, match="input_tokens: 7 > 3"):
        call.usage(input_tokens=3, cache_read_input_tokens=7, output_tokens=9)
    call.usage(cache_read_input_tokens=7, cache_write_by_ttl=[{"key": "300", "value": 2}])
    call.usage(reasoning_output_tokens=4)
    call.finish()
    names = ("input_tokens", "cache_write_input_tokens", "output_tokens")
    assert [bench.event[name] for name in names] == [9, 2, 4]


def test_a_clock_that_is_set_moves_nothing(bench: Bench) -> None:
    """The wall clock goes back an hour meanwhile; order and durations stay true."""
    with bench.call() as call:
        bench.wall.now -= 3_600_000_000
        bench.after(10)
        call.first_token()
        bench.after(10)
    event = bench.event
    assert (event["first_token_at"], event["occurred_at"], event["latency_us"]) == (
        NOW + 10, NOW + 20, 20,
    )  # fmt: skip


def test_times_of_the_engine_go_first_unless_they_contradict(bench: Bench) -> None:
    """An engine's times are taken; ones outside of the call are left out, not bent."""
    for first_token_at in (NOW + 30, NOW + 999):
        with bench.call() as call:
            bench.after(50)
            call.first_token()
            bench.after(50)
            call.usage(first_token_at=first_token_at, scheduled_at=NOW + 20, queue_us=20,
                       timing_quality="engine")  # fmt: skip
    told = [(e["scheduled_at"], e["first_token_at"], e["ttft_us"], e["queue_us"])
            for e in bench.sent]  # fmt: skip
    assert told == [(NOW + 20, NOW + 30, 30, 20), (NOW + 20, None, None, 20)]
