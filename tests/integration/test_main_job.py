"""The running system through its command line: emit, sql, dead letters, status, policies."""

from __future__ import annotations

import itertools
import json
import time
import urllib.request
from typing import Any

from confluent_kafka import Producer
from tests.builders import MODEL, usage
from tests.integration.conftest import Stack, until

from sluice.wire.codec import encode
from sluice.wire.kafka import producer_config, topics
from sluice.wire.scan import committed_records


def line(number: int, **over: Any) -> str:
    """A usage event as a JSON line for `sluice emit`."""
    now = time.time_ns() // 1000
    event = usage(number, occurred_at=now, started_at=now, **over)
    for name in ("source", "source_epoch", "source_seq", "event_id"):
        event.pop(name)
    return json.dumps(event)


def test_emitted_events_arrive_priced_in_every_view(stack: Stack) -> None:
    """Events from standard input show up in spend views with their exact cost."""
    lines = "\n".join(line(n, tenant_id="emit-test", tool_name="search") for n in range(5))
    done = stack.sluice("emit", "--json", input=lines)
    assert json.loads(done.stdout)["emitted"] == 5, done.stderr
    cost = "0.00015"
    for view in ("spend_by_tenant", "spend_by_project", "spend_by_model", "spend_by_tool"):
        query = f"SELECT count() AS n FROM {view} WHERE cost_usd >= {cost}"
        until(lambda query=query: int(stack.value(query)) >= 1, what=view)
    query = "SELECT toString(cost_usd) AS c FROM spend_by_tenant WHERE tenant_id = 'emit-test'"
    assert stack.value(query).rstrip("0") == cost


def test_faulty_lines_are_named_and_the_rest_is_emitted(stack: Stack) -> None:
    """Bad lines are listed with number and reason, exit code 1; good ones go through."""
    lines = [line(1, tenant_id="mixed"), "{", line(2, tenant_id="mixed", input_tokens=-4), "[]"]
    done = stack.sluice("emit", "--json", input="\n".join(lines))
    report = json.loads(done.stdout)
    assert done.returncode == 1
    assert report["emitted"] == 1
    assert [fault.split(":")[0] for fault in report["faults"]] == ["line 2", "line 3", "line 4"]


def test_what_providers_report_arrives_as_usage(stack: Stack) -> None:
    """A response and a span, adapted by the command, are stored with tokens, cost and no text."""
    now = time.time_ns() // 1000
    counts = {"input_tokens": 50, "cache_read_input_tokens": 1000, "output_tokens": 20}
    context = {"tenant_id": "adapted", "project_id": "p", "started_at": now, "occurred_at": now}
    message = {"model": MODEL, "usage": counts, "content": [{"type": "text", "text": "secret"}]}
    lines = {"anthropic-messages": {"context": context, "response": message}, "otel": {
        "start_time_unix_nano": now * 1000, "end_time_unix_nano": now * 1000,
        "attributes": {
            "org": "adapted", "team": "p", "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "replicate", "gen_ai.request.model": MODEL,
            "gen_ai.usage.input_tokens": 100, "gen_ai.usage.output_tokens": 100,
            "gen_ai.output.messages": "secret",
        },
    }}  # fmt: skip
    attributes = ("--tenant-attribute", "org", "--project-attribute", "team")
    for name, adapted in lines.items():
        options = attributes if name == "otel" else ()
        done = stack.sluice("emit", "--format", name, *options, input=json.dumps(adapted))
        assert done.returncode == 0, done.stderr
    stored = "FROM usage_events FINAL WHERE tenant_id = 'adapted'"
    until(lambda: int(stack.value(f"SELECT count() AS n {stored}")) == 2, what="both events")
    rows = stack.rows(f"SELECT * {stored} ORDER BY input_tokens")
    assert [int(row["input_tokens"]) for row in rows] == [100, 1050]
    assert int(rows[1]["cache_read_input_tokens"]) == 1000
    assert "secret" not in json.dumps(rows)


def test_bad_values_land_in_dead_letters_with_reason_and_position(stack: Stack) -> None:
    """Garbage, wrong tokens, absurd times and 10 MB values are kept with their reasons."""
    now = time.time_ns() // 1000
    whole = encode("UsageEvent", usage(1, tenant_id="bad", occurred_at=now, started_at=now))

    numbers = itertools.count(2)

    def wrong(**over: Any) -> bytes:
        fields = {"occurred_at": now, "started_at": now, "tenant_id": "bad", **over}
        return encode("UsageEvent", usage(next(numbers), source_seq=None, **fields))

    values = {
        "not_single_object": b"garbage", "unknown_fingerprint": b"\xc3\x01" + bytes(9),
        "truncated": whole[:-2], "trailing_bytes": whole + whole[10:],
        "too_large": bytes(10 * 2**20), "negative_value": wrong(output_tokens=-1),
        "token_subset": wrong(cache_read_input_tokens=999),
        "absurd_time": wrong(occurred_at=now + 10**14), "missing_tenant": wrong(tenant_id=""),
    }  # fmt: skip
    config = producer_config(stack.settings, **{"message.max.bytes": 16 * 2**20})
    producer = Producer(config)
    for reason, value in values.items():
        key = b"" if reason == "missing_tenant" else b"bad"
        producer.produce(topics(stack.settings).usage, value, key, partition=0)
    producer.produce(topics(stack.settings).usage, whole, b"bad", partition=0)
    assert producer.flush(30) == 0
    query = "SELECT reason, any(offset) AS o FROM dead_letters FINAL GROUP BY reason"
    until(
        lambda: set(values) <= {row["reason"] for row in stack.rows(query)}, what=str(set(values))
    )
    good = "SELECT count() AS n FROM usage_events FINAL WHERE tenant_id = 'bad'"
    until(lambda: int(stack.value(good)) == 1, what="the good neighbour")


def test_a_crossed_budget_reaches_sql(stack: Stack, tmp_path: Any) -> None:
    """A policy applied from a file blocks a tenant; decision and budget state are in SQL."""
    policy = tmp_path / "p.yaml"
    policy.write_text(
        "policy_id: sql-test\nbudgets:\n  - budget_id: day\n    scope: [tenant_id]\n    unit: usd\n"
        "    limit: '0.00005'\n    period: day\n    rules:\n"
        "      - {rule_id: stop, at: 100%, action: block}\n"
    )
    assert stack.sluice("policy", "apply", str(policy)).returncode == 0
    lines = "\n".join(line(n, tenant_id="spender") for n in range(3))
    assert stack.sluice("emit", input=lines).returncode == 0
    query = "SELECT action, reason FROM decisions_log WHERE tenant_id = 'spender'"
    until(lambda: bool(stack.rows(query)), what="the decision in SQL")
    (decision,) = stack.rows(query)
    assert decision["action"] == "block"
    assert "spender has spent 0.000060 of 0.000050 USD" in decision["reason"]
    state = "SELECT state FROM budget_state WHERE tenant_id = 'spender'"
    until(lambda: stack.rows(state) == [{"state": "block"}], what="the budget state")
    assert stack.sluice("policy", "withdraw", "sql-test").returncode == 0


def test_a_wrong_policy_applies_nothing(stack: Stack, tmp_path: Any) -> None:
    """Every fault of a policy file is listed with its place and nothing is published."""
    published = topics(stack.settings).policy
    before = list(committed_records(stack.settings, published))
    policy = tmp_path / "p.yaml"
    policy.write_text("policy_id: bad id\nbudgets: []\n")
    done = stack.sluice("policy", "apply", str(policy))
    assert done.returncode == 2
    assert "line 1" in done.stderr and "line 2" in done.stderr
    assert list(committed_records(stack.settings, published)) == before


def test_status_tells_positions_and_counters(stack: Stack) -> None:
    """`sluice status --json` names ready processes, partitions and the sink's positions."""
    done = stack.sluice("status", "--json")
    report = json.loads(done.stdout)
    assert done.returncode == 0
    assert {p["name"] for p in report["processes"]} >= {"kafka", "clickhouse", "meter-0", "sink"}
    partitions = report["workers"]["meter-0"]["partitions"]
    assert sorted(p["partition"] for p in partitions) == [0, 1, 2, 3]
    assert report["workers"]["sink"]["positions"]


def test_everything_listens_on_loopback_only(stack: Stack) -> None:
    """No process of the stack accepts connections from other machines."""
    import psutil

    ours = {stack.pid(name) for name in ("kafka", "clickhouse", "meter-0", "sink")}
    listening = [
        c.laddr.ip
        for pid in ours
        for c in psutil.Process(pid).net_connections()
        if c.status == "LISTEN"
    ]
    assert listening
    assert all(ip.removeprefix("::ffff:") in ("127.0.0.1", "::1") for ip in listening)


def test_curl_can_ask(stack: Stack) -> None:
    """Plain HTTP with a query in the URL is answered, as with any ClickHouse server."""
    url = f"{stack.settings.clickhouse}/?query=SELECT%201%2B1"
    with urllib.request.urlopen(url, timeout=10) as answer:
        assert answer.read() == b"2\n"
