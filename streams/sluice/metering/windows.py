"""Sums per tenant, project, model, tool and minute of event time, as absolute rows.

Time is the partition's highest broker timestamp. A window closes `DELAY_US` after its end and goes
on taking late usage, each time as a new revision, for as long as the lateness allows; usage that is
later still gets a row in the lane of its arrival date. Rows leave memory only when nothing can
change them any more. `columnar.windows` holds the rows of a partition.
"""

from __future__ import annotations

from typing import NamedTuple

WINDOW_US = 60_000_000
DELAY_US = 30_000_000
FUTURE_US = 5_000_000
# Free texts of producers: one row must stay small enough to be stored and published.
MAX_LABELS = 64
OTHER = "other"


class WindowKey(NamedTuple):
    """Identity of a row; `lane` is '' or the arrival date (YYYY-MM-DD) of late usage."""

    tenant_id: str
    project_id: str
    model: str
    tool: str
    window_start: int
    lane: str


def watermark(time: int) -> int:
    """Event time up to which regular rows are complete at broker time `time`."""
    return time - DELAY_US
