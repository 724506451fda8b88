"""Calls, tool calls and tasks: what their one event says."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from tests.unit.admission.messages import NOW, Clock, Sent, decision, point

from sluice.admission.metered import Call, Metered
from sluice.admission.verdict import AdmissionRequest, Refused
from sluice.errors import OutsideError, WireError
from sluice.wire.codec import encode
from sluice.wire.wal import SpoolFull

CHAT = AdmissionRequest(
    "acme", "chat", "m1", end_user_hash="u", api_key_hash="k", region="eu", pool="p",
    estimated_cost_pusd=9, max_output_tokens=500,
)  # fmt: skip


@dataclass
class Bench:
    """A Metered on clocks that are moved by hand and an emitter that keeps what it gets."""

    messages: tuple[bytes, ...] = ()
    wall: Clock = field(default_factory=Clock)
    steady: Clock = field(default_factory=lambda: Clock(7))
    sent: Any = field(default_factory=Sent)

    def __post_init__(self) -> None:
        admitting = point(*self.messages, clock=self.wall)
        ids = (f"id{number}" for number in range(10**6))
        self.metered = Metered(admitting, self.sent, clock=self.wall, steady=self.steady,
                               new_id=lambda: next(ids))  # fmt: skip

    def call(self, **over: Any) -> Call:
        """A call of acme's chat."""
        return self.metered.call(CHAT, **{"provider_name": "openai", **over})

    def after(self, steps_us: int) -> None:
        """Let time go by."""
        self.steady.now += steps_us

    @property
    def event(self) -> dict[str, Any]:
        """The only event, which the wire must take."""
        (event,) = self.sent
        emitters = {"source": "s", "source_epoch": "e", "end_mark": 90}
        encode("UsageEvent", {**event, **emitters})
        return dict(event)


@pytest.fixture
def bench() -> Bench:
    """A bench without decisions."""
    return Bench()


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
        "usage_source": "estimated",
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
        await stream.aclose()  # type: ignore[attr-defined]
        assert closed == ["plain", "async"]

    with bench.call() as call:
        stream = call.wrap_stream(upstream())
        next(stream)
        stream.close()  # type: ignore[attr-defined]
        asyncio.run(consume(call))
    assert bench.event["net_in_bytes"] == 2


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

    def answer() -> Iterator[bytes]:
        with bench.call() as call:
            for chunk in call.wrap_stream([b"aa", b"bb", b"cc"]):
                call.streamed_tokens(3)
                yield chunk

    stream = answer()
    assert [next(stream), next(stream)] == [b"aa", b"bb"]
    stream.close()  # type: ignore[attr-defined]
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


def test_a_client_that_went_away_is_abandoned(bench: Bench) -> None:
    """The caller says so: cancelled and abandoned, whatever exception brought the news."""
    with pytest.raises(ConnectionResetError), bench.call() as call:
        call.abandoned()
        raise ConnectionResetError
    event = bench.event
    assert (event["outcome"], event["error_type"], event["slo_outcome"]) == (
        "cancelled", None, "abandoned",
    )  # fmt: skip


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


def test_further_attempts_are_calls_of_their_own(bench: Bench) -> None:
    """Attempts count on from wherever they are opened, with ids and bytes of their own."""
    task = bench.metered.task(CHAT, agent_name="a")
    first = task.call(CHAT, provider_name="openai")
    hedge = first.hedge(deployment_id="d2")
    first.received(9)
    retry = hedge.retry(request_model="m2")
    for call in (retry, first, hedge):
        call.finish()
    names = ("attempt", "attempt_kind", "step", "request_model", "deployment_id", "net_in_bytes")
    told = {e["event_id"]: tuple(e.get(name) for name in names) for e in bench.sent}
    assert told == {
        first.event_id: (None, None, 1, "m1", None, 9),
        hedge.event_id: (2, "hedge", 1, "m1", "d2", None),
        retry.event_id: (3, "retry", 1, "m2", "d2", None),
    }


def test_a_refused_request_opens_nothing() -> None:
    """Refused carries the verdict; no event is emitted and no step taken."""
    bench = Bench((decision(),))
    task = bench.metered.task(CHAT)
    for open_call in (lambda: bench.call(), lambda: task.tool("search")):
        with pytest.raises(Refused, match="acme has spent") as caught:
            open_call()
        assert caught.value.verdict.decision_id == "id-block"
    assert not bench.sent
    assert next(task._place.steps) == 1


def test_the_decision_in_force_goes_into_the_event() -> None:
    """Decision, policy version and the cap on the output are those of the verdict."""
    bench = Bench((decision("allow_with_caps", params={"max_tokens": 200}),))
    with bench.call() as call:
        assert call.verdict.caps.max_tokens == 200
    event = bench.event
    assert (event["decision_id"], event["policy_version"], event["max_output_tokens"]) == (
        "id-allow_with_caps", "v1", 200,
    )  # fmt: skip


def test_a_verdict_in_hand_is_not_asked_for_again() -> None:
    """A call opened on a verdict does not go to the admission point."""
    bench = Bench((decision(),))
    free = Bench()
    verdict = free.metered._means.admit(CHAT)
    with bench.metered.call(CHAT, provider_name="x", verdict=verdict):
        pass
    assert bench.event["outcome"] == "ok"


def test_a_denied_tool_is_refused() -> None:
    """A tool call is a question of its own: a denied tool does not run, another does."""
    bench = Bench((decision("allow_with_caps", params={"tool_denylist": ["rm"]}),))
    call = bench.call()
    with pytest.raises(Refused):
        call.tool("rm")
    call.tool("ls").finish()
    assert bench.event["tool_name"] == "ls"


def test_a_tool_call_tells_all_but_its_content(bench: Bench) -> None:
    """Names, hashes and bytes are there; arguments and result are not."""
    call = bench.call()
    tool = call.tool("search", tool_type="function", server="mcp-1", call_id="c1", writes=False,
                     args={"q": "secret", "n": 3})  # fmt: skip
    with tool:
        tool.read(10)
        tool.sent(20)
        tool.result(["secret"])
        bench.after(5)
    event = bench.event
    assert {name: event[name] for name in (
        "event_type", "tool_name", "tool_type", "tool_server", "tool_call_id", "tool_writes",
        "operation_name", "request_model", "io_read_bytes", "net_out_bytes", "latency_us",
        "parent_event_id", "depth", "step", "estimated_cost_pusd", "max_output_tokens",
    )} == {
        "event_type": "tool", "tool_name": "search", "tool_type": "function",
        "tool_server": "mcp-1", "tool_call_id": "c1", "tool_writes": False,
        "operation_name": "execute_tool", "request_model": "", "io_read_bytes": 10,
        "net_out_bytes": 20, "latency_us": 5, "parent_event_id": call.event_id, "depth": 1,
        "step": 0, "estimated_cost_pusd": None, "max_output_tokens": None,
    }  # fmt: skip
    assert all(len(event[name]) == 16 for name in ("tool_args_hash", "result_hash"))
    assert "secret" not in repr(event)


def test_a_tool_without_known_arguments_has_no_hash(bench: Bench) -> None:
    """Arguments that were not told are null; no arguments at all are something else."""
    call = bench.call()
    call.tool("a").finish()
    call.tool("a", args={}).finish()
    first, second = bench.sent
    assert first["tool_args_hash"] is None
    assert second["tool_args_hash"] is not None


def test_a_task_numbers_its_steps_and_nests_its_calls(bench: Bench) -> None:
    """Steps run through the whole task; parent and depth follow the handles."""
    task = bench.metered.task(CHAT, agent_name="planner", workflow_name="w")
    call = task.call(CHAT, provider_name="openai")
    tool = call.tool("research")
    inner = tool.agent("researcher").call(CHAT, provider_name="openai")
    late = task.tool("save", writes=True)
    for operation in (call, tool, inner, late):
        operation.finish()
    told = [(e["event_id"], e["step"], e["depth"], e["parent_event_id"], e["agent_name"])
            for e in bench.sent]  # fmt: skip
    assert told == [
        (call.event_id, 1, 0, None, "planner"), (tool.event_id, 2, 1, call.event_id, "planner"),
        (inner.event_id, 3, 2, tool.event_id, "researcher"), (late.event_id, 4, 0, None, "planner"),
    ]  # fmt: skip
    assert {(e["task_id"], e["workflow_name"]) for e in bench.sent} == {(task.task_id, "w")}


def test_a_task_asks_admission_under_its_id() -> None:
    """A decision about the task meets its calls, also where their request names no task."""
    bench = Bench((decision(scope={"task_id": "t1"}),))
    task = bench.metered.task(AdmissionRequest("acme", "chat", task_id="t1"))
    with pytest.raises(Refused):
        task.call(CHAT, provider_name="x")
    bench.call().finish()


def test_another_process_goes_on_with_a_task(bench: Bench) -> None:
    """Told where it stands, a handle numbers on from there."""
    task = bench.metered.task(CHAT, parent_event_id="up", depth=2, step=5)
    task.tool("t").finish()
    event = bench.event
    assert (event["parent_event_id"], event["depth"], event["step"]) == ("up", 2, 6)
    with pytest.raises(ValueError, match="at least 0"):
        bench.metered.task(CHAT, depth=-1)


def test_only_models_are_called(bench: Bench) -> None:
    """Another event type than inference or embedding is refused."""
    bench.call(event_type="embedding").finish()
    assert bench.event["event_type"] == "embedding"
    with pytest.raises(ValueError, match="inference or embedding"):
        bench.call(event_type="tool")


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
