"""Avro schemas: today's, and every released version for values written before.

`schemas/<Record>.avsc` is what this version writes; `schemas/history/<Record>/NNNN.avsc` are the
released ones, frozen.
"""

from __future__ import annotations

import json
import shutil
from functools import cache
from pathlib import Path
from typing import Any

from fastavro import parse_schema
from fastavro.schema import fingerprint as avro_fingerprint
from fastavro.schema import to_parsing_canonical_form

from sluice.errors import WireError
from sluice.resources import resource_dir

Schema = dict[str, Any]


@cache
def names() -> tuple[str, ...]:
    """Names of all records, sorted."""
    return tuple(sorted(file.stem for file in resource_dir("schemas").glob("*.avsc")))


@cache
def schema(name: str) -> Schema:
    """The current schema of a record as it stands in its file."""
    return _load(_file(name))


@cache
def parsed(name: str) -> Schema:
    """The current schema of a record, ready for reading and writing."""
    return _parse(schema(name))


@cache
def fingerprint(name: str) -> bytes:
    """CRC-64-AVRO of the canonical form, little-endian, as the frame carries it."""
    return fingerprint_of(schema(name))


def fingerprint_of(raw: Schema) -> bytes:
    """Frame fingerprint of any schema, 8 bytes; documentation and defaults do not enter it."""
    return bytes.fromhex(avro_fingerprint(to_parsing_canonical_form(raw), "CRC-64-AVRO"))


@cache
def history(name: str) -> tuple[Schema, ...]:
    """Released versions of a record, oldest first."""
    return tuple(_load(file) for file in _released(name))


def by_fingerprint(frame: bytes) -> tuple[str, Schema]:
    """Record name and writer schema of a frame's fingerprint; WireError if never released."""
    try:
        return _known()[frame]
    except KeyError:
        detail = f"{frame.hex()} is no schema of this version; a newer writer needs a newer reader"
        raise WireError("unknown_fingerprint", detail) from None


@cache
def columnar_schema(name: str) -> Schema:
    """The current schema of a record as `columnar` gives it."""
    return columnar(schema(name))


def columnar(raw: Schema) -> Schema:
    """A schema as the header of a container that polars reads; datums stay the same.

    polars refuses defaults and references to named types, so documentation and defaults are left
    out, and a record used twice is written out at each place under a name of its own.
    """
    header: Schema = _columnar(raw, {}, "")
    return header


def unreleased() -> list[str]:
    """Records whose current form is not their last released one."""
    return [name for name in names() if not _is_released(name)]


def release() -> list[Path]:
    """Freeze the current schema of every changed record as its next history file."""
    made = []
    for name in unreleased():
        folder = _history_folder(name)
        folder.mkdir(parents=True, exist_ok=True)
        target = folder / f"{len(_released(name)) + 1:04d}.avsc"
        shutil.copyfile(_file(name), target)
        made.append(target)
    history.cache_clear()
    return made


def _is_released(name: str) -> bool:
    versions = history(name)
    return bool(versions) and fingerprint_of(versions[-1]) == fingerprint(name)


def _file(name: str) -> Path:
    return resource_dir("schemas") / f"{name}.avsc"


def _history_folder(name: str) -> Path:
    return resource_dir("schemas") / "history" / name


def _released(name: str) -> list[Path]:
    return sorted(_history_folder(name).glob("*.avsc"))


def _load(file: Path) -> Schema:
    raw: Schema = json.loads(file.read_text(encoding="utf-8"))
    return raw


def _parse(raw: Schema) -> Schema:
    ready: Schema = parse_schema(json.loads(json.dumps(raw)))
    return ready


@cache
def _known() -> dict[bytes, tuple[str, Schema]]:
    versions = {}
    for name in names():
        for raw in history(name):
            versions[fingerprint_of(raw)] = (name, _parse(raw))
        versions[fingerprint(name)] = (name, parsed(name))
    return versions


def _columnar(kind: Any, records: dict[str, Schema], place: str) -> Any:
    if isinstance(kind, list):
        return [_columnar(branch, records, place) for branch in kind]
    if isinstance(kind, str):
        return _columnar(records[kind], records, place) if kind in records else kind
    if kind["type"] == "array":
        return {"type": "array", "items": _columnar(kind["items"], records, place)}
    if kind["type"] != "record":
        return kind
    records[kind["name"]] = kind
    return {
        "type": "record",
        "name": kind["name"] + place,
        "fields": [
            {
                "name": field["name"],
                "type": _columnar(field["type"], records, f"{place}_{field['name']}"),
            }
            for field in kind["fields"]
        ],
    }
