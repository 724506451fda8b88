"""Corrections of stored usage: read from ClickHouse, published on usage.v1, awaited in ClickHouse.

One at a time per stack: what a correction is relative to must not change under it. What an earlier
run left in its log is sent and stored first, so that nothing is corrected twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from sluice.errors import ConfigError, OutsideError
from sluice.feedback.by_hand import Wanted, check_wanted, correct
from sluice.feedback.rerate import Rerating, Summary
from sluice.feedback.standing import Standing, standing
from sluice.metering.prices import PriceBook, default_book, load_book
from sluice.runtime.barrier import wait_until_stored
from sluice.runtime.publish import keep_price_book
from sluice.settings import Settings
from sluice.warehouse.usage_rows import Range, UsageRows
from sluice.wire import wal_lock
from sluice.wire.codec import decode
from sluice.wire.emitter import UsageEmitter
from sluice.wire.kafka import producer_config, topics, wait_for_broker
from sluice.wire.scan import committed_records

SOURCE = "sluice-corrections"
_FLUSH_S = 60.0
_FULL_MS = 60_000
_TELL_EVERY = 50_000

Tell = Callable[[str], None]


class Rerated(NamedTuple):
    """What a re-rating found, and how many corrections it published."""

    summary: Summary
    emitted: int


def preview(settings: Settings, book: PriceBook, wanted: Range, tell: Tell) -> Summary:
    """What a re-rating would change; nothing is published."""
    rerating = Rerating(book, _now())
    for _ in rerating.corrections(_read(settings, wanted, tell)):
        pass
    return rerating.summary


def rerate(settings: Settings, book: PriceBook, wanted: Range, tell: Tell) -> Rerated:
    """Publish the corrections that bring usage to `book` and wait until they are stored.

    Raises OutsideError where Kafka, ClickHouse or the sink are away; what was published by then
    counts, and the same call goes on from there.
    """
    with _correcting(settings) as emitter:
        keep_price_book(settings, book)
        rerating = Rerating(book, _now())
        made = rerating.corrections(_read(settings, wanted, tell))
        emitted = _emit(settings, emitter, made)
    return Rerated(rerating.summary, emitted)


def correct_event(settings: Settings, event_id: str, wanted: Wanted) -> dict[str, Any]:
    """Publish one correction asked for by a person and wait until it is stored; returns it.

    Raises ConfigError where the event is not stored or the correction would say nothing.
    """
    check_wanted(wanted)
    with _correcting(settings) as emitter:
        stands = _find(settings, event_id)
        made = correct(stands, wanted, _book_of(settings, stands), _now())
        _emit(settings, emitter, [made])
    return made


def published_book(settings: Settings, version: str) -> PriceBook:
    """The price book of that version: the packaged one, or as published; ConfigError if neither."""
    if default_book().version == version:
        return default_book()
    for record in committed_records(settings, topics(settings).reference):
        name, fields = decode(record.value) if record.value else ("", {})
        if name == "PriceBook" and fields["version"] == version:
            return load_book(fields["body"])
    raise ConfigError(f"price book {version} was never published; name its file with --book")


def _book_of(settings: Settings, stands: Standing) -> PriceBook | None:
    version = stands.original["price_book_version"]
    return None if version is None else published_book(settings, version)


def _find(settings: Settings, event_id: str) -> Standing:
    rows = UsageRows(settings)
    try:
        found = [stands for group in rows.event(event_id) if (stands := standing(group))]
    finally:
        rows.close()
    if len(found) != 1:
        how = "not stored" if not found else f"stored for {len(found)} tenants"
        raise ConfigError(f"event {event_id} is {how}; give the event_id of one original event")
    return found[0]


def _read(settings: Settings, wanted: Range, tell: Tell) -> Iterator[list[dict[str, Any]]]:
    rows = UsageRows(settings)
    try:
        total, done = rows.count(wanted), 0
        tell(f"{total:,} rows to look at")
        for group in rows.groups(wanted):
            yield group
            before, done = done, done + len(group)
            if before // _TELL_EVERY != done // _TELL_EVERY:
                tell(f"{done:,} of {total:,} rows")
    finally:
        rows.close()


@contextmanager
def _correcting(settings: Settings) -> Iterator[UsageEmitter]:
    wait_for_broker(settings, timeout_s=10)
    folder = settings.dir / "corrections"
    folder.mkdir(parents=True, exist_ok=True)
    lock = wal_lock.hold(folder)
    if lock is None:
        raise OutsideError("another correction runs on this stack; wait for its end and try again")
    try:
        with UsageEmitter(producer_config(settings), topics(settings).usage, SOURCE,
                          folder / "wal", full_timeout_ms=_FULL_MS) as emitter:  # fmt: skip
            _flush(emitter)
            wait_until_stored(settings)
            yield emitter
    finally:
        wal_lock.release(lock)


def _emit(settings: Settings, emitter: UsageEmitter, made: Iterable[Mapping[str, Any]]) -> int:
    emitted = 0
    for event in made:
        emitter.emit(event)
        emitted += 1
    _flush(emitter)
    wait_until_stored(settings)
    return emitted


def _flush(emitter: UsageEmitter) -> None:
    if left := emitter.flush(_FLUSH_S):
        raise OutsideError(
            f"{left} corrections are not acknowledged yet; they stay in the log and are sent "
            "first by the next run"
        )


def _now() -> int:
    return time.time_ns() // 1000
