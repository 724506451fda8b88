"""Laws of a partition: chunk borders and restarts change nothing, sums equal a slow oracle's."""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.builders import NOW, TOPICS, FakeRecord, governed, partition, record, usage
from tests.laws.streams import outputs, pieces

from sluice.runtime.outputs import OutRecord
from sluice.wire.codec import decode, encode

COST = 50_000, 250_000

events = st.lists(
    st.fixed_dictionaries(
        {
            "number": st.integers(1, 25),
            "tenant": st.sampled_from("abc"),
            "gap_ms": st.integers(0, 40_000),
            "back_s": st.integers(0, 400),
            "tokens": st.integers(0, 2000),
            "kind": st.sampled_from(["usage", "usage", "usage", "garbage", "tick"]),
        }
    ),
    max_size=40,
)


def records(drawn: list[dict[str, Any]]) -> list[FakeRecord]:
    """The drawn events as consumed records, in order of broker time."""
    made, at = [], NOW
    for offset, d in enumerate(drawn, 2):
        at += d["gap_ms"] * 1000
        if d["kind"] == "garbage":
            made.append(record(offset, b"garbage", at=at))
        elif d["kind"] == "tick":
            made.append(FakeRecord(offset, at // 1000, None, encode("Tick", {})))
        else:
            occurred = at - d["back_s"] * 1_000_000
            event = usage(
                d["number"], tenant_id=d["tenant"], occurred_at=occurred, started_at=occurred,
                output_tokens=d["tokens"], project_id=f"p{d['number'] % 2}",
            )  # fmt: skip
            made.append(record(offset, event, at=at))
    return made


@settings(max_examples=60, deadline=None)
@given(drawn=events, cuts=st.lists(st.integers(0, 40), max_size=6))
def test_chunk_borders_change_no_byte(drawn: list[dict[str, Any]], cuts: list[int]) -> None:
    """The same input cut anywhere gives the same output bytes."""
    made = records(drawn)
    whole, _, start = governed()
    whole.apply([*start, *made])
    cut, _, start = governed()
    cut.apply(start)
    for piece in pieces(made, cuts):
        cut.apply(piece)
    assert outputs(cut) == outputs(whole)


@settings(max_examples=60, deadline=None)
@given(drawn=events, cuts=st.lists(st.integers(0, 40), max_size=4))
def test_a_restart_from_the_stored_rows_changes_no_byte(
    drawn: list[dict[str, Any]], cuts: list[int]
) -> None:
    """Going on from what the changelog holds gives the outputs of a process that never ended."""
    made = records(drawn)
    whole, references, start = governed()
    whole.apply([*start, *made])
    part = partition(references)
    stored: dict[bytes, bytes | None] = {}
    produced: list[OutRecord] = []
    for piece in [start, *pieces(made, cuts)]:
        part.apply(piece)
        taken = part.take()
        stored |= {out.key: out.value for out in taken if out.topic == TOPICS.meter_state}
        produced += [out for out in taken if out.topic != TOPICS.meter_state]
        part = partition(references, stored=stored)
    assert produced == outputs(whole)


@settings(max_examples=60, deadline=None)
@given(drawn=events)
def test_sums_equal_a_slow_count(drawn: list[dict[str, Any]]) -> None:
    """Events and cost per tenant equal a count that remembers every number it has seen."""
    made = records(drawn)
    part, _, start = governed()
    part.apply([*start, *made])
    seen: set[tuple[str, int]] = set()
    counted, cost = Counter[str](), Counter[str]()
    for consumed in made:
        if consumed.value == b"garbage" or consumed.key is None:
            continue
        event = decode(consumed.value or b"")[1]
        if (event["tenant_id"], event["source_seq"]) not in seen:
            seen.add((event["tenant_id"], event["source_seq"]))
            counted[event["tenant_id"]] += 1
            amount = event["input_tokens"] * COST[0] + event["output_tokens"] * COST[1]
            cost[event["tenant_id"]] += amount
    rows, ledgers = Counter[str](), Counter[str]()
    money = Counter[str]()
    for key, row in part.state.windows.rows.items():
        rows[key.tenant_id] += row.events
        money[key.tenant_id] += row.cost_pusd
    for ledger in part.state.ledgers.values():
        ledgers[ledger.tenant_id] += ledger.settled
    assert (rows, +money, +ledgers) == (counted, +cost, +cost)
