"""Avro single-object encoding: C3 01, the schema's CRC-64-AVRO fingerprint, one datum.

Whatever arrives, `decode` returns a record or raises WireError with a stable reason. Whatever is
given, `encode` writes all of it as it is or raises WireError.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from functools import cache
from typing import Any

from fastavro import schemaless_reader, schemaless_writer

from sluice.errors import WireError
from sluice.wire import schema, shape

MAGIC = b"\xc3\x01"
HEADER_BYTES = 10
# Neither a hostile value nor a runaway list may take the memory of a worker.
MAX_VALUE_BYTES = 2**20
# Last field of every usage event (0x5A): a reader that lost its place does not find it.
END_MARK = 90


@cache
def headers(name: str) -> tuple[bytes, ...]:
    """How the values of a record begin, in today's and every released version of its schema."""
    released = map(schema.fingerprint_of, schema.history(name))
    return tuple(MAGIC + version for version in (schema.fingerprint(name), *released))


def encode(name: str, record: Mapping[str, Any]) -> bytes:
    """Frame a record; absent fields take their defaults.

    Raises WireError: "unencodable", naming the field that is unknown, missing or of another type;
    "too_large", where a reader would refuse the value.
    """
    header, check = _writer(name)
    try:
        check(record)
    except shape.ShapeError as error:
        raise WireError("unencodable", f"{name}{error}") from error
    buffer = io.BytesIO()
    buffer.write(header)
    schemaless_writer(buffer, schema.parsed(name), record)
    if buffer.tell() > MAX_VALUE_BYTES:
        raise _too_large(buffer.tell())
    return buffer.getvalue()


def encode_row(name: str, record: Mapping[str, Any]) -> bytes:
    """Frame a record that this program's own code has put together, every field of it.

    The shape is not checked: that would be most of the cost of what a meter publishes.
    """
    buffer = io.BytesIO()
    buffer.write(_header(name))
    schemaless_writer(buffer, schema.parsed(name), record)
    return buffer.getvalue()


def decode(value: bytes) -> tuple[str, dict[str, Any]]:
    """Record name and fields of a framed value, read with today's schema.

    Raises WireError: too_large, not_single_object, unknown_fingerprint, truncated, trailing_bytes,
    malformed.
    """
    if len(value) > MAX_VALUE_BYTES:
        raise _too_large(len(value))
    if len(value) < HEADER_BYTES or value[:2] != MAGIC:
        raise WireError("not_single_object", f"{len(value)} bytes, begins {value[:2].hex()!r}")
    name, writer = schema.by_fingerprint(value[2:HEADER_BYTES])
    record, end = _read(value, name, writer)
    surplus = len(value) - end
    if surplus:
        raise WireError("trailing_bytes", f"{surplus} after {name}")
    _check_read(name, record)
    return name, record


@cache
def _header(name: str) -> bytes:
    return MAGIC + schema.fingerprint(name)


@cache
def _writer(name: str) -> tuple[bytes, shape.Check]:
    return _header(name), shape.complete(schema.schema(name))


@cache
def _reader_check(name: str) -> shape.Check | None:
    return shape.readable(schema.schema(name))


class _Exact(io.BytesIO):
    """Bytes that are never read short, as the Avro reader takes them when it skips a field."""

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        if len(data) != size:
            raise EOFError
        return data


def _read(value: bytes, name: str, writer: schema.Schema) -> tuple[Any, int]:
    """The record in a frame and where it ends."""
    reader = schema.parsed(name)
    current = writer is reader
    buffer = io.BytesIO(value) if current else _Exact(value)
    buffer.seek(HEADER_BYTES)
    try:
        record = schemaless_reader(buffer, writer, None if current else reader)
    except Exception as error:  # whatever a corrupted datum makes the reader do
        # A number cut off in its middle is an IndexError, like a union branch that does not exist.
        at_end = isinstance(error, IndexError) and buffer.tell() == len(value)
        if at_end or isinstance(error, EOFError):
            raise WireError("truncated", f"{name} ends after {buffer.tell()} bytes") from error
        raise WireError("malformed", f"{name}: {type(error).__name__}: {error}") from error
    return record, buffer.tell()


def _check_read(name: str, record: dict[str, Any]) -> None:
    check = _reader_check(name)
    if check is None:
        return
    try:
        check(record)
    except shape.ShapeError as error:
        raise WireError("malformed", f"{name}{error}") from error


def _too_large(size: int) -> WireError:
    return WireError("too_large", f"{size} bytes, at most {MAX_VALUE_BYTES}")
