"""Spans as they are written down: OTLP/JSON, the SDK's own JSON, plain objects; to one form.

OTLP/JSON lists attributes as {key, value: {stringValue: ...}}, writes 64-bit numbers as texts and
times in nanoseconds (opentelemetry-proto, trace.proto and common.proto).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from sluice.metering.adapters.reading import AdapterError, objects, section

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_START = ("startTimeUnixNano", "start_time_unix_nano", "start_time")
_END = ("endTimeUnixNano", "end_time_unix_nano", "end_time")
_ERRORS = (2, "2", "STATUS_CODE_ERROR", "ERROR")
_WHOLE = re.compile(r"-?\d{1,20}")


def spans_of(request: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The spans of an OTLP export request, each with the resource that it belongs to."""
    for group in objects(request, "resourceSpans"):
        for scope in objects(group, "scopeSpans"):
            for span in objects(scope, "spans"):
                yield {"resource": section(group, "resource"), **span}


def attributes_of(holder: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes of a span or resource by name, values as plain JSON."""
    stated = holder.get("attributes")
    if stated is None:
        return {}
    if isinstance(stated, Mapping):
        return dict(stated)
    return {str(a.get("key")): _plain(a.get("value")) for a in objects(holder, "attributes")}


def times_of(span: Mapping[str, Any]) -> tuple[int, int]:
    """Start and end in µs UTC."""
    return _time(span, _START), _time(span, _END)


def hex_id(span: Mapping[str, Any], names: tuple[str, ...], digits: int) -> str | None:
    """A trace or span id in lower-case hex; None where it is absent, zero or something else."""
    holders = (span, section(span, "context"))
    found = next((h[n] for h in holders for n in names if isinstance(h.get(n), str)), "")
    plain = found.removeprefix("0x").lower()
    known = re.fullmatch(rf"[0-9a-f]{{{digits}}}", plain) and plain.strip("0")
    return plain if known else None


def failed(span: Mapping[str, Any]) -> bool:
    """Whether the span's status is an error."""
    status = section(span, "status")
    return status.get("code") in _ERRORS or status.get("status_code") in _ERRORS


def _plain(value: Any) -> Any:
    """What an OTLP AnyValue holds."""
    if not isinstance(value, Mapping) or len(value) != 1:
        return None
    ((kind, held),) = value.items()
    if kind == "intValue":
        return int(held) if _WHOLE.fullmatch(str(held)) else held
    if kind == "arrayValue" and isinstance(held, Mapping):
        return [_plain(item) for item in objects(held, "values")]
    if kind == "kvlistValue" and isinstance(held, Mapping):
        pairs = objects(held, "values")
        return {str(pair.get("key")): _plain(pair.get("value")) for pair in pairs}
    return held


def _time(span: Mapping[str, Any], names: tuple[str, ...]) -> int:
    value = next((span[name] for name in names if span.get(name) is not None), None)
    if isinstance(value, int) and not isinstance(value, bool):
        return value // 1000
    if isinstance(value, str):
        return int(value) // 1000 if _WHOLE.fullmatch(value) else _iso(names[-1], value)
    raise AdapterError("bad_time", f"{names[0]} is neither nanoseconds nor an ISO time")


def _iso(name: str, text: str) -> int:
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise AdapterError("bad_time", f"{name} is no ISO time") from error
    if at.tzinfo is None:
        raise AdapterError("bad_time", f"{name} has no time zone")
    return (at - _EPOCH) // _MICROSECOND
