"""The whole meter against a slow oracle: every published row, field by field."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from tests.laws.streams import Drawn, asked, build, measured, streams, without

LAWS = settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@LAWS
@given(drawn=streams)
def test_every_row_equals_a_slow_count(drawn: list[Drawn]) -> None:
    """Windows, tasks, producers and cohorts equal the oracle's in every field."""
    stream = build(drawn)
    rows, oracle = measured(stream), asked(stream)
    assert rows["windows"] == oracle.windows()
    assert rows["tasks"] == oracle.tasks()
    assert without(rows["sources"], "version") == oracle.source_rows()
    assert without(rows["cohorts"], "version", "watermark") == oracle.cohort_rows()
