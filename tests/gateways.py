"""Gateways on a real broker: an emitter and a point each, a wire that can be cut, rows to check."""

from __future__ import annotations

import contextlib
import socket
import struct
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from sluice.admission.desk_options import DeskOptions
from sluice.admission.point import AdmissionPoint, ColdStart
from sluice.admission.standing import BudgetStanding
from sluice.admission.subscriber import follow
from sluice.admission.verdict import AdmissionRequest, Refused
from sluice.bench.ground import Pipeline, Worker
from sluice.enforcement.policy_file import load_policy
from sluice.metering.prices import default_book
from sluice.metering.rating import cost
from sluice.replay.events import blank_event
from sluice.runtime.publish import publish_policy
from sluice.settings import Settings
from sluice.steering.ledgers import Ledgers, LedgerView
from sluice.steering.versions import tellers
from sluice.wire.codec import decode
from sluice.wire.emitter import UsageEmitter
from sluice.wire.kafka import producer_config, topics
from sluice.wire.scan import committed_records

TENANT, MODEL = "acme", "gpt-4o-mini"
_HOST = "127.0.0.1"
_SHORT = (
    "from sluice.enforcement import leases; leases.TTL_US = {}; from sluice.cli import main; main()"
)


def chat(project: str, tokens: int, tenant_id: str = TENANT) -> AdmissionRequest:
    """A request that reserves so many output tokens."""
    whole = price({"request_model": MODEL, "output_tokens": tokens, "provider_name": "openai"})
    return AdmissionRequest(tenant_id, project, MODEL, input_tokens=0, max_output_tokens=tokens,
                            estimated_cost_pusd=whole)  # fmt: skip


def price(usage: Mapping[str, Any]) -> int | None:
    """What usage costs by the book that the meter uses, pico-USD."""
    found = cost(default_book(), blank_event() | usage)
    return found.cost_pusd if found else None


def publish(settings: Settings, policy_id: str, text: str) -> None:
    """Put a policy in force, and wait until every owner has told the points of its budgets."""
    policy = load_policy(text, policy_id)
    publish_policy(settings, policy)
    owners = set(tellers(policy, settings.partitions))
    start, control = f"budget|{policy_id}|".encode(), topics(settings).control
    deadline = time.monotonic() + 60

    def told() -> set[int]:
        found = committed_records(settings, control)
        return {record.partition for record in found if (record.key or b"").startswith(start)}

    while told() != owners:
        assert time.monotonic() < deadline, f"budgets of {policy_id} were not told"
        time.sleep(0.05)


@contextmanager
def gateway(
    settings: Settings, source: str, wal: Path, slot: str | None = None
) -> Iterator[tuple[AdmissionPoint, UsageEmitter]]:
    """A point that has read the control topic, and its emitter."""
    usage = topics(settings).usage
    with (
        UsageEmitter(producer_config(settings), usage, source, wal) as emitter,
        follow(settings, source, emitter, cold_start=ColdStart(30_000, "closed"),
               leases=DeskOptions(slot, price)) as point,
    ):  # fmt: skip
        assert point.wait_ready(30)
        yield point, emitter


def standing(point: AdmissionPoint, policy_id: str) -> BudgetStanding:
    """What a point says of its lease on the only budget of a policy."""
    (found,) = (b for b in point.snapshot()["budgets"] if b.rule.policy_id == policy_id)
    return found


def spend(point: AdmissionPoint, project: str, tokens: int, actual: int, most: int = 10**6,
          tenant_id: str = TENANT) -> int:  # fmt: skip
    """Requests one after the other until one is refused; how many were admitted."""
    for number in range(most):
        try:
            point.reserve(chat(project, tokens, tenant_id)).commit(output_tokens=actual)
        except Refused:
            return number
    return most


def tenant(number: int, of: int) -> str:
    """One of so many tenants in turn; the usual one where there is only one."""
    return TENANT if of == 1 else f"{TENANT}-{number % of}"


def short_meter(pipeline: Pipeline, ttl_us: int) -> Worker:
    """A meter whose leases expire after so long without a report."""
    argv = (sys.executable, "-c", _SHORT.format(ttl_us), "meter", "--dir",
            str(pipeline.settings.dir), "--slot", "0")  # fmt: skip
    return Worker("meter-0", argv, pipeline.settings)


def shown(settings: Settings, policy_id: str) -> list[tuple[int, int, int]]:
    """(settled, reserved, presumed) of every ledger of a policy, in order of budget and scope."""
    records = committed_records(settings, topics(settings).budgets)
    found = Ledgers(decode(record.value or b"")[1] for record in records).current()
    return [(v.settled, v.reserved, v.presumed) for v in found if v.name.policy_id == policy_id]


def ledgers(settings: Settings, policy_id: str) -> dict[tuple[str, str], LedgerView]:
    """Every ledger of a policy by its tenant and period, one budget about one scope each."""
    periods: dict[str, Ledgers] = defaultdict(Ledgers)
    for record in committed_records(settings, topics(settings).budgets):
        row = decode(record.value or b"")[1]
        if row["policy_id"] == policy_id:
            periods[row["period"]].put(row)
    return {(view.tenant_id, period): view
            for period, found in periods.items() for view in found.current()}  # fmt: skip


class Wire:
    """A way to the broker on loopback that can be cut and mended.

    The broker names its own address to clients; passing that on, the wire puts its own in place.
    """

    def __init__(self, settings: Settings) -> None:
        self._broker = int(settings.bootstrap.rpartition(":")[2])
        self._sockets: set[socket.socket] = set()
        self._listening = socket.create_server((_HOST, 0))
        self._port: int = self._listening.getsockname()[1]
        self.settings = settings.model_copy(update={"kafka_bootstrap": f"{_HOST}:{self._port}"})
        self._serve()

    def cut(self) -> None:
        """Break every connection, and take none."""
        _shut(self._listening)
        self._listening.close()
        for one in list(self._sockets):
            _shut(one)

    def mend(self) -> None:
        """Take connections again."""
        self._listening = socket.create_server((_HOST, self._port))
        self._serve()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.cut()

    def _serve(self) -> None:
        threading.Thread(target=self._accept, args=(self._listening,), daemon=True).start()

    def _accept(self, listening: socket.socket) -> None:
        while True:
            try:
                client, _ = listening.accept()
            except OSError:
                return
            server = socket.create_connection((_HOST, self._broker))
            named = [_HOST.encode() + struct.pack(">i", p) for p in (self._broker, self._port)]
            for source, target, old, new in (
                (client, server, b"", b""), (server, client, *named),
            ):  # fmt: skip
                self._sockets.add(source)
                words = (source, target, old, new)
                threading.Thread(target=self._pump, args=words, daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, old: bytes, new: bytes) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                target.sendall(data.replace(old, new) if old else data)
        for one in (source, target):
            _shut(one)
        self._sockets.discard(source)
        source.close()


def _shut(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
