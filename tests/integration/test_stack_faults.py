"""Whole stacks with a real replay running through them, killed at random: totals stay exact."""

from __future__ import annotations

import os
import random
import signal
import threading
import time

import pytest
from tests.integration.conftest import Stack

from sluice.enforcement.policy_file import load_policy
from sluice.metering.prices import default_book
from sluice.replay.demo import packaged_trace
from sluice.replay.proof import count, prove, usd_prices
from sluice.replay.run import Gateways, new_run_id
from sluice.replay.traces import Trace
from sluice.resources import resource_dir
from sluice.runtime.publish import publish_policy, publish_price_book


class Played:
    """A replay in a thread, so that the test can disturb what it runs on."""

    def __init__(self, stack: Stack, requests: int, speed: float) -> None:
        trace = packaged_trace()
        part = Trace(trace.requests[:requests], [], [])
        self.run_id = new_run_id()
        self.gateways = Gateways(stack.settings, part, self.run_id, speed, 2)
        self._thread = threading.Thread(target=self._tend)
        self._thread.start()

    def _tend(self) -> None:
        while self.gateways.tend():
            time.sleep(0.1)

    def kill_one(self, rng: random.Random) -> None:
        """Kill -9 of a gateway in the middle of its requests."""
        os.kill(rng.choice(self.gateways.pids()), signal.SIGKILL)

    def finish(self) -> None:
        """Wait until all requests are played and acknowledged."""
        self._thread.join(180)
        assert not self._thread.is_alive(), "the replay did not end"


def govern(stack: Stack) -> None:
    """Put the demo's prices and policy in force."""
    publish_price_book(stack.settings, default_book())
    path = resource_dir("infra") / "policies" / "arena-demo.yaml"
    publish_policy(stack.settings, load_policy(path.read_text(), path.name))


@pytest.mark.parametrize("seed", [11])
def test_totals_are_exact_after_kill_9_of_everything(own_stack: Stack, seed: int) -> None:
    """Kill -9 of gateway, meter, sink, ClickHouse and broker mid-replay leaves exact totals."""
    rng = random.Random(seed)
    govern(own_stack)
    played = Played(own_stack, requests=500, speed=10.0)
    victims = ["gateway", "meter-0", "sink", "clickhouse", "kafka", "gateway"]
    rng.shuffle(victims)
    for victim in victims:
        time.sleep(rng.uniform(1.5, 3.0))
        if victim == "gateway":
            played.kill_one(rng)
        else:
            own_stack.kill(victim)
    played.finish()
    ledgers = played.gateways.folder.glob("ledger-*.jsonl")
    counted = count(ledgers, usd_prices(default_book().to_json()))
    proof = prove(counted, own_stack.rows_when_up, f"replay-{played.run_id}", timeout_s=90)
    assert proof.differences == [], f"seed {seed}, order {victims}"
    assert counted.total("events") > 200
    assert played.gateways.restarts >= 1
