"""Old and new programs read each other's values, for every released version of every record."""

from __future__ import annotations

import io
import random
from collections.abc import Iterator
from typing import Any

import fastavro
import pytest
from fastavro.utils import generate_many

from sluice.wire import schema
from sluice.wire.codec import MAGIC, decode

VERSIONS = [
    pytest.param(name, number, id=f"{name}-{number + 1:04d}")
    for name in schema.names()
    for number in range(len(schema.history(name)))
]
per_version = pytest.mark.parametrize(("name", "number"), VERSIONS)
SAMPLES = 20


def datum(raw: schema.Schema, record: dict[str, Any]) -> bytes:
    """The bytes that a program with this schema writes."""
    buffer = io.BytesIO()
    fastavro.schemaless_writer(buffer, fastavro.parse_schema(raw), record)
    return buffer.getvalue()


def samples(raw: schema.Schema) -> Iterator[dict[str, Any]]:
    """Records of every shape that the schema allows, the same in every run."""
    random.seed(str(raw["name"]))
    yield from generate_many(fastavro.parse_schema(raw), SAMPLES)


def shared(raw: schema.Schema, other: schema.Schema) -> set[str]:
    """Names of the fields that both versions have."""
    return {f["name"] for f in raw["fields"]} & {f["name"] for f in other["fields"]}


def same(left: Any, right: Any) -> bool:
    """Whether two values are equal; of nested records, which may grow, in what both have."""
    if isinstance(left, dict) and isinstance(right, dict):
        smaller = min(left, right, key=len)
        return all(name in left and same(left[name], right[name]) for name in smaller)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same, left, right))
    return bool(left == right)


@per_version
def test_values_of_a_released_version_are_read_today(name: str, number: int) -> None:
    """Backward: an old frame decodes; shared fields keep their values, new ones get defaults."""
    old, current = schema.history(name)[number], schema.schema(name)
    for record in samples(old):
        decoded = decode(MAGIC + schema.fingerprint_of(old) + datum(old, record))
        assert decoded[0] == name
        assert decoded[1].keys() == {field["name"] for field in current["fields"]}
        for field in shared(old, current):
            assert same(decoded[1][field], record[field])


@per_version
def test_values_of_today_are_read_by_a_released_version(name: str, number: int) -> None:
    """Forward: a program of that release reads today's datum to its end, with the same values."""
    old, current = schema.history(name)[number], schema.schema(name)
    writer, reader = fastavro.parse_schema(current), fastavro.parse_schema(old)
    for record in samples(current):
        buffer = io.BytesIO(datum(current, record))
        read = fastavro.schemaless_reader(buffer, writer, reader)
        assert isinstance(read, dict)
        assert buffer.read() == b""
        for field in shared(old, current):
            assert same(read[field], record[field])


@pytest.mark.parametrize("name", schema.names())
def test_no_field_changes_its_meaning_by_name(name: str) -> None:
    """A field that once existed keeps its type, so rows of all ages fit one column."""
    current = {field["name"]: field["type"] for field in schema.schema(name)["fields"]}
    for version in schema.history(name):
        for field in version["fields"]:
            if field["name"] in current:
                assert _bare(field["type"]) == _bare(current[field["name"]])


def _bare(kind: Any) -> str:
    """A type without documentation; nested records by name, since they may grow."""
    if isinstance(kind, list):
        return _bare(kind[-1])
    if isinstance(kind, dict):
        inner = _bare(kind["items"]) if kind["type"] == "array" else str(kind["name"])
        return f"[{inner}]" if kind["type"] == "array" else inner
    return str(kind)
