"""The audit's reading: the usage topic up to its present end, and ClickHouse beside it.

The stream goes on while it is audited, and rows are published every few seconds. So differences
are looked at again until they are gone or `timeout_s` is over: what is left then is real.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from confluent_kafka import Consumer, KafkaException, TopicPartition

from sluice.errors import OutsideError
from sluice.feedback.audit import Audit, Stored, audit
from sluice.feedback.recount import MEASURES, LedgerName, Recount, Sums, first_whole_minute
from sluice.runtime.references import read_references
from sluice.settings import Settings
from sluice.warehouse.client import connect, translated
from sluice.wire.codec import headers
from sluice.wire.kafka import consumer_config, topics
from sluice.wire.scan import message_as_record

TIMEOUT_S = 60.0
_PAUSE_S = 2.0
_SILENCE_S = 15.0
_ACTIVATE = headers("Activate")

_EVENTS = """
SELECT tenant_id, countIf(event_type != 'correction') AS n_events,
    sum(input_tokens) AS n_input_tokens, sum(output_tokens) AS n_output_tokens,
    sum(toInt128(ifNull(cost_pusd, 0))) AS n_cost_pusd,
    toInt64(countIf(event_type != 'correction' AND cost_pusd IS NULL)) - toInt64(countIf(
        event_type = 'correction' AND cost_pusd IS NOT NULL AND original_cost_pusd IS NULL
    )) AS n_unpriced,
    sum(toInt128(if(event_type = 'correction', ifNull(cost_pusd, 0), 0))) AS n_corrected_pusd
FROM usage_events FINAL
WHERE event_type != 'admission' AND occurred_at_clamped >= fromUnixTimestamp64Micro({since:Int64})
GROUP BY tenant_id
SETTINGS do_not_merge_across_partitions_select_final = 1
"""
_WINDOWS = """
SELECT tenant_id, sum(events) AS n_events, sum(input_tokens) AS n_input_tokens,
    sum(output_tokens) AS n_output_tokens, sum(toInt128(cost_pusd)) AS n_cost_pusd,
    sum(unpriced) AS n_unpriced, sum(toInt128(corrected_pusd)) AS n_corrected_pusd
FROM usage_windows FINAL
WHERE window_start >= fromUnixTimestamp64Micro({since:Int64})
GROUP BY tenant_id
SETTINGS do_not_merge_across_partitions_select_final = 1
"""
_LEDGERS = """
SELECT policy_id, budget_id, scope, period,
    sum(toInt128(ifNull(settled, settled_pusd))) AS n_settled
FROM budget_ledgers FINAL
WHERE period_start >= fromUnixTimestamp64Micro({since:Int64}) AND period NOT IN ('rolling', 'task')
GROUP BY policy_id, budget_id, scope, period
"""
_HOLES = """
SELECT tenant_id, source, source_epoch, missing, lost, recovered, unprotected
FROM usage_sources FINAL
WHERE missing + lost + unprotected > 0
ORDER BY tenant_id, source, source_epoch
"""


def run_audit(
    settings: Settings,
    *,
    timeout_s: float = TIMEOUT_S,
    watch: Callable[[str], None] = lambda _: None,
) -> Audit:
    """Recount the usage topic and compare; `watch` gets progress, one sentence at a time.

    Raises OutsideError while broker or ClickHouse are away.
    """
    reading = _Reading(settings)
    try:
        deadline = time.monotonic() + timeout_s
        while True:
            reading.go_on(watch)
            found = _compare(settings, reading)
            if found.equal or time.monotonic() > deadline:
                return found
            watch(f"{len(found.differences)} differences; rows may be on their way, looking again")
            time.sleep(_PAUSE_S)
    finally:
        reading.close()


class _Reading:
    """A recount that follows the usage topic."""

    def __init__(self, settings: Settings) -> None:
        usage = topics(settings).usage
        self._consumer = Consumer(consumer_config(settings))
        self._parts = [TopicPartition(usage, number) for number in range(settings.partitions)]
        self._next = {tp.partition: self._ends(tp)[0] for tp in self._parts}
        # Where the topic's begin has expired, only what is surely whole and priced is compared.
        expired = any(self._next.values())
        self.since = first_whole_minute(max(map(self._first_named, self._parts))) if expired else 0
        self._assign(self._parts)
        self.recount = Recount(read_references(settings), self.since)

    def _ends(self, tp: TopicPartition) -> tuple[int, int]:
        try:
            low, high = self._consumer.get_watermark_offsets(tp, timeout=10)
        except KafkaException as error:
            raise OutsideError(f"Kafka did not answer: {error.args[0].str()}") from error
        return int(low), int(high)

    def _assign(self, parts: list[TopicPartition]) -> None:
        self._consumer.assign(
            [TopicPartition(tp.topic, tp.partition, self._next[tp.partition]) for tp in parts]
        )

    def _first_named(self, tp: TopicPartition) -> int:
        """Broker time (µs) at which a partition first names the versions in force.

        That is done once a day; of a partition that never does, only what is to come is whole.
        """
        low, high = self._ends(tp)
        self._assign([tp])
        heard, position = time.monotonic(), low
        while position < high and time.monotonic() - heard < _SILENCE_S:
            for message in self._consumer.consume(5000, 0.05):
                if message.error() is not None:
                    continue
                heard, position = time.monotonic(), (message.offset() or 0) + 1
                if (message.value() or b"").startswith(_ACTIVATE):
                    return int(message.timestamp()[1] * 1000)
        return 0 if low == high else time.time_ns() // 1000

    def go_on(self, watch: Callable[[str], None]) -> None:
        """Count everything up to the present end of each partition."""
        ends = {tp.partition: self._ends(tp)[1] for tp in self._parts}
        heard = told = time.monotonic()
        while any(self._next[number] < end for number, end in ends.items()):
            for message in self._consumer.consume(5000, 0.05):
                if message.error() is None:
                    heard = time.monotonic()
                    record = message_as_record(message)
                    self.recount.take(record)
                    self._next[record.partition] = record.offset + 1
            self._skip_ends(ends)
            now = time.monotonic()
            if now - told > 1:
                left = sum(max(0, end - self._next[n]) for n, end in ends.items())
                watch(f"{self.recount.records:,} records counted, {left:,} to go")
                told = now
            if now - heard > _SILENCE_S:
                raise OutsideError("no answer from the broker while the usage topic is read")

    def _skip_ends(self, ends: dict[int, int]) -> None:
        """The last offsets may be transaction markers, which no consumer delivers."""
        for tp in self._consumer.position(self._parts):
            if tp.offset >= ends[tp.partition]:
                self._next[tp.partition] = max(self._next[tp.partition], tp.offset)

    def close(self) -> None:
        self._consumer.close()


def _compare(settings: Settings, reading: _Reading) -> Audit:
    client = connect(settings)
    try:
        with translated(settings):

            def rows(sql: str) -> list[dict[str, Any]]:
                parameters = {"since": reading.since}
                return list(client.query(sql, parameters=parameters).named_results())

            stored = Stored(
                {"usage_events": _sums(rows(_EVENTS)), "usage_windows": _sums(rows(_WINDOWS))},
                {_ledger(row): int(row["n_settled"]) for row in rows(_LEDGERS)},
            )
            holes = rows(_HOLES)
    finally:
        client.close()
    return audit(reading.recount.sums, reading.recount.ledgers, stored, holes)


def _sums(rows: list[dict[str, Any]]) -> Sums:
    return {row["tenant_id"]: {name: int(row[f"n_{name}"]) for name in MEASURES} for row in rows}


def _ledger(row: dict[str, Any]) -> LedgerName:
    return LedgerName(*(row[name] for name in LedgerName._fields))
