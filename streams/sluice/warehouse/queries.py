"""From an HTTP request to the query it means."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from aiohttp import web

from sluice.warehouse.encodings import BodyError, unpack
from sluice.warehouse.engine import Query

# Parameters of the protocol; every other one is a setting of the query.
_PROTOCOL = frozenset(
    (
        "query", "database", "user", "password", "default_format", "session_id", "session_timeout",
        "session_check", "query_id", "quota_key", "compress", "decompress", "wait_end_of_query",
        "buffer_size", "client_protocol_version", "role", "stacktrace", "enable_http_compression",
        "send_progress_in_http_headers", "http_headers_progress_interval_ms",
        "cancel_http_readonly_queries_on_client_close",
    )
)  # fmt: skip
_PARAMETER = "param_"


class BusyError(Exception):
    """More is asked at once than this server takes; the same request may succeed later."""


class Intake:
    """Bounds what requests hold at once: their number, and the bytes of their bodies."""

    def __init__(self, requests: int, body_bytes: int, total_bytes: int) -> None:
        self.body_bytes = body_bytes
        self._free_requests = requests
        self._free_bytes = total_bytes

    @asynccontextmanager
    async def take(self) -> AsyncIterator[Load]:
        """A place for one request; BusyError where none is free."""
        if not self._free_requests:
            raise BusyError("Too many simultaneous queries")
        self._free_requests -= 1
        load = Load(self)
        try:
            yield load
        finally:
            self._free_requests += 1
            self._free_bytes += load.size

    def reserve(self, size: int) -> None:
        """Account for `size` more bytes; BusyError where they do not fit."""
        if size > self._free_bytes:
            raise BusyError("Too many bytes wait for the engine")
        self._free_bytes -= size


class Load:
    """The bytes of one request's body."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake
        self.size = 0

    async def read(self, request: web.Request) -> bytes:
        """The body as sent; BodyError beyond the limit, BusyError when all are too much."""
        limit, parts = self._intake.body_bytes, []
        async for part in request.content.iter_any():
            if self.size + len(part) > limit:
                raise BodyError(f"the body is larger than {limit} bytes", too_large=True)
            self._intake.reserve(len(part))
            self.size += len(part)
            parts.append(part)
        return b"".join(parts)


def query_id_of(request: web.Request) -> str:
    """The client's query_id, or a new one."""
    return request.query.get("query_id") or str(uuid.uuid4())


async def read_query(
    request: web.Request, load: Load, query_id: str, limit_bytes: int
) -> Query | None:
    """The query of a request, its body unpacked; None where it asks nothing.

    Raises BodyError for a body or a protocol option that cannot be served.
    """
    _refuse_block_compression(request)
    fields: dict[str, str] = {}
    body = b""
    if request.content_type == "multipart/form-data":
        fields = await _form(request)
    else:
        packed = await load.read(request)
        body = unpack(packed, request.headers.get("Content-Encoding", "").lower(), limit_bytes)
    text = request.query.get("query") or fields.pop("query", "")
    sql = b"\n".join(part for part in (text.encode(), body) if part)
    if not sql.strip():
        return None
    return Query(
        sql=sql,
        query_id=query_id,
        database=request.query.get("database") or request.headers.get("X-ClickHouse-Database"),
        settings=_settings(request.query.items()),
        parameters=_parameters([*request.query.items(), *fields.items()]),
        default_format=_default_format(request),
        read_only=request.method == "GET",
    )


def _refuse_block_compression(request: web.Request) -> None:
    for name in ("compress", "decompress"):
        if request.query.get(name, "0") not in ("0", "false"):
            raise BodyError(
                f"{name}=1 (ClickHouse's block compression) is not supported by the embedded "
                "server; use Content-Encoding, or Accept-Encoding with enable_http_compression=1"
            )


async def _form(request: web.Request) -> dict[str, str]:
    fields = {}
    for name, value in (await request.post()).items():
        if not isinstance(value, str):
            raise BodyError(f"external data ({name}) is not supported by the embedded server")
        fields[name] = value
    return fields


def _default_format(request: web.Request) -> str:
    named = request.query.get("default_format") or request.headers.get("X-ClickHouse-Format")
    return named or "TabSeparated"


def _settings(options: Iterable[tuple[str, str]]) -> dict[str, str]:
    return {k: v for k, v in options if k not in _PROTOCOL and not k.startswith(_PARAMETER)}


def _parameters(options: Iterable[tuple[str, str]]) -> dict[str, str]:
    return {k.removeprefix(_PARAMETER): v for k, v in options if k.startswith(_PARAMETER)}
