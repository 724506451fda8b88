"""What of a killed gateway's usage is on the topic: looked up before its successor goes on."""

from __future__ import annotations

from collections.abc import Iterator

from sluice.errors import WireError
from sluice.settings import Settings
from sluice.wire.codec import decode
from sluice.wire.kafka import topics
from sluice.wire.scan import committed_records


def published_ids(settings: Settings, source: str) -> set[str]:
    """Ids of the usage events of `source` on the usage topic, which is read whole."""
    records = committed_records(settings, topics(settings).usage)
    return {ident for record in records for ident in ids_in(record.value or b"", source)}


def ids_in(value: bytes, source: str) -> Iterator[str]:
    """The id of a usage event of `source`; nothing for any other record."""
    try:
        name, event = decode(value)
    except WireError:  # somebody else's; the meter dead-letters it
        return
    if name == "UsageEvent" and event["source"] == source:
        yield event["event_id"]
