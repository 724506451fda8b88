"""A gateway: requests in order, refusals, and exactness when it is killed anywhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from tests.builders import NOW
from tests.unit.replay.test_replay_events import REQUEST, SCHEDULE

from sluice.admission.verdict import AdmissionRequest, Verdict, unrestricted
from sluice.metering.prices import default_book
from sluice.replay.airline import packaged_tasks
from sluice.replay.events import Schedule
from sluice.replay.gateway import Gateway, Share
from sluice.replay.ledger import Ledger, LedgerTail, event_id, read_lines
from sluice.replay.recovery import ids_in
from sluice.replay.rows import TraceRequest
from sluice.replay.run import prepare
from sluice.replay.traces import Trace
from sluice.wire.codec import encode

REFUSED = Verdict(False, "block", "BUDGET_EXHAUSTED", "acme has spent all", "d1")


class Killed(BaseException):
    """The process ends here."""


class Point:
    """Refuses the tenants it is told to; counts questions."""

    def __init__(self, *refused: str) -> None:
        self._refused = refused
        self.asked = 0

    def admit(self, request: AdmissionRequest) -> Verdict:
        self.asked += 1
        return REFUSED if request.tenant_id in self._refused else unrestricted(None)


class Topic:
    """What the broker got; every append may be the last thing before or after a kill."""

    def __init__(self, step: Callable[[], None] = lambda: None) -> None:
        self.events: list[dict[str, Any]] = []
        self.step = step

    def emit(self, event: dict[str, Any]) -> None:
        self.step()
        self.events.append(event)
        self.step()


class Fragile(Ledger):
    """A ledger whose process may be killed before or after every line."""

    def __init__(self, path: Path, step: Callable[[], None]) -> None:
        super().__init__(path)
        self._step = step

    def _append(self, line: dict[str, Any]) -> None:
        self._step()
        super()._append(line)
        self._step()


def requests(*tenants: str) -> dict[int, TraceRequest]:
    """A request per tenant, one a second, each running for nine seconds."""
    return {
        number: replace(REQUEST, tenant_id=tenant, arrival_us=number * 1_000_000)
        for number, tenant in enumerate(tenants)
    }


def gateway(ledger: Ledger, topic: Topic, point: Point, wait: Any = lambda _: None) -> Gateway:
    """A gateway that waits for nothing."""
    return Gateway(SCHEDULE, ledger, topic, point, default_book(), wait)


def test_arrivals_and_ends_happen_in_the_order_of_their_times(tmp_path: Path) -> None:
    """The gateway waits for every instant once, and never backwards."""
    instants: list[int] = []
    with Ledger(tmp_path / "ledger") as ledger:
        gateway(ledger, Topic(), Point(), instants.append).play(requests("a", "b", "c"))
    assert instants == sorted(instants)
    assert instants[0] == NOW
    assert len(instants) == 6


def test_a_refused_request_is_counted_and_not_emitted(tmp_path: Path) -> None:
    """Refusals stand in the ledger with their decision, usage of others is emitted."""
    topic, path = Topic(), tmp_path / "ledger"
    with Ledger(path) as ledger:
        gateway(ledger, topic, Point("b")).play(requests("a", "b"))
    assert [event["tenant_id"] for event in topic.events] == ["a"]
    (refusal,) = (line for line in read_lines(path) if "refused" in line)
    assert (refusal["tenant_id"], refusal["decision_id"]) == ("b", "d1")


def test_a_finished_ledger_leaves_nothing_to_play(tmp_path: Path) -> None:
    """A gateway that is started again after its end asks and emits nothing."""
    topic, point = Topic(), Point("b")
    for _ in range(2):
        with Ledger(tmp_path / "ledger") as ledger:
            gateway(ledger, topic, point).play(requests("a", "b"))
    assert len(topic.events) == 1
    assert point.asked == 2


def test_count_and_topic_agree_wherever_a_gateway_is_killed(tmp_path: Path) -> None:
    """Killed before or after any line or emit, its successor ends with each event once."""
    played = requests("a", "b", "c", "b")
    points = 0
    for kill_at in count(1):
        path = tmp_path / str(kill_at)
        topic = Topic(_killer(kill_at))
        if not _killed_once(path, topic, played):
            break
        points += 1
        topic.step = lambda: None
        with Ledger(path) as ledger:
            successor = gateway(ledger, topic, Point("b"))
            successor.settle(played, {event["event_id"] for event in topic.events})
            successor.play(played)
            assert ledger.open_intents() == {}
        counted = sorted(line["intent"] for line in read_lines(path) if "intent" in line)
        assert counted == [0, 2]
        emitted = sorted(event["event_id"] for event in topic.events)
        assert emitted == sorted(event_id("r1", number) for number in (0, 2))
    # Two emits and six lines (intents, dones, refusals), each with a before and an after.
    assert points == 16


def _killer(kill_at: int) -> Callable[[], None]:
    steps = count(1)

    def step() -> None:
        if next(steps) == kill_at:
            raise Killed

    return step


def _killed_once(path: Path, topic: Topic, played: dict[int, TraceRequest]) -> bool:
    with Fragile(path, topic.step) as ledger:
        try:
            gateway(ledger, topic, Point("b")).play(played)
        except Killed:
            return True
    return False


def test_a_settled_event_is_the_one_that_was_counted(tmp_path: Path) -> None:
    """A successor emits the facts of the intent, not what it would make of the request now."""
    topic, played = Topic(), requests("a")
    with Ledger(tmp_path / "ledger") as ledger:
        facts = {"tenant_id": "a", "output_tokens": 3, "decision_id": "d9"}
        ledger.intent(0, facts)
        gateway(ledger, topic, Point()).settle(played, set())
    (event,) = topic.events
    assert (event["output_tokens"], event["decision_id"]) == (3, "d9")


@pytest.mark.parametrize("torn", [b'{"intent": 4, "tena', b'{"done": 1', b"\xff\xfe", b"7"])
def test_a_line_that_a_kill_cut_counts_as_never_written(tmp_path: Path, torn: bytes) -> None:
    """The next line after a cut one is whole, and the cut one says nothing."""
    path = tmp_path / "ledger"
    with Ledger(path) as ledger:
        ledger.intent(1, {"tenant_id": "a"})
    with path.open("ab") as file:
        file.write(torn)
    with Ledger(path) as ledger:
        assert list(ledger.open_intents()) == [1]
        ledger.accept(1)
    with Ledger(path) as ledger:
        assert ledger.open_intents() == {}
        assert ledger.left([1, 4]) == [4]


def test_a_tail_counts_every_line_once(tmp_path: Path) -> None:
    """Looking often adds nothing, a half-written line waits for its rest."""
    tail = LedgerTail(tmp_path / "ledger")
    tail.look()
    with Ledger(tmp_path / "ledger") as ledger:
        ledger.accept(1)
        tail.look()
        ledger.refuse(2, {"tenant_id": "a"})
    with (tmp_path / "ledger").open("ab") as file:
        file.write(b'{"done": 3')
        file.flush()
        tail.look()
        assert (tail.done, tail.refused) == (1, 1)
        file.write(b"}\n")
    tail.look()
    tail.look()
    assert (tail.done, tail.refused) == (2, 1)


def test_shares_split_a_run_without_overlap(tmp_path: Path) -> None:
    """Every request belongs to one slot, a tenant's requests go to several, a task's to one."""
    tasks = [None, "t", None, None, "t", "u", "t", None, None, "u"]
    played = [replace(REQUEST, arrival_us=n, task=task) for n, task in enumerate(tasks)]
    shares = [Share("r1", n, 1.0, tmp_path / "run", tmp_path) for n in range(3)]
    prepare(shares, Trace(played, [], []), default_book())
    owned = [share.requests() for share in shares]
    assert [sorted(share) for share in owned] == [[0, 3], [1, 4, 6, 7], [2, 5, 8, 9]]
    assert all(share[n] == played[n] for share in owned for n in share)
    assert Share.read(shares[1].write()) == shares[1]


def test_a_tool_call_asks_nothing_and_follows_its_caller(tmp_path: Path) -> None:
    """Tool calls of an admitted call run without a question, those of a refused one do not."""
    topic, point, path = Topic(), Point("b"), tmp_path / "ledger"
    played = requests("a", "b", "a", "b", "a")
    for number, parent in ((2, 0), (3, 1), (4, None)):
        played[number] = replace(played[number], parent=parent, event={"event_type": "tool"})
    with Ledger(path) as ledger:
        gateway(ledger, topic, point).play(played)
    assert point.asked == 2
    assert [event["event_id"] for event in topic.events] == [event_id("r1", n) for n in (0, 2, 4)]
    refused = {line["refused"]: line for line in read_lines(path) if "refused" in line}
    assert sorted(refused) == [1, 3]
    assert refused[3]["reason_code"] == "CALLER_REFUSED"


@pytest.mark.parametrize("speed", [1.0, 1000.0, 1e9])
def test_a_task_keeps_its_order_at_any_speed(tmp_path: Path, speed: float) -> None:
    """Steps of a task reach the emitter in their order, even where all instants become one."""
    trace = packaged_tasks()
    topic = Topic()
    with Ledger(tmp_path / "ledger") as ledger:
        played = dict(enumerate(trace.requests))
        Gateway(Schedule("r1", NOW, speed), ledger, topic, Point(), default_book(),
                lambda _: None).play(played)  # fmt: skip
    steps: dict[str, list[int]] = {}
    for event in topic.events:
        steps.setdefault(event["task_id"], []).append(event["step"])
    assert len(steps) == 10
    assert all(found == list(range(1, len(found) + 1)) for found in steps.values())


def _values() -> Iterator[bytes]:
    own = {"event_id": "e1", "source": "gw", "source_epoch": "x", "event_type": "inference",
           "occurred_at": 1, "started_at": 1, "tenant_id": "a", "project_id": "p",
           "operation_name": "chat", "provider_name": "", "request_model": "",
           "outcome": "ok"}  # fmt: skip
    yield encode("UsageEvent", own)
    yield encode("UsageEvent", own | {"source": "other", "event_id": "e2"})
    yield encode("Tick", {})
    yield b"garbage"
    yield b""


def test_only_the_slots_own_events_are_found_on_the_topic() -> None:
    """Ids are of usage events of the source; anything else on the topic is passed over."""
    assert [ident for value in _values() for ident in ids_in(value, "gw")] == ["e1"]
