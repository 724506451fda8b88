"""Hours of cohorts as the meter's changelog keeps them: their schemas and their identities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np

from sluice.metering.cohorts import Cohort, CohortHour
from sluice.metering.columnar.columns import coded_of, whole
from sluice.wire.column_types import AnyColumn, Column, Numbers, Texts

_TEXTS = Cohort._fields
_HISTOGRAM: dict[str, Any] = {"type": "array", "items": {
    "type": "record", "name": "StoredBucket",
    "fields": [{"name": name, "type": "long"} for name in ("bucket", "count", "cost_pusd")],
}}  # fmt: skip
COHORT_KEY: dict[str, Any] = {
    "type": "record", "name": "CohortKey",
    "fields": [*({"name": name, "type": "string"} for name in _TEXTS),
               {"name": "hour_start", "type": "long"}],
}  # fmt: skip
COHORT_STATE: dict[str, Any] = {
    "type": "record", "name": "CohortState",
    "fields": [*COHORT_KEY["fields"],
               *({"name": name, "type": "long"} for name in ("events", "dirty")),
               *({"name": name, "type": _HISTOGRAM}
                 for name in ("cost_histogram", "input_histogram"))],
}  # fmt: skip


def key_columns(keys: Sequence[CohortHour]) -> dict[str, AnyColumn]:
    """Identities of hours as columns of COHORT_KEY."""
    texts = {name: coded_of([getattr(key.cohort, name) for key in keys]) for name in _TEXTS}
    starts = np.array([key.hour_start for key in keys], dtype=np.int64)
    return {**texts, "hour_start": whole(starts)}


def stored_keys(columns: Mapping[str, Column]) -> list[CohortHour]:
    """Hours whose identities are in columns of COHORT_KEY or COHORT_STATE."""
    coded = [cast("Texts", columns[name]).coded() for name in _TEXTS]
    names = [[of.values[code] or "" for code in of.codes.tolist()] for of in coded]
    starts = cast("Numbers", columns["hour_start"]).value.tolist()
    return [CohortHour(Cohort(*texts), start) for *texts, start in zip(*names, starts, strict=True)]
