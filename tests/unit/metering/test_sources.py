"""Producers: what arrived, what is missing, what came after all, what was given up."""

from __future__ import annotations

from typing import Any

import numpy as np
from tests.builders import NOW, arrived

from sluice.metering.columnar.dedupe import unprotected
from sluice.metering.columnar.usage import whole_usage
from sluice.metering.dedupe import Seen
from sluice.metering.sources import SourceKey, Sources, row_record
from sluice.wire.codec import encode
from sluice.wire.columns import read_usage

HOUR_US, WEEK_US = 3_600_000_000, 7 * 86_400_000_000
RUN, FOREIGN = SourceKey("gw", "e1", "acme"), SourceKey("gw", "", "acme")


def seen(sources: Sources, number: int | None, time: int = NOW, **over: Any) -> Seen:
    """An event arrives."""
    event = arrived(number or 1, source_seq=number, **over)
    return sources.observe(event, b"acme", time)


def test_a_hole_is_missing_until_it_is_recovered() -> None:
    """1, 4, 2: two are missing, then one, and one came after all."""
    sources = Sources(HOUR_US)
    found = [seen(sources, number) for number in (1, 4, 2, 4)]
    assert found == [Seen.NEW, Seen.NEW, Seen.RECOVERED, Seen.DUPLICATE]
    row = row_record(RUN, sources.rows[RUN], 9)
    assert (row["highest"], row["missing"], row["lost"], row["recovered"]) == (4, 1, 0, 1)
    assert (row["events"], row["duplicates"], row["version"]) == (3, 1, 9)


def test_runs_are_told_apart_by_source_epoch_and_key() -> None:
    """A restarted process begins anew; tenants have numbers of their own."""
    sources = Sources(HOUR_US)
    event = arrived(1)
    assert sources.observe(event, b"acme", NOW) is Seen.NEW
    assert sources.observe(event | {"source_epoch": "e2"}, b"acme", NOW) is Seen.NEW
    assert sources.observe(event, b"beta", NOW) is Seen.NEW
    assert len(sources.rows) == 3


def test_events_without_numbers_are_known_by_their_id() -> None:
    """Their row has no highest number; the same id twice is a duplicate."""
    sources = Sources(HOUR_US)
    assert [seen(sources, None), seen(sources, None)] == [Seen.NEW, Seen.DUPLICATE]
    row = row_record(FOREIGN, sources.rows[FOREIGN], 1)
    assert (row["highest"], row["events"], row["duplicates"]) == (0, 1, 1)


def is_unprotected(sources: Sources, event: dict[str, Any], time: int) -> bool:
    """Whether a duplicate of an event could not be told any more."""
    usage, _ = whole_usage(read_usage([encode("UsageEvent", event)]))
    return bool(unprotected(sources, usage, np.array([time]))[0])


def test_an_id_is_remembered_for_the_window() -> None:
    """At its end it is still known, after it forgotten, and the event then unprotected."""
    sources = Sources(HOUR_US)
    seen(sources, None)
    event = arrived(1, source_seq=None)
    assert sources.forget_unnumbered(NOW + HOUR_US) == []
    assert not is_unprotected(sources, event, NOW + HOUR_US)
    assert sources.forget_unnumbered(NOW + HOUR_US + 1) == [("gw", event["event_id"])]
    assert is_unprotected(sources, event, NOW + HOUR_US + 1)


def test_an_id_from_the_future_is_remembered_until_the_window_after_it() -> None:
    """While the event would still count as protected its duplicate is recognised."""
    sources, ahead = Sources(HOUR_US), 20 * HOUR_US
    seen(sources, None, occurred_at=NOW + ahead)
    assert sources.forget_unnumbered(NOW + ahead + HOUR_US) == []
    assert seen(sources, None, NOW + ahead, occurred_at=NOW + ahead) is Seen.DUPLICATE


def test_an_absurd_time_does_not_stay_for_ever() -> None:
    """Of a time that no event may have, a day ahead counts at most."""
    sources = Sources(HOUR_US)
    seen(sources, None, occurred_at=NOW + 9 * WEEK_US)
    assert len(sources.forget_unnumbered(NOW + 26 * HOUR_US)) == 1


def test_numbered_events_are_always_protected() -> None:
    """However old, their numbers tell duplicates."""
    sources = Sources(HOUR_US)
    assert not is_unprotected(sources, arrived(1), NOW + WEEK_US)


def test_a_silent_run_s_holes_are_lost_after_a_week() -> None:
    """They are counted once and published; after weeks the run is forgotten."""
    sources = Sources(HOUR_US)
    seen(sources, 4)
    over = NOW + WEEK_US + 1
    assert sources.give_up(NOW + WEEK_US) == []
    assert sources.give_up(over) == [RUN]
    assert (sources.rows[RUN].lost, sources.rows[RUN].missing) == (3, ())
    assert sources.give_up(over) == []
    assert sources.evict(over) == []
    assert [key for key, _ in sources.take_dirty()] == [RUN]
    assert sources.evict(over) == []
    assert sources.evict(NOW + 6 * WEEK_US) == [RUN]


def test_unprotected_events_are_counted() -> None:
    """The row says how many could be in it twice."""
    sources = Sources(HOUR_US)
    event = arrived(1, source_seq=None)
    sources.observe(event, b"acme", NOW)
    sources.count_unprotected(event, b"acme", NOW)
    assert row_record(FOREIGN, sources.rows[FOREIGN], 1)["unprotected"] == 1
