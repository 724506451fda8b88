"""Prometheus metrics of a running stack."""

from __future__ import annotations

import json
import re
import urllib.request

from tests.integration.conftest import Stack, until
from tests.integration.test_main_job import line

from sluice.runtime.metrics import METRICS

WORKERS = ("meter-0", "sink", "rollup")


def scrape(stack: Stack, worker: str) -> dict[str, float]:
    """Samples of a worker by name and labels."""
    status = json.loads((stack.folder / "status" / f"{worker}.json").read_text())
    url = f"http://127.0.0.1:{status['metrics_port']}/metrics"
    with urllib.request.urlopen(url, timeout=10) as answer:
        text = answer.read().decode()
    lines = [text_line for text_line in text.splitlines() if not text_line.startswith("#")]
    return {name: float(value) for name, _, value in (one.rpartition(" ") for one in lines)}


def test_workers_tell_what_they_applied(stack: Stack) -> None:
    """Counters follow the events, nothing lags in the end, and every name is in the table."""
    files = [stack.folder / "status" / f"{worker}.json" for worker in WORKERS]
    until(lambda: all(file.exists() for file in files), what="all workers' status")

    def applied() -> float:
        return sum(v for k, v in scrape(stack, "meter-0").items()
                   if k.startswith("sluice_events_total"))  # fmt: skip

    before = applied()
    lines = "\n".join(line(n, tenant_id="scraped") for n in range(6))
    assert stack.sluice("emit", input=lines).returncode == 0
    until(lambda: applied() >= before + 6, what="six more events")
    until(
        lambda: all(v == 0 for worker in WORKERS for k, v in scrape(stack, worker).items()
                    if k.startswith("sluice_lag_records")),
        what="no lag",
    )  # fmt: skip
    found = {k for worker in WORKERS for k in scrape(stack, worker)}
    names = {re.sub(r"(_bucket|_sum|_count|_created)?(\{.*)?$", "", name) for name in found}
    assert names <= set(METRICS)
    assert "sluice_stored_rows_total" in names
    checkpoints = scrape(stack, "meter-0")["sluice_checkpoint_seconds_count"]
    assert checkpoints > 0
