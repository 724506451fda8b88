"""Usage counted again from its topic, the slow and plain way, to be held against what is stored.

It shares the wire format, the checks, the price of one event, what of it a budget counts and the
calendar with the meter, and nothing else: no marks, no windows, no ledgers, no state. What was seen
is a set, what is summed is a dictionary.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from sluice.enforcement.amounts import amount, scope_of
from sluice.enforcement.budgets import charged_period
from sluice.enforcement.policy import Policy
from sluice.errors import WireError
from sluice.metering.prices import PriceBook
from sluice.metering.rating import cost
from sluice.metering.validate import check_usage
from sluice.periods import PERIOD_KINDS
from sluice.wire.codec import decode

MEASURES = ("events", "input_tokens", "output_tokens", "cost_pusd", "unpriced", "corrected_pusd")
_MINUTE_US = 60_000_000
_AHEAD_US = 5_000_000  # a timestamp further in the future counts as this far ahead

Sums = dict[str, dict[str, int]]  # tenant -> measure -> sum


class LedgerName(NamedTuple):
    """A budget of one scope in one calendar period."""

    policy_id: str
    budget_id: str
    scope: str
    period: str


class UsageRecord(Protocol):
    """One record of the usage topic."""

    @property
    def partition(self) -> int:
        """Number of the partition."""

    @property
    def timestamp(self) -> int:
        """Broker time, ms."""

    @property
    def key(self) -> bytes | None:
        """The tenant."""

    @property
    def value(self) -> bytes | None:
        """The framed record."""


class Published(Protocol):
    """Published policies and price books by (kind, id, version)."""

    def get(self, name: tuple[str, str, str]) -> Any:
        """The version, or None where it was never published."""


class _Place:
    """What is in force at one place of one partition, and its time."""

    def __init__(self) -> None:
        self.time = 0
        self.book: PriceBook | None = None
        self.policies: dict[str, Policy] = {}


class Recount:
    """Sums per tenant of everything that counts, events since `since` (µs UTC) only."""

    def __init__(self, published: Published, since: int = 0) -> None:
        self._published = published
        self._since = since
        self._places: dict[int, _Place] = defaultdict(_Place)
        self._seen: set[tuple[Any, ...]] = set()
        self.records = 0
        self.refused = 0
        self.duplicates = 0
        self.sums: Sums = defaultdict(lambda: dict.fromkeys(MEASURES, 0))
        self.ledgers: dict[LedgerName, int] = defaultdict(int)

    def take(self, record: UsageRecord) -> None:
        """Count one record; those of a partition come in their order."""
        place = self._places[record.partition]
        place.time = max(place.time, record.timestamp * 1000)
        self.records += 1
        try:
            name, fields = decode(record.value or b"")
            if name == "Activate":
                self._activate(place, fields)
            elif name == "UsageEvent":
                self._usage(place, record.key, fields)
        except (WireError, OverflowError):
            self.refused += 1

    def _usage(self, place: _Place, key: bytes | None, event: dict[str, Any]) -> None:
        numbered = event["source_seq"] is not None and event["source_seq"] >= 1
        run = (event["source"], event["source_epoch"], key, event["source_seq"])
        identity = run if numbered else (event["source"], event["event_id"])
        if identity in self._seen:
            self.duplicates += 1
            return
        if numbered:  # the number counts, even where the event is faulty
            self._seen.add(identity)
        check_usage(event, key, place.time)
        self._seen.add(identity)
        if event["event_type"] != "admission":
            self._add(place, event)

    def _add(self, place: _Place, event: dict[str, Any]) -> None:
        rated = cost(place.book, event)
        spent = 0 if rated is None else rated.cost_pusd
        correction = event["event_type"] == "correction"
        if min(event["occurred_at"], place.time + _AHEAD_US) >= self._since:
            sums = self.sums[event["tenant_id"]]
            sums["events"] += not correction
            sums["input_tokens"] += event["input_tokens"]
            sums["output_tokens"] += event["output_tokens"]
            sums["cost_pusd"] += spent
            sums["unpriced"] += _unpriced(event, priced=rated is not None)
            sums["corrected_pusd"] += spent if correction else 0
        self._charge(place, event, None if rated is None else spent)

    def _charge(self, place: _Place, event: Mapping[str, Any], price: int | None) -> None:
        """Charge what has a calendar: what stands in a rolling period depends on when one looks."""
        for policy in place.policies.values():
            for budget in policy.budgets:
                scope = scope_of(budget, event)
                if scope is None or budget.period not in PERIOD_KINDS:
                    continue
                period = charged_period(budget, event["started_at"])
                if period.start >= self._since:
                    name = LedgerName(policy.policy_id, budget.budget_id, scope, period.period_id)
                    self.ledgers[name] += amount(budget.ledger_unit, event, price)

    def _activate(self, place: _Place, fields: Mapping[str, Any]) -> None:
        kind, ident, version = fields["kind"], fields["id"], fields["version"]
        found: Any = self._published.get((kind, ident, version)) if version else None
        if version and found is None:
            return  # the meter refuses it, too
        if kind == "price_book":
            place.book = found
        elif kind == "policy" and found is None:
            place.policies.pop(ident, None)
        elif kind == "policy":
            place.policies[ident] = found


def _unpriced(event: Mapping[str, Any], *, priced: bool) -> int:
    """What an event adds to the count of events without a price; a correction may give one."""
    if event["event_type"] != "correction":
        return int(not priced)
    return -int(priced and event["original_cost_pusd"] is None)


def first_whole_minute(instant: int) -> int:
    """The first whole minute from which on a topic that begins at `instant` (µs) holds all usage.

    Timestamps ahead of the broker are clamped, so that nothing of a later minute came before.
    """
    return -(-(instant + _AHEAD_US) // _MINUTE_US) * _MINUTE_US
