"""What a stack consists of, and the three things people do with it: up, down, status."""

from __future__ import annotations

import json
import os
import sys
import urllib.request
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from sluice.local.background import refuse_second, start_background, stop_background
from sluice.local.jars import ensure_jars
from sluice.local.kafka import KafkaNode, broker_env
from sluice.local.ports import PortUse, check_ports
from sluice.local.process import ProcessSpec
from sluice.local.stack import (
    StackPaths,
    StackStatus,
    Tell,
    hold_lock,
    read_status,
    stop_leftovers,
)
from sluice.local.supervisor import Supervisor
from sluice.settings import Settings

_KAFKA_STOP_S = 30.0
_WORKER_STOP_S = 15.0
# Not written to stack.json: secrets, and what `endpoints` or the folder itself already say.
_UNWRITTEN = {"dir", "kafka_bootstrap", "clickhouse_url", "clickhouse_password", "kafka_options"}


def process_specs(settings: Settings, folder: Path) -> list[ProcessSpec]:
    """Every process of the stack in `folder`; servers given from outside are left out.

    `settings` are those the stack starts with (`load_settings(folder, running=False)`), because a
    running stack's own endpoints would look like servers from outside.
    """
    paths = StackPaths(folder.resolve())
    servers = [*_kafka(settings, paths), *_clickhouse(settings, paths)]
    names = {spec.name for spec in servers}
    return [
        *servers,
        _step(settings, paths, "topics", names & {"kafka"}),
        _step(settings, paths, "migrations", names & {"clickhouse"}),
        _step(settings, paths, "prices", {"topics"}),
        *[_meter(settings, paths, slot) for slot in range(settings.meter_workers)],
        _cli(settings, paths, "rollup", ("rollup",), after=("topics",)),
        _cli(settings, paths, "sink", ("sink",), after=("topics", "migrations")),
    ]


def _kafka(settings: Settings, paths: StackPaths) -> list[ProcessSpec]:
    if settings.kafka_bootstrap is not None:
        return []
    node = KafkaNode(paths.kafka, settings.kafka_port)
    return [
        ProcessSpec(
            name="kafka",
            argv=node.argv(),
            env=broker_env(),
            ready=node.ready,
            stop_timeout_s=_KAFKA_STOP_S,
        )
    ]


def _clickhouse(settings: Settings, paths: StackPaths) -> list[ProcessSpec]:
    if settings.clickhouse_url is not None:
        return []
    url = f"{settings.clickhouse}/ping"
    return [
        ProcessSpec(
            name="clickhouse",
            argv=_python("sluice.cli", "clickhouse", paths),
            env=child_env(settings, paths),
            ready=lambda: _answers(url),
            stop_timeout_s=_WORKER_STOP_S,
        )
    ]


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1) as response:  # noqa: S310
            return bool(response.status == HTTPStatus.OK)
    except OSError:
        return False


def _step(settings: Settings, paths: StackPaths, name: str, after: set[str]) -> ProcessSpec:
    return ProcessSpec(
        name=name,
        argv=_python("sluice.local.steps", name, paths),
        env=child_env(settings, paths),
        after=tuple(after),
        once=True,
    )


def _meter(settings: Settings, paths: StackPaths, slot: int) -> ProcessSpec:
    words = ("meter", "--slot", str(slot))
    return _cli(settings, paths, f"meter-{slot}", words, after=("topics",))


def _cli(
    settings: Settings, paths: StackPaths, name: str, words: tuple[str, ...], after: tuple[str, ...]
) -> ProcessSpec:
    command, *options = words
    return ProcessSpec(
        name=name,
        argv=(*_python("sluice.cli", command, paths), *options),
        env=child_env(settings, paths),
        after=after,
        stop_timeout_s=_WORKER_STOP_S,
    )


def _python(module: str, command: str, paths: StackPaths) -> tuple[str, ...]:
    return (sys.executable, "-m", module, command, "--dir", str(paths.root))


def child_env(settings: Settings, paths: StackPaths) -> Mapping[str, str]:
    """Environment that gives a child exactly these settings."""
    values = {name: getattr(settings, name) for name in settings.model_fields_set}
    ours = {f"SLUICE_{name.upper()}": _as_text(value) for name, value in values.items()}
    return {**os.environ, **ours, "SLUICE_DIR": str(paths.root), "PYTHONUNBUFFERED": "1"}


def _as_text(value: object) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    return json.dumps(value) if isinstance(value, dict | bool) else str(value)


def written_settings(settings: Settings) -> dict[str, Any]:
    """Settings that were given and that later commands in the same folder should find again."""
    return settings.model_dump(mode="json", include=settings.model_fields_set - _UNWRITTEN)


def port_uses(settings: Settings) -> list[PortUse]:
    """Ports that the stack's own servers will listen on."""
    uses = []
    if settings.kafka_bootstrap is None:
        port, controller = settings.kafka_port, settings.kafka_port + 1
        uses += [
            PortUse(port, "Kafka", "SLUICE_KAFKA_PORT"),
            PortUse(controller, "Kafka's controller", "SLUICE_KAFKA_PORT"),
        ]
    if settings.clickhouse_url is None:
        uses += [PortUse(settings.clickhouse_port, "ClickHouse", "SLUICE_CLICKHOUSE_PORT")]
    return uses


def supervise(settings: Settings, folder: Path, tell: Tell = print) -> None:
    """Be the supervisor of the stack in `folder` until SIGINT or SIGTERM."""
    paths = StackPaths(folder.resolve()).create()
    with hold_lock(paths):
        stop_leftovers(paths, tell)
        check_ports(port_uses(settings))
        if settings.kafka_bootstrap is None:
            KafkaNode(paths.kafka, settings.kafka_port).prepare(tell)
        Supervisor(
            paths,
            process_specs(settings, folder),
            endpoints={
                "kafka_bootstrap": settings.bootstrap,
                "clickhouse_url": settings.clickhouse,
            },
            settings=written_settings(settings),
            tell=tell,
        ).run()


def up(
    settings: Settings,
    folder: Path,
    *,
    foreground: bool = False,
    wait: bool = True,
    tell: Tell = print,
) -> StackStatus:
    """Start the stack in `folder`; with `foreground`, supervise here until a signal ends it.

    Raises SluiceError when one already runs there, a port is taken, or a process does not start
    (everything is stopped again then). `tell` gets progress, one sentence at a time.
    """
    paths = StackPaths(folder.resolve()).create()
    refuse_second(paths)
    if foreground:
        supervise(settings, paths.root, tell)
        return status(paths.root)
    if settings.kafka_bootstrap is None:
        # Here, where a person sees the progress of the one long download.
        ensure_jars(tell=tell)
    argv = (sys.executable, "-m", "sluice.local.supervise", "--dir", str(paths.root))
    start_background(paths, argv, env=child_env(settings, paths), wait=wait, tell=tell)
    return status(paths.root)


def down(folder: Path, tell: Tell = print) -> bool:
    """Stop the stack in `folder` and wait for its end; False, and a sentence, when none runs."""
    paths = StackPaths(folder.resolve())
    stopped = stop_background(paths, tell)
    if not stopped:
        tell(f"no stack runs in {paths.root}")
    return stopped


def status(folder: Path) -> StackStatus:
    """The stack in `folder` as it is now."""
    return read_status(folder)
