"""Laws of who is in command: versions that are switched, and policies that only watch."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from tests.builders import partition
from tests.laws.control_world import (
    LOOK_US,
    TENANTS,
    Drawn,
    Names,
    Topic,
    point_at,
    records,
    steps,
)

from sluice.admission.verdict import AdmissionRequest
from sluice.wire.codec import decode

REQUESTS = [
    AdmissionRequest(tenant, "p", "m", task_id=task, priority=priority)
    for tenant in TENANTS
    for task in (None, "t")
    for priority in ("guaranteed", "batch")
]
# What a version's mode may change in a decision: its name, and what is made from it.
OF_THE_MODE = ("mode", "policy_version", "decision_id", "supersedes")


@settings(max_examples=60, deadline=None)
@given(drawn=steps)
def test_after_a_switch_only_the_version_in_force_is_obeyed(drawn: Drawn) -> None:
    """Everything said names the version under which it was said; a rollback leaves none behind.

    Decisions of budgets are those of the version in force from the switch on, those of ladders
    from the next look on; a policy that is taken out leaves nothing that stands.
    """
    names, topic, now, switched_at = Names(), Topic(), [0], 0
    part, point = partition(names.references), point_at(now)
    for made in records(drawn, names):
        part.apply([made])
        now[0] = made.timestamp * 1000
        outs = part.take()
        in_force = part.state.header.policies.get("ruled", "")
        if _activates(made):
            switched_at = now[0]
        for _, name, fields in topic.take(outs):
            if fields is not None and name in ("Decision", "LeaseGrant", "BudgetRule"):
                assert fields["policy_version"] == in_force, name
        settled = now[0] - switched_at >= LOOK_US
        for decision in topic.standing():
            if settled or decision["rule_id"] != "risk" or not in_force:
                assert decision["policy_version"] == in_force
        for out in topic.outs:
            point.apply(0, out.key, out.value)
        topic.outs.clear()
        if settled or not in_force:
            verdicts = [point.admit(request) for request in REQUESTS]
            assert {v.policy_version for v in verdicts if v.decision_id} <= {in_force}


def _activates(made: Any) -> bool:
    name, fields = decode(made.value)
    return name == "Activate" and fields["kind"] == "policy"


@settings(max_examples=40, deadline=None)
@given(drawn=steps)
def test_shadow_decides_what_enforce_would_and_nobody_obeys(drawn: Drawn) -> None:
    """The same decisions at the same places but for mode, names and keys; grants are equal too."""
    said: dict[str, list[Any]] = {}
    for mode in ("enforce", "shadow"):
        names, topic, now = Names(mode), Topic(), [0]
        part, point = partition(names.references), point_at(now)
        for made in records(drawn, names):
            part.apply([made])
            now[0] = made.timestamp * 1000
            topic.take(part.take())
            for out in topic.outs:
                point.apply(0, out.key, out.value)
            topic.outs.clear()
            if mode == "shadow":
                assert all(point.admit(request).allowed for request in REQUESTS)
                assert point.reserve(REQUESTS[0]).release()
        said[mode] = [
            (key.replace(f"|{mode}|".encode(), b"|"), name, _without_mode(fields))
            for key, name, fields in topic.said
        ]
    assert said["shadow"] == said["enforce"]


def _without_mode(fields: dict[str, Any] | None) -> dict[str, Any] | None:
    return fields and {name: fields[name] for name in fields if name not in OF_THE_MODE}
