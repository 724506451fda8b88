"""Labels: thresholds by the best baseline at hand, bands, and the tail by cause."""

from __future__ import annotations

from typing import Any

from tests.builders import MODEL, arrived, usage
from tests.split_columns import Costing, splits_of
from tests.window_columns import usage_of

from sluice.metering.baselines import Baseline, Norm
from sluice.metering.causes import CAUSES
from sluice.metering.columnar.priced import Priced, priced
from sluice.metering.columnar.prices import Prices
from sluice.metering.columnar.task_run import usual_inputs
from sluice.metering.labels import Bands, Thresholds, bands_for, bands_of, thresholds_of
from sluice.metering.packaged import TASK_INPUT_TOKENS
from sluice.metering.prices import default_book
from sluice.metering.rating import cost

LIMITS = Thresholds(10, 30)


def measured(q50: int = 10, q95: int = 30) -> Baseline:
    """A baseline that knows the model's short chats."""
    return Baseline(1, {("chat", MODEL, "1k", ""): Norm(q50, q95, 200)}, {("chat", MODEL): 64})


def correction(before: int | None, delta: int, **over: Any) -> dict[str, Any]:
    """A correction of an event with the bands of LIMITS."""
    base = {"event_type": "correction", "corrects_event_id": "e", "original_cost_pusd": before,
            "cost_pusd": delta, "cost_source": "provider", "input_tokens": 0, "output_tokens": 0,
            "baseline_q50_pusd": 10, "baseline_q95_pusd": 30}  # fmt: skip
    return arrived(**base | over)


def test_bands_telescope_at_the_thresholds() -> None:
    """5, 20 and 50 at 10 and 30: body first, then shoulder, then tail."""
    found = [bands_of(value, LIMITS) for value in (5, 20, 50)]
    assert found == [Bands(5, 0, 0), Bands(10, 10, 0), Bands(10, 20, 20)]


def test_without_a_baseline_all_is_body() -> None:
    """What nobody knows to be unusual is no tail."""
    assert bands_of(50, None) == Bands(50, 0, 0)


def test_a_correction_moves_the_bands_from_the_old_cost_to_the_new() -> None:
    """From 20 to 50 is 10 of shoulder and 20 of tail; back again is the opposite."""
    assert bands_for(correction(20, 30), 30, LIMITS) == Bands(0, 10, 20)
    assert bands_for(correction(50, -30), -30, LIMITS) == Bands(0, -10, -20)
    assert bands_for(correction(None, 40), 40, LIMITS) == Bands(10, 20, 10)


def test_a_correction_brings_its_own_thresholds() -> None:
    """The baseline in force now does not judge what happened then."""
    assert thresholds_of(correction(20, 30), default_book(), measured(1, 2)) == LIMITS
    unknown = correction(20, 30, baseline_q95_pusd=None)
    assert thresholds_of(unknown, default_book(), measured(1, 2)) is None


def test_the_measured_norm_replaces_the_packaged_one() -> None:
    """Before the cohort was measured its bands are estimated, and marked so."""
    event, book = arrived(), default_book()
    packaged = thresholds_of(event, book, None)
    assert packaged is not None
    assert packaged.packaged
    assert thresholds_of(event, book, measured()) == Thresholds(10, 30)
    assert thresholds_of(arrived(input_tokens=5000), book, measured()) != Thresholds(10, 30)


def test_the_usual_length_is_measured_or_the_packaged_one_of_agents() -> None:
    """Outside of a task an unmeasured length is unknown, never assumed."""
    events = usage_of([usage(), usage(task_id="t"), usage(task_id="t", request_model="new")])
    assert usual_inputs(events, None).tolist() == [0, TASK_INPUT_TOKENS, TASK_INPUT_TOKENS]
    assert usual_inputs(events, measured()).tolist() == [64, 64, TASK_INPUT_TOKENS]


def found_of(event: dict[str, Any], baseline: Baseline | None) -> Priced:
    """An event priced and judged in a run of one."""
    found, refused = priced(
        usage_of([event]), Prices(default_book()), baseline, lambda _: arrived(**event)
    )
    assert refused == {}
    return found


def test_a_tail_is_split_like_the_cost() -> None:
    """A retry above its 95th percentile: all of its tail is the retry's."""
    event = usage(attempt=2)
    found = found_of(event, measured(10, 1_000_000))
    assert found.bands[:, 0].tolist() == [10, 999_990, 29_000_000]
    rated = cost(default_book(), arrived(attempt=2))
    assert rated is not None
    ((shares, tails),) = splits_of([Costing(event, rated.parts, 29_000_000)])
    assert tails[CAUSES.index("retry")] == sum(tails) == 29_000_000
    assert sum(shares) == found.cost_pusd[0] == 30_000_000


def test_an_unpriced_event_has_empty_bands() -> None:
    """Without a price there is no tail, although what is normal may be known."""
    found = found_of(usage(request_model="new"), measured())
    assert (found.priced[0], found.cost_pusd[0]) == (False, 0)
    assert found.bands[:, 0].tolist() == [0, 0, 0]
