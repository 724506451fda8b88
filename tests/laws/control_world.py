"""Usage, reports, loops and policy switches as records, and what the control topic says of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from hypothesis import strategies as st
from tests.builders import (
    NOW,
    TOPICS,
    FakeRecord,
    FakeReferences,
    activate,
    policy,
    record,
    tick,
    usage,
)

from sluice.admission.point import AdmissionPoint
from sluice.metering.prices import default_book
from sluice.runtime.outputs import OutRecord
from sluice.wire.codec import decode

SECOND_US = 1_000_000
DAY = "2027-01-15"
TENANTS, PROJECTS = "ab", "pq"
# A switch is heard by every ladder at the next look, five seconds later at most.
LOOK_US = 5 * SECOND_US

TEXT = """
policy_id: ruled
mode: MODE
budgets:
  - budget_id: money
    scope: [tenant_id]
    unit: usd
    limit: "LIMIT"
    period: day
    rules:
      - {rule_id: slow, at: 50%, action: rate_limit, rate_per_minute: 30}
      - {rule_id: stop, at: 100%, action: block}
  - budget_id: calls
    scope: [tenant_id, project_id]
    unit: requests
    limit: 40
    period: day
    hard: true
    rules: [{rule_id: stop, at: 20%, action: block}]
"""
RISK = """
risk:
  hold_s: 0
  keep_s: 20
  dwell_s: 10
  expires_after_s: 60
  rules:
    - {rule_id: storm, signal: retry_share, at: 40%, min_events: 3, action: rate_limit,
       rate_per_minute: 30}
    - {rule_id: circles, signal: loop, at: 1, action: block, boundary: task}
"""
VERSIONS = ("strict", "mild", "plain", "")
# A task of tenant a goes in circles and retries, and its tenant's money is gone under `strict`.
BEGUN: list[dict[str, Any]] = [
    *({"kind": "tool", "tenant": "a", "project": "p", "number": 31} for _ in range(5)),
    {"kind": "wait", "tenant": "a", "project": "p", "number": 0},
]


def version(name: str, mode: str = "enforce") -> str:
    """Text of a policy: mild and strict have the same risk ladder, plain has none."""
    limit = "0.00005" if name == "strict" else "0.0002"
    text = TEXT.replace("MODE", mode).replace("LIMIT", limit)
    return text if name == "plain" else text + RISK


_KINDS = [*["call"] * 5, *["tool"] * 5, "report", "wait", "switch", "switch"]
_drawn = st.lists(
    st.fixed_dictionaries({
        "kind": st.sampled_from(_KINDS),
        "tenant": st.sampled_from(TENANTS),
        "project": st.sampled_from(PROJECTS),
        "number": st.integers(0, 100),
    }),
    max_size=40,
)  # fmt: skip
steps = st.tuples(st.sampled_from([[], BEGUN]), _drawn).map(lambda both: both[0] + both[1])
Drawn = list[dict[str, Any]]


class Names:
    """The versions of one mode as activations name them."""

    def __init__(self, mode: str = "enforce") -> None:
        self.references = FakeReferences()
        self.book = self.references.put(default_book())
        self.of = {name: self.references.put(policy(version(name, mode))) for name in VERSIONS[:3]}
        self.of[""] = (*self.of["mild"][:2], "")


def records(drawn: Drawn, names: Names) -> Iterator[FakeRecord]:
    """What came in, in order: prices and the strict version first."""
    yield activate(0, names.book)
    yield activate(1, names.of["strict"])
    at, offset = NOW, 2
    for step in drawn:
        waits = step["kind"] == "wait"
        at += SECOND_US * (5 + step["number"] if waits else step["number"] % 3)
        # What time alone brings is said before the switch, in the name of the old version.
        yield tick(offset, at)
        yield one(offset + 1, at, step, names)
        offset += 2
    yield tick(offset, at + LOOK_US)


def one(offset: int, at: int, step: dict[str, Any], names: Names) -> FakeRecord:
    """The record of one step."""
    number, who = step["number"], {"tenant_id": step["tenant"], "project_id": step["project"]}
    if step["kind"] == "switch":
        return activate(offset, names.of[VERSIONS[number % len(VERSIONS)]], at=at)
    if step["kind"] == "wait":
        return tick(offset, at)
    if step["kind"] == "report":
        return record(offset, {
            "holder": "gw", "holder_slot": "gw", "tenant_id": step["tenant"], "period": DAY,
            "source_epoch": "e1", "policy_id": "ruled", "budget_ids": ["calls"],
            "scope": f"project_id={step['project']},tenant_id={step['tenant']}",
            "unit": "requests", "wants": number, "in_flight_reserved": number % 4,
            "interim_spend": 0, "last_seq": 0, "closing": False,
        }, at=at, name="HolderReport")  # fmt: skip
    tool = {"event_type": "tool", "operation_name": "execute_tool", "tool_name": "s",
            "task_id": "t", "tool_args_hash": "x", "result_hash": "r"}  # fmt: skip
    return record(offset, usage(
        offset, occurred_at=at, started_at=at, attempt=1 + number % 2, **who,
        **(tool if step["kind"] == "tool" else {}),
    ), at=at)  # fmt: skip


class Topic:
    """The control topic: everything that was said, and what compaction would leave of it."""

    def __init__(self) -> None:
        self.said: list[tuple[bytes, str, dict[str, Any] | None]] = []
        self.stands: dict[bytes, tuple[str, dict[str, Any]]] = {}
        self.outs: list[OutRecord] = []

    def take(self, outs: Iterable[OutRecord]) -> list[tuple[bytes, str, dict[str, Any] | None]]:
        """Take what a partition published; returns what of it is of the control topic."""
        fresh = [out for out in outs if out.topic == TOPICS.control]
        found = [_read(out) for out in fresh]
        for key, name, fields in found:
            if fields is None:
                self.stands.pop(key, None)
            else:
                self.stands[key] = name, fields
        self.said += found
        self.outs += fresh
        return found

    def standing(self) -> Iterator[dict[str, Any]]:
        """Decisions that stand, without the news that a ladder's signal has eased."""
        for name, fields in self.stands.values():
            eased = name == "Decision" and fields["reason_code"] == "SIGNAL_EASED"
            if name == "Decision" and not (eased and fields["action"] == "allow"):
                yield fields


def _read(out: OutRecord) -> tuple[bytes, str, dict[str, Any] | None]:
    name, fields = decode(out.value) if out.value is not None else ("", None)
    return out.key, name, fields


def point_at(now: list[int]) -> AdmissionPoint:
    """A point that has read an empty topic; its time is the only item of `now`."""
    made = AdmissionPoint(None, clock=lambda: now[0])
    made.adopt(made.empty_state())
    return made
