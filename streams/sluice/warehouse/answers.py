"""Answers in the shape of ClickHouse's HTTP interface: status, headers, error text."""

from __future__ import annotations

import json

from aiohttp import web

from sluice.warehouse.encodings import choose, pack
from sluice.warehouse.engine import Answer, EngineError

# HTTP status of ClickHouse's error codes; 500 for the others.
_CODES = {
    400: (6, 16, 25, 26, 27, 33, 36, 38, 41, 42, 43, 44, 53, 62, 70, 72, 117, 130, 131, 456, 457),
    401: (194,),
    403: (192, 193, 497, 516),
    404: (46, 47, 50, 56, 60, 63, 73, 81, 115, 336),
    408: (159,),
    501: (48,),
    503: (202, 209, 210, 439),
}
_STATUS = {code: status for status, codes in _CODES.items() for code in codes}
_BINARY = "application/octet-stream"
_TYPES = {
    "CSV": "text/csv; charset=UTF-8",
    "JSON": "application/json; charset=UTF-8",
    "JSONEachRow": "application/x-ndjson; charset=UTF-8",
    "TabSeparated": "text/tab-separated-values; charset=UTF-8",
    **dict.fromkeys(("Native", "RowBinary", "Arrow", "ArrowStream", "Parquet"), _BINARY),
}
_PLAIN = "text/plain; charset=UTF-8"


def common_headers(query_id: str) -> dict[str, str]:
    """Headers of every answer."""
    return {
        "X-ClickHouse-Query-Id": query_id,
        "X-ClickHouse-Server-Display-Name": "sluice",
        "X-ClickHouse-Timezone": "UTC",
    }


def result(answer: Answer, query_id: str, elapsed_ns: int, accepted: str) -> web.Response:
    """A result, packed when `accepted` (an Accept-Encoding, or '') names a known encoding."""
    total = answer.counts["read_rows"]
    summary = {**answer.counts, "total_rows_to_read": total, "elapsed_ns": elapsed_ns}
    headers = common_headers(query_id)
    headers["X-ClickHouse-Summary"] = json.dumps({k: str(v) for k, v in summary.items()})
    headers["Content-Type"] = _TYPES.get(answer.format or "", _PLAIN)
    if answer.format is not None:
        headers["X-ClickHouse-Format"] = answer.format
    encoding = choose(accepted)
    if encoding is None or not answer.body:
        return web.Response(body=answer.body, headers=headers)
    headers["Content-Encoding"] = encoding
    return web.Response(body=pack(answer.body, encoding), headers=headers)


def failure(error: EngineError, query_id: str) -> web.Response:
    """An engine's refusal."""
    return fault(_STATUS.get(error.code, 500), str(error), query_id, error.code)


def fault(status: int, text: str, query_id: str, code: int) -> web.Response:
    """An error; a 503 says when to come back."""
    headers = {**common_headers(query_id), "X-ClickHouse-Exception-Code": str(code)}
    headers["Content-Type"] = _PLAIN
    if status == web.HTTPServiceUnavailable.status_code:
        headers["Retry-After"] = "1"
    return web.Response(status=status, text=f"{text}\n", headers=headers)
