"""A request that was let in, until it settles: what it holds, what it came to, when to stop.

with point.reserve(request) as reservation:
    for chunk in upstream:
        if reservation.stop:
            break
        reservation.progress(output_tokens=tokens_so_far)
    reservation.commit(input_tokens=1200, output_tokens=300)
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from functools import cached_property
from types import TracebackType
from typing import Any, Protocol, Self

from sluice.admission.accounts import Hold
from sluice.admission.amounts import used
from sluice.admission.handed import MAX_ATTRIBUTES, checked
from sluice.admission.outcomes import OUTCOMES, Ending, ended_by
from sluice.admission.plan import Plan
from sluice.admission.queueing import Gate
from sluice.admission.verdict import AdmissionRequest, Verdict
from sluice.errors import OutsideError, SluiceError

_TOKENS = ("input_tokens", "output_tokens")

_log = logging.getLogger(__name__)


class Keeps(Protocol):
    """Whoever gave a reservation out, and settles it."""

    def settle(self, reservation: Reservation, usage: Mapping[str, Any] | None) -> bool:
        """Turn holds into what was spent, None = nothing; False if that was done before."""

    def publish(self, event: Mapping[str, Any]) -> None:
        """Emit the event of a reservation's end."""

    def settle_later(self, reservation: Reservation, event: Mapping[str, Any]) -> None:
        """Settle by an event that could not be emitted, and emit it when that can be."""

    def lose(self, reservation: Reservation) -> None:
        """Take the holds of one that nobody has any more."""

    def extend(self, reservation: Reservation, amounts: Mapping[str, int]) -> None:
        """Hold more; raises Refused."""

    def progressed(self, reservation: Reservation, usage: Mapping[str, Any]) -> None:
        """Note what was spent so far."""

    def event_of(self, reservation: Reservation, usage: Mapping[str, Any], ending: Ending
                 ) -> dict[str, Any]:  # fmt: skip
        """The usage event of a reservation that ends like this."""


class Reservation:
    """Settles exactly once: at `commit`, `release`, or the end of its `with` block.

    A block that ends without either commits what `progress` told, or the whole estimate where it
    told nothing; one that is cancelled commits what was streamed; one that an exception leaves
    commits what is known, and releases where nothing is. `request` is the request as it must run:
    its model, pool, priority and `max_output_tokens` are those that the verdict leaves.
    """

    def __init__(self, keeper: Keeps, new_id: Callable[[], str], plan: Plan, verdict: Verdict,
                 holds: list[Hold], started_at: int) -> None:  # fmt: skip
        self._keeper = keeper
        self._new_id = new_id
        self.request: AdmissionRequest = plan.request
        self.degraded_from = plan.degraded_from
        self.verdict = verdict
        self.holds = holds
        self.started_at = started_at
        self.number = 0
        # The queue that it came through, and how long that took.
        self.gate: Gate | None = None
        self.queue_us: int | None = None
        self.settled = False
        self.interim: Mapping[str, Any] = {}
        self.stopped_by: Verdict | None = None
        self._event: dict[str, Any] | None = None
        self._lock = threading.Lock()
        self._callbacks: list[Callable[[Verdict], None]] = []

    @cached_property
    def reservation_id(self) -> str:
        """Its id."""
        return self._new_id()

    @cached_property
    def event_id(self) -> str:
        """Id of the usage event that `commit` emits."""
        return self._new_id()

    @property
    def lease_id(self) -> str | None:
        """The first lease that it holds of; None without a hard budget."""
        grants = (hold.account.grant for hold in self.holds)
        return next((grant["lease_id"] for grant in grants if grant is not None), None)

    def fields(self, others: Mapping[str, Any]) -> dict[str, Any]:
        """Fields of UsageEvent, beside `others`, that say what was reserved and what changed."""
        fields: dict[str, Any] = {}
        if self.holds:
            fields |= {"reservation_id": self.reservation_id, "lease_id": self.lease_id}
        if self.queue_us is not None:
            fields["queue_us"] = self.queue_us
        if self.degraded_from is not None:
            changed = {"key": "degraded_from", "value": self.degraded_from}
            kept = [a for a in others.get("attributes", ()) if a["key"] != "degraded_from"]
            fields["attributes"] = [*kept[: MAX_ATTRIBUTES - 1], changed]
        return fields

    def ended(self, ending: Ending) -> Ending:
        """An ending as it is told: what ran on another model, or was told to stop, says so."""
        if ending.outcome != "ok":
            return ending
        if self.stop:
            return Ending("preempted")
        return Ending("degraded") if self.degraded_from is not None else ending

    # ---- while it runs

    @property
    def stop(self) -> bool:
        """Whether it is told to stop; what it has used by then is charged as usual."""
        return self.stopped_by is not None

    def on_stop(self, callback: Callable[[Verdict], None]) -> None:
        """Call back, on another thread, with the verdict that stops it; at once if one did."""
        self._callbacks.append(callback)
        if self.stopped_by is not None:
            callback(self.stopped_by)

    def stop_now(self, verdict: Verdict) -> None:
        """Tell whoever runs it to stop."""
        self.stopped_by = verdict
        for callback in self._callbacks:
            try:
                callback(verdict)
            except Exception:
                _log.exception("stopping reservation %s", self.reservation_id)

    def progress(self, usage: Mapping[str, Any] | None = None, /, **fields: Any) -> None:
        """Say what was used so far, in fields of UsageEvent; absolute values, later ones win."""
        told = {**self.interim, **checked({**(usage or {}), **fields})}
        self._keeper.progressed(self, told)

    def streamed(self, usage: Mapping[str, Any]) -> None:
        """`progress` in fields that were checked already."""
        self._keeper.progressed(self, {**self.interim, **usage})

    def extend(self, **amounts: int) -> None:
        """Hold more of these units, such as output_tokens; raises Refused where there is none."""
        with self._lock:
            if self.settled:
                raise SluiceError(f"reservation {self.reservation_id} has settled")
            self._keeper.extend(self, amounts)

    # ---- ending

    def commit(
        self, usage: Mapping[str, Any] | None = None, /, *, outcome: str = "ok",
        error_type: str | None = None, **fields: Any,
    ) -> bool:  # fmt: skip
        """Charge what was used and emit its usage event; False if it had settled before.

        `usage` and `fields` are fields of UsageEvent over what `progress` told. Raises WireError
        where they cannot be, OutsideError where the event is not taken; then it may be called
        again.
        """
        if outcome not in OUTCOMES:
            raise ValueError(f"outcome is one of {', '.join(sorted(OUTCOMES))}, not {outcome!r}")
        told = {**self.interim, **checked({**(usage or {}), **fields})}
        return self._commit(told, Ending(outcome, error_type))

    def _commit(self, told: Mapping[str, Any], ending: Ending) -> bool:
        with self._lock:
            if self.settled:
                return False
            if self._event is None:
                self._event = self._keeper.event_of(self, told, self.ended(ending))
            return self._charge(self._event, self._keeper.publish)

    def charge(
        self, event: Mapping[str, Any], publish: Callable[[Mapping[str, Any]], object]
    ) -> bool:
        """Publish the event of its end and charge it; False if it had settled before."""
        with self._lock:
            return not self.settled and self._charge(event, publish)

    def _charge(
        self, event: Mapping[str, Any], publish: Callable[[Mapping[str, Any]], object]
    ) -> bool:
        # Usage first: a report in between counts it twice rather than not at all.
        publish(event)
        return self._keeper.settle(self, event)

    def release(self) -> bool:
        """Give everything back, nothing was used; False if it had settled before."""
        with self._lock:
            return not self.settled and self._keeper.settle(self, None)

    def disown(self) -> None:
        """In a forked child: it is the parent's to settle."""
        self._lock = threading.Lock()
        self.settled = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:  # fmt: skip
        if self.settled:
            return
        ending = ended_by(error)
        if ending.outcome == "error" and not self.interim:
            self.release()
            return
        try:
            self._commit(self._known(ending), ending)
        except OutsideError:
            self._keep_event()
            if error is None:
                raise
            _log.exception("usage event %s waits", self.event_id)
        except SluiceError:
            if error is None:
                raise
            _log.exception("usage event %s was not emitted", self.event_id)

    def _keep_event(self) -> None:
        with self._lock:
            if self._event is not None and not self.settled:
                self._keeper.settle_later(self, self._event)

    def _known(self, ending: Ending) -> dict[str, Any]:
        """What is known of usage at an end without a commit."""
        request = self.request
        estimates = {"input_tokens": request.input_tokens}
        if ending.outcome == "ok" and not self.interim:
            estimates["output_tokens"] = request.max_output_tokens
        given = {name: amount for name, amount in estimates.items() if amount is not None}
        source = {"usage_source": "estimated"} if given.keys() & set(_TOKENS) else {}
        return {**source, **given, **self.interim}

    def __del__(self) -> None:
        if (self.holds or self.gate is not None) and not self.settled:
            self._keeper.lose(self)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None,
                        trace: TracebackType | None) -> None:  # fmt: skip
        self.__exit__(kind, error, trace)


def interim_of(hold: Hold, usage: Mapping[str, Any]) -> int:
    """What an open reservation has spent so far of what it holds; nothing while nothing is told."""
    return (used(hold.account.key.unit, usage) or 0) if usage else 0
