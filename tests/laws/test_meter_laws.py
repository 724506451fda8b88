"""Laws of whole streams: sums conserve, and borders, restarts, resends and order change nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from random import Random
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.builders import NOW, TOPICS, FakeRecord, partition, record, sums_of, usage
from tests.laws.oracle import TOKENS, Rows
from tests.laws.streams import (
    SECOND,
    Drawn,
    Stream,
    applied,
    build,
    measured,
    outputs,
    pieces,
    started,
    store,
    streams,
    without,
)

from sluice.metering import cohorts
from sluice.runtime.outputs import OutRecord
from sluice.wire.codec import encode

LAWS = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
PLACE = ("version", "watermark", "revision")


def summed(rows: Rows, name: str) -> dict[str, int]:
    """Sums per key of a list field over rows."""
    sums: Counter[str] = Counter()
    for row in rows.values():
        for item in row[name]:
            sums[item["key"]] += item["value"]
    return dict(sums)


def amounts(row: Mapping[str, Any], name: str) -> dict[str, int]:
    """A list field as a dictionary."""
    return {item["key"]: item["value"] for item in row[name]}


@LAWS
@given(drawn=streams)
def test_parts_of_a_cost_add_up_to_it_in_every_row(drawn: list[Drawn]) -> None:
    """Bands, classes, causes and histogram each add up to the row's cost, causes to its tail."""
    for row in measured(build(drawn))["windows"].values():
        cost = row["cost_pusd"]
        assert row["body_pusd"] + row["shoulder_pusd"] + row["tail_pusd"] == cost
        assert sum(part["cost_pusd"] for part in row["usage_by_class"]) == cost
        assert sum(amounts(row, "overhead_by_cause").values()) == cost
        assert sum(amounts(row, "tail_by_cause").values()) == row["tail_pusd"]
        if not row["corrections"]:
            overhead = amounts(row, "overhead_by_cause")
            assert all(0 <= v <= overhead[k] for k, v in amounts(row, "tail_by_cause").items())
            assert sum(b["cost_pusd"] for b in row["cost_histogram"]) == cost
            priced = row["events"] - row["unpriced"]
            assert sum(b["count"] for b in row["cost_histogram"]) == priced
            assert row["tail_pusd"] >= 0


@LAWS
@given(drawn=streams)
def test_the_sum_over_any_dimension_is_the_total(drawn: list[Drawn]) -> None:
    """Rows summed per tenant, model or lane equal events summed the same way, and in total."""
    stream = build(drawn)
    rows = measured(stream)["windows"].values()
    for place, name in enumerate(("tenant_id", "project_id", "model", "tool", "window_start")):
        by_row, by_event = Counter[Any](), Counter[Any]()
        for row in rows:
            by_row[row[name], "cost"] += row["cost_pusd"]
            by_row[row[name], "tail"] += row["tail_pusd"]
            by_row[row[name], "events"] += row["events"] + row["corrections"]
        for event in applied(stream):
            by_event[event.window[place], "cost"] += event.cost or 0
            by_event[event.window[place], "tail"] += event.bands[2]
            by_event[event.window[place], "events"] += 1
        assert +by_row == +by_event
        assert -by_row == -by_event


@LAWS
@given(drawn=streams)
def test_task_tails_in_windows_add_up_to_the_tasks(drawn: list[Drawn]) -> None:
    """The marginal task tails of a tenant's rows sum to the tails of all parts of its tasks."""
    rows = measured(build(drawn))
    in_windows, in_tasks = Counter[str](), Counter[str]()
    for row in rows["windows"].values():
        in_windows[row["tenant_id"]] += row["task_tail_pusd"] or 0
    for row in rows["tasks"].values():
        in_tasks[row["tenant_id"]] += row["task_tail_pusd"] or 0
        tail = None
        if row["baseline_pusd"] is not None:
            tail = max(0, row["cost_pusd"] - row["baseline_pusd"])
        assert row["task_tail_pusd"] == tail
    assert +in_windows == +in_tasks
    assert -in_windows == -in_tasks


@LAWS
@given(drawn=streams, cuts=st.lists(st.integers(0, 60), max_size=6))
def test_chunk_borders_change_no_byte(drawn: list[Drawn], cuts: list[int]) -> None:
    """The same input cut anywhere gives the same output bytes."""
    stream, whole, cut = build(drawn), started(), started()
    whole.apply(stream.records)
    for piece in pieces(stream.records, cuts):
        cut.apply(piece)
    assert outputs(cut) == outputs(whole)


@LAWS
@given(drawn=streams, cuts=st.lists(st.integers(0, 60), max_size=4))
def test_a_restart_from_the_changelog_changes_no_byte(drawn: list[Drawn], cuts: list[int]) -> None:
    """Going on from every state record ever written, in order, gives the outputs of one process."""
    stream, whole = build(drawn), started()
    whole.apply(stream.records)
    part, references = started(), store()
    changelog: list[OutRecord] = []
    produced: list[OutRecord] = []
    for piece in pieces(stream.records, cuts):
        part.apply(piece)
        for out in part.take():
            (changelog if out.topic == TOPICS.meter_state else produced).append(out)
        part = partition(references)
        for row in changelog:
            part.state.load({row.key: row.value or b""})
    assert produced == outputs(whole)


@LAWS
@given(drawn=streams)
def test_a_replay_changes_only_the_count_of_duplicates(drawn: list[Drawn]) -> None:
    """Everything numbered sent once more changes no sum of windows, tasks or cohorts."""
    once, twice = build(drawn, settle=False), build(drawn, settle=False)
    sent = [event for event in twice.events if event["source_seq"] is not None]
    for event in sent:
        twice.send(event)
    first, second = measured(once.settle()), measured(twice.settle())
    for kind in ("windows", "tasks", "cohorts"):
        assert without(first[kind], *PLACE) == without(second[kind], *PLACE)
    counts = [
        sum(row["duplicates"] for row in rows["sources"].values()) for rows in (first, second)
    ]
    assert counts[1] == counts[0] + len(sent)
    told = ("version", "duplicates", "last_seen_at")
    assert without(first["sources"], *told) == without(second["sources"], *told)


@LAWS
@given(drawn=streams)
def test_split_by_tenant_is_the_whole(drawn: list[Drawn]) -> None:
    """Two partitions of one tenant each publish the rows of both, and their cohorts merge."""
    stream = build(drawn)
    whole = measured(stream)
    halves = [measured(_only(stream, tenant)) for tenant in (b"acme", b"beta")]
    for kind in ("windows", "tasks", "sources"):
        assert halves[0][kind] | halves[1][kind] == whole[kind]
    together = cohorts.merged([*halves[1]["cohorts"].values(), *halves[0]["cohorts"].values()])
    assert together == cohorts.merged(whole["cohorts"].values())


def _only(stream: Stream, tenant: bytes) -> Stream:
    """The stream with ticks in place of the other tenant's records, so that time is the same."""
    tick = encode("Tick", {})
    kept = [
        r if r.key in (None, tenant) else FakeRecord(r.offset, r.timestamp, None, tick)
        for r in stream.records
    ]
    return Stream(records=kept)


# ---- order

_plain_event = st.fixed_dictionaries({
    "event_type": st.sampled_from(["inference", "embedding", "tool", "correction"]),
    "back_s": st.integers(0, 3_300),
    "request_model": st.sampled_from(["small", "large", "unheard-of"]),
    "input_tokens": st.integers(0, 9_000),
    "output_tokens": st.integers(0, 9_000),
    "latency_us": st.sampled_from([None, 0, 5_000, 70_000]),
    "gpu_us": st.sampled_from([None, 3]),
    "attempt": st.sampled_from([1, 1, 2]),
    "outcome": st.sampled_from(["ok", "error", "cancelled"]),
    "before": st.one_of(st.none(), st.integers(0, 10**9)),
    "delta": st.integers(-(10**9), 10**9),
})  # fmt: skip


def _plain(number: int, choice: Drawn, **over: Any) -> dict[str, Any]:
    names = ("request_model", "input_tokens", "output_tokens", "latency_us", "gpu_us", "attempt",
             "outcome", "event_type")  # fmt: skip
    occurred = NOW - choice["back_s"] * SECOND
    event = usage(number, provider_name="p", occurred_at=occurred, started_at=occurred,
                  **{name: choice[name] for name in names}, **over)  # fmt: skip
    if choice["event_type"] == "correction":
        event |= {"corrects_event_id": "e", "cost_pusd": choice["delta"], "attempt": 1,
                  "cost_source": "provider", "outcome": "ok", "output_tokens": 3,
                  "original_cost_pusd": choice["before"], "baseline_q50_pusd": 10**6,
                  "baseline_q95_pusd": 10**8}  # fmt: skip
    return event


def _sent(events: list[dict[str, Any]]) -> dict[str, Rows]:
    """Rows of a partition with the second baseline that takes the events within a minute."""
    stream = build([{"kind": "second", "gap_ms": 0}], settle=False)
    for event in events:
        stream.at += SECOND
        stream.send(event)
    return measured(stream.settle())


@LAWS
@given(st.lists(_plain_event, max_size=25), st.randoms(use_true_random=False))
def test_order_within_the_lateness_changes_no_sum(choices: list[Drawn], random: Random) -> None:
    """Any permutation of events without tasks gives the same rows but for place and newest book."""
    events = [_plain(number, choice) for number, choice in enumerate(choices, 1)]
    mixed = random.sample(events, len(events))
    rows, other = _sent(events), _sent(mixed)
    newest = ("price_book_version", "baseline_version")
    assert without(rows["windows"], *PLACE, *newest) == without(other["windows"], *PLACE, *newest)
    assert without(rows["cohorts"], *PLACE) == without(other["cohorts"], *PLACE)
    told = ("version", "recovered", "last_seen_at")
    assert without(rows["sources"], *told) == without(other["sources"], *told)


@LAWS
@given(st.lists(_plain_event, max_size=20), st.randoms(use_true_random=False))
def test_order_changes_no_sum_of_a_task(choices: list[Drawn], random: Random) -> None:
    """A task's cost, tokens, tail and task tail do not depend on the order of its events."""
    events = [
        _plain(number, choice, task_id="t", agent_name="writer")
        for number, choice in enumerate(choices, 1)
    ]
    found = []
    for sent in (events, random.sample(events, len(events))):
        rows = _sent(sent)
        names = (*TOKENS[:2], "events", "cost_pusd", "unpriced", "tail_pusd", "task_tail_pusd",
                 "baseline_pusd", "retries", "steps", "tool_calls")  # fmt: skip
        found.append([[row[name] for name in names] for row in rows["tasks"].values()])
        tails = sum(row["task_tail_pusd"] or 0 for row in rows["windows"].values())
        assert tails == sum(row["task_tail_pusd"] for row in rows["tasks"].values())
    assert found[0] == found[1]


# ---- corrections


@LAWS
@given(
    st.lists(_plain_event, min_size=1, max_size=8),
    st.lists(st.tuples(st.integers(0, 7), st.integers(-(10**9), 10**9)), max_size=8),
)
def test_corrections_back_and_forth_restore_every_sum(
    choices: list[Drawn], changes: list[tuple[int, int]]
) -> None:
    """Any chain of corrections undone in reverse leaves windows and tasks as they were."""
    events = [
        _plain(number, choice | {"event_type": "inference", "request_model": "small"}, task_id="t")
        for number, choice in enumerate(choices, 1)
    ]
    stream = build([], settle=False)
    for event in events:
        stream.send(event)
    steps = _chain(stream, changes)
    before = measured(_copy(stream).settle())
    for step in [*steps, *_undone(steps)]:
        stream.send(step | {"source_seq": len(stream.events) + 1})
    after = measured(stream.settle())
    ignored = (*PLACE, "corrections", "usage_by_class")
    assert without(after["windows"], *ignored) == without(before["windows"], *ignored)
    for key, row in before["windows"].items():
        assert _class_costs(after["windows"][key]) == _class_costs(row)
    assert without(after["tasks"], *PLACE) == without(before["tasks"], *PLACE)
    assert before["cohorts"].keys() == after["cohorts"].keys()


def _class_costs(row: Mapping[str, Any]) -> dict[str, int]:
    return {c["key"]: c["cost_pusd"] for c in row["usage_by_class"] if c["cost_pusd"]}


def _chain(stream: Stream, changes: list[tuple[int, int]]) -> list[dict[str, Any]]:
    """Corrections of the stream's events, each from what the one before left."""
    labelled = applied(stream)
    costs = [found.cost or 0 for found in labelled]
    steps = []
    for place, delta in changes:
        index = place % len(labelled)
        low, high = labelled[index].thresholds or (None, None)
        steps.append(labelled[index].event | {
            "event_type": "correction", "corrects_event_id": "e", "cost_source": "provider",
            "original_cost_pusd": costs[index], "cost_pusd": delta, "input_tokens": delta // 1000,
            "output_tokens": 0, "gpu_us": None, "latency_us": None, "baseline_q50_pusd": low,
            "baseline_q95_pusd": high,
        })  # fmt: skip
        costs[index] += delta
    return steps


def _undone(steps: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        step | {
            "original_cost_pusd": step["original_cost_pusd"] + step["cost_pusd"],
            "cost_pusd": -step["cost_pusd"], "input_tokens": -step["input_tokens"],
        }
        for step in reversed(steps)
    ]  # fmt: skip


def _copy(stream: Stream) -> Stream:
    return Stream(list(stream.records), list(stream.arrivals), list(stream.events), stream.at)


# ---- overflow

_huge = st.sampled_from([0, 1, 4 * 10**18, 9 * 10**18])
_extreme = st.fixed_dictionaries({
    "event_type": st.sampled_from(["inference", "tool", "correction"]),
    "tenant_id": st.sampled_from(["acme", "beta"]),
    "task_id": st.sampled_from([None, "t", "u"]),
    "cost_pusd": _huge, "sign": st.sampled_from([1, -1]),
    "original_cost_pusd": st.one_of(st.none(), _huge),
    "baseline_q50_pusd": st.one_of(st.none(), st.just(0)),
    "baseline_q95_pusd": st.one_of(st.none(), _huge),
    "tokens": st.sampled_from([0, 10**15]),
    "gap_s": st.sampled_from([0, 70, 3_700]),
})  # fmt: skip


@LAWS
@given(st.lists(_extreme, max_size=14))
def test_an_overflow_is_refused_by_all_sums_or_none(choices: list[Drawn]) -> None:
    """Amounts near 64 bits never stop a partition; what one sum cannot take no other one takes."""
    part, at = started(), NOW
    part.apply(build([], settle=False).records)
    for offset, choice in enumerate(choices, 2):
        at += choice["gap_s"] * SECOND
        part.apply([FakeRecord(offset, at // 1000, None, encode("Tick", {}))])
        before, refused = sums_of(part.state), part.state.header.counters.get("dead_letters", 0)
        part.apply([record(offset, _extreme_event(offset, choice, at), at=at)])
        if part.state.header.counters.get("dead_letters", 0) > refused:
            assert sums_of(part.state) == before
        part.take()
    for hours in range(1, 4):
        late = (at + hours * 3_600 * SECOND) // 1000
        part.apply([FakeRecord(99 + hours, late, None, encode("Tick", {}))])
        part.take()


def _extreme_event(number: int, choice: Drawn, at: int) -> dict[str, Any]:
    copied = {k: v for k, v in choice.items() if k not in ("sign", "tokens", "gap_s")}
    event = usage(number, provider_name="p", request_model="small", cost_source="provider",
                  occurred_at=at, started_at=at, input_tokens=choice["tokens"], output_tokens=0,
                  **copied)  # fmt: skip
    if choice["event_type"] == "correction":
        sign = choice["sign"]
        return event | {"corrects_event_id": "e", "cost_pusd": sign * choice["cost_pusd"],
                        "input_tokens": sign * choice["tokens"]}  # fmt: skip
    return event | dict.fromkeys(("original_cost_pusd", "baseline_q50_pusd", "baseline_q95_pusd"))


# ---- one example that all of the above would let pass


def test_a_known_stream_reaches_what_the_laws_are_about() -> None:
    """The drawn choices do lead to tails, loops, task tails, lanes and measured baselines."""
    call = {"kind": "inference", "gap_ms": 10, "task": "t1", "agent": "writer"}
    tool = {"kind": "tool", "gap_ms": 10, "task": "t1", "times": 5, "billed": 10**9}
    stream = build([
        {"kind": "second", "gap_ms": 0}, call, call | {"billed": 10**10}, tool,
        call | {"back_s": 7_300}, call | {"hold": 2}, call | {"hold": 3},
    ])  # fmt: skip
    rows = measured(stream)
    total = Counter[str]()
    for row in rows["windows"].values():
        total += Counter({k: row[k] or 0 for k in ("tail_pusd", "task_tail_pusd", "events")})
        total["lanes"] += bool(row["lane"])
    (task,) = rows["tasks"].values()
    (source,) = rows["sources"].values()
    assert (total["events"], total["lanes"]) == (10, 1)
    assert total["tail_pusd"] > 10**9
    assert total["task_tail_pusd"] == task["task_tail_pusd"] == task["cost_pusd"] - 900_000_000
    # The fourth and fifth same tool call, and the three calls of 75,000,000 that follow.
    assert task["loop_pusd"] == 2 * 10**9 + 3 * 75_000_000
    assert summed(rows["windows"], "overhead_by_cause")["loop"] == task["loop_pusd"]
    assert (source["recovered"], source["missing"]) == (1, 1)
