"""Stored usage events back as records, in order and in bounded batches.

Rows have the shape of UsageEvent: instants are µs UTC, lists are lists of records, null stays null.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from itertools import groupby, pairwise
from typing import Any, NamedTuple

import msgspec
import urllib3
from clickhouse_connect.driver.client import Client

from sluice.errors import OutsideError
from sluice.settings import Settings
from sluice.warehouse.client import connect, translated

BATCH_ROWS = 20_000
_HOUR_US = 3_600_000_000
_SETTINGS = {
    "do_not_merge_across_partitions_select_final": 1,
    "output_format_json_quote_64bit_integers": 0,
    "output_format_json_named_tuples_as_objects": 1,
}
# An event's own time is at most a day ahead of what it counts as; it says which days are read.
_HOURS = """
SELECT toInt64(toUnixTimestamp(toStartOfHour(occurred_at_clamped))) * 1000000 AS hour,
    count() AS events
FROM usage_events
WHERE occurred_at_clamped >= fromUnixTimestamp64Micro({since:Int64})
  AND occurred_at_clamped < fromUnixTimestamp64Micro({until:Int64})
  AND occurred_at >= fromUnixTimestamp64Micro({since:Int64})
  AND occurred_at < fromUnixTimestamp64Micro({until:Int64}) + INTERVAL 25 HOUR
  AND (empty({tenants:Array(String)}) OR has({tenants:Array(String)}, tenant_id))
GROUP BY hour ORDER BY hour
"""
_COLUMNS = """
SELECT * EXCEPT (prefix_block_ids, occurred_at_clamped) REPLACE (
    toUnixTimestamp64Micro(occurred_at) AS occurred_at,
    toUnixTimestamp64Micro(started_at) AS started_at,
    toUnixTimestamp64Micro(scheduled_at) AS scheduled_at,
    toUnixTimestamp64Micro(first_token_at) AS first_token_at,
    toUnixTimestamp64Micro(broker_time) AS broker_time)
FROM (
    SELECT * FROM usage_events FINAL
"""
# An event and its corrections share tenant, project and instant: they come out side by side.
_ORDER = """
    ORDER BY tenant_id, project_id, occurred_at, ifNull(corrects_event_id, event_id),
             event_type = 'correction', version
)
"""
_IN_RANGE = """
    WHERE occurred_at_clamped >= fromUnixTimestamp64Micro({since:Int64})
      AND occurred_at_clamped < fromUnixTimestamp64Micro({until:Int64})
      AND occurred_at >= fromUnixTimestamp64Micro({since:Int64})
      AND occurred_at < fromUnixTimestamp64Micro({until:Int64}) + INTERVAL 25 HOUR
      AND (empty({tenants:Array(String)}) OR has({tenants:Array(String)}, tenant_id))
      AND event_type != 'admission'
"""
_OF_EVENT = """
    WHERE event_id = {event_id:String} OR corrects_event_id = {event_id:String}
"""


class Range(NamedTuple):
    """Usage that occurred from `since` to before `until` (µs UTC), of some tenants or all."""

    since: int
    until: int
    tenants: Sequence[str] = ()

    def parameters(self) -> dict[str, Any]:
        """Values for the queries' placeholders."""
        return {"since": self.since, "until": self.until, "tenants": list(self.tenants)}


class UsageRows:
    """Reads usage_events; every method raises OutsideError while ClickHouse is away."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._client = connect(settings)

    def close(self) -> None:
        """Give the connection back."""
        self._client.close()

    def count(self, wanted: Range) -> int:
        """Rows that `groups` reads, an upper bound: rows stored twice count twice."""
        return sum(events for _, events in self._hours(wanted))

    def groups(self, wanted: Range) -> Iterator[list[dict[str, Any]]]:
        """Each event together with its corrections, the original first."""
        for since, until in slices(self._hours(wanted), wanted):
            part = wanted._replace(since=since, until=until)
            rows = self._rows(_COLUMNS + _IN_RANGE + _ORDER, part.parameters())
            for _, group in groupby(rows, _original_id):
                yield list(group)

    def event(self, event_id: str) -> list[list[dict[str, Any]]]:
        """The events of that id with their corrections; more than one if tenants share an id."""
        rows = self._rows(_COLUMNS + _OF_EVENT + _ORDER, {"event_id": event_id})
        return [list(group) for _, group in groupby(rows, _original_id)]

    def _hours(self, wanted: Range) -> list[tuple[int, int]]:
        rows = self._rows(_HOURS, wanted.parameters())
        return [(row["hour"], row["events"]) for row in rows]

    def _rows(self, sql: str, parameters: dict[str, Any]) -> Iterator[dict[str, Any]]:
        with translated(self._settings):
            yield from json_rows(self._client, sql, parameters)


def json_rows(client: Client, sql: str, parameters: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Rows of a query as they arrive; integers of any width are exact."""
    stream: Any = client.raw_stream(sql, parameters, _SETTINGS, fmt="JSONEachRow")
    stream.auto_close = False  # urllib3 closes at the end of the body, before the last lines
    decode = msgspec.json.Decoder().decode
    with io.BufferedReader(stream, 2**18) as lines:
        try:
            for line in lines:
                yield decode(line)
        except (urllib3.exceptions.HTTPError, OSError, msgspec.DecodeError) as error:
            # Behind a 200 there is no other way for the server to say that it cannot go on.
            raise OutsideError(
                f"ClickHouse broke off in the middle of a result ({error}); try again"
            ) from error


def slices(hours: Sequence[tuple[int, int]], wanted: Range) -> Iterator[tuple[int, int]]:
    """Consecutive time ranges of about BATCH_ROWS rows; an hour with more is cut into equal parts.

    `hours` are (start, rows) in order. Nothing between since and until is left out.
    """
    start, rows = wanted.since, 0
    for hour, events in hours:
        if rows and rows + events > BATCH_ROWS:
            yield start, max(hour, wanted.since)
            start, rows = max(hour, wanted.since), 0
        rows += events
        if rows > BATCH_ROWS:
            begin, end = max(hour, start), min(hour + _HOUR_US, wanted.until)
            parts = -(-rows // BATCH_ROWS)
            cuts = [begin + (end - begin) * part // parts for part in range(1, parts + 1)]
            yield from pairwise([start, *cuts])
            start, rows = end, 0
    if start < wanted.until:
        yield start, wanted.until


def _original_id(row: dict[str, Any]) -> tuple[str, str]:
    return row["tenant_id"], row["corrects_event_id"] or row["event_id"]
