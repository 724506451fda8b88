"""A storm of refused requests at a gateway on loopback: the upstream does not notice it."""

from __future__ import annotations

import asyncio
import http.client
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from aiohttp import ClientSession, web
from tests.gateways import chat, gateway, publish, shown
from tests.integration.conftest import until
from tests.integration.openai_gateway import served

from sluice.admission.http import refusal
from sluice.admission.point import AdmissionPoint
from sluice.admission.verdict import Refused
from sluice.bench.ground import Ground, Pipeline

pytestmark = pytest.mark.integration

LIMIT, EACH = 200, 10
CLIENTS, TRIES = 24, 25
_POLICY = f"""
policy_id: storm
budgets:
  - {{budget_id: tokens, scope: [tenant_id], where: {{project_id: storm}}, unit: tokens,
     limit: {LIMIT}, period: day, hard: true, lease_wait_ms: 200}}
"""


class Upstream:
    """Counts the calls that it gets."""

    def __init__(self) -> None:
        self.calls = 0

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_post("/", self.complete)
        return app

    async def complete(self, request: web.Request) -> web.Response:
        self.calls += 1
        await asyncio.sleep(0.01)
        return web.Response(text="ok")


class Gateway:
    """Calls upstream for what is admitted, and answers refusals by itself."""

    def __init__(self, point: AdmissionPoint, upstream: str) -> None:
        self._point = point
        self._upstream = upstream

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_post("/", self.complete)
        return app

    async def complete(self, request: web.Request) -> web.Response:
        try:
            reservation = await self._point.reserve_async(chat("storm", EACH))
        except Refused as refused:
            answer = refusal(refused.verdict, time.time_ns() // 1000)
            return web.Response(body=answer.body, status=answer.status, headers=answer.headers)
        async with (
            reservation, ClientSession() as client, client.post(self._upstream, data=b"x") as told,
        ):  # fmt: skip
            text = await told.text()
            reservation.commit(output_tokens=EACH)
        return web.Response(text=text)


@pytest.fixture(scope="module")
def pipeline() -> Iterator[Pipeline]:
    """A broker and a meter."""
    with Ground() as ground, ground.pipeline("storm", partitions=1) as made:
        made.meters()
        yield made


def test_a_storm_of_429s_does_not_reach_the_upstream(pipeline: Pipeline, tmp_path: Path) -> None:
    """Clients that retry at once are refused at the gateway; upstream serves the budget only."""
    settings, upstream = pipeline.settings, Upstream()
    publish(settings, "storm", _POLICY)
    statuses: Counter[int] = Counter()
    with (
        gateway(settings, "storm", tmp_path / "wal") as (point, emitter),
        served(upstream.app) as upstream_url,
        served(Gateway(point, upstream_url).app) as url,
    ):
        first = ask_until_refused(url)
        before, emitted = upstream.calls, emitter.stats().emitted
        threads = [threading.Thread(target=storm, args=(url, statuses)) for _ in range(CLIENTS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        told = emitter.stats().emitted - emitted
    until(lambda: shown(settings, "storm") == [(LIMIT, 0, 0)], what="the spent budget")
    print(f"\nstorm of {CLIENTS * TRIES} refusals: {before} upstream calls before it, "
          f"{upstream.calls - before} more in it; {told} records to Kafka meanwhile")  # fmt: skip
    assert (first, before, upstream.calls) == (LIMIT // EACH,) * 3
    assert statuses == {429: CLIENTS * TRIES}
    assert told < CLIENTS * TRIES / 4, "refusals are told in sums"


def ask(connection: http.client.HTTPConnection) -> int:
    """The status of one request."""
    connection.request("POST", "/", b"x")
    with connection.getresponse() as answer:
        answer.read()
        return answer.status


def ask_until_refused(url: str) -> int:
    """How many requests were served."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
    served = 0
    while ask(connection) == 200:
        served += 1
    connection.close()
    return served


def storm(url: str, statuses: Counter[int]) -> None:
    """A client that tries again at once, whatever it is told."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
    for _ in range(TRIES):
        statuses[ask(connection)] += 1
    connection.close()
