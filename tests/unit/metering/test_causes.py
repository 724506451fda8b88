"""Causes: one example each, with the numbers worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest
from tests.builders import usage
from tests.laws.one_by_one_tasks import Context
from tests.split_columns import Costing, splits_of

from sluice.metering.causes import CAUSES
from sluice.metering.columnar.causes import part_of
from sluice.metering.parts import Part
from sluice.money import INT64_MAX

# 400 uncached, 500 read and 100 written tokens; 1,000 of GPU time.
PARTS = (Part("input", 400, 4_000), Part("cache_read", 500, 500), Part("cache_write", 100, 1_250),
         Part("output", 50, 2_000), Part("gpu_us", 80, 1_000))  # fmt: skip
COST = 8_750


def call(**over: Any) -> dict[str, Any]:
    """The request that PARTS belong to."""
    tokens = {"input_tokens": 1_000, "cache_read_input_tokens": 500,
              "cache_write_input_tokens": 100, "output_tokens": 50}  # fmt: skip
    return usage(**tokens | over)


def found(context: Context = Context(), **over: Any) -> dict[str, int]:  # noqa: B008
    """Causes that got a share."""
    ((shares, _),) = splits_of([Costing(call(**over), PARTS, 0, context)])
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
    over = {"event_type": "correction", "corrects_event_id": "e", "recomputed_input_tokens": 100}
    assert found(Context(usual_input=1), **over) == {"first_pass": COST}
    assert found(attempt=2, **over) == {"retry": COST}


def tails(tail_pusd: int) -> dict[str, int]:
    """A tail of a call that cost 3 each for new work and for recomputed input, 1 for waiting."""
    event = usage(input_tokens=9, recomputed_input_tokens=9, queue_us=7, latency_us=7)
    parts = (Part("input", 9, 3), Part("output", 1, 3), Part("gpu_us", 7, 1))
    ((shares, found),) = splits_of([Costing(event, parts, tail_pusd)])
    assert dict(zip(CAUSES, shares, strict=True)) | {
        "first_pass": 3, "recompute": 3, "queue_hold": 1,
    } == dict(zip(CAUSES, shares, strict=True))  # fmt: skip
    return {cause: share for cause, share in zip(CAUSES, found, strict=True) if share}


def test_remainders_go_to_the_largest_fraction_first() -> None:
    """5 over 3:3:1 is 2.14, 2.14 and 0.71: the last pico-dollar goes to the third."""
    assert tails(5) == {"first_pass": 2, "recompute": 2, "queue_hold": 1}
    assert tails(1) == {"first_pass": 1}  # of equal fractions the first
    assert tails(7) == {"first_pass": 3, "recompute": 3, "queue_hold": 1}
    assert tails(0) == {}


def test_a_correction_s_tail_has_the_cause_of_its_cost() -> None:
    """Negative amounts are not shared out: cause and tail go together."""
    event = usage(event_type="correction", corrects_event_id="e", attempt=2)
    ((shares, found),) = splits_of([Costing(event, [Part("output", -3, -30)], -20)])
    retry = CAUSES.index("retry")
    assert (shares[retry], found[retry], sum(shares), sum(found)) == (-30, -20, -30, -20)


@pytest.mark.parametrize(
    ("amount", "share", "whole"),
    [(0, 0, 1), (7, 3, 9), (INT64_MAX, INT64_MAX, INT64_MAX), (INT64_MAX, INT64_MAX - 1, INT64_MAX),
     (INT64_MAX - 1, 2**62 + 1, INT64_MAX), (2**62, 3, 2**62 + 5), (3, 2**62, 2**62)],
)  # fmt: skip
def test_a_part_is_exact_although_the_product_leaves_64_bits(
    amount: int, share: int, whole: int
) -> None:
    """Quotient and rest as of numbers without bounds."""
    assert part_of(amount, share, whole) == divmod(amount * share, whole)
