"""Metering on the running system: tails, tasks, producers, baselines, and the audit over it all."""

from __future__ import annotations

import json
import time
from typing import Any

from confluent_kafka import Producer
from tests.builders import usage
from tests.integration.conftest import Stack, until
from tests.integration.test_main_job import line

from sluice.wire.codec import encode
from sluice.wire.kafka import producer_config, topics

HOUR_US = 3_600_000_000
MODEL = "gpt-4o"


def emit(stack: Stack, lines: list[str]) -> None:
    """Publish JSON lines through the command line."""
    done = stack.sluice("emit", "--json", input="\n".join(lines))
    assert json.loads(done.stdout)["emitted"] == len(lines), done.stderr


def test_bands_causes_and_classes_add_up_in_stored_rows(stack: Stack) -> None:
    """In every stored row body, shoulder and tail, causes, and classes add up to the cost."""
    plain = [line(n, tenant_id="bands") for n in range(20)]
    # Far more output than requests of this length normally have: a tail, half of it a retry's.
    long = [line(n, tenant_id="bands", output_tokens=60_000, attempt=1 + n % 2) for n in range(4)]
    emit(stack, plain + long)
    counted = "SELECT sum(events) FROM usage_windows FINAL WHERE tenant_id = 'bands'"
    until(lambda: int(stack.value(counted)) == 24, what="all events in windows")
    (row,) = stack.rows(
        "SELECT toString(sum(tail_pusd)) AS tail, toString(sum(packaged)) AS packaged, "
        "toString(countIf(body_pusd + shoulder_pusd + tail_pusd != cost_pusd)) AS bad_bands, "
        "toString(countIf(arraySum(mapValues(overhead_by_cause)) != cost_pusd)) AS bad_causes, "
        "toString(countIf(arraySum(mapValues(tail_by_cause)) != tail_pusd)) AS bad_tails, "
        "toString(countIf(arraySum(usage_by_class.cost_pusd) != cost_pusd)) AS bad_classes, "
        "toString(sum(tail_by_cause['retry'])) AS retry "
        "FROM usage_windows FINAL WHERE tenant_id = 'bands'"
    )
    assert row["bad_bands"] == row["bad_causes"] == row["bad_tails"] == row["bad_classes"] == "0"
    assert int(row["tail"]) == 2 * int(row["retry"]) > 0
    assert row["packaged"] == "24"
    events = "SELECT toString(sum(tail_pusd)) FROM usage_events FINAL WHERE tenant_id = 'bands'"
    until(lambda: stack.value(events) == row["tail"], what="the same tail in raw events")


def test_a_task_is_stored_as_a_unit(stack: Stack) -> None:
    """Calls and tools of one task end in one row with its cost and its loop."""
    common = {"tenant_id": "tasks", "task_id": "t-1", "agent_name": "porter"}
    steps = [line(n, **common, step=n) for n in range(3)]
    again = {"event_type": "tool", "tool_name": "search", "input_tokens": 0, "output_tokens": 0,
             "tool_args_hash": "a" * 16, "result_hash": "b" * 16}  # fmt: skip
    tools = [line(10 + n, **common, **again) for n in range(4)]
    emit(stack, [*steps, *tools, line(20, **common)])
    query = "SELECT * FROM usage_tasks FINAL WHERE tenant_id = 'tasks'"
    until(lambda: [int(r["events"]) for r in stack.rows(query)] == [8], what="the task's row")
    (row,) = stack.rows(query)
    assert (row["agent_name"], int(row["steps"]), int(row["tool_calls"])) == ("porter", 4, 4)
    cost = 100 * 50_000 + 100 * 250_000
    assert (int(row["cost_pusd"]), int(row["loop_pusd"])) == (4 * cost, cost)
    assert not row["ended"]


def test_holes_in_a_producers_numbers_show_and_close(stack: Stack) -> None:
    """A number that is missing shows in SQL until it arrives and counts as recovered."""
    now = time.time_ns() // 1000
    producer = Producer(producer_config(stack.settings))

    def send(*numbers: int) -> None:
        for number in numbers:
            event = usage(
                number, tenant_id="holes", source="gappy", occurred_at=now, started_at=now
            )
            value = encode("UsageEvent", event)
            producer.produce(topics(stack.settings).usage, value, b"holes", partition=0)
        assert producer.flush(30) == 0

    query = ("SELECT toString(missing) AS missing, toString(recovered) AS recovered, "
             "toString(duplicates) AS duplicates FROM usage_sources FINAL "
             "WHERE source = 'gappy'")  # fmt: skip

    def shows(missing: int, recovered: int, duplicates: int) -> bool:
        found = [tuple(map(int, row.values())) for row in stack.rows(query)]
        return found == [(missing, recovered, duplicates)]

    send(1, 2, 2, 5)
    until(lambda: shows(2, 0, 1), what="two missing numbers")
    send(3, 4)
    until(lambda: shows(0, 2, 1), what="their recovery")


def test_the_rollup_makes_a_baseline_of_a_closed_hour(own_stack: Stack) -> None:
    """Usage of the hour before enters a new baseline, which then labels what comes.

    On a stack of its own: a baseline that has looked at an hour takes nothing more of it.
    """
    stack = own_stack
    last_hour = time.time_ns() // 1000 // HOUR_US * HOUR_US - HOUR_US // 4
    times = {"occurred_at": last_hour, "started_at": last_hour}
    common = {"tenant_id": "norm", "request_model": MODEL, "provider_name": "openai"}
    lines = [json.dumps(json.loads(line(n, **common)) | times | {"output_tokens": 100 + n % 50})
             for n in range(250)]  # fmt: skip
    emit(stack, lines)

    def published() -> Any:
        done = stack.sluice("baseline", "show", "--json")
        return json.loads(done.stdout) if done.returncode == 0 else None

    def has_norm() -> bool:
        found = published()
        return bool(found) and any(MODEL in norm["cohort"] for norm in found["norms"])

    until(has_norm, timeout_s=90, what="a baseline with the model's norm")
    version = published()["version"]

    def labelled() -> bool:
        emit(stack, [line(1, **common)])
        query = ("SELECT count() FROM usage_events FINAL "
                 f"WHERE tenant_id = 'norm' AND baseline_version = '{version}'")  # fmt: skip
        return int(stack.value(query)) > 0

    until(labelled, what="an event labelled by the new baseline")


def test_the_audit_agrees_and_names_what_is_wrong(stack: Stack) -> None:
    """A recount equals all tables; one falsified row is named with both values, exit code 1."""
    emit(stack, [line(n, tenant_id="audited") for n in range(7)])
    first = stack.sluice("audit", "--json")
    assert first.returncode == 0, first.stdout
    assert json.loads(first.stdout)["totals"]["recount"]["events"] >= 7
    change = ("INSERT INTO usage_windows SELECT * REPLACE (cost_pusd {by} AS cost_pusd, "
              "version + 1 AS version) FROM usage_windows FINAL "
              "WHERE tenant_id = 'audited' ORDER BY window_start LIMIT 1")  # fmt: skip
    assert stack.sluice("sql", change.format(by="+ 1")).returncode == 0
    found = stack.sluice("audit", "--json", "--timeout", "0")
    assert found.returncode == 1
    (difference,) = json.loads(found.stdout)["differences"]
    assert difference.startswith("audited cost_pusd: recount 210000000, usage_events 210000000,")
    assert difference.endswith("usage_windows 210000001")
    assert stack.sluice("sql", change.format(by="- 1")).returncode == 0
