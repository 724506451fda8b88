"""Who is in command, on a running stack: versions that are switched under traffic, and shadows."""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from tests.gateways import chat, gateway, price, publish, shown
from tests.integration.conftest import Stack, until
from tests.integration.test_controllers import Said, control

from sluice.admission.point import AdmissionPoint
from sluice.admission.verdict import AdmissionRequest, Refused
from sluice.errors import WireError
from sluice.replay.arena import packaged_trace
from sluice.replay.events import Schedule, usage_event
from sluice.runtime.publish import withdraw_policy
from sluice.settings import Settings
from sluice.wire.codec import decode
from sluice.wire.kafka import topics
from sluice.wire.scan import committed_records

pytestmark = pytest.mark.integration

SPOKEN = ("BudgetRule", "Decision", "LeaseGrant")


class Heard:
    """All that the control topic ever said of some policies; compaction takes nothing from it."""

    def __init__(self, settings: Settings, *policy_ids: str) -> None:
        self._settings, self._policy_ids = settings, policy_ids
        self._said: dict[tuple[int, int], Said] = {}

    def hear(self) -> dict[str, list[Said]]:
        """What each policy says, partition by partition in order, as far as it is there now."""
        for said in control(self._settings):
            if said[1] in SPOKEN and said[2]["policy_id"] in self._policy_ids:
                self._said[said[0].partition, said[0].offset] = said
        found: dict[str, list[Said]] = {name: [] for name in self._policy_ids}
        for place in sorted(self._said):
            found[self._said[place][2]["policy_id"]].append(self._said[place])
        return found


# ---- versions that are switched

LIGHT, HEAVY, FIRST = [f"light-{n}" for n in range(4)], [f"heavy-{n}" for n in range(4)], "first"
_TOKENS = {**dict.fromkeys(LIGHT, 1), **dict.fromkeys(HEAVY, 1000), FIRST: 10}
_VERSION = """
policy_id: rolled
budgets:
  - {{budget_id: wide, scope: [tenant_id], where: {{project_id: rolled}}, unit: tokens,
     limit: {wide}, period: month, rules: [{{rule_id: stop, at: 100%, action: block}}]}}
  - {{budget_id: leased, scope: [tenant_id], where: {{project_id: rolled}}, unit: requests,
     limit: {leased}, period: month, hard: true, refresh_after_ms: 500, lease_wait_ms: 3000}}
"""
# The first version lets heavy tenants in and stops another; of the second it is the other way.
_FIRST = (
    _VERSION.format(wide=10**9, leased=10**6)
    + """
  - {budget_id: narrow, scope: [tenant_id], where: {project_id: rolled, tenant_id: first},
     unit: tokens, limit: 10, period: month, rules: [{rule_id: stop, at: 100%, action: block}]}
"""
)
_SECOND = _VERSION.format(wide=20_000, leased=500_000)


class Traffic:
    """Requests of all tenants in turn at every gateway, and how each was answered.

    `newest` has the version that refused the newest request of each (gateway, tenant), None where
    it was let in; `answers` counts such answers.
    """

    def __init__(self, points: list[AdmissionPoint]) -> None:
        self.newest: dict[tuple[int, str], str | None] = {}
        self.answers = Counter[tuple[int, str, str | None]]()
        self._enough = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(place, point))
            for place, point in enumerate(points)
        ]  # fmt: skip
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """No more requests."""
        self._enough.set()
        for thread in self._threads:
            thread.join(30)

    def _run(self, place: int, point: AdmissionPoint) -> None:
        while not self._enough.is_set():
            for tenant, tokens in _TOKENS.items():
                refused_by = None
                try:
                    point.reserve(chat("rolled", tokens, tenant)).commit(output_tokens=tokens)
                except Refused as refused:
                    refused_by = refused.verdict.policy_version or "nobody"
                self.newest[place, tenant] = refused_by
                self.answers[place, tenant, refused_by] += 1
                self._enough.wait(0.005)

    def follows(self, version: str, refused: Iterable[str], places: int = 2) -> None:
        """Wait until all are answered by a version, and see that it stays so."""
        expected = {(place, tenant): version if tenant in refused else None
                    for place in range(places) for tenant in _TOKENS}  # fmt: skip
        until(lambda: self.newest == expected, what=f"answers by version {version}")
        before = self.answers.copy()
        places_of = {(*key, answer) for key, answer in expected.items()}
        until(lambda: all((self.answers - before)[key] >= 20 for key in places_of),
              what="more answers")  # fmt: skip
        assert set(self.answers - before) == places_of, "a version that is out of force was obeyed"


def test_a_rollback_under_traffic_is_in_force_where_it_stands(stack: Stack, tmp_path: Path) -> None:
    """All that is said names the version in force at its place; gateways obey that one only."""
    settings, heard = stack.settings, Heard(stack.settings, "rolled")
    with ExitStack() as open_ones:
        points = [open_ones.enter_context(gateway(settings, f"rolled-{n}", tmp_path / str(n)))[0]
                  for n in range(2)]  # fmt: skip
        first = applied(stack, tmp_path / "first.yaml", _FIRST)
        known = ("rolled", "leased")
        until(lambda: all(known in p.state.budgets.in_force for p in points), what="version one")
        traffic = Traffic(points)
        open_ones.callback(traffic.stop)
        traffic.follows(first, [FIRST])
        heard.hear()
        second = applied(stack, tmp_path / "second.yaml", _SECOND)
        traffic.follows(second, HEAVY)
        heard.hear()
        done = stack.sluice("policy", "rollback", "rolled", "--json")
        assert f'"version": "{first}"' in done.stdout, done.stderr
        traffic.follows(first, [FIRST])
    switches = activations(settings, "rolled")
    assert [v for _, v in switches[0]] == [first, second, first]
    eras = eras_of(heard.hear()["rolled"], switches)
    withdraw_policy(settings, "rolled")
    answers = Counter[tuple[str, str | None]]()
    for (_, tenant, version), count in traffic.answers.items():
        answers[tenant, version] += count
    print(f"\nsaid by kind and version's turn: {dict(sorted(eras.items()))}; "
          f"{traffic.answers.total()} requests answered")  # fmt: skip
    assert eras.keys() == {(name, turn) for name in SPOKEN for turn in (1, 2, 3)}
    refused = {(tenant, version) for tenant, version in answers if version is not None}
    assert refused == {(FIRST, first), *((tenant, second) for tenant in HEAVY)}


def applied(stack: Stack, file: Path, text: str) -> str:
    """Apply a policy from the command line; its version."""
    file.write_text(text)
    done = stack.sluice("policy", "apply", str(file))
    assert done.returncode == 0, done.stderr
    return done.stdout.split()[-1]


def activations(settings: Settings, policy_id: str) -> dict[int, list[tuple[int, str]]]:
    """Where in each usage partition a version came into force."""
    found: dict[int, list[tuple[int, str]]] = defaultdict(list)
    for record in committed_records(settings, topics(settings).usage):
        try:
            name, fields = decode(record.value or b"")
        except WireError:
            continue  # other tests bring poison
        if name == "Activate" and fields["id"] == policy_id:
            found[record.partition].append((record.offset, fields["version"]))
    return found


def eras_of(
    said: Iterable[Said], switches: Mapping[int, list[tuple[int, str]]]
) -> Counter[tuple[str, int]]:
    """How much of each kind was said in the turn of each version, by the place that it names.

    What time alone brings at the very record that switches is said before it, by the one before.
    """
    found, latest = Counter[tuple[str, int]](), dict.fromkeys(switches, 0)
    for record, name, fields in said:
        offset = fields["sequence"]
        if name == "Decision":
            (cause,) = fields["evidence"]["offsets"]
            assert cause["partition"] == record.partition
            offset = cause["offset"]
        of = switches[record.partition]
        turns = {sum(at <= offset for at, _ in of), sum(at < offset for at, _ in of)}
        (turn,) = {t for t in turns if t and of[t - 1][1] == fields["policy_version"]}
        assert turn >= latest[record.partition], "a version spoke after its end"
        latest[record.partition] = turn
        found[name, turn] += 1
    return found


# ---- shadows

REQUESTS, CALLS = 300, 20
ENFORCED, SHADOW = "agree-enforce", "agree-shadow"
_AGREE = """
policy_id: {policy_id}
mode: {mode}
budgets:
  - {{budget_id: money, scope: [tenant_id], where: {{project_id: replay-agree}}, unit: usd,
     limit_pusd: {limit}, period: month, rules: [
       {{rule_id: slow, at: 50%, action: rate_limit, rate_per_minute: 30}},
       {{rule_id: stop, at: 100%, action: block}}]}}
  - {{budget_id: calls, scope: [tenant_id, project_id], where: {{project_id: replay-agree}},
     unit: requests, limit: {calls}, period: month, hard: true,
     rules: [{{rule_id: stop, at: 50%, action: block}}]}}
risk:
  hold_s: 0
  rules:
    - {{rule_id: storm, signal: retry_share, at: 40%, min_events: 3, action: block}}
"""
# What a mode may change of a decision: its name, and what is made from it.
_OF_THE_MODE = ("mode", "policy_id", "policy_version", "decision_id", "supersedes")


def test_shadow_decides_at_every_place_what_enforce_does_and_nobody_obeys(
    stack: Stack, tmp_path: Path
) -> None:
    """One replay under both: the same decisions at the same offsets, and one gateway's answers."""
    settings, events = stack.settings, replayed()
    costs = Counter[str]()
    for event in events:
        costs[event["tenant_id"]] += price(event) or 0
    limit, total = max(costs.values()) // 4, costs.total() + len(events)
    for policy_id, mode in ((ENFORCED, "enforce"), (SHADOW, "shadow")):
        text = _AGREE.format(policy_id=policy_id, mode=mode, limit=limit, calls=CALLS)
        publish(settings, policy_id, text)
    heard = Heard(settings, ENFORCED, SHADOW)
    with gateway(settings, "agree", tmp_path / "wal") as (point, emitter):
        for event in events:
            emitter.emit(event)
        for policy_id in (ENFORCED, SHADOW):
            until(lambda p=policy_id: sum(s for s, _, _ in shown(settings, p)) == total,  # type: ignore[misc]
                  what="the whole replay in the ledgers")  # fmt: skip
        until(lambda: "risk" in {f.get("rule_id") for _, _, f in heard.hear()[SHADOW]},
              what="decisions of the ladder")  # fmt: skip
        said = heard.hear()
        enforced, shadow = (decisions(said[name]) for name in (ENFORCED, SHADOW))
        assert shadow == enforced
        blocked = asked_and_refused(point, costs)
        assert blocked and set(blocked.values()) == {ENFORCED}
        withdraw_policy(settings, ENFORCED)
        until(lambda: not asked_and_refused(point, costs), what="the end of what is enforced")
        standing = {d.decision_id for d in point.state.decisions.values()
                    if d.policy_id == SHADOW and d.effect.action == "block"}  # fmt: skip
        assert len(standing) >= len(blocked), "the shadow still says what enforce said"
        for tenant in blocked:
            assert not point.reserve(question(tenant)).holds
    withdraw_policy(settings, SHADOW)
    count = Counter(f"{fields['rule_id']} {fields['action']}" for _, fields in enforced)
    print(f"\n{len(events)} requests, decisions equal in both modes: {dict(count)}")
    assert {"money rate_limit", "money block", "calls block", "risk block"} <= set(count)


def replayed() -> list[dict[str, Any]]:
    """Requests of the packaged trace as they would end now, under names of our own."""
    requests = packaged_trace().requests[:REQUESTS]
    schedule = Schedule("agree", time.time_ns() // 1000 - 60_000_000, 1000.0)
    events = [usage_event(schedule, n, request) for n, request in enumerate(requests)]
    return [
        e | {"tenant_id": f"agree-{e['tenant_id']}", "attempt": 1 + number % 2}
        for number, e in enumerate(events)
    ]  # fmt: skip


def decisions(said: Iterable[Said]) -> list[tuple[int, dict[str, Any]]]:
    """Decisions by partition and in order, without what the mode changes.

    Which decision one replaces is told by how many were said before that.
    """
    found: list[tuple[int, dict[str, Any]]] = []
    numbers: dict[str | None, int] = {None: -1}
    for record, name, fields in said:
        if name == "Decision":
            number = numbers.setdefault(fields["decision_id"], len(found))
            kept = {field: fields[field] for field in fields if field not in _OF_THE_MODE}
            replaced = numbers[fields["supersedes"]]
            found.append((record.partition, kept | {"number": number, "replaces": replaced}))
    return found


def question(tenant: str) -> AdmissionRequest:
    """A further request of a tenant of the replay."""
    return AdmissionRequest(tenant, "replay-agree", "m", estimated_cost_pusd=1)


def asked_and_refused(point: AdmissionPoint, tenants: Iterable[str]) -> dict[str, str | None]:
    """Which tenants are blocked, and by which policy."""
    verdicts = {tenant: point.admit(question(tenant)) for tenant in tenants}
    return {t: verdict.policy_id for t, verdict in verdicts.items() if verdict.action == "block"}
