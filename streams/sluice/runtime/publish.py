"""Publish policies, price books and baselines and switch them on, in band.

A version goes to its topic first; then an Activate record goes into every usage partition, and to
where budgets that span tenants are kept, so that each changes over at one place of its own order.
"""

from __future__ import annotations

import time

from confluent_kafka import KafkaError, Message, Producer

from sluice.enforcement.policy import Policy
from sluice.errors import OutsideError
from sluice.metering.baselines import BASELINE_ID, Baseline
from sluice.metering.prices import PriceBook, default_book, load_book
from sluice.runtime.references import Name, reference_key, reference_name
from sluice.settings import Settings
from sluice.wire.codec import decode, encode
from sluice.wire.kafka import producer_config, topics
from sluice.wire.scan import committed_records

# Header of a book that was published for the record and never switched on.
KEPT = "kept"

_TIMEOUT_S = 15.0
# usage.v1 and leases.v1 keep records for 7 days, and name their versions at least once a day.
_BASELINE_KEEP_US = 9 * 86_400_000_000


def publish_policy(settings: Settings, policy: Policy) -> None:
    """Publish a policy version and make it the one in force under its policy_id."""
    fields = {
        "policy_id": policy.policy_id, "version": policy.version, "body": policy.to_json(),
        "published_at": _now(),
    }  # fmt: skip
    name = ("policy", policy.policy_id, policy.version)
    _publish(settings, topics(settings).policy, name, encode("Policy", fields))


def withdraw_policy(settings: Settings, policy_id: str) -> None:
    """Take a policy out of force; its standing decisions are lifted."""
    _activate(settings, _producer(settings), ("policy", policy_id, ""))


def publish_price_book(settings: Settings, book: PriceBook) -> None:
    """Publish a price book and make it the one in force."""
    name, value = _book_record(book)
    _publish(settings, topics(settings).reference, name, value)


def keep_price_book(settings: Settings, book: PriceBook) -> None:
    """Publish a price book without a change of what is in force, so that its version is known.

    One that is published already stays as it is.
    """
    name, value = _book_record(book)
    reference, key = topics(settings).reference, reference_key(name)
    if any(record.key == key for record in committed_records(settings, reference)):
        return
    _send(_producer(settings), [(reference, 0, key, value)], [(KEPT, b"")])


def price_book_in_force(settings: Settings) -> PriceBook | None:
    """The price book that was switched on last; blocks while its topic is read."""
    body: str | None = None
    for record in committed_records(settings, topics(settings).reference):
        if record.value and KEPT not in dict(record.headers):
            name, fields = decode(record.value)
            body = fields["body"] if name == "PriceBook" else body
    return None if body is None else load_book(body)


def publish_baseline(settings: Settings, baseline: Baseline) -> None:
    """Publish a baseline and make it the one in force."""
    fields = {
        "baseline_id": BASELINE_ID, "version": baseline.version, "body": baseline.to_json(),
        "published_at": _now(),
    }  # fmt: skip
    name = ("baseline", BASELINE_ID, baseline.version)
    _publish(settings, topics(settings).reference, name, encode("Baseline", fields))


def retire_baselines(settings: Settings, in_force: Baseline) -> int:
    """Take baselines off their topic that no usage still kept can name; returns how many."""
    reference, oldest = topics(settings).reference, _now() - _BASELINE_KEEP_US
    current = reference_key(("baseline", BASELINE_ID, in_force.version))
    known: dict[bytes, int | None] = {}
    for record in committed_records(settings, reference):
        if record.key and reference_name(record.key)[0] == "baseline":
            at = decode(record.value)[1]["published_at"] if record.value else None
            known[record.key] = at
    old = [k for k, at in known.items() if at is not None and at < oldest and k != current]
    if old:
        _send(_producer(settings), [(reference, 0, key, None) for key in old])
    return len(old)


def ensure_price_book(settings: Settings) -> str | None:
    """Publish the packaged price book where none was ever published; return its version."""
    for record in committed_records(settings, topics(settings).reference):
        if record.value and decode(record.value)[0] == "PriceBook":
            return None
    book = default_book()
    publish_price_book(settings, book)
    return book.version


def _book_record(book: PriceBook) -> tuple[Name, bytes]:
    fields = {
        "book_id": book.book_id, "version": book.version, "currency": "USD",
        "source": book.source, "effective_from": None, "body": book.to_json(),
        "published_at": _now(),
    }  # fmt: skip
    return ("price_book", book.book_id, book.version), encode("PriceBook", fields)


def _publish(settings: Settings, topic: str, name: Name, value: bytes) -> None:
    producer = _producer(settings)
    _send(producer, [(topic, 0, reference_key(name), value)])
    _activate(settings, producer, name)


def _activate(settings: Settings, producer: Producer, name: Name) -> None:
    kind, ident, version = name
    value = encode("Activate", {"kind": kind, "id": ident, "version": version})
    names = topics(settings)
    places = [(names.usage, number) for number in range(settings.partitions)]
    _send(producer, [(*place, None, value) for place in (*places, (names.leases, 0))])


def _producer(settings: Settings) -> Producer:
    return Producer(producer_config(settings, **{"message.max.bytes": 16 * 2**20}))


def _send(
    producer: Producer,
    records: list[tuple[str, int, bytes | None, bytes | None]],
    headers: list[tuple[str, str | bytes | None]] | None = None,
) -> None:
    faults: list[KafkaError] = []

    def delivered(error: KafkaError | None, _message: Message) -> None:
        if error is not None:
            faults.append(error)

    for topic, partition, key, value in records:
        producer.produce(
            topic, value, key, partition=partition, on_delivery=delivered, headers=headers
        )
    left = producer.flush(_TIMEOUT_S)
    if faults or left:
        detail = faults[0].str() if faults else f"no answer within {_TIMEOUT_S:.0f} s"
        raise OutsideError(f"the broker did not take the publication: {detail}; try again")


def _now() -> int:
    return time.time_ns() // 1000
