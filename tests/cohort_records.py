"""CohortRows made from sums, for tests of what is computed from them."""

from __future__ import annotations

from typing import Any

from sluice.metering import histogram
from sluice.metering.cohorts import CohortHour, CohortSums


def cohort_record(key: CohortHour, sums: CohortSums, watermark: int = 0) -> dict[str, Any]:
    """A CohortRow of partition 0 as it goes on the wire."""
    return {
        **key.cohort._asdict(),
        "hour_start": key.hour_start,
        "source_partition": 0,
        "events": sums.events,
        "cost_histogram": histogram.to_wire(sums.cost),
        "input_histogram": histogram.to_wire(sums.input),
        "watermark": watermark,
        "version": 1,
    }
