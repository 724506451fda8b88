"""Which usage events surely make sense: what `validate.check_usage` would let pass, and no other.

A row that is not surely fine may be fine all the same (every correction is such a row): the check
of one event decides it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from sluice.metering.columnar.usage import Usage
from sluice.metering.quantities import CLASS_LISTS
from sluice.metering.validate import (
    EVENT_TYPES,
    LIMITS,
    LISTS,
    MAX_AGE_US,
    MAX_AHEAD_US,
    MAX_ATTRIBUTES,
    MAX_COUNT,
    MAX_ID_BYTES,
    MAX_LIST_ITEMS,
    ORDINALS,
    REQUIRED,
    TIMES,
    text_fields,
)
from sluice.wire.codec import END_MARK
from sluice.wire.column_types import Bools, Ints, Numbers, Texts


def surely_fine(usage: Usage, keys: Sequence[bytes | None], broker_time: Ints) -> Bools:
    """Rows that pass, given the key and the broker's time (µs) that each arrived under."""
    fine = _has_key(usage, keys)
    _check_kind(usage, fine)
    _check_texts(usage, fine)
    for name in LISTS:
        _check_list(usage, name, fine)
    for name, limit in LIMITS.items():
        value = usage.number(name).value
        _demand(fine, (value >= 0) & (value <= limit))
    _check_subsets(usage, fine)
    _check_times(usage, broker_time, fine)
    return fine


def _demand(fine: Bools, holds: Bools) -> None:
    np.logical_and(fine, holds, out=fine)


def _has_key(usage: Usage, keys: Sequence[bytes | None]) -> Bools:
    """Rows whose key is their tenant."""
    coded = pa.array(keys, pa.binary()).dictionary_encode(null_encoding="encode")
    codes = coded.indices.to_numpy(zero_copy_only=False)
    tenants = usage.coded("tenant_id")
    places = {(value or "").encode(): place for place, value in enumerate(tenants.values)}
    tenant_of = [places.get(key, -1) if key else -1 for key in coded.dictionary.to_pylist()]
    found: Bools = np.array(tenant_of, dtype=np.int64)[codes] == tenants.codes
    return found


def _check_kind(usage: Usage, fine: Bools) -> None:
    for name in REQUIRED:
        _demand(fine, usage.text(name).length > 0)
    _demand(fine, usage.coded("event_type").where(*(EVENT_TYPES - {"correction"})))
    _demand(fine, usage.number("end_mark").value == END_MARK)
    for name, lowest in ORDINALS:
        numbers = usage.number(name)
        _demand(fine, ~numbers.known | (numbers.value >= lowest))


def _check_texts(usage: Usage, fine: Bools) -> None:
    for name in text_fields()[0]:
        length = usage.text(name).length
        if length.max(initial=0) > MAX_ID_BYTES:
            _demand(fine, length <= MAX_ID_BYTES)


def _check_list(usage: Usage, name: str, fine: Bools) -> None:
    items = usage.items(name)
    if not len(items.row):
        return
    most = MAX_ATTRIBUTES if name == "attributes" else MAX_LIST_ITEMS
    _demand(fine, np.bincount(items.row, minlength=usage.rows) <= most)
    for column in items.fields.values():
        if isinstance(column, Texts):
            fine[items.row[column.length > MAX_ID_BYTES]] = False
    amounts = items.fields.get("value")
    if name in CLASS_LISTS and isinstance(amounts, Numbers):
        fine[items.row[(amounts.value < 0) | (amounts.value > MAX_COUNT)]] = False


def _check_subsets(usage: Usage, fine: Bools) -> None:
    """Rows with amounts out of bounds are not fine by now: what wraps around there is no matter."""
    read, written, whole, output = (
        usage.number(name).value
        for name in ("cache_read_input_tokens", "cache_write_input_tokens", "input_tokens",
                     "output_tokens")
    )  # fmt: skip
    _demand(fine, read + written <= whole)
    _demand(fine, usage.number("reasoning_output_tokens").value <= output)
    _demand(fine, usage.number("rejected_prediction_tokens").value <= output)
    _demand(fine, usage.number("recomputed_input_tokens").value <= whole)
    by_ttl = usage.items("cache_write_by_ttl")
    amounts = by_ttl.fields["value"]
    if len(by_ttl.row) and isinstance(amounts, Numbers):
        stated = np.zeros(usage.rows, dtype=np.int64)
        np.add.at(stated, by_ttl.row, amounts.value)
        _demand(fine, stated <= written)


def _check_times(usage: Usage, broker_time: Ints, fine: Bools) -> None:
    latest = np.full(usage.rows, np.iinfo(np.int64).min)
    for name in TIMES:
        numbers = usage.number(name)
        _demand(fine, ~numbers.known | (numbers.value >= latest))
        latest = np.where(numbers.known, numbers.value, latest)
    for name in ("started_at", "occurred_at"):
        value = usage.number(name).value
        earliest, last = broker_time - MAX_AGE_US, broker_time + MAX_AHEAD_US
        _demand(fine, (value >= earliest) & (value <= last))
