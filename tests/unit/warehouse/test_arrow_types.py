"""Values of records as Arrow columns."""

from __future__ import annotations

import pyarrow as pa
import pytest

from sluice.warehouse.arrow_types import arrow_type, column

INSTANT = "DateTime64(6, 'UTC')"
OFFSETS = pa.list_(pa.struct([("partition", pa.int32()), ("offset", pa.int64())]))


@pytest.mark.parametrize(
    ("clickhouse", "expected"),
    [
        ("LowCardinality(Nullable(String))", pa.string()),
        ("UInt64", pa.uint64()),
        (f"Nullable({INSTANT})", pa.timestamp("us", "UTC")),
        ("Map(LowCardinality(String), Int64)", pa.map_(pa.string(), pa.int64())),
        ("Array(Tuple(key String, value Int64))",
         pa.list_(pa.struct([("key", pa.string()), ("value", pa.int64())]))),
        ("Tuple(\n    window String,\n    offsets Array(Tuple(`partition` Int32, offset Int64)))",
         pa.struct([("window", pa.string()), ("offsets", OFFSETS)])),
    ],
)  # fmt: skip
def test_types_are_read(clickhouse: str, expected: pa.DataType) -> None:
    """Types as DESCRIBE TABLE spells them become the Arrow types that ClickHouse takes for them."""
    assert arrow_type(clickhouse) == expected


def test_unknown_types_are_named() -> None:
    """A type that no conversion exists for is an error and not a guess."""
    with pytest.raises(ValueError, match="IPv6"):
        arrow_type("Nullable(IPv6)")


def test_instants_and_maps_are_converted() -> None:
    """µs become timestamps, lists of {key, value} become maps."""
    assert column(INSTANT).array([1_500_000])[0].value == 1_500_000
    entries = column("Map(LowCardinality(String), Int64)").array([[{"key": "ok", "value": 2}], []])
    assert entries.to_pylist() == [[("ok", 2)], []]


def test_null_never_becomes_zero() -> None:
    """ClickHouse would store a default for it, so a null is refused where the column takes none."""
    assert column("Nullable(Int64)").array([None]).null_count == 1
    assert column("LowCardinality(Nullable(String))").array([None]).null_count == 1
    for name in ("Int64", "LowCardinality(String)", INSTANT):
        with pytest.raises(ValueError, match="null"):
            column(name).array([None])


@pytest.mark.parametrize(
    ("name", "value"),
    [("Int64", 2**63), ("Int32", 2**31), ("UInt64", -1), ("Int64", "1"), ("String", 1)],
)
def test_values_that_do_not_fit_are_refused(name: str, value: object) -> None:
    """No value is cut or converted on its way."""
    with pytest.raises(ValueError):
        column(name).array([value])
