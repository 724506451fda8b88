"""Causes: one example each, with the numbers worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest
from tests.builders import arrived

from sluice.metering.causes import CAUSES, NOTHING, Context, allocate, split
from sluice.metering.rating import Part

# 400 uncached, 500 read and 100 written tokens; 1,000 of GPU time.
PARTS = (Part("input", 400, 4_000), Part("cache_read", 500, 500), Part("cache_write", 100, 1_250),
         Part("output", 50, 2_000), Part("gpu_us", 80, 1_000))  # fmt: skip
COST = 8_750


def call(**over: Any) -> dict[str, Any]:
    """The request that PARTS belong to."""
    tokens = {"input_tokens": 1_000, "cache_read_input_tokens": 500,
              "cache_write_input_tokens": 100, "output_tokens": 50}  # fmt: skip
    return arrived(**tokens | over)


def found(context: Context = Context(), **over: Any) -> dict[str, int]:  # noqa: B008
    """Causes that got a share."""
    shares = split(call(**over), COST, PARTS, context)
    assert sum(shares) == COST
    return {cause: share for cause, share in zip(CAUSES, shares, strict=True) if share}


def test_a_plain_call_is_first_pass() -> None:
    """Without any overhead all of the cost is the work itself."""
    assert found() == {"first_pass": COST}


@pytest.mark.parametrize(
    ("over", "cause"),
    [({"attempt": 2}, "retry"), ({"attempt": 1, "attempt_kind": "retry"}, "retry"),
     ({"attempt": 2, "attempt_kind": "hedge"}, "hedge"), ({"outcome": "cancelled"}, "abandoned"),
     ({"slo_outcome": "abandoned"}, "abandoned"), ({"outcome": "error"}, "first_pass")],
)  # fmt: skip
def test_further_attempts_and_unused_output_are_overhead_as_a_whole(
    over: dict[str, Any], cause: str
) -> None:
    """All of such a call's cost has one cause."""
    assert found(**over) == {cause: COST}


def test_the_first_cause_that_applies_takes_all() -> None:
    """A hedge in a loop is a hedge, a cancelled call in a loop is a loop."""
    looping = Context(looping=True)
    assert found(looping, attempt_kind="hedge") == {"hedge": COST}
    assert found(looping, outcome="cancelled") == {"loop": COST}


def test_lost_cache_is_recomputed() -> None:
    """The cache held 700, 500 were read: 200 of 500 new tokens (5,250) were computed again."""
    assert found(Context(cached_tokens=700)) == {
        "recompute": 5_250 * 200 // 500, "first_pass": COST - 2_100,
    }  # fmt: skip


def test_what_the_engine_says_was_recomputed_counts() -> None:
    """Preempted work is recompute, at most all new input."""
    assert found(recomputed_input_tokens=100)["recompute"] == 5_250 * 100 // 500
    assert found(recomputed_input_tokens=900)["recompute"] == 5_250


def test_input_beyond_the_usual_is_context_growth() -> None:
    """Usual are 600: 400 of 1,000 tokens cost 400/1,000 of 5,750."""
    assert found(Context(usual_input=600))["context_growth"] == 2_300
    assert found(Context(usual_input=1_000)) == {"first_pass": COST}


def test_recomputed_tokens_are_no_growth() -> None:
    """Usual 200, 300 recomputed (3,150): 700 of the other 700 tokens, 2,600, are beyond it."""
    shares = found(Context(usual_input=200), recomputed_input_tokens=300)
    assert (shares["recompute"], shares["context_growth"]) == (3_150, 2_600)


def test_time_in_the_queue_holds_the_gpu() -> None:
    """A quarter of the time was waiting: a quarter of what time costs."""
    assert found(queue_us=25, latency_us=100)["queue_hold"] == 250
    assert found(queue_us=300, latency_us=100)["queue_hold"] == 1_000
    assert found(queue_us=25, latency_us=None) == {"first_pass": COST}


def test_a_correction_has_one_cause() -> None:
    """Its deltas are not split; the kind of its original decides."""
    over = {"event_type": "correction", "recomputed_input_tokens": 100}
    assert found(Context(usual_input=1), **over) == {"first_pass": COST}
    assert found(attempt=2, **over) == {"retry": COST}


def test_remainders_go_to_the_largest_fraction_first() -> None:
    """10 over 3:3:1 is 4.29, 4.29 and 1.43: the last pico-dollar goes to the third."""
    assert allocate(10, (3, 3, 1, 0, 0, 0, 0, 0)) == (4, 4, 2, 0, 0, 0, 0, 0)
    assert allocate(1, (1, 1, 0, 0, 0, 0, 0, 0)) == (1, 0, 0, 0, 0, 0, 0, 0)
    assert allocate(0, (3, 3, 1, 0, 0, 0, 0, 0)) == NOTHING
