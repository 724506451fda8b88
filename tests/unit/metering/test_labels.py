"""Labels: thresholds by the best baseline at hand, bands, and the tail by cause."""

from __future__ import annotations

from typing import Any

from tests.builders import MODEL, arrived

from sluice.metering.baselines import Baseline, Norm
from sluice.metering.causes import CAUSES, Context
from sluice.metering.labels import (
    Bands,
    Thresholds,
    bands_for,
    bands_of,
    label,
    thresholds_of,
    usual_input,
)
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
    assert usual_input(arrived(), None) is None
    assert usual_input(arrived(task_id="t"), None) == TASK_INPUT_TOKENS
    assert usual_input(arrived(task_id="t"), measured()) == 64


def test_a_label_splits_the_tail_like_the_cost() -> None:
    """A retry above its 95th percentile: all of its tail is the retry's."""
    event, book = arrived(attempt=2), default_book()
    rated = cost(book, event)
    assert rated is not None
    found = label(event, rated, book, measured(10, 1_000_000), Context())
    assert found.bands == Bands(10, 999_990, 29_000_000)
    assert found.tail_by_cause[CAUSES.index("retry")] == 29_000_000
    assert sum(found.overhead) == found.cost_pusd == 30_000_000
    assert found.baseline_version == measured(10, 1_000_000).version


def test_an_unpriced_event_has_empty_bands() -> None:
    """Without a price there is no tail, but the versions in force are known."""
    found = label(arrived(request_model="new"), None, default_book(), measured(), Context())
    assert (found.cost_pusd, found.bands, sum(found.overhead)) == (None, Bands(0, 0, 0), 0)
    assert found.price_book_version == default_book().version


def test_a_correction_s_tail_has_the_cause_of_its_cost() -> None:
    """Negative amounts are not shared out: cause and tail go together."""
    event = correction(50, -30, attempt=2)
    rated = cost(default_book(), event)
    found = label(event, rated, default_book(), None, Context())
    assert found.overhead[CAUSES.index("retry")] == -30
    assert found.tail_by_cause[CAUSES.index("retry")] == -20
    assert sum(found.tail_by_cause) == found.bands.tail_pusd
