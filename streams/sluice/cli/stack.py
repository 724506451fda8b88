"""Commands about processes: up, down, status, and the processes themselves."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import psutil
import typer

from sluice.cli.common import EXIT_NO, Dir, Json, console, print_json, settings_of, table, tell
from sluice.errors import ConfigError
from sluice.local.process import EX_CONFIG
from sluice.settings import Settings, load_settings

Foreground = Annotated[bool, typer.Option("--foreground", help="Stay; Ctrl-C stops the stack.")]


def register(app: typer.Typer) -> None:
    """Add these commands to the program."""
    for name, command in (
        ("up", up), ("down", down), ("status", status),
        ("meter", meter), ("sink", sink), ("rollup", rollup), ("clickhouse", clickhouse),
    ):  # fmt: skip
        app.command(name)(command)


def up(dir: Dir = None, foreground: Foreground = False) -> None:
    """Start the stack: Apache Kafka, ClickHouse, meter and sink on this machine.

    Example: sluice up
    """
    from sluice.local.specs import up as start

    settings = load_settings(dir, running=False)
    start(settings, settings.dir, foreground=foreground, tell=tell)
    if not foreground:
        console.print(f"ready: Kafka {settings.bootstrap}, ClickHouse {settings.clickhouse}")
        console.print("next: sluice status · sluice sql 'SHOW TABLES' · sluice down")


def down(dir: Dir = None) -> None:
    """Stop the stack; its data stays in the folder.

    Example: sluice down
    """
    from sluice.local.specs import down as stop

    if stop(load_settings(dir).dir, tell=tell):
        console.print("stopped")


def status(dir: Dir = None, as_json: Json = False) -> None:
    """Show processes, positions, lag and counters; exit code 1 when something is not ready.

    Example: sluice status --json
    """
    from sluice.local.specs import status as read

    settings = settings_of(dir)
    stack = read(settings.dir)
    workers = _worker_status(settings)
    if stack.running:
        _add_lag(settings, workers)
    if as_json:
        processes = [vars_of(process) for process in stack.processes]
        print_json({"running": stack.running, "ready": stack.ready, "notes": stack.notes,
                    "processes": processes, "workers": workers})  # fmt: skip
    else:
        _show(stack, workers)
    if not stack.ready:
        raise typer.Exit(EXIT_NO)


def vars_of(process: Any) -> dict[str, Any]:
    """Fields of a slotted record as a dictionary."""
    return {name: getattr(process, name) for name in process.__dataclass_fields__}


def _show(stack: Any, workers: dict[str, dict[str, Any]]) -> None:
    if not stack.running:
        console.print(f"no stack runs in {stack.folder}; start one with `sluice up`", markup=False)
        for note in stack.notes:
            console.print(note, markup=False)
        return
    rows = [(p.name, p.state, p.pid or "-", p.restarts, "" if p.exit_code is None else p.exit_code)
            for p in stack.processes]  # fmt: skip
    table("Processes", ("process", "state", "pid", "restarts", "last exit"), rows)
    for note in stack.notes:
        console.print(note, markup=False)
    meters = _partitions(workers, "meter")
    if meters:
        columns = ("partition", "position", "committed", "lag", "windows", "tasks", "ledgers",
                   "waits for")  # fmt: skip
        table("Meter", columns,
              [_meter_row(p) for p in sorted(meters, key=lambda p: p["partition"])])  # fmt: skip
        table("Counters", ("what", "count"), _counters(meters))
    across = _partitions(workers, "rollup")
    if across:
        columns = ("position", "committed", "lag", "ledgers", "leases", "shares", "policies",
                   "waits for")  # fmt: skip
        table("Budgets that span tenants", columns, [_across_row(p) for p in across])
        table("Their counters", ("what", "count"), _counters(across))
    sink_status = workers.get("sink")
    if sink_status:
        table("Sink", ("topic", "partition", "position"), sink_status["positions"])
    rollup_status = workers.get("rollup")
    if rollup_status:
        version = rollup_status["baseline"] or "the packaged one only"
        console.print(f"baseline: {version}, {rollup_status['norms']} norms", markup=False)
    for name in ("sink", "rollup"):
        if workers.get(name, {}).get("waiting"):
            console.print(f"{name} waits: {workers[name]['waiting']}", markup=False)


def _meter_row(partition: dict[str, Any]) -> tuple[Any, ...]:
    return (partition["partition"], *_reached(partition), partition["windows"],
            partition["tasks"], partition["ledgers"], _waits(partition))  # fmt: skip


def _across_row(partition: dict[str, Any]) -> tuple[Any, ...]:
    return (*_reached(partition), partition["ledgers"], partition["leases"], partition["shares"],
            len(partition["policies"]), _waits(partition))  # fmt: skip


def _reached(partition: dict[str, Any]) -> tuple[Any, ...]:
    lag = "?" if partition.get("lag") is None else partition["lag"]
    return partition["position"], partition["committed"], lag


def _waits(partition: dict[str, Any]) -> str:
    return "/".join(partition["waiting_for"] or ()) or "-"


def _counters(partitions: list[dict[str, Any]]) -> list[tuple[str, int]]:
    counters: dict[str, int] = {}
    for partition in partitions:
        for name, count in partition["counters"].items():
            counters[name] = counters.get(name, 0) + count
    return sorted(counters.items())


def _add_lag(settings: Settings, workers: dict[str, dict[str, Any]]) -> None:
    """Records that each owned partition has not committed yet; None where the broker is away."""
    from confluent_kafka import Consumer, KafkaException, TopicPartition

    from sluice.wire.kafka import consumer_config

    consumer = Consumer(consumer_config(settings))
    for partition in _partitions(workers, "meter") + _partitions(workers, "rollup"):
        try:
            ends = consumer.get_watermark_offsets(TopicPartition(*partition["input"]), timeout=2)
        except KafkaException:
            partition["lag"] = None
        else:
            partition["lag"] = ends[1] - partition["committed"]
    consumer.close()


def _partitions(workers: dict[str, dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [p for name, w in workers.items() if name.startswith(kind) for p in w["partitions"]]


def _worker_status(settings: Settings) -> dict[str, dict[str, Any]]:
    found = {}
    for file in sorted((settings.dir / "status").glob("*.json")):
        try:
            state = json.loads(file.read_text())
        except (OSError, ValueError):
            continue
        if not psutil.pid_exists(state["pid"]):
            continue  # of a worker that ended
        state["age_s"] = round(time.time() - state["written_at"], 1)
        found[file.stem] = state
    return found


def meter(
    dir: Dir = None,
    slot: Annotated[
        str, typer.Option(help="Name of this worker; keeps its place on restart.")
    ] = "0",
) -> None:
    """Run one meter worker in the foreground.

    Example: sluice meter --slot 1
    """
    from sluice.runtime.apps.meter import main

    with _unrestartable():
        main(settings_of(dir), slot)


def sink(dir: Dir = None) -> None:
    """Run the sink that stores everything in ClickHouse, in the foreground.

    Example: sluice sink
    """
    from sluice.runtime.apps.sink import main

    with _unrestartable():
        main(settings_of(dir))


def rollup(
    dir: Dir = None,
    slot: Annotated[
        str, typer.Option(help="Name of this worker; all but one of them stand by.")
    ] = "0",
) -> None:
    """Run the rollup in the foreground: budgets that span tenants, and baselines.

    Example: sluice rollup
    """
    from sluice.runtime.apps.rollup import main

    with _unrestartable():
        main(settings_of(dir), slot)


def clickhouse(
    dir: Dir = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(help="Port (default: SLUICE_CLICKHOUSE_PORT).")
    ] = None,
) -> None:
    """Serve the embedded ClickHouse over its HTTP protocol, in the foreground.

    Example: sluice clickhouse --port 18123
    """
    from sluice.warehouse.server import serve

    with _unrestartable():
        settings = settings_of(dir)
        serve(settings, Path(settings.dir), host, port or settings.clickhouse_port)


@contextmanager
def _unrestartable() -> Iterator[None]:
    """A wrong configuration ends a process with the code that the supervisor does not restart."""
    try:
        yield
    except ConfigError as error:
        tell(f"sluice: {error}")
        raise typer.Exit(EX_CONFIG) from error
