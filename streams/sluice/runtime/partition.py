"""One partition's usage applied in order: state in, state and outputs out, no clock, no Kafka.

Time is the highest broker timestamp seen. Work that depends on time happens at second borders of
that time, before the record that crosses the border, so chunk borders change nothing. A row's
version is the input position it covers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sluice.errors import WireError
from sluice.metering.dedupe import Mark, Seen, observe
from sluice.metering.prices import PriceBook
from sluice.metering.rating import cost
from sluice.metering.validate import check_usage
from sluice.metering.windows import row_record
from sluice.money import checked_sum
from sluice.runtime.governance import Governance, ReferenceStore
from sluice.runtime.outputs import Outbox, OutRecord, Record
from sluice.runtime.state import State
from sluice.wire.codec import decode, encode
from sluice.wire.topics import Topics

SECOND_US = 1_000_000
PUBLISH_S = 5
_SWEEP_S = 60


class Partition:
    """Applies records of one usage partition."""

    def __init__(
        self, topics: Topics, number: int, state: State, references: ReferenceStore, *,
        epoch: int, generation: int = 0,
    ) -> None:  # fmt: skip
        self.number = number
        self.state = state
        self._topics = topics
        self._references = references
        self.epoch = (generation << 32) + epoch
        self._version_base = generation << 48
        self._outbox = Outbox(topics, number)
        self._governance = Governance(
            state, self._outbox, references, epoch=self.epoch, version_base=self._version_base
        )
        self.waiting_for: tuple[str, str, str] | None = None

    @property
    def urgent(self) -> bool:
        """Whether a decision waits to be committed."""
        return self._outbox.urgent

    def ready(self) -> bool:
        """Whether every version in force is at hand; `waiting_for` names the one that is not."""
        header = self.state.header
        names = [("policy", *item) for item in header.policies.items()]
        if header.price_book:
            names.append(("price_book", *header.price_book))
        self.waiting_for = next((n for n in names if self._references.get(n) is None), None)
        return self.waiting_for is None

    def apply(self, records: Sequence[Record]) -> int:
        """Apply records in order and return how many were.

        Fewer than all means that the next one activates a version that has not arrived yet.
        """
        for index, record in enumerate(records):
            try:
                name, fields = decode(record.value or b"")
            except WireError as error:
                self._advance(record)
                self._dead_letter(record, error)
                continue
            if name == "Activate" and not self._at_hand(fields):
                return index
            self._advance(record)
            self._dispatch(record, name, fields)
        return len(records)

    def take(self) -> list[OutRecord]:
        """State changes and outputs since the last call, as one checkpoint writes them."""
        changelog = self._topics.meter_state
        rows = [OutRecord(changelog, self.number, k, v) for k, v in self.state.take_changes()]
        return rows + self._outbox.take()

    def next_due(self) -> int | None:
        """Broker time at which work waits even if no record comes (µs), or None."""
        state, time = self.state, self.state.header.time
        dues = [led.expires_at for led in state.ledgers.values() if led.expires_at is not None]
        if state.windows.dirty or any(led.dirty for led in state.ledgers.values()):
            dues.append((time // SECOND_US // PUBLISH_S + 1) * PUBLISH_S * SECOND_US)
        closing = state.windows.next_due()
        return min([*dues, *([] if closing is None else [closing])], default=None)

    # ---- time

    def _advance(self, record: Record) -> None:
        header = self.state.header
        header.time = max(header.time, record.timestamp * 1000)
        self.state.touch_header()
        slot = header.time // SECOND_US
        if slot == header.slot:
            return
        last, header.slot = header.slot, slot
        self._governance.lift_expired(header.time)
        if slot // PUBLISH_S != last // PUBLISH_S:
            self._publish(record.offset)
        if slot // _SWEEP_S != last // _SWEEP_S:
            self._sweep(header.time)

    def _publish(self, position: int) -> None:
        state, time = self.state, self.state.header.time
        for key in state.windows.close_due(time):
            state.touch_window(key)
        for window, sums in state.windows.take_dirty():
            state.touch_window(window)
            row = row_record(window, sums, time, self._version_base + position)
            self._outbox.row(self._topics.windows, window.tenant_id, encode("WindowRow", row))
        for ledger_key in sorted(key for key, led in state.ledgers.items() if led.dirty):
            self._governance.publish(ledger_key, position)

    def _sweep(self, time: int) -> None:
        for key in self.state.windows.evict(time):
            self.state.touch_window(key)
        self.state.forget_old(time)

    # ---- records

    def _dispatch(self, record: Record, name: str, fields: dict[str, Any]) -> None:
        if name == "UsageEvent":
            try:
                self._usage(record, fields)
            except WireError as error:
                self._dead_letter(record, error)
            except OverflowError as error:
                self._dead_letter(record, WireError("sum_overflow", str(error)))
        elif name == "Activate":
            self._activate(record, fields)
        elif name not in ("Tick", "HolderReport"):
            self._dead_letter(record, WireError("unexpected_record", f"{name} on a usage topic"))

    def _usage(self, record: Record, event: dict[str, Any]) -> None:
        state, time = self.state, self.state.header.time
        try:
            check_usage(event, record.key, time)
        except WireError:
            if self._sequence(record, event, time) is Seen.DUPLICATE:
                state.count("duplicates")
                return
            raise
        seen = self._sequence(record, event, time)
        if seen is Seen.DUPLICATE:
            state.count("duplicates")
            return
        if seen is Seen.RECOVERED:
            state.count("recovered")
        self._charge(record, event, time)

    def _sequence(self, record: Record, event: dict[str, Any], time: int) -> Seen:
        number = event["source_seq"]
        if number is None or number < 1:
            return self._unnumbered(event, time)
        key = (event["source"], event["source_epoch"], (record.key or b"").decode(errors="replace"))
        row = self.state.marks.get(key)
        before = row.mark() if row else Mark()
        mark, seen = observe(before, number)
        if seen is not Seen.DUPLICATE:
            self.state.set_mark(key, mark, time)
            if mark.lost > before.lost:
                self.state.count("lost", mark.lost - before.lost)
        return seen

    def _unnumbered(self, event: dict[str, Any], time: int) -> Seen:
        identity = event["source"], event["event_id"]
        if identity in self.state.unnumbered:
            return Seen.DUPLICATE
        self.state.remember(*identity, time)
        return Seen.NEW

    def _charge(self, record: Record, event: dict[str, Any], time: int) -> None:
        """Add an event to its window and its budgets, all or none of them."""
        state = self.state
        book = self._price_book()
        price = _price(book, event)
        due = self._governance.ledgers_due(event)
        for charge in due:
            checked_sum(charge.ledger.settled_pusd, price or 0)
        unprotected = event["source_seq"] is None and (
            time - event["occurred_at"] > state.dedupe_window_us
        )
        window = state.windows.key_of(event, time, unprotected=unprotected)
        state.windows.add(window, event, price, book.version if book else None)
        state.touch_window(window)
        state.count("unprotected", unprotected)
        state.count("late", bool(window.lane))
        if event["event_type"] == "admission":
            state.count("admission_events")
            return
        state.count("events")
        state.count("unpriced", price is None)
        for charge in due:
            self._governance.settle(record, event, price, charge)

    # ---- versions

    def _at_hand(self, fields: dict[str, Any]) -> bool:
        name = (fields["kind"], fields["id"], fields["version"])
        if fields["kind"] not in ("policy", "price_book") or not fields["version"]:
            return True
        arrived = self._references.get(name) is not None or self._references.is_faulty(name)
        self.waiting_for = None if arrived else name
        return arrived

    def _activate(self, record: Record, fields: dict[str, Any]) -> None:
        kind, ident, version = fields["kind"], fields["id"], fields["version"]
        if kind not in ("policy", "price_book"):
            self._dead_letter(record, WireError("unknown_activation", f"kind {kind!r}"))
        elif version and self._references.get((kind, ident, version)) is None:
            self._dead_letter(record, WireError("bad_reference", f"{kind} {ident} {version}"))
        elif kind == "price_book":
            self.state.header.price_book = (ident, version) if version else None
        else:
            self._governance.switch_policy(record, ident, version)

    def _price_book(self) -> PriceBook | None:
        if self.state.header.price_book is None:
            return None
        book: PriceBook | None = self._references.get(("price_book", *self.state.header.price_book))
        return book

    def _dead_letter(self, record: Record, error: WireError) -> None:
        self.state.count("dead_letters")
        self.state.count(f"dead_letters.{error.reason}")
        self._outbox.dead_letter(record, error)


def _price(book: PriceBook | None, event: dict[str, Any]) -> int | None:
    if event["event_type"] == "admission":
        return 0
    rated = cost(book, event)
    return None if rated is None else rated.cost_pusd
