"""Views and queries for analysts on generated usage, checked against sums made here from events."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from sluice.bench.usage_data import Scale, fill, until_now
from sluice.settings import Settings
from sluice.steering.explaining import tell_stored
from sluice.steering.ledgers import Ledgers
from sluice.steering.stored import Stored
from sluice.warehouse.client import query_text
from sluice.warehouse.cookbook import Recipe, recipe, recipes, views
from sluice.warehouse.migrations import migrate
from sluice.warehouse.node import ClickHouseNode
from sluice.warehouse.writer import Writer
from sluice.wire.codec import decode, encode

pytestmark = pytest.mark.integration

EVENTS, DAYS = 80_000, 10
GAMMA = 1.01 / 0.99
EVER = "since = now() - INTERVAL 90 DAY, until = now() + INTERVAL 1 DAY"
ARGUMENTS = {
    "cost_quantiles": EVER,
    "latency_quantiles": EVER,
    "price_of_percentile": EVER,
    "noisy_neighbours": EVER,
    "error_budget": f"slo = 0.99, {EVER}",
    "spend_as_of": "as_of = now64(6)",
}
NOON = 1_800_000_000_000_000
MINUTE = 60_000_000
Row = dict[str, Any]


@pytest.fixture(scope="module")
def settings(node: ClickHouseNode) -> Settings:
    """A warehouse with generated usage up to the last full hour."""
    migrate(node.settings)
    fill(node.settings, Scale(EVENTS, DAYS, until_now()))
    return node.settings


@pytest.fixture
def empty(node: ClickHouseNode, request: pytest.FixtureRequest) -> Settings:
    """A migrated database of one's own."""
    chosen = node.settings.model_copy(update={"clickhouse_database": f"d_{request.node.name[:40]}"})
    migrate(chosen)
    return chosen


@pytest.fixture(scope="module")
def events(settings: Settings) -> list[Row]:
    """Every generated usage event and correction, as it was stored."""
    return rows(
        settings,
        """SELECT event_id, event_type, corrects_event_id, tenant_id, project_id, source,
            ifNull(response_model, request_model) AS model, ifNull(tool_name, '') AS tool,
            toUnixTimestamp64Micro(occurred_at) AS at, source_seq, attempt_kind, cost_pusd,
            toUnixTimestamp64Micro(broker_time) AS arrived, usage_by_class, body_pusd,
            shoulder_pusd, tail_pusd, latency_us, outcome, slo_outcome, task_id, gpu_us
        FROM usage_events WHERE event_type != 'admission'""",
    )


def rows(settings: Settings, sql: str) -> list[Row]:
    """Rows of a query, decimals exact."""
    quoted = "output_format_json_quote_decimals = 1, output_format_json_quote_64bit_integers = 0"
    text = query_text(settings, f"{sql} SETTINGS {quoted}", "JSONEachRow").decode()
    return [json.loads(line) for line in text.splitlines()]


def total(found: list[Row], column: str) -> Decimal:
    """Exact sum of a decimal column."""
    return sum((Decimal(row[column]) for row in found), Decimal(0))


def usd(pusd: int) -> Decimal:
    """Pico-USD as exact USD."""
    return Decimal(pusd).scaleb(-12)


def summed(
    events: list[Row], by: Callable[[Row], Any], what: Callable[[Row], int]
) -> dict[Any, int]:
    """Sum of `what` per `by`."""
    sums: dict[Any, int] = defaultdict(int)
    for event in events:
        sums[by(event)] += what(event)
    return dict(sums)


def cost(event: Row) -> int:
    """Cost of an event; what has no price adds nothing."""
    return event["cost_pusd"] or 0


def is_usage(event: Row) -> bool:
    """Whether it is an event and not the correction of one."""
    return bool(event["event_type"] != "correction")


def is_good(event: Row) -> bool:
    """Whether it served its user."""
    if event["slo_outcome"] is not None:
        return bool(event["slo_outcome"] == "good")
    return event["outcome"] in ("ok", "degraded")


def corrected(events: list[Row]) -> dict[str, int]:
    """Final cost of each priced event, pico-USD."""
    final = {e["event_id"]: e["cost_pusd"] for e in events if is_usage(e) and cost(e)}
    for event in events:
        if not is_usage(event):
            final[event["corrects_event_id"]] += event["cost_pusd"]
    return final


def ranked(values: list[int], level: float) -> int:
    """The value at rank ceil(level * n) of sorted `values`."""
    return values[math.ceil(round(level * len(values), 6)) - 1]


@pytest.mark.parametrize("recipe", recipes(), ids=str)
def test_every_query_answers(settings: Settings, recipe: Recipe) -> None:
    """Each query of the cookbook runs as it stands and has something to say."""
    assert query_text(settings, recipe.sql, "JSONEachRow").strip()


@pytest.mark.parametrize("view", sorted(views()))
def test_every_view_answers(settings: Settings, view: str) -> None:
    """Each view has rows."""
    arguments = f"({ARGUMENTS[view]})" if view in ARGUMENTS else ""
    assert query_text(settings, f"SELECT * FROM {view}{arguments}", "JSONEachRow").strip()


def test_spend_and_bands_are_those_of_the_events(settings: Settings, events: list[Row]) -> None:
    """Spend, body, shoulder and tail per owner equal the sums of the events, to the pico-USD."""
    found = rows(
        settings,
        """SELECT tenant_id, project_id, sum(o.cost_usd) AS cost_usd, sum(o.tail_usd) AS tail_usd,
            sum(o.body_usd) + sum(o.shoulder_usd) AS normal_usd
        FROM tail_by_owner AS o GROUP BY tenant_id, project_id HAVING sum(o.events) > 0""",
    )
    owner = lambda e: (e["tenant_id"], e["project_id"])
    for column, what in (
        ("cost_usd", cost),
        ("tail_usd", lambda e: e["tail_pusd"]),
        ("normal_usd", lambda e: e["body_pusd"] + e["shoulder_pusd"]),
    ):
        stored = {(r["tenant_id"], r["project_id"]): Decimal(r[column]) for r in found}
        assert stored == {k: usd(v) for k, v in summed(events, owner, what).items()}
    tenants = rows(settings, "SELECT tenant_id, cost_usd, events FROM spend_by_tenant")
    per_tenant = summed(events, lambda e: e["tenant_id"], cost)
    assert {r["tenant_id"]: Decimal(r["cost_usd"]) for r in tenants if r["events"]} == {
        k: usd(v) for k, v in per_tenant.items()
    }


def test_classes_add_up_to_spend(settings: Settings, events: list[Row]) -> None:
    """Quantity and cost per class are those of the events, and the costs are the whole spend."""
    found = rows(
        settings,
        """SELECT class, sum(c.quantity) AS quantity, sum(c.cost_usd) AS cost_usd
        FROM spend_by_class AS c GROUP BY class""",
    )
    used = [entry for event in events for entry in event["usage_by_class"]]
    quantities = summed(used, lambda u: u["key"], lambda u: u["quantity"])
    costs = summed(used, lambda u: u["key"], lambda u: u["cost_pusd"])
    assert {r["class"]: r["quantity"] for r in found} == quantities
    assert {r["class"]: Decimal(r["cost_usd"]) for r in found} == {
        k: usd(v) for k, v in costs.items()
    }
    assert total(found, "cost_usd") == usd(sum(map(cost, events)))


def test_causes_add_up_to_tail_and_cost(settings: Settings, events: list[Row]) -> None:
    """Retries and hedges are those of the events; all causes together are the tail and the cost."""
    found = rows(
        settings,
        """SELECT cause, sum(c.tail_usd) AS tail, sum(c.caused_usd) AS caused,
            sum(c.overhead_usd) AS overhead FROM tail_by_cause AS c GROUP BY cause""",
    )
    by_cause = {row["cause"]: row for row in found}
    for cause in ("retry", "hedge"):
        meant = [e for e in events if e["attempt_kind"] == cause]
        assert Decimal(by_cause[cause]["caused"]) == usd(sum(map(cost, meant))) > 0
        assert Decimal(by_cause[cause]["tail"]) == usd(sum(e["tail_pusd"] for e in meant))
    assert total(found, "tail") == usd(sum(e["tail_pusd"] for e in events))
    assert total(found, "caused") == usd(sum(map(cost, events)))
    assert Decimal(by_cause["first_pass"]["overhead"]) == 0
    without = total(found, "caused") - Decimal(by_cause["first_pass"]["caused"])
    assert total(found, "overhead") == without


@pytest.mark.parametrize(("measure", "unit"), [("cost", "usd"), ("latency", "us")])
def test_quantiles_are_within_one_percent(
    settings: Settings, events: list[Row], measure: str, unit: str
) -> None:
    """p50, p95 and p99 of merged histograms, corrections moved, are at most 1 % off the truth."""
    final = corrected(events)
    groups: dict[Any, list[int]] = defaultdict(list)
    for event in events:
        value = final.get(event["event_id"]) if measure == "cost" else event["latency_us"]
        if is_usage(event) and value:
            groups[event["tenant_id"], event["model"], event["tool"]].append(value)
    found = rows(settings, f"SELECT * FROM {measure}_quantiles({EVER})")
    assert len(found) == len(groups)
    scale = 1e-12 if measure == "cost" else 1.0
    for row in found:
        values = sorted(groups[row["tenant_id"], row["model"], row["tool"]])
        assert row["events"] == len(values)
        for level in (50, 95, 99):
            true = ranked(values, level / 100) * scale
            assert row[f"p{level}_{unit}"] == pytest.approx(true, rel=0.0101)


@pytest.mark.parametrize(("measure", "unit"), [("cost", "usd"), ("latency", "us")])
def test_price_of_a_percentile(
    settings: Settings, events: list[Row], measure: str, unit: str
) -> None:
    """Spend above a percentile is the exact cost of the events above the percentile's bucket."""
    final = corrected(events)
    groups: dict[Any, list[tuple[int, int]]] = defaultdict(list)
    for event in events:
        paid = final.get(event["event_id"], 0)
        value = paid if measure == "cost" else event["latency_us"]
        if is_usage(event) and value:
            groups[event["tenant_id"], event["model"]].append((value, paid))
    found = rows(settings, f"SELECT * FROM price_of_percentile({EVER}) WHERE measure = '{measure}'")
    assert len(found) == 4 * len(groups)
    for row in found:
        assert row["unit"] == unit
        held = sorted(groups[row["tenant_id"], row["model"]])
        at = ranked([value for value, _ in held], row["percentile"] / 100)
        edge = GAMMA ** math.ceil(math.log(at) / math.log(GAMMA) - 1e-9) * (1 + 1e-9)
        above = [paid for value, paid in held if value > edge]
        assert (row["events"], row["events_above"]) == (len(held), len(above))
        assert Decimal(row["above_usd"]) == usd(sum(above))
        assert Decimal(row["cost_usd"]) == usd(sum(paid for _, paid in held))


def test_cost_per_good_outcome(settings: Settings, events: list[Row]) -> None:
    """Everything that was spent, divided by the events that served their user."""
    found = rows(
        settings,
        """SELECT model, sum(c.events) AS n, sum(c.good) AS good, sum(c.cost_usd) AS cost_usd
        FROM cost_per_good_outcome AS c GROUP BY model""",
    )
    usage = [event for event in events if is_usage(event)]
    counts = summed(usage, lambda e: e["model"], lambda _: 1)
    good = summed(usage, lambda e: e["model"], lambda e: int(is_good(e)))
    costs = summed(events, lambda e: e["model"], cost)
    assert {r["model"]: (r["n"], r["good"]) for r in found} == {
        model: (n, good[model]) for model, n in counts.items()
    }
    assert {r["model"]: Decimal(r["cost_usd"]) for r in found} == {
        k: usd(v) for k, v in costs.items()
    }
    (row,) = rows(settings, "SELECT * FROM cost_per_good_outcome ORDER BY good DESC LIMIT 1")
    assert row["usd_per_good"] == pytest.approx(float(row["cost_usd"]) / row["good"])
    assert row["good_ratio"] == pytest.approx(row["good"] / row["events"])


def test_error_budget_in_money(settings: Settings, events: list[Row]) -> None:
    """Budget = (1 - SLO) of the spend, spent = cost of what did not serve, corrections included."""
    found = rows(settings, f"SELECT * FROM error_budget(slo = 0.995, {EVER})")
    owner = lambda e: (e["tenant_id"], e["project_id"])
    costs = summed(events, owner, cost)
    failed = summed(events, owner, lambda e: 0 if is_good(e) else cost(e))
    served = summed(events, owner, lambda e: int(is_usage(e) and is_good(e)))
    assert len(found) == len(costs)
    for row in found:
        key = row["tenant_id"], row["project_id"]
        assert Decimal(row["budget_usd"]) == usd(costs[key]) * Decimal("0.005")
        assert Decimal(row["spent_usd"]) == usd(failed[key])
        assert row["good"] == served[key]
        if costs[key]:
            burn = failed[key] / (0.005 * costs[key])
            assert row["burn"] == pytest.approx(burn)


def test_a_report_as_of_an_instant_stays_as_it_was(node: ClickHouseNode) -> None:
    """Corrections and resends that arrive afterwards never change the report of then."""
    chosen = node.settings.model_copy(update={"clickhouse_database": "as_of"})
    migrate(chosen)
    scale = Scale(20_000, 8, until_now(), seed=7)
    fill(chosen, scale)
    reported = scale.until - timedelta(days=3)
    arrived = rows(
        chosen,
        "SELECT tenant_id, cost_pusd, toUnixTimestamp64Micro(broker_time) AS arrived, event_id, "
        "event_type FROM usage_events WHERE event_type != 'admission' ORDER BY cost_pusd DESC",
    )
    limit = int(reported.timestamp()) * 1_000_000
    known = [event for event in arrived if event["arrived"] <= limit]
    assert any(event["event_type"] == "correction" for event in known)
    assert 0 < len(known) < len(arrived)
    report = f"SELECT * FROM spend_as_of(as_of = '{reported:%Y-%m-%d %H:%M:%S}') ORDER BY ALL"
    before = rows(chosen, report)
    assert total(before, "cost_usd") == usd(sum(map(cost, known)))
    today = "SELECT sum(cost_usd) AS cost_usd FROM spend_as_of(as_of = now64(6))"
    was = total(rows(chosen, today), "cost_usd")
    original = f"SELECT * FROM usage_events WHERE event_id = '{known[0]['event_id']}'"
    query_text(
        chosen,
        f"""INSERT INTO usage_events SELECT * REPLACE ('fix' AS event_id, now64(6) AS broker_time,
        'correction' AS event_type, -1000 AS cost_pusd) FROM ({original})""",
        "TSV",
    )
    # As the sink stores a resend: a smaller version than that of the first arrival.
    resend = "now64(6) AS broker_time, version - 1 AS version, 9 AS cost_pusd"
    query_text(
        chosen, f"INSERT INTO usage_events SELECT * REPLACE ({resend}) FROM ({original})", "TSV"
    )
    query_text(chosen, "OPTIMIZE TABLE usage_events FINAL", "TSV")
    assert rows(chosen, report) == before
    assert total(rows(chosen, today), "cost_usd") == was - usd(1000)


def test_completeness_counts_holes(settings: Settings, events: list[Row]) -> None:
    """Per producer, missing and lost are the numbers that no event carries."""
    found = rows(settings, "SELECT * FROM completeness")
    numbered = [event for event in events if event["source_seq"]]
    counts = summed(numbered, lambda e: (e["tenant_id"], e["source"]), lambda _: 1)
    highest: dict[Any, int] = {}
    for event in numbered:
        key = event["tenant_id"], event["source"]
        highest[key] = max(highest.get(key, 0), event["source_seq"])
    holes = 0
    for row in found:
        key = row["tenant_id"], row["source"]
        if key not in counts:
            assert (row["source"], row["complete_ratio"]) == ("corrections", None)
            continue
        holes += row["missing"] + row["lost"]
        assert row["events"] == counts[key]
        assert row["missing"] + row["lost"] == highest[key] - counts[key]
        assert row["complete_ratio"] == pytest.approx(counts[key] / highest[key])
    assert holes > 0


def test_tasks_add_up_their_parts(settings: Settings, events: list[Row]) -> None:
    """A task that goes on past midnight has two parts; the view shows one line with all of it."""
    found = rows(settings, "SELECT * FROM tasks")
    in_tasks = [event for event in events if event["task_id"]]
    costs = summed(in_tasks, lambda e: e["task_id"], cost)
    counts = summed(in_tasks, lambda e: e["task_id"], lambda e: int(is_usage(e)))
    assert {r["task_id"]: Decimal(r["cost_usd"]) for r in found} == {
        k: usd(v) for k, v in costs.items()
    }
    assert {r["task_id"]: r["events"] for r in found} == counts
    assert max(row["parts"] for row in found) == 2
    agents = rows(settings, "SELECT sum(tasks) AS n, sum(cost_usd) AS cost_usd FROM tasks_by_agent")
    assert agents[0]["n"] == len(costs)
    assert total(agents, "cost_usd") == usd(sum(costs.values()))


def test_unit_costs(settings: Settings, events: list[Row]) -> None:
    """Dollars per million tokens, per request and per task follow from the events."""
    found = rows(
        settings,
        """SELECT basis, unit, sum(u.quantity) AS quantity, sum(u.cost_usd) AS cost_usd
        FROM unit_cost AS u GROUP BY basis, unit""",
    )
    by_unit = {(row["basis"], row["unit"]): row for row in found}
    requests = [e for e in events if e["event_type"] in ("inference", "embedding")]
    assert by_unit["total", "request"]["quantity"] == len(requests)
    assert by_unit["total", "gpu_us"]["quantity"] == sum(e["gpu_us"] or 0 for e in events)
    assert by_unit["total", "task"]["quantity"] == len({e["task_id"] for e in events} - {None})
    used = [u for event in events for u in event["usage_by_class"] if u["key"] == "output"]
    output = by_unit["class", "output"]
    assert output["quantity"] == sum(u["quantity"] for u in used)
    assert Decimal(output["cost_usd"]) == usd(sum(u["cost_pusd"] for u in used))
    (row,) = rows(
        settings, "SELECT * FROM unit_cost WHERE unit = 'output' ORDER BY quantity DESC LIMIT 1"
    )
    per_million = float(row["cost_usd"]) * 1e6 / row["quantity"]
    assert row["usd_per_unit"] == pytest.approx(per_million)


def test_late_usage_by_day_of_arrival(settings: Settings, events: list[Row]) -> None:
    """What arrived over an hour after its window closed is shown by the day on which it came."""
    late = [e for e in events if e["arrived"] > e["at"] - e["at"] % MINUTE + 3_690_000_000]
    day = lambda e: f"{datetime.fromtimestamp(e['arrived'] / 1e6, UTC):%Y-%m-%d}"
    found = rows(
        settings,
        """SELECT arrived_on, sum(l.events) AS n, sum(l.corrections) AS corrections,
            sum(l.cost_usd) AS cost_usd FROM late_usage AS l GROUP BY arrived_on""",
    )
    usage = [event for event in late if is_usage(event)]
    counts = summed(usage, day, lambda _: 1)
    assert {row["arrived_on"]: row["n"] for row in found if row["n"]} == counts
    assert sum(row["corrections"] for row in found) == len(late) - len(usage) > 0
    assert {row["arrived_on"]: Decimal(row["cost_usd"]) for row in found} == {
        k: usd(v) for k, v in summed(late, day, cost).items()
    }


def test_corrections_and_quality(settings: Settings, events: list[Row]) -> None:
    """Each correction is listed with the cost before and after; outcomes are counted once."""
    originals = {event["event_id"]: event for event in events}
    log = rows(settings, "SELECT * FROM corrections_log")
    assert len(log) == sum(not is_usage(event) for event in events) > 0
    for row in log:
        original = originals[row["corrects_event_id"]]
        assert Decimal(row["before_usd"]) == usd(cost(original))
        assert Decimal(row["after_usd"]) == Decimal(row["before_usd"]) + Decimal(row["delta_usd"])
        assert row["reason"] == "contract price"
    (row,) = rows(
        settings,
        """SELECT sum(q.ok) AS ok, sum(q.failed) AS failed, sum(q.other_outcomes) AS other
        FROM quality AS q""",
    )
    usage = [event for event in events if is_usage(event)]
    assert row["ok"] == sum(event["outcome"] == "ok" for event in usage)
    assert row["failed"] == sum(event["slo_outcome"] == "failed" for event in usage)
    assert row["other"] == 0


def test_freshness_is_the_newest_arrival(settings: Settings, events: list[Row]) -> None:
    """Raw events are covered up to the newest arrival, and the lag counts from there to now."""
    (row,) = rows(
        settings,
        """SELECT toUnixTimestamp64Micro(covered_until) AS covered, lag_s
        FROM data_freshness WHERE stored = 'usage_windows'""",
    )
    assert row["covered"] == max(event["arrived"] for event in events)
    waited = datetime.now(UTC).timestamp() - row["covered"] / 1e6
    assert row["lag_s"] == pytest.approx(waited, abs=60)


def window(tenant: str, minute: int, **over: Any) -> Row:
    """A stored WindowRow of one tenant on model m."""
    record = {
        "tenant_id": tenant, "project_id": "p", "model": "m", "tool": "",
        "window_start": NOON + minute * MINUTE, "events": 10, "requests": 10, "input_tokens": 100,
        "input_uncached_tokens": 100, "cache_read_input_tokens": 0, "cache_write_input_tokens": 0,
        "output_tokens": 0, "output_text_tokens": 0, "reasoning_output_tokens": 0, "cost_pusd": 5,
        "unpriced": 0, "refused": 0, "averted_pusd": 0, "watermark": NOON, "revision": 0,
        "version": 1, "queue_us": 10_000,
    }  # fmt: skip
    return decode(encode("WindowRow", {**record, **over}))[1]


def test_a_noisy_neighbour_is_named(empty: Settings) -> None:
    """One tenant far above its share while the others wait longer than usual is noisy, once."""
    calm = [window(tenant, minute) for tenant in "abc" for minute in range(6)]
    crowded = [window("a", 6, input_tokens=800, cost_pusd=80)]
    crowded += [window(tenant, 6, queue_us=50_000, cost_pusd=10) for tenant in "bc"]
    writer = Writer(empty)
    writer.insert_rows("usage_windows", [*calm, *crowded])
    writer.close()
    period = "since = '2027-01-01', until = '2027-02-01'"
    found = rows(empty, f"SELECT * FROM noisy_neighbours({period}) ORDER BY window_start")
    assert [row["noisy"] for row in found] == [0] * 6 + [1]
    noisy = found[-1]
    assert (noisy["tenant_id"], noisy["tenants"]) == ("a", 3)
    assert noisy["share"] == pytest.approx(0.8)
    assert noisy["cost_share"] == pytest.approx(0.8)
    assert noisy["fair_share"] == pytest.approx(1 / 3)
    # Jain's index (Σx)² / (n Σx²).
    assert noisy["fairness"] == pytest.approx(1000**2 / (3 * (800**2 + 2 * 100**2)))
    assert (noisy["others_queue_us"], noisy["usual_queue_us"]) == (5000, 1000)


def test_nothing_is_divided_by_zero(empty: Settings) -> None:
    """Where there were no good outcomes, no cost and no units, ratios are null."""
    writer = Writer(empty)
    nothing = {"events": 1, "requests": 0, "cost_pusd": 0, "unpriced": 1, "queue_us": None}
    writer.insert_rows("usage_windows", [window("a", 0, **nothing)])
    writer.insert_rows("usage_windows", [window("b", 0, **nothing | {"events": 0})])
    writer.close()
    nulls = {
        "cost_per_good_outcome": ["usd_per_good", "tail_usd_per_good"],
        "tail_by_owner": ["tail_share", "overhead_share"],
        "unit_cost": ["usd_per_unit"],
    }
    for view, columns in nulls.items():
        found = rows(empty, f"SELECT * FROM {view}")
        assert found
        assert all(row[column] is None for row in found for column in columns)
    ratios = rows(empty, "SELECT tenant_id, good_ratio FROM quality ORDER BY tenant_id")
    assert [row["good_ratio"] for row in ratios] == [0, None]


def test_quantiles_leave_out_what_a_correction_took_away(empty: Settings) -> None:
    """An event moved to another bucket by a correction in a late lane counts where it is now."""
    held = lambda *moves: [{"bucket": b, "count": n, "cost_pusd": c} for b, n, c in moves]
    writer = Writer(empty)
    regular = held((-1, 1, 0), (900, 1, 9), (1000, 1, 100))
    moved = held((900, 1, 9), (1000, -1, -100))
    writer.insert_rows("usage_windows", [window("a", 0, cost_histogram=regular)])
    lane = window("a", 0, lane="2027-01-16", events=0, cost_histogram=moved)
    writer.insert_rows("usage_windows", [lane])
    writer.close()
    period = "since = '2027-01-01', until = '2027-02-01'"
    (row,) = rows(empty, f"SELECT * FROM cost_quantiles({period})")
    estimate = 2 * GAMMA**900 / (GAMMA + 1) * 1e-12
    assert row["events"] == 3
    assert row["p99_usd"] == pytest.approx(estimate)
    (first,) = rows(
        empty, f"SELECT * FROM price_of_percentile({period}) WHERE percentile = 50 "
        "AND measure = 'cost'"
    )  # fmt: skip
    assert (first["events_above"], Decimal(first["cost_usd"])) == (0, usd(18))
    zero = rows(empty, "SELECT value_usd FROM cost_buckets WHERE bucket = -1")
    assert zero == [{"value_usd": 0}]


def budget(tenant: str, scope: str, **over: Any) -> Row:
    """A stored BudgetRow in tokens."""
    record = {
        "tenant_id": tenant, "policy_id": "p", "budget_id": "b", "scope": scope,
        "period": "2027-01", "period_start": NOON, "period_end": NOON + MINUTE, "limit_pusd": 0,
        "settled_pusd": 0, "remaining_pusd": 0, "unit": "tokens", "limit": 100,
        "settled": 40, "reserved": 10, "presumed": 5, "corrected": 0, "remaining": 45,
        "forecast": 90, "events": 4, "unpriced": 0, "burn": [], "state": "ok",
        "watermark": NOON, "version": 1,
    }  # fmt: skip
    return decode(encode("BudgetRow", {**record, **over}))[1]


def test_budgets_that_span_tenants_have_a_name(empty: Settings) -> None:
    """They are listed with what is left and what comes, and never as a tenant without a name."""
    writer = Writer(empty)
    writer.insert_rows("budget_ledgers", [
        budget("", "", settled=30, remaining=55), budget("", "model=gpt-x", state="block"),
        budget("", "model=gpt-x", period="2026-12", period_start=NOON - MINUTE, settled=99),
        budget("acme", "tenant_id=acme", settled=50),
    ])  # fmt: skip
    writer.close()
    spanning = rows(empty, recipe("budgets_that_span_tenants").sql.strip().removesuffix(";"))
    assert [(r["whose"], r["used_amount"], r["granted_amount"], r["remaining_amount"],
             r["forecast_amount"], r["state"]) for r in spanning] == [
        ("model=gpt-x", 40, 15, 45, 90, "block"), ("all tenants", 30, 15, 55, 90, "ok"),
    ]  # fmt: skip
    near = rows(empty, recipe("budgets_near_their_limit").sql.strip().removesuffix(";"))
    assert [row["tenant"] for row in near] == ["acme", "all tenants", "all tenants"]
    with closing(Stored(empty)) as stored:
        met = Ledgers(stored.budget_rows("acme") or ()).current()
        assert [ledger.whose for ledger in met] == [
            "all tenants", "model=gpt-x", "tenant_id=acme",
        ]  # fmt: skip
        others = Ledgers(stored.budget_rows("other") or ()).current()
        assert [ledger.whose for ledger in others] == ["all tenants", "model=gpt-x"]


def decided(name: str, offset: int, **scope: str) -> Row:
    """A stored block about a scope."""
    value = encode("Decision", {
        "decision_id": name, "kind": "decision", "policy_id": "p", "rule_id": name,
        "policy_version": "v", "scope": scope, "action": "block", "params": {}, "mode": "enforce",
        "reason_code": "BUDGET_EXHAUSTED", "reason": "spent", "epoch": 1, "sequence": offset,
        "evidence": {"window": "d", "observed": 2, "limit": 1, "unit": "pusd", "offsets": []},
        "issued_at": NOON + offset, "effective_at": NOON, "expires_at": NOON + MINUTE,
        "on_expiry": "open",
    })  # fmt: skip
    place = {"source_partition": 0, "control_offset": offset, "control_key": name}
    return decode(value)[1] | place | {"published_at": NOON + offset}


def test_decisions_say_whom_they_are_about(empty: Settings) -> None:
    """The log writes scopes as ledgers do; a history holds what can concern the scope asked for."""
    writer = Writer(empty)
    writer.insert_rows("decisions", [
        decided("all", 1), decided("model", 2, model="a,b=%"), decided("acme", 3, tenant_id="acme"),
        decided("chat", 4, tenant_id="acme", project_id="chat"),
    ])  # fmt: skip
    writer.close()
    latest = rows(empty, recipe("latest_decisions").sql.strip().removesuffix(";"))
    assert [row["whose"] for row in latest] == [
        "project_id=chat,tenant_id=acme", "tenant_id=acme", "model=a%2Cb%3D%25", "all tenants",
    ]  # fmt: skip
    with closing(Stored(empty)) as stored:

        def history(**scope: str) -> list[str]:
            return [row["decision_id"] for row in stored.decisions(scope=scope) or ()]

        assert history() == ["chat", "acme", "model", "all"]
        assert history(tenant_id="acme") == ["chat", "acme", "model", "all"]
        assert history(tenant_id="acme", project_id="x") == ["acme", "model", "all"]
        assert history(tenant_id="other", model="m") == ["all"]
        assert history(tenant_id="other", model="a,b=%") == ["model", "all"]
        (row,) = stored.decisions(decision_id="model") or ()
        told = tell_stored(row, None, NOON + 2 * MINUTE).sentence
        assert told.startswith("block for model=a%2Cb%3D%25, expired")


def test_the_command_line_runs_the_cookbook(settings: Settings, node: ClickHouseNode) -> None:
    """`sluice queries` lists what `sluice sql --query` runs; a statement or a name is due."""

    def sluice(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "sluice.cli", *words],
            capture_output=True, text=True, check=False,
            env=os.environ | {"SLUICE_CLICKHOUSE_URL": node.url},
        )  # fmt: skip

    listed = json.loads(sluice("queries", "--json").stdout)
    assert [entry["number"] for entry in listed] == [recipe.number for recipe in recipes()]
    answer = json.loads(sluice("sql", "--query", "tail_by_cause", "--json").stdout)
    assert {row["cause"] for row in answer["data"]} >= {"first_pass", "retry"}
    lines = sluice("sql", "--query", "8", "--format", "JSONEachRow").stdout.splitlines()
    assert len(lines) == answer["rows"]
    assert sluice("queries", "8").stdout.startswith("-- Where does the tail come from")
    assert sluice("sql").returncode == 2
    assert sluice("sql", "SELECT 1", "--query", "8").returncode == 2
    assert "sluice queries" in sluice("sql", "--query", "nonsense").stderr
