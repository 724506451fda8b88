"""What charging a run of 5,000 events to one budget costs.

PYTHONPATH=streams:. python -m tests.bench.budget_charge
"""

from __future__ import annotations

import random
import time

import numpy as np
from tests.builders import NOW, TOPICS, FakeRecord, FakeReferences, policy, usage

from sluice.runtime.governance import Governance
from sluice.runtime.governing_columns import Charged
from sluice.runtime.incoming import Incoming
from sluice.runtime.outputs import Outbox
from sluice.runtime.state import State
from sluice.wire.codec import encode

EVENTS, TENANTS = 5000, 200
BUDGET = """
  - budget_id: {name}
    scope: [{scope}]
    unit: {unit}
    limit: {limit}
    period: {period}
    hard: {hard}
    rules: [{{rule_id: stop, at: 100%, action: block}}]
"""
CASES = {
    "money of tenants": ("tenant_id", "usd", "9000000", "day"),
    "tokens of projects": ("tenant_id, project_id", "tokens", "900000000000", "day"),
    "requests of models": ("tenant_id, model", "requests", "900000000000", "hour"),
    "rolling tokens": ("tenant_id", "tokens", "900000000000", "rolling\n    rolling: 24h"),
    "hard tokens": ("tenant_id", "tokens", "900000000000", "day"),
    "at its limit": ("tenant_id", "tokens", "3000", "day"),
}


def main() -> None:
    """Print µs per event and budget, best of six runs, the first of which opens all ledgers."""
    draw = random.Random(1)
    records = []
    for n in range(EVENTS):
        tenant = f"t{int(TENANTS * draw.random() ** 2)}"
        event = usage(n + 1, tenant_id=tenant, project_id=f"p{draw.randrange(3)}",
                      request_model=f"m{draw.randrange(4)}")  # fmt: skip
        records.append(FakeRecord(n, NOW // 1000, tenant.encode(), encode("UsageEvent", event)))
    for name, (scope, unit, limit, period) in CASES.items():
        text = BUDGET.format(name="b", scope=scope, unit=unit, limit=limit, period=period,
                             hard=str(name.startswith("hard")).lower())  # fmt: skip
        made = policy("policy_id: bench\nbudgets:" + text)
        references = FakeReferences(made)
        best, first = 1e9, 0.0
        state = State(0, 0)
        state.header.time, state.header.policies = NOW, {"bench": made.version}
        of = Governance(state, Outbox(TOPICS, 0), references, epoch=1, version_base=0)
        for _ in range(6):
            run = Incoming(records, NOW).run(0, EVENTS)
            charged = Charged(run, np.full(EVENTS, 1000), np.ones(EVENTS, dtype=np.bool_))
            for column in ("tenant_id", "event_type", "outcome"):
                run.usage.coded(column)  # what accounting has looked for before
            begun = time.perf_counter()
            of.charge(charged)
            took = (time.perf_counter() - begun) / EVENTS * 1e6
            first, best = first or took, min(best, took)
        ledgers = len(state.ledgers)
        print(f"{name:20} {best:6.3f} µs per event, the first run {first:6.3f}; {ledgers} ledgers")


if __name__ == "__main__":
    main()
