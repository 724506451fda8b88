"""Tables, views and the writer on the real engine."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from sluice.errors import ConfigError, OutsideError, SluiceError
from sluice.resources import resource_dir
from sluice.settings import Settings
from sluice.warehouse.client import connect, query_text
from sluice.warehouse.migrations import filled, load, migrate, pending
from sluice.warehouse.node import ClickHouseNode
from sluice.warehouse.statement import split
from sluice.warehouse.writer import Writer
from sluice.wire.codec import decode, encode

pytestmark = pytest.mark.integration

NOON = 1_800_000_000_000_000
MAX = 2**63 - 1


@pytest.fixture
def settings(node: ClickHouseNode, request: pytest.FixtureRequest) -> Settings:
    """A database of its own per test."""
    name = "".join(sign if sign.isalnum() else "_" for sign in request.node.name)[:50]
    return node.settings.model_copy(update={"clickhouse_database": f"d_{name}"})


@pytest.fixture
def writer(settings: Settings) -> Iterator[Writer]:
    """A writer on migrated tables."""
    migrate(settings)
    opened = Writer(settings)
    yield opened
    opened.close()


def rows(settings: Settings, sql: str) -> list[dict[str, Any]]:
    """Rows of a query, decimals as text."""
    wanted = f"{sql} SETTINGS output_format_json_quote_decimals = 1"
    text = query_text(settings, wanted, "JSONEachRow").decode()
    return [json.loads(line) for line in text.splitlines()]


def window(**over: Any) -> dict[str, Any]:
    """A WindowRow as the sink gets it."""
    record = {
        "tenant_id": "t", "project_id": "p", "model": "m", "tool": "", "window_start": NOON,
        "events": 1, "requests": 1, "input_tokens": 10, "input_uncached_tokens": 10,
        "cache_read_input_tokens": 0, "cache_write_input_tokens": 0, "output_tokens": 5,
        "output_text_tokens": 5, "reasoning_output_tokens": 0, "cost_pusd": 7, "unpriced": 0,
        "refused": 0, "averted_pusd": 0, "watermark": NOON, "revision": 0, "version": 1,
        "outcomes": [{"key": "ok", "value": 1}],
    }  # fmt: skip
    return decode(encode("WindowRow", {**record, **over}))[1]


def usage(**over: Any) -> dict[str, Any]:
    """A UsageEvent as the sink stores it."""
    record = {
        "event_id": "e1", "source": "gateway", "source_epoch": "x", "source_seq": 1,
        "event_type": "inference", "occurred_at": NOON, "started_at": NOON - 1, "tenant_id": "t",
        "project_id": "p", "operation_name": "chat", "provider_name": "openai",
        "request_model": "m", "outcome": "ok",
    }  # fmt: skip
    event = decode(encode("UsageEvent", {**record, **over}))[1]
    del event["end_mark"]
    return event | {
        "unpriced": 0, "occurred_at_clamped": event["occurred_at"], "source_partition": 0,
        "source_offset": 5, "broker_time": NOON, "version": 6,
    }  # fmt: skip


def decision(**over: Any) -> dict[str, Any]:
    """A Decision as the sink stores it."""
    record = {
        "decision_id": "d1", "policy_id": "pol", "rule_id": "b", "policy_version": "1",
        "scope": {"tenant_id": "t"}, "action": "block", "params": {}, "mode": "enforce",
        "reason_code": "BUDGET_EXHAUSTED", "reason": "spent", "epoch": 1, "sequence": 9,
        "evidence": {"window": "day", "observed": 12, "limit": 10, "unit": "pusd",
                     "offsets": [{"partition": 0, "offset": 9}]},
        "issued_at": NOON, "effective_at": NOON, "expires_at": NOON + 1, "on_expiry": "open",
    }  # fmt: skip
    fields = decode(encode("Decision", record))[1]
    place = {"source_partition": 0, "control_offset": 3, "control_key": "k", "published_at": NOON}
    return {**place, **fields, **over}


def test_migrate_twice(settings: Settings) -> None:
    """The first run applies every file, the second nothing, and pending tells beforehand."""
    names = [str(migration) for migration in load()]
    assert pending(settings) == names
    assert migrate(settings) == names
    assert pending(settings) == []
    assert migrate(settings) == []
    stored = rows(settings, "SELECT number, sha256 FROM schema_migrations FINAL ORDER BY number")
    assert [(row["number"], row["sha256"]) for row in stored] == [
        (m.number, m.sha256) for m in load()
    ]


def test_migrators_at_once(settings: Settings) -> None:
    """Several processes may migrate at the same time."""
    with ThreadPoolExecutor(4) as pool:
        for outcome in [pool.submit(migrate, settings) for _ in range(4)]:
            outcome.result()
    assert pending(settings) == []
    counted = rows(settings, "SELECT count() AS n FROM schema_migrations FINAL")
    assert counted == [{"n": len(load())}]


def test_changed_migration_is_refused(settings: Settings, tmp_path: Path) -> None:
    """A migration that was edited after it was applied is named, and nothing is applied."""
    folder = tmp_path / "migrations"
    shutil.copytree(resource_dir("sql") / "migrations", folder)
    migrate(settings, folder)
    first = next(iter(sorted(folder.glob("*.sql"))))
    first.write_text(first.read_text() + "-- edited\n")
    for call in (migrate, pending):
        with pytest.raises(ConfigError, match=first.stem):
            call(settings, folder)


def test_newer_database_is_refused(settings: Settings, tmp_path: Path) -> None:
    """An older program does not touch tables that a newer one made."""
    migrate(settings)
    (tmp_path / "0001_usage_events.sql").write_bytes(
        (resource_dir("sql") / "migrations" / "0001_usage_events.sql").read_bytes()
    )
    with pytest.raises(ConfigError, match="0002_usage_windows"):
        migrate(settings, tmp_path)


def test_resent_events_are_one_row(writer: Writer, settings: Settings) -> None:
    """An event stored twice, the second time re-priced, is one row with the newer version."""
    writer.insert_rows("usage_events", [usage(), usage(event_id="e2")])
    again = usage(cost_pusd=5) | {"version": 9}
    writer.insert_rows("usage_events", [again])
    sql = (
        "SELECT event_id, cost_pusd, source_seq, queue_us FROM usage_events FINAL ORDER BY event_id"
    )
    assert rows(settings, sql) == [
        {"event_id": "e1", "cost_pusd": 5, "source_seq": 1, "queue_us": None},
        {"event_id": "e2", "cost_pusd": None, "source_seq": 1, "queue_us": None},
    ]


def test_every_field_survives(writer: Writer, settings: Settings) -> None:
    """Instants keep their microseconds, arrays their order, null stays null."""
    event = usage(
        occurred_at=NOON + 1,
        first_token_at=NOON,
        stream=True,
        attributes=[{"key": "a", "value": "ü;"}],
        units=[{"key": "images", "value": 2}],
        risk_flags=["x", "y"],
        prefix_block_ids=[-1, 2**62],
    )
    writer.insert_rows("usage_events", [event])
    sql = """SELECT toUnixTimestamp64Micro(occurred_at) AS at, first_token_at, scheduled_at, stream,
        tool_writes, attributes, units, risk_flags, prefix_block_ids FROM usage_events
        SETTINGS output_format_json_quote_64bit_integers = 0"""
    (row,) = [json.loads(line) for line in query_text(settings, sql, "JSONEachRow").splitlines()]
    assert row == {
        "at": NOON + 1, "first_token_at": "2027-01-15 08:00:00.000000", "scheduled_at": None,
        "stream": True, "tool_writes": None, "attributes": [{"key": "a", "value": "ü;"}],
        "units": [{"key": "images", "value": 2}], "risk_flags": ["x", "y"],
        "prefix_block_ids": [-1, 2**62],
    }  # fmt: skip


def test_spend_sums_lanes_and_takes_the_newest_rows(writer: Writer, settings: Settings) -> None:
    """A row's newer version replaces it, lanes and shards add up, money is exact beyond 64 bits."""
    writer.insert_rows(
        "usage_windows", [window(cost_pusd=1), window(lane="2027-01-16", cost_pusd=MAX)]
    )
    writer.insert_rows("usage_windows", [window(cost_pusd=MAX, version=2, events=3)])
    writer.insert_rows("usage_windows", [window(shard=1, cost_pusd=MAX, tool="search")])
    expected = Decimal(MAX).scaleb(-12)
    (total,) = rows(settings, "SELECT * FROM spend_by_tenant")
    assert Decimal(total["cost_usd"]) == 3 * expected
    assert (total["events"], total["requests"]) == (5, 3)
    spend = rows(settings, "SELECT tool, cost_usd FROM spend ORDER BY tool")
    assert [row["tool"] for row in spend] == ["", "search"]
    assert [Decimal(row["cost_usd"]) for row in spend] == [2 * expected, expected]
    for view, names in {
        "project": "tenant_id, project_id",
        "model": "model",
        "tool": "tool",
    }.items():
        assert len(rows(settings, f"SELECT {names}, cost_usd FROM spend_by_{view}")) == 1
    outcomes = rows(settings, "SELECT sum(outcomes['ok']) AS ok FROM usage_windows FINAL")
    assert outcomes == [{"ok": 3}]


def test_unpriced_usage_is_shown_by_model_and_tool(writer: Writer, settings: Settings) -> None:
    """What has no cost, and tool calls that no price list knows; priced and billed usage is not."""
    called = {"event_type": "tool", "cost_pusd": 0}
    priced = [{"key": "tool_call", "quantity": 1, "cost_pusd": 0}]
    writer.insert_rows("usage_events", [
        usage(event_id="e1", input_tokens=5, occurred_at=NOON + 1) | {"unpriced": 1},
        usage(event_id="e2", input_tokens=7, tenant_id="u") | {"unpriced": 1},
        usage(event_id="e3", input_tokens=9, cost_pusd=9),
        usage(event_id="e4", tool_name="fetch", **called),
        usage(event_id="e5", tool_name="free", usage_by_class=priced, **called),
        usage(event_id="e6", tool_name="billed", event_type="tool", cost_pusd=3),
        usage(event_id="e7", tool_name="refused", outcome="rejected", **called),
    ])  # fmt: skip
    names = "model, tool, reason, events, input_tokens, tenants, first_at, last_at"
    first, second = rows(settings, f"SELECT {names} FROM unpriced")
    assert first == {
        "model": "m", "tool": "", "reason": "no price", "events": 2, "input_tokens": 12,
        "tenants": ["t", "u"], "first_at": "2027-01-15 08:00:00.000000",
        "last_at": "2027-01-15 08:00:00.000001",
    }  # fmt: skip
    assert (second["tool"], second["events"], second["tenants"]) == ("fetch", 1, ["t"])
    assert second["reason"].startswith("tool call without a price")


def test_budget_state_is_the_newest_period(writer: Writer, settings: Settings) -> None:
    """Of each budget the last period is shown, in its last state."""
    record = {
        "tenant_id": "t", "policy_id": "pol", "budget_id": "b", "scope": "tenant_id=t",
        "period_end": NOON, "limit_pusd": 10**13, "settled_pusd": 0, "remaining_pusd": 0,
        "events": 1, "unpriced": 0, "watermark": NOON, "burn": [{"key": "1h", "value": 3}],
    }  # fmt: skip
    states = [("day1", 1, "ok", 1), ("day2", 2, "ok", 2), ("day2", 2, "block", 3)]
    for period, start, state, version in states:
        over = {"period": period, "period_start": start, "state": state, "version": version,
                "settled_pusd": version * 5 * 10**12}  # fmt: skip
        row = decode(encode("BudgetRow", {**record, **over}))[1]
        writer.insert_rows("budget_ledgers", [row])
    (shown,) = rows(settings, "SELECT * FROM budget_state")
    assert (shown["period"], shown["state"], shown["used_ratio"]) == ("day2", "block", 1.5)
    assert Decimal(shown["settled_usd"]) == 15
    assert shown["unit"] == "pusd"


def test_budgets_of_before_scopes_had_rows_are_taken_over(
    writer: Writer, settings: Settings
) -> None:
    """A row of the table before, taken over twice, is one row of money without burn or unit."""
    row = {"tenant_id": "old", "policy_id": "p", "budget_id": "b", "scope": "tenant_id=old",
           "period": "day", "limit_pusd": 4 * 10**12, "settled_pusd": 10**12,
           "remaining_pusd": 3 * 10**12, "state": "ok", "version": 7}  # fmt: skip
    (sql,) = [m.sql for m in load() if m.name == "budgets_in_any_unit_and_scope"]
    client = connect(settings)
    try:
        client.insert("budget_states", [list(row.values())], column_names=list(row))
        for _ in range(2):
            for statement in split(sql.encode()):
                client.command(filled(statement.decode(), settings))
    finally:
        client.close()
    (shown,) = rows(settings, "SELECT * FROM budget_state")
    assert (shown["scope"], shown["unit"]) == ("tenant_id=old", "pusd")
    assert [Decimal(shown[f"{name}_usd"]) for name in ("limit", "settled", "remaining")] == [
        4,
        1,
        3,
    ]
    assert int(shown["remaining_amount"]) == 3 * 10**12


def test_budgets_of_any_unit_keep_their_scopes_apart(writer: Writer, settings: Settings) -> None:
    """Two scopes of a tenant are two rows, in the unit of the budget and without US dollars."""
    record = {
        "tenant_id": "t", "policy_id": "pol", "budget_id": "b", "period": "day", "unit": "tokens",
        "period_start": 1, "period_end": NOON, "limit_pusd": 0, "settled_pusd": 0,
        "remaining_pusd": 0, "limit": 100, "settled": 30, "reserved": 20, "presumed": 5,
        "corrected": -1, "remaining": 45, "forecast": 90, "events": 2, "unpriced": 0,
        "watermark": NOON, "burn": [{"key": "1h", "value": 7}], "state": "ok", "version": 1,
    }  # fmt: skip
    for model in ("m", "n"):
        over = {"scope": f"model={model},tenant_id=t"}
        row = decode(encode("BudgetRow", {**record, **over}))[1]
        writer.insert_rows("budget_ledgers", [row])
    first, second = rows(settings, "SELECT * FROM budget_state ORDER BY scope")
    assert (first["scope"], second["scope"]) == ("model=m,tenant_id=t", "model=n,tenant_id=t")
    assert (first["unit"], first["limit_usd"]) == ("tokens", None)
    names = ("limit", "settled", "reserved", "presumed", "remaining", "forecast")
    assert [int(first[f"{name}_amount"]) for name in names] == [100, 30, 20, 5, 45, 90]
    assert (int(first["burn_1h"]), first["used_ratio"]) == (7, 0.3)


def test_decisions_and_their_lifts(writer: Writer, settings: Settings) -> None:
    """Each decision once, with evidence; a tombstone after it says when it was lifted."""
    writer.insert_rows("decisions", [decision(), decision()])
    writer.insert_rows(
        "decisions",
        [
            decision(
                decision_id="d2",
                control_offset=8,
                issued_at=NOON + 9,
                scope=decision()["scope"] | {"priority": "batch"},
            )
        ],
    )
    lift = {
        "source_partition": 0,
        "control_offset": 5,
        "control_key": "k",
        "published_at": NOON + 4,
    }
    writer.insert_rows("decision_lifts", [lift])
    sql = "SELECT decision_id, priority, observed, threshold, lifted_at FROM decisions_log"
    assert rows(settings, sql) == [
        {"decision_id": "d2", "priority": "batch", "observed": 12, "threshold": 10,
         "lifted_at": None},
        {"decision_id": "d1", "priority": None, "observed": 12, "threshold": 10,
         "lifted_at": "2027-01-15 08:00:00.000004"},
    ]  # fmt: skip
    sql = "SELECT params.burst, lease.lease_id FROM decisions WHERE decision_id = 'd2'"
    assert [list(row.values()) for row in rows(settings, sql)] == [[None, None]]


def test_refusals_and_applied_lag(writer: Writer, settings: Settings) -> None:
    """Admission events answer what was refused, what it would have cost, and how soon."""
    block = [{"key": "action", "value": "block"}]
    common = {"event_type": "admission", "decision_id": "d1", "attributes": block}
    refusal = common | {"outcome": "rejected", "error_type": "SPENT", "estimated_cost_pusd": MAX}
    events = [
        usage(event_id=f"r{n}", units=[{"key": "requests", "value": n}], **refusal) for n in (2, 3)
    ]
    for n in range(1, 101):
        units = [{"key": "requests", "value": 1}, {"key": "applied_lag_us", "value": n}]
        events.append(usage(event_id=f"a{n}", outcome="ok", units=units, **common))
    writer.insert_rows("usage_events", events)
    (refused,) = rows(settings, "SELECT * FROM refusals")
    assert (refused["requests"], refused["action"], refused["reason_code"]) == (5, "block", "SPENT")
    assert Decimal(refused["averted_usd"]) == 2 * Decimal(MAX).scaleb(-12)
    (lag,) = rows(settings, "SELECT * FROM applied_lag")
    assert (lag["applied"], lag["p50_us"], lag["p99_us"], lag["max_us"]) == (100, 51, 100, 100)


def test_positions_never_go_back(writer: Writer) -> None:
    """A sink that lost a partition cannot set its position back; a new generation starts anew."""
    writer.save_positions({("u", 0): '{"next_offset": 10}', ("u", 1): '{"next_offset": 1}'})
    writer.save_positions({("u", 0): '{"next_offset": 4}'})
    assert writer.positions() == {("u", 0): '{"next_offset": 10}', ("u", 1): '{"next_offset": 1}'}
    renewed = writer._settings.model_copy(update={"topic_generation": 1})
    Writer(renewed).save_positions({("u", 0): '{"next_offset": 0}'})
    assert writer.positions()["u", 0] == '{"next_offset": 0}'


def test_wrong_rows_are_named(writer: Writer) -> None:
    """Table, column and value are in the error, and nothing is stored or sent."""
    with pytest.raises(SluiceError, match="column events of usage_windows"):
        writer.insert_rows("usage_windows", [window() | {"events": None}])
    short = window()
    del short["tool"]
    with pytest.raises(SluiceError, match="lacks the field 'tool'"):
        writer.insert_rows("usage_windows", [window(), short])
    with pytest.raises(OutsideError, match=r"no column colour; run `sluice migrate`"):
        writer.insert("usage_windows", {"colour": ["red"]})
    assert writer.insert_rows("usage_windows", []) == 0


def test_missing_tables_can_come_back(settings: Settings) -> None:
    """Without its tables the writer says what to run, and goes on once they are there."""
    writer = Writer(settings)
    with pytest.raises(OutsideError, match="sluice migrate"):
        writer.positions()
    with pytest.raises(OutsideError, match="sluice migrate"):
        writer.insert_rows("usage_windows", [window()])
    migrate(settings)
    assert writer.insert_rows("usage_windows", [window()]) == 1
    query_text(settings, f"DROP TABLE {settings.clickhouse_database}.usage_windows", "TSV")
    with pytest.raises(OutsideError, match="sluice migrate"):
        writer.insert_rows("usage_windows", [window()])
    writer.close()


def test_writer_survives_a_restart(tmp_path: Path) -> None:
    """While the server is away the writer says so; afterwards the same writer stores again."""
    node = ClickHouseNode(tmp_path).start()
    migrate(node.settings)
    writer = Writer(node.settings)
    writer.insert_rows("usage_windows", [window()])
    node.kill()
    with pytest.raises(OutsideError, match="does not answer"):
        writer.insert_rows("usage_windows", [window(version=2)])
    with node:
        writer.insert_rows("usage_windows", [window(version=2)])
        found = query_text(node.settings, "SELECT version FROM usage_windows FINAL", "TSV")
    writer.close()
    assert found == b"2\n"
