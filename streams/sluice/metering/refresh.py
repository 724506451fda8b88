"""When a new baseline is due, and what goes into it: closed hours of the last seven days."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sluice.metering.baselines import Baseline, compute
from sluice.metering.cohorts import HOUR_US

DAYS = 7
_SPAN_US = DAYS * 24 * HOUR_US


class Refresh:
    """CohortRows by key, the baseline in force, and the hour up to which it looked."""

    def __init__(self, before: Baseline | None = None) -> None:
        self.before = before
        self._rows: dict[bytes, Mapping[str, Any]] = {}
        self._watermark = 0

    def take(self, key: bytes, row: Mapping[str, Any] | None) -> None:
        """Take the newest state of a row, in the order of its topic; None removes it."""
        if row is None:
            self._rows.pop(key, None)
            return
        self._rows[key] = row
        self._watermark = max(self._watermark, row["watermark"])

    def due(self) -> int | None:
        """End of the newest closed hour (µs UTC) where no baseline has looked at it yet."""
        closed = self._watermark // HOUR_US * HOUR_US
        last = self.before.computed_to if self.before else 0
        return closed if closed > last and self._hours(closed) else None

    def compute(self, computed_to: int) -> Baseline | None:
        """The baseline from hours that ended by `computed_to`; None where no norm changed.

        Forgets hours that no later baseline will look at.
        """
        old = [k for k, row in self._rows.items() if row["hour_start"] < computed_to - _SPAN_US]
        for key in old:
            del self._rows[key]
        found = compute(self._hours(computed_to), self.before, computed_to)
        before, self.before = self.before, found
        if before and (found.norms, found.contexts) == (before.norms, before.contexts):
            return None
        return found if found.norms or before else None

    def now(self) -> Baseline:
        """The baseline from everything measured so far, hours that are still open included."""
        return compute(self._rows.values(), self.before, self._watermark)

    def _hours(self, end: int) -> list[Mapping[str, Any]]:
        start = end - _SPAN_US
        return [
            row
            for row in self._rows.values()
            if start <= row["hour_start"] and row["hour_start"] + HOUR_US <= end
        ]
