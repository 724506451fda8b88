"""Holders that keep to the contract of leases, and what is truly spent: slow, plain, no meter.

A holder reserves in every budget of a request, only within its grants and before they expire. It
counts its own usage; nothing else tells it what it may do.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sluice.enforcement.leases import CLOSED, OPEN, PRESUMED
from sluice.runtime.state import State

PROJECTS = ("p", "q")
Ledger = tuple[str, str]  # budget_id, scope


def chain(project: str) -> list[Ledger]:
    """The ledgers that a request of a project reserves in."""
    return [("project", f"project_id={project},tenant_id=acme"), ("tenant", "tenant_id=acme")]


@dataclass
class Request:
    """One admitted request: its project and what is reserved for it."""

    project: str
    reserved: int


@dataclass
class Holder:
    """One place of an admission point; `epoch` counts its processes."""

    name: str
    epoch: int = 1
    seq: int = 0
    committed: dict[Ledger, int] = field(default_factory=dict)
    running: list[Request] = field(default_factory=list)
    grants: dict[Ledger, dict[str, Any]] = field(default_factory=dict)
    inbox: list[dict[str, Any]] = field(default_factory=list)
    ended: list[tuple[str, int, list[Request]]] = field(default_factory=list)

    @property
    def process(self) -> str:
        """source_epoch of the process that runs."""
        return f"e{self.epoch}"

    def deliver(self) -> None:
        """See what was granted."""
        for message in self.inbox:
            if message["source_epoch"] == self.process:
                scope = {k: v for k, v in message["scope"].items() if v is not None}
                text = ",".join(f"{k}={v}" for k, v in sorted(scope.items()))
                self.grants[message["budget_id"], text] = message
        self.inbox.clear()

    def reserved(self, ledger: Ledger) -> int:
        """What running requests hold of a ledger."""
        return sum(r.reserved for r in self.running if ledger in chain(r.project))

    def unheard(self, ledger: Ledger) -> int:
        """What requests of ended processes have used of a ledger and nobody was told yet."""
        lost = [request for _, _, running in self.ended for request in running]
        return sum(r.reserved for r in lost if ledger in chain(r.project))

    def reserve(self, project: str, amount: int, now: int) -> bool:
        """Admit a request if every lease has room for it."""
        for ledger in chain(project):
            grant = self.grants.get(ledger)
            taken = self.committed.get(ledger, 0) + self.reserved(ledger)
            if grant is None or now >= grant["expires_at"]:
                return False
            if taken + amount > grant["granted_total"]:
                return False
        self.running.append(Request(project, amount))
        return True

    def finish(self, number: int, part: int) -> tuple[Request, int] | None:
        """End a request; it used `part` percent of what was reserved."""
        if not self.running:
            return None
        request = self.running.pop(number % len(self.running))
        used = request.reserved * part // 100
        for ledger in chain(request.project):
            self.committed[ledger] = self.committed.get(ledger, 0) + used
        self.seq += 1
        return request, used

    def crash(self) -> None:
        """Stop; a new process begins at the same place and finds what was not emitted yet."""
        self.ended.append((self.process, self.seq, self.running))
        self.epoch, self.seq = self.epoch + 1, 0
        self.committed, self.grants, self.running = {}, {}, []


def committed(state: State, budget_id: str, scope: str) -> int:
    """What is settled of a ledger and what holders have, leases added up from nothing."""
    ledger = next(l for k, l in state.ledgers.items() if k[1:3] == (budget_id, scope))
    return ledger.settled + sum(
        _has(state, budget_id, scope, process)
        for process in {(key.holder, key.source_epoch) for key in state.leases}
    )


def _has(state: State, budget_id: str, scope: str, process: tuple[str, str]) -> int:
    own = below = 0
    for key, lease in state.leases.items():
        if (key.holder, key.source_epoch) != process:
            continue
        have = {OPEN: max(lease.counted, lease.base), PRESUMED: max(lease.counted, lease.base),
                CLOSED: lease.base}.get(lease.phase, 0)  # fmt: skip
        have = max(0, have - lease.settled)
        if (key.budget_id, key.scope) == (budget_id, scope):
            own += have
        elif budget_id == "tenant":
            below += have
    return max(own, below)
