"""An owned partition: commits beside applying, prompt ones, the watchdog, one worker too many."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, cast

import pytest
from tests.builders import (
    NOW,
    POLICY,
    TOPICS,
    FakeRecord,
    FakeReferences,
    across,
    activate,
    governed,
    partition,
    policy,
    record,
    tick,
    usage,
)

from sluice.errors import ConfigError
from sluice.metering.prices import default_book
from sluice.runtime import owned as owned_module
from sluice.runtime.apps.meter import check_slot
from sluice.runtime.chunks import Chunk
from sluice.runtime.metrics import Metrics
from sluice.runtime.outputs import OutRecord
from sluice.runtime.owned import Hole, OwnedPartition
from sluice.runtime.owner import Owner
from sluice.runtime.places import across_place, usage_place
from sluice.runtime.references import References
from sluice.settings import Settings, load_settings
from sluice.wire.codec import decode

LATER = NOW + 7_200_000_000


class FakeLog:
    """Takes commits; while `open` is cleared the broker does not answer."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.open.set()
        self.begun = threading.Event()
        self.commits: list[tuple[list[OutRecord], int]] = []

    def commit(self, records: list[OutRecord], position: int) -> None:
        self.begun.set()
        self.open.wait(10)
        self.commits.append((list(records), position))


class Clock:
    """Monotonic seconds that a test moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        # Only the module's view of it: the event loop needs the real one.
        monkeypatch.setattr(owned_module, "time", self)

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now


def owned_partition() -> tuple[OwnedPartition, FakeLog, list[FakeRecord]]:
    """A governed partition with a fake log, and its first records."""
    settings = Settings()
    owned = OwnedPartition(
        settings, usage_place(TOPICS, 0), cast("References", None), Metrics(list)
    )
    owned.partition, _, start = governed()
    log = FakeLog()
    owned.log = cast("Any", log)
    owned.last_heartbeat_at = 1e12  # no heartbeats: they hold the wall clock
    return owned, log, start


def test_applying_goes_on_while_a_commit_is_in_flight() -> None:
    """The next chunk is applied under an unanswered commit, which keeps rows of one instant."""
    owned, log, start = owned_partition()
    first = [*start, *(record(2 + n, usage(1 + n)) for n in range(3))]
    second = [record(5 + n, usage(4 + n)) for n in range(3)]

    async def scene() -> None:
        with ThreadPoolExecutor(1) as executor:
            await owned.apply(Chunk(0, first))
            log.open.clear()
            committing = asyncio.ensure_future(owned.checkpoint(executor))
            assert await asyncio.to_thread(log.begun.wait, 10)
            await asyncio.wait_for(owned.apply(Chunk(5, second)), 1)
            assert (owned.position, owned.committed) == (8, 0)
            log.open.set()
            await committing
            assert owned.committed == 5
            await owned.checkpoint(executor)

    asyncio.run(scene())
    (early, early_position), (late, late_position) = log.commits
    assert (early_position, late_position) == (5, 8)
    whole, references, _ = governed()
    whole.apply([*first, *second, tick(8, LATER)])
    changelog = {k: v for out in (early,) for k, v in _changes(out)}
    resumed = partition(references, stored=changelog)
    resumed.apply([*second, tick(8, LATER)])
    went_on = partition(references, stored=changelog | dict(_changes(late)))
    went_on.apply([tick(8, LATER)])
    wanted = [out for out in whole.take() if out.topic == TOPICS.windows]
    for part in (resumed, went_on):
        assert [out for out in part.take() if out.topic == TOPICS.windows] == wanted


def _changes(records: list[OutRecord]) -> list[tuple[bytes, bytes | None]]:
    return [(out.key, out.value) for out in records if out.topic == TOPICS.meter_state]


def test_the_owner_of_what_spans_tenants_says_so() -> None:
    """Its heartbeat goes behind those of the usage partitions, and is not of tenants."""
    place = across_place(TOPICS)
    owned = OwnedPartition(Settings(), place, cast("References", None), Metrics(list))
    owned.partition, log = across(FakeReferences()), FakeLog()
    owned.log = cast("Any", log)

    async def scene() -> None:
        with ThreadPoolExecutor(1) as executor:
            await owned.apply(Chunk(0, [tick(0, NOW)]))
            await owned.checkpoint(executor)

    asyncio.run(scene())
    (out,) = [out for out in log.commits[0][0] if out.topic.endswith("control.v1")]
    fields = decode(out.value or b"")[1]
    assert (out.partition, out.key) == (TOPICS.across, b"heartbeat|4")
    assert (fields["source_partition"], fields["of_tenants"], fields["sequence"]) == (4, False, 1)


def test_a_chunk_that_starts_elsewhere_is_refused() -> None:
    """Records that skip some between position and chunk are not applied."""
    owned, _, start = owned_partition()

    async def scene() -> None:
        await owned.apply(Chunk(0, start))
        with pytest.raises(Hole, match=r"at 2, got 3"):
            await owned.apply(Chunk(3, [record(3, usage(1))]))

    asyncio.run(scene())


def test_a_failed_commit_ends_the_process() -> None:
    """What a commit took from memory and could not write must not be built upon."""
    owned, log, start = owned_partition()
    ended: list[str] = []
    owner = Owner(Settings(), partial(usage_place, TOPICS), cast("References", None), Metrics(list),
                  on_fenced=ended.append, on_fault=ended.append)  # fmt: skip
    owner.owned[0] = owned
    log.commit = _broken  # type: ignore[method-assign]

    async def scene() -> None:
        await owned.apply(Chunk(0, start))
        await owner.checkpoint(0)

    asyncio.run(scene())
    assert ended == ["checkpoint of partition 0: ValueError('no bytes')"]


def _broken(_records: list[OutRecord], _position: int) -> None:
    raise ValueError("no bytes")


# ---- the watchdog


def test_heartbeats_do_not_hide_a_position_that_stands_still(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A worker that commits heartbeats but no records stands still when records wait."""
    owned, _, start = owned_partition()
    clock = Clock(monkeypatch)

    async def scene() -> list[bool]:
        found = []
        with ThreadPoolExecutor(1) as executor:
            await owned.apply(Chunk(0, start))
            await owned.checkpoint(executor)
            owned.saw_end(9)
            for _ in range(13):
                clock.now += 10
                await owned.checkpoint(executor, prove=True)
                found.append(owned.stands_still(120))
        return found

    assert asyncio.run(scene()) == [False] * 12 + [True]


def test_nothing_is_due_before_the_versions_in_force_are_at_hand(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is due follows from them; who looks too early would miss it."""
    clock = Clock(monkeypatch)
    owned, _, start = owned_partition()
    part = owned.partition
    assert part is not None
    asyncio.run(owned.apply(Chunk(0, [*start, record(len(start), usage(1))])))
    clock.now += 5
    assert owned.tick_due(2**62)
    monkeypatch.setattr(part._references, "get", lambda _: None)
    assert not owned.tick_due(2**62)
    assert part.waiting_for is None


def test_who_has_nothing_to_do_or_waits_does_not_stand_still(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An idle partition, a missing version and an unanswered commit are no reason to end."""
    clock = Clock(monkeypatch)
    owned, log, start = owned_partition()
    part = owned.partition
    assert part is not None

    async def scene() -> None:
        with ThreadPoolExecutor(1) as executor:
            await owned.apply(Chunk(0, start))
            await owned.checkpoint(executor)
            owned.saw_end(2)
            clock.now += 500
            assert not owned.stands_still(120)
            owned.saw_end(9)
            part.waiting_for = ("policy", "p", "1")
            clock.now += 500
            assert not owned.stands_still(120)
            part.waiting_for = None
            log.open.clear()
            log.begun.clear()
            away = asyncio.ensure_future(owned.checkpoint(executor, prove=True))
            assert await asyncio.to_thread(log.begun.wait, 10)
            clock.now += 500
            assert not owned.stands_still(120)
            log.open.set()
            await away
            clock.now += 119
            assert not owned.stands_still(120)
            clock.now += 2
            assert owned.stands_still(120)

    asyncio.run(scene())


def test_a_silent_partition_is_probed_once_per_half_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without movement a probe is due after half the limit, and not again before as long."""
    clock = Clock(monkeypatch)
    owned, _, _ = owned_partition()
    due = []
    for _ in range(14):
        clock.now += 10
        due.append(owned.probe_due(120))
    assert [place for place, is_due in enumerate(due) if is_due] == [6, 13]


# ---- one worker too many


def test_more_workers_than_partitions_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The settings name the variable and what to do; a slot without a partition says the same."""
    monkeypatch.setenv("SLUICE_METER_WORKERS", "5")
    with pytest.raises(ConfigError, match=r"SLUICE_METER_WORKERS: .*5 workers cannot share 4"):
        load_settings()
    monkeypatch.setenv("SLUICE_PARTITIONS", "5")
    assert load_settings().meter_workers == 5
    monkeypatch.delenv("SLUICE_METER_WORKERS")
    check_slot(Settings(partitions=4), "3")
    check_slot(Settings(partitions=4), "canary")
    with pytest.raises(ConfigError, match=r"slot 4 would be worker 5, but .* has 4 partitions"):
        check_slot(Settings(partitions=4), "4")


# ---- prompt commits

SPANNING = POLICY.replace("[tenant_id]", "[]").replace("policy_id: test", "policy_id: all")


class Prompt:
    """An owner of one partition whose budgets are of tenants and across them."""

    def __init__(self, share_delay_ms: int) -> None:
        self.owned, self.log, _ = owned_partition()
        references = FakeReferences()
        self.owned.partition = partition(references)
        names = [references.put(one) for one in (default_book(), policy(), policy(SPANNING))]
        self.start = [activate(offset, name) for offset, name in enumerate(names)]
        settings = Settings(share_delay_ms=share_delay_ms, decision_delay_ms=0)
        self.owner = Owner(
            settings, partial(usage_place, TOPICS), cast("References", None), Metrics(list),
            on_fenced=_never, on_fault=_never,
        )  # fmt: skip
        self.owner.owned[0] = self.owned

    async def begin(self) -> None:
        """Put book and policies in force and commit that."""
        await self.owner.apply(0, Chunk(0, self.start))
        await self.committed(3)

    async def use(self, offset: int, tokens: int = 1) -> None:
        """Usage arrives."""
        event = usage(offset, input_tokens=tokens)
        await self.owner.apply(0, Chunk(offset, [record(offset, event)]))

    async def committed(self, position: int) -> None:
        """Wait for a commit up to a position."""
        for _ in range(4000):
            if position in self.positions():
                return
            await asyncio.sleep(0.005)
        raise AssertionError(f"{position} is not among {self.positions()}")

    def positions(self) -> list[int]:
        """What each commit covered."""
        return [position for _, position in self.log.commits]


def _never(reason: str) -> None:
    raise AssertionError(reason)


def test_usage_of_a_budget_that_spans_tenants_is_committed_by_itself() -> None:
    """At once where nothing was lately, else within the delay, together with what came by then."""
    prompt = Prompt(share_delay_ms=300)

    async def scene() -> None:
        await prompt.begin()
        await prompt.use(3)
        await prompt.use(4)
        await prompt.committed(5)

    asyncio.run(scene())
    assert prompt.positions() == [3, 5]


def test_a_decision_does_not_wait_for_a_share() -> None:
    """A prompt commit that is due later is brought forward."""
    prompt = Prompt(share_delay_ms=60_000)

    async def scene() -> None:
        await prompt.begin()
        await prompt.use(3)
        await asyncio.sleep(0.05)
        assert prompt.positions() == [3]
        await prompt.use(4, tokens=100_000)
        await prompt.committed(5)

    asyncio.run(scene())
    assert prompt.positions() == [3, 5]


def test_prompt_commits_follow_each_other() -> None:
    """A slow broker has one of them waiting; what came meanwhile goes with the next one."""
    prompt = Prompt(share_delay_ms=10)

    async def scene() -> None:
        await prompt.begin()
        prompt.log.open.clear()
        for offset in range(3, 9):
            await prompt.use(offset)
            await asyncio.sleep(0.03)
        assert len(prompt.owner._tasks) == 1
        prompt.log.open.set()
        await prompt.committed(9)

    asyncio.run(scene())
    assert len(prompt.positions()) == 3
