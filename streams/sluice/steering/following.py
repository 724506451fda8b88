"""The control topic as lines for people and programs, message by message."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from confluent_kafka import OFFSET_BEGINNING, OFFSET_END, Consumer, KafkaException, TopicPartition

from sluice.admission.sentences import utc
from sluice.errors import OutsideError, WireError
from sluice.settings import Settings
from sluice.steering.amounts import amount_text, whose
from sluice.steering.control import read_key
from sluice.wire.codec import decode
from sluice.wire.kafka import consumer_config, topics
from sluice.wire.scan import Scanned, message_as_record
from sluice.wire.scopes import ALL_TENANTS, scope_fields, scope_text

KINDS = {"Decision": "decision", "BudgetRule": "budget", "LeaseGrant": "lease",
         "Heartbeat": "heartbeat"}  # fmt: skip
ALL_KINDS = (*KINDS.values(), "lifted", "unreadable")
_POLL_S = 0.2


class Line(NamedTuple):
    """One message: what it is about and what it says; `at` in µs UTC.

    `kind` is one of ALL_KINDS; `scope` as BudgetRow.scope, None where the message has none.
    """

    at: int
    kind: str
    partition: int
    offset: int
    scope: str | None
    action: str
    sentence: str
    record: Mapping[str, Any] | None

    def __str__(self) -> str:
        about = "-" if self.scope is None else whose(self.scope)
        return f"{utc(self.at)}  {about}  {self.action}  {self.sentence}"

    def concerns(self, scope: Mapping[str, str]) -> bool:
        """Whether it can be about this scope: every field that both name is equal."""
        own = {} if self.scope is None else scope_fields(self.scope)
        return all(scope.get(name, value) == value for name, value in own.items())


def line_of(message: Scanned) -> Line:
    """A message of the control topic as a line, whatever its bytes are."""
    at = message.timestamp * 1000
    if message.value is None:
        return _line(message, at, "lifted", *_lifted(message.key or b""), None)
    try:
        name, record = decode(message.value)
        kind = KINDS[name]
    except (WireError, KeyError) as error:
        return _line(message, at, "unreadable", None, "-", f"cannot be read: {error}", None)
    scope, action, sentence = _TOLD[kind](record)
    return _line(message, record["issued_at"], kind, scope, action, sentence, record)


def _line(
    message: Scanned, at: int, kind: str, scope: str | None, action: str, sentence: str,
    record: Mapping[str, Any] | None,
) -> Line:  # fmt: skip
    return Line(at, kind, message.partition, message.offset, scope, action, sentence, record)


def _decision(record: Mapping[str, Any]) -> tuple[str, str, str]:
    shadow = "" if record["mode"] == "enforce" else f" ({record['mode']})"
    return _scope(record["scope"]), record["action"] + shadow, record["reason"]


def _budget(record: Mapping[str, Any]) -> tuple[str, str, str]:
    kind = "hard" if record["hard"] else "soft"
    matched = [(item["key"], item["value"]) for item in record["where"]]
    per, where = _per(record["scope"], dict(matched)), scope_text(matched)
    limit = amount_text(record["limit"], record["unit"])
    head = f"{record['policy_id']} {record['policy_version']}: {kind} budget {record['budget_id']}"
    own = f", {len(record['limits'])} with a limit of their own" if record["limits"] else ""
    tail = f"({record['mode']}, partition {record['source_partition']})"
    return where, "budget", f"{head}, {limit} a {record['period']} {per}{own} {tail}"


def _per(scope: Sequence[str], where: Mapping[str, str]) -> str:
    """How a budget's usage is shared out over ledgers."""
    if scope:
        return f"per {', '.join(scope)}"
    tenant_id = where.get("tenant_id")
    return f"of tenant {tenant_id} in all" if tenant_id else f"of {ALL_TENANTS} together"


def _lease(record: Mapping[str, Any]) -> tuple[str, str, str]:
    granted = amount_text(record["granted_total"], record["unit"])
    head = f"{record['holder']} may spend {granted} of budget {record['budget_id']}"
    until = f"in {record['period']} until {utc(record['expires_at'])}"
    return _scope(record["scope"]), "lease", f"{head} {until}"


def _heartbeat(record: Mapping[str, Any]) -> tuple[None, str, str]:
    place = f"up to {utc(record['watermark'])}, offset {record['sequence']}"
    what = f"usage of partition {record['source_partition']}"
    if not record["of_tenants"]:
        what = "usage of budgets that span tenants"
    return None, "heartbeat", f"{what} is applied {place}"


_TOLD: dict[str, Callable[[Mapping[str, Any]], tuple[str | None, str, str]]] = {
    "decision": _decision, "budget": _budget, "lease": _lease, "heartbeat": _heartbeat,
}  # fmt: skip


def _lifted(key: bytes) -> tuple[str | None, str, str]:
    """Scope, action and sentence of a tombstone, which only its key describes."""
    named = read_key(key)
    if named is None:
        parts = key.decode(errors="replace").split("|")
        if parts[0] == "budget" and len(parts) == 4:
            sentence = f"policy {parts[1]}, budget {parts[2]} in partition {parts[3]}"
            return None, "withdrawn", sentence
        return None, "lifted", "|".join(parts)
    if named.kind == "lease":
        period, holder, _ = named.rest
        sentence = f"{holder} holds nothing of budget {named.budget_id} in {period}"
        return named.scope, "closed", sentence
    sentence = f"policy {named.policy_id}, budget {named.budget_id}: no decision stands"
    return named.scope, "lifted", sentence


def _scope(scope: Mapping[str, Any]) -> str:
    return scope_text((name, value) for name, value in scope.items() if value is not None)


def follow_control(
    settings: Settings, *, standing: bool = False, seconds: float | None = None
) -> Iterator[Line]:
    """Lines as messages arrive, for so long; `standing` begins with what the topic holds.

    Raises OutsideError where the broker does not answer at the start; later it waits for it.
    """
    topic = topics(settings).control
    consumer = Consumer(consumer_config(settings))
    try:
        consumer.assign(_places(consumer, topic, OFFSET_BEGINNING if standing else OFFSET_END))
        end = None if seconds is None else time.monotonic() + seconds
        while end is None or time.monotonic() < end:
            message = consumer.poll(_POLL_S)
            if message is not None and message.error() is None:
                yield line_of(message_as_record(message))
    finally:
        consumer.close()


def _places(consumer: Consumer, topic: str, offset: int) -> list[TopicPartition]:
    try:
        found = consumer.list_topics(topic, timeout=10).topics[topic]
    except KafkaException as error:
        raise OutsideError(f"Kafka did not answer: {error.args[0].str()}") from error
    if not found.partitions:
        raise OutsideError(f"topic {topic} does not exist yet; start the stack with `sluice up`")
    return [TopicPartition(topic, number, offset) for number in found.partitions]
