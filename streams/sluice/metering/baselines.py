"""Baselines: what a cohort normally costs, frozen per version.

A version is made from closed hours only, published, and switched on in band, so an event is always
judged by what was known before it. Thresholds lie on borders of histogram buckets (the upper border
of the quantile's bucket): the tail that SQL computes from a cohort's histogram then equals the sum
of its events' tails, and a cohort of constant cost has no tail. A refresh moves a threshold by at
most 20 %, so that neither a burst nor slow poisoning becomes the norm at once.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sluice.errors import ConfigError
from sluice.metering import histogram
from sluice.metering.cohorts import EVENT, TASK, Cohort, CohortSums, merged
from sluice.metering.histogram import BORDERS, Buckets

BASELINE_ID = "default"
MIN_EVENTS = 200
MIN_TASKS = 30  # tasks are rarer, and one is the sum of many calls
_MEDIAN, _P95 = Fraction(1, 2), Fraction(19, 20)
_LEAST, _MOST = Fraction(4, 5), Fraction(6, 5)


class Norm(NamedTuple):
    """Thresholds of one cohort in pico-USD and the number of events or tasks behind them."""

    q50_pusd: int
    q95_pusd: int
    events: int


# (operation_name, model, size_class, tool); None stands for any. Tasks: (TASK, "", None, agent).
Slot = tuple[str, str, str | None, str | None]


@dataclass(frozen=True)
class Baseline:
    """One version: norms by slot, usual context lengths, and up to when it looked (µs UTC)."""

    computed_to: int
    norms: Mapping[Slot, Norm]
    contexts: Mapping[tuple[str, str], int]
    version: str = field(init=False)

    def __post_init__(self) -> None:
        digest = hashlib.sha256(self.to_json().encode()).hexdigest()[:16]
        object.__setattr__(self, "version", digest)

    def norm(self, cohort: Cohort) -> Norm | None:
        """The norm of a cohort, else of the wider ones around it, else None."""
        if cohort.kind == TASK:
            return self.norms.get(_slot(cohort))
        return next((n for s in _wider(cohort) if (n := self.norms.get(s)) is not None), None)

    def usual_input(self, operation_name: str, model: str) -> int | None:
        """Median input_tokens of a model's operation, whatever the size class."""
        return self.contexts.get((operation_name, model))

    def to_json(self) -> str:
        """Canonical text; equal baselines give equal text."""
        norms = [[*slot, *norm] for slot, norm in sorted(self.norms.items(), key=_by_text)]
        contexts = [[*key, tokens] for key, tokens in sorted(self.contexts.items())]
        content = {"baseline_id": BASELINE_ID, "computed_to": self.computed_to,
                   "norms": norms, "contexts": contexts}  # fmt: skip
        return json.dumps(content, sort_keys=True, separators=(",", ":"))


class _File(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    baseline_id: str
    computed_to: int
    norms: list[tuple[str, str, str | None, str | None, int, int, int]] = Field(strict=False)
    contexts: list[tuple[str, str, int]] = Field(strict=False)


def load_baseline(text: str) -> Baseline:
    """Read a baseline's text; ConfigError where it is none."""
    try:
        file = _File.model_validate_json(text, strict=False)
    except ValidationError as error:
        raise ConfigError(f"not a baseline: {error.errors()[0]['msg']}") from error
    norms = {row[:4]: Norm(row[4], row[5], row[6]) for row in file.norms}
    return Baseline(file.computed_to, norms, {(o, m): tokens for o, m, tokens in file.contexts})


def compute(
    rows: Iterable[Mapping[str, Any]], before: Baseline | None, computed_to: int
) -> Baseline:
    """A new version from the CohortRows of closed hours; `before` bounds how far it moves.

    A cohort with fewer than MIN_EVENTS events (MIN_TASKS tasks) keeps its norm of before; one that
    was not seen at all any more loses it.
    """
    cohorts = merged(rows)
    norms: dict[Slot, Norm] = {}
    for slot, sums in _by_slot(cohorts).items():
        earlier = before.norms.get(slot) if before else None
        if (norm := _norm(slot, sums, earlier)) is not None:
            norms[slot] = norm
    contexts = _contexts(cohorts, dict(before.contexts) if before else {})
    return Baseline(computed_to, norms, contexts)


def _by_slot(cohorts: Mapping[Cohort, CohortSums]) -> dict[Slot, CohortSums]:
    """Sums of each cohort, and of the wider ones that stand in where it is too small."""
    found: dict[Slot, CohortSums] = {}
    for cohort, sums in cohorts.items():
        for slot in [_slot(cohort)] if cohort.kind == TASK else _wider(cohort):
            whole = found.setdefault(slot, CohortSums())
            whole.events += sums.events
            histogram.merge(whole.cost, sums.cost)
    return found


def _norm(slot: Slot, sums: CohortSums, earlier: Norm | None) -> Norm | None:
    enough = MIN_TASKS if _is_of_tasks(slot) else MIN_EVENTS
    if sums.events < enough:
        return earlier
    q50, q95 = threshold(sums.cost, _MEDIAN), threshold(sums.cost, _P95)
    if earlier is not None:
        q50, q95 = _held(q50, earlier.q50_pusd), _held(q95, earlier.q95_pusd)
    # The lower one gives way: it stays within its own 20 % because it never was above the other.
    return Norm(min(q50, q95), q95, sums.events)


def threshold(buckets: Buckets, q: Fraction) -> int:
    """Upper border of the bucket that holds the quantile; the histogram must not be empty."""
    bucket = histogram.quantile_bucket(buckets, q)
    if bucket is None:
        raise ValueError("an empty histogram has no quantile")
    return histogram.upper_bound(bucket)


def _held(new: int, before: int) -> int:
    """`new`, but at most 20 % away from `before`, on a border of a bucket."""
    most = int(before * _MOST)
    least = -(-before * _LEAST.numerator // _LEAST.denominator)
    if new > most and before:
        return max(before, BORDERS[bisect_right(BORDERS, most) - 1])
    if new < least:
        return min(before, BORDERS[bisect_left(BORDERS, least)])
    return new


def _contexts(
    cohorts: Mapping[Cohort, CohortSums], before: dict[tuple[str, str], int]
) -> dict[tuple[str, str], int]:
    inputs: dict[tuple[str, str], Buckets] = {}
    for cohort, sums in cohorts.items():
        if cohort.kind == EVENT and cohort.size_class:
            whole = inputs.setdefault((cohort.operation_name, cohort.model), {})
            histogram.merge(whole, sums.input)
    return {
        key: threshold(buckets, _MEDIAN) if histogram.total(buckets) >= MIN_EVENTS else before[key]
        for key, buckets in inputs.items()
        if histogram.total(buckets) >= MIN_EVENTS or key in before
    }


def _wider(cohort: Cohort) -> list[Slot]:
    operation, model = cohort.operation_name, cohort.model
    return [
        (operation, model, cohort.size_class, cohort.tool),
        (operation, model, cohort.size_class, None),
        (operation, model, None, None),
    ]


def _slot(cohort: Cohort) -> Slot:
    return (TASK, "", None, cohort.tool)


def _is_of_tasks(slot: Slot) -> bool:
    return slot[2] is None and slot[3] is not None


def _by_text(item: tuple[Slot, Norm]) -> tuple[str, ...]:
    return tuple("\x00" if part is None else f"\x01{part}" for part in item[0])
