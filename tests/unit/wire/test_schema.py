"""The schema files: documented, within the rules of the wire, frozen once released."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fastavro
import pytest
from fastavro.utils import generate_many
from tests.builders import usage

from sluice.errors import WireError
from sluice.resources import resource_dir
from sluice.wire import codec, schema
from sluice.wire.codec import END_MARK, HEADER_BYTES, encode

RECORDS = (
    "Activate", "Baseline", "BudgetRow", "BudgetRule", "CohortRow", "Decision", "DecisionOutcome",
    "EngineSample", "Estimates", "ExecutionPlan", "GpuSample", "Heartbeat", "HolderReport",
    "LeaseGrant", "PartialRow", "Policy", "PriceBook", "SourceRow", "TaskRow", "Tick", "UsageEvent",
    "WeightRow", "WindowRow",
)  # fmt: skip
PRIMITIVES = {"string", "long", "int", "boolean"}
# Whole amounts in the unit that a sibling field names, and lists whose key names the unit.
IN_NAMED_UNIT = {"settled", "granted_total", "observed", "limit", "wants", "value", "quantity"}

per_record = pytest.mark.parametrize("name", RECORDS)


def records(kind: Any) -> Iterator[dict[str, Any]]:
    """Every record of a schema, itself and nested ones, in order."""
    if isinstance(kind, list):
        for branch in kind:
            yield from records(branch)
    elif isinstance(kind, dict) and kind["type"] == "array":
        yield from records(kind["items"])
    elif isinstance(kind, dict):
        yield kind
        for field in kind["fields"]:
            yield from records(field["type"])


def fields(name: str) -> Iterator[dict[str, Any]]:
    """Every field of a record, those of nested records included."""
    for record in records(schema.schema(name)):
        yield from record["fields"]


def holds(field: dict[str, Any], kind: str) -> bool:
    """Whether a field's type is `kind`, or null and `kind`."""
    return field["type"] in (kind, ["null", kind])


def test_every_record_of_the_vocabulary_has_a_file() -> None:
    """One file per record, and no other."""
    assert schema.names() == RECORDS


@per_record
def test_a_schema_carries_its_file_name(name: str) -> None:
    """The record is named as its file, in our namespace."""
    raw = schema.schema(name)
    assert (raw["type"], raw["name"], raw["namespace"]) == ("record", name, "sluice.v1")


@per_record
def test_everything_is_documented(name: str) -> None:
    """Every record and every field says what it means, as a sentence."""
    texts = [item["doc"] for item in (*records(schema.schema(name)), *fields(name))]
    assert all(text.endswith(".") and len(text) > 5 for text in texts)


@per_record
def test_only_types_that_every_reader_takes(name: str) -> None:
    """Primitives, lists, records, and unions of null with one of them; no map, enum or float."""
    named = {record["name"] for record in records(schema.schema(name))}

    def fits(kind: Any) -> bool:
        if isinstance(kind, str):
            return kind in PRIMITIVES | named
        if isinstance(kind, list):
            return len(kind) == 2 and kind[0] == "null" and fits(kind[1])
        return kind["type"] in ("array", "record") and fits(kind.get("items", "string"))

    assert [field["name"] for field in fields(name) if not fits(field["type"])] == []


@per_record
def test_list_items_take_bytes(name: str) -> None:
    """A list of empty records could claim any length within a few bytes."""
    _, *nested = records(schema.schema(name))
    assert all(record["fields"] for record in nested)


@per_record
def test_null_and_empty_lists_are_defaults(name: str) -> None:
    """Whoever has not measured, or has nothing to list, need not say so."""
    for field in fields(name):
        if isinstance(field["type"], list):
            assert field["default"] is None
        elif isinstance(field["type"], dict) and field["type"]["type"] == "array":
            assert field["default"] == []


@per_record
def test_fields_after_the_first_release_have_defaults(name: str) -> None:
    """A value written before a field existed can be read."""
    first = {field["name"] for field in schema.history(name)[0]["fields"]}
    added = [field for field in schema.schema(name)["fields"] if field["name"] not in first]
    assert [field["name"] for field in added if "default" not in field] == []


@per_record
def test_money_is_a_long_of_pico_dollars_and_says_so(name: str) -> None:
    """`_pusd` names money and only money, a long."""
    for field in fields(name):
        if field["name"].endswith("_pusd"):
            assert holds(field, "long")
            assert "pico-USD" in field["doc"]
        elif any(holds(field, kind) for kind in PRIMITIVES):
            assert "pico-USD" not in field["doc"] or field["name"] in IN_NAMED_UNIT


@per_record
def test_instants_are_longs_of_microseconds(name: str) -> None:
    """What is documented as an instant is a long, and what is named like one is documented so."""
    for field in fields(name):
        if "µs UTC" in field["doc"]:
            assert holds(field, "long")
        if field["name"].endswith(("_at", "_start")):
            assert "µs UTC" in field["doc"]


def test_a_usage_event_ends_with_its_mark() -> None:
    """The last field is the constant that a shifted reader misses; the last bytes are its value."""
    last = schema.schema("UsageEvent")["fields"][-1]
    assert (last["name"], last["type"], last["default"]) == ("end_mark", "int", END_MARK)
    assert encode("UsageEvent", usage()).endswith(b"\xb4\x01")


@per_record
def test_released_versions_are_frozen(name: str) -> None:
    """A schema that changed on the wire has a new history file, numbered without a gap."""
    files = sorted(file.name for file in (resource_dir("schemas") / "history" / name).iterdir())
    assert files == [f"{number:04d}.avsc" for number in range(1, len(files) + 1)]
    assert name not in schema.unreleased(), "add a history file with sluice.wire.schema.release()"


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A schema folder of its own, with one released record Note {text}."""
    raw = {"type": "record", "name": "Note", "doc": "A note.",
           "fields": [{"name": "text", "type": "string", "doc": "Its text."}]}  # fmt: skip
    (tmp_path / "Note.avsc").write_text(json.dumps(raw))
    monkeypatch.setattr(schema, "resource_dir", lambda _name: tmp_path)
    _forget()
    yield tmp_path
    _forget()


def _forget() -> None:
    for cached in (schema.names, schema.schema, schema.parsed, schema.fingerprint, schema.history,
                   schema._known, codec._writer, codec._reader_check):  # fmt: skip
        cached.cache_clear()


def _extend(file: Path) -> None:
    raw = json.loads(file.read_text())
    raw["fields"] += [{"name": "size", "type": ["null", "long"], "default": None, "doc": "Bytes."}]
    file.write_text(json.dumps(raw))
    _forget()


def test_release_freezes_what_changed_and_only_that(copied: Path) -> None:
    """The first release copies, the next adds a file, a release without change adds none."""
    note = copied / "Note.avsc"
    assert schema.release() == [copied / "history" / "Note" / "0001.avsc"]
    first = note.read_text()
    assert schema.release() == []
    _extend(note)
    assert schema.unreleased() == ["Note"]
    assert schema.release() == [copied / "history" / "Note" / "0002.avsc"]
    assert schema.release() == []
    assert (copied / "history" / "Note" / "0001.avsc").read_text() == first
    assert (copied / "history" / "Note" / "0002.avsc").read_text() == note.read_text()


def test_words_may_change_without_a_release(copied: Path) -> None:
    """Documentation is not on the wire."""
    schema.release()
    raw = json.loads((copied / "Note.avsc").read_text())
    (copied / "Note.avsc").write_text(json.dumps(raw | {"doc": "A better sentence."}))
    _forget()
    assert schema.unreleased() == []


def test_old_fingerprints_stay_known(copied: Path) -> None:
    """A value's fingerprint leads to the schema that wrote it, released or today's."""
    schema.release()
    old = schema.fingerprint("Note")
    _extend(copied / "Note.avsc")
    new = schema.fingerprint("Note")
    assert old != new
    assert [len(schema.by_fingerprint(frame)[1]["fields"]) for frame in (old, new)] == [1, 2]


def test_a_value_from_before_a_field_existed_gets_its_default(copied: Path) -> None:
    """A frame written under the first release is read with the schema of today."""
    schema.release()
    value = codec.encode("Note", {"text": "kept"})
    _extend(copied / "Note.avsc")
    assert codec.encode("Note", {"text": "kept"}) != value
    assert codec.decode(value) == ("Note", {"text": "kept", "size": None})


def test_an_unknown_fingerprint_is_named() -> None:
    """The error carries the fingerprint in hex."""
    with pytest.raises(WireError, match="0102030405060708") as refused:
        schema.by_fingerprint(bytes(range(1, 9)))
    assert refused.value.reason == "unknown_fingerprint"


def test_fingerprints_are_as_the_specification_computes_them() -> None:
    """CRC-64-AVRO of the canonical form, computed here bit by bit, low byte first."""
    name, polynomial = '{"name":"sluice.v1.Tick","type":"record","fields":[]}', 0xC15D213AA4D7A795
    crc = polynomial
    for byte in name.encode():
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (polynomial if crc & 1 else 0)
    assert schema.fingerprint("Tick") == crc.to_bytes(8, "little")


@per_record
def test_a_columnar_header_reads_the_same_datums(name: str) -> None:
    """Datums of the wire, behind a columnar header in a container, are the same records."""
    random.seed(name)
    given = list(generate_many(schema.parsed(name), 20))
    container = io.BytesIO()
    fastavro.writer(container, schema.columnar_schema(name), [])
    sync = container.getvalue()[-16:]
    datums = b"".join(encode(name, record)[HEADER_BYTES:] for record in given)
    for number in (len(given), len(datums)):
        fastavro.schemaless_writer(container, "long", number)
    container.write(datums + sync)
    container.seek(0)
    assert list(fastavro.reader(container)) == given


@per_record
def test_a_columnar_header_holds_nothing_that_polars_refuses(name: str) -> None:
    """No defaults, no documentation, no reference to a record written out elsewhere."""
    header = schema.columnar_schema(name)
    made = list(records(header))
    assert len({record["name"] for record in made}) == len(made)
    for field in (field for record in made for field in record["fields"]):
        assert field.keys() == {"name", "type"}
        items = field["type"].get("items") if isinstance(field["type"], dict) else field["type"]
        assert not isinstance(items, str) or items in PRIMITIVES
