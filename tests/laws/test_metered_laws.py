"""Laws of metered operations: one event, every byte, and nothing that the meter would refuse."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from tests.unit.admission.messages import NOW, Clock, Sent, point

from sluice.admission.metered import Call, Metered, ToolCall
from sluice.admission.outcomes import OUTCOMES
from sluice.admission.verdict import AdmissionRequest
from sluice.errors import WireError
from sluice.metering.validate import check_usage
from sluice.wire.codec import decode, encode

REQUEST = AdmissionRequest("acme", "chat", "m1", max_output_tokens=9)
FIELDS = {
    "sent": "net_out_bytes", "received": "net_in_bytes", "stream": "net_in_bytes",
    "read": "io_read_bytes", "wrote": "io_write_bytes",
}  # fmt: skip

counts = st.tuples(st.sampled_from(sorted(FIELDS)), st.integers(0, 2**40))
tokens = st.integers(0, 10**6)


@st.composite
def usages(draw: st.DrawFn) -> dict[str, Any]:
    """What a provider or engine may hand over, times of a strange clock included."""
    told = {
        "input_tokens": draw(tokens), "cache_read_input_tokens": draw(tokens),
        "cache_write_by_ttl": [{"key": "300", "value": draw(tokens)}],
        "output_tokens": draw(tokens), "reasoning_output_tokens": draw(tokens),
        "rejected_prediction_tokens": draw(tokens),
        "scheduled_at": NOW + draw(st.integers(-100, 10_000)),
        "first_token_at": NOW + draw(st.integers(-100, 10_000)),
        "queue_us": draw(tokens), "finish_reason": draw(st.sampled_from([None, "stop", "ä" * 64])),
    }  # fmt: skip
    kept = draw(st.sets(st.sampled_from(sorted(told))))
    return {name: told[name] for name in kept}


steps = st.one_of(
    counts,
    st.tuples(st.just("wait"), st.integers(-50, 1000)),
    st.tuples(st.just("streamed"), st.integers(0, 500)),
    st.tuples(st.just("usage"), usages()),
    st.tuples(st.sampled_from(["scheduled", "first_token", "abandoned"]), st.none()),
    st.tuples(st.just("finish"), st.sampled_from(sorted(OUTCOMES))),
)
endings = st.sampled_from([None, ValueError, GeneratorExit, KeyboardInterrupt])


class Play:
    """Plays steps on an operation and keeps a count of its own."""

    def __init__(self, call: Call | ToolCall, wall: Clock, steady: Clock) -> None:
        self._call, self._wall, self._steady = call, wall, steady
        self.counted: dict[str, int] = {}
        self.streamed = 0

    def step(self, kind: str, value: Any) -> None:
        """Play one step."""
        if kind in FIELDS:
            self._move(kind, value)
        elif kind == "wait":
            # The wall clock may be set back; the steady one cannot.
            self._wall.now += value
            self._steady.now += max(0, value)
        elif kind == "streamed":
            self._call.streamed_tokens(value)
            self.streamed += 0 if self._call.settled else value
        elif kind == "usage":
            self._hand(value)
        elif value is None:
            getattr(self._call, kind)()
        else:
            getattr(self._call, kind)(value)

    def _hand(self, fields: dict[str, Any]) -> None:
        try:
            self._call.usage(fields)
        except WireError as error:
            assert error.reason == "token_subset"

    def _move(self, kind: str, size: int) -> None:
        if not self._call.settled:
            self.counted[FIELDS[kind]] = self.counted.get(FIELDS[kind], 0) + size
        if kind == "stream":
            list(self._call.wrap_stream([size, b"ab"]))
            if not self._call.settled:
                self.counted[FIELDS[kind]] += 2
        else:
            getattr(self._call, kind)(size)


def leave(ending: type[BaseException] | None) -> None:
    """Leave a block in this way."""
    if ending is not None:
        raise ending


@given(st.lists(steps, max_size=30), endings, st.booleans())
def test_any_course_ends_in_one_event_that_the_meter_takes(
    course: list[tuple[str, Any]], ending: type[BaseException] | None, of_a_tool: bool
) -> None:
    """Whatever happens in whatever order: one valid event with exactly the bytes that passed."""
    wall, steady, sent = Clock(), Clock(0), Sent()
    metered = Metered(point(clock=wall), sent, clock=wall, steady=steady)
    task = metered.task(REQUEST)
    operation = (
        task.tool("t", args=[1], slo_latency_us=500)
        if of_a_tool
        else task.call(REQUEST, provider_name="x", slo_ttft_us=100, slo_latency_us=500)
    )
    play = Play(operation, wall, steady)
    try:
        with operation:
            for kind, value in course:
                play.step(kind, value)
            leave(ending)
    except BaseException as error:
        assert type(error) is ending
    (event,) = sent
    for name in set(FIELDS.values()):
        assert event.get(name) == play.counted.get(name)
    whole_answer = event["outcome"] in ("ok", "degraded")
    assert whole_answer or event.get("output_tokens", 0) >= play.streamed
    ids = {"source": "s", "source_epoch": "e", "source_seq": 1, "end_mark": 90}
    _, whole = decode(encode("UsageEvent", {**event, **ids}))
    check_usage(whole, b"acme", NOW)
