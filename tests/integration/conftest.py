"""A running stack of real parts in a temporary folder, and ways to disturb it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from sluice.errors import OutsideError
from sluice.local.ports import free_port
from sluice.local.specs import down, up
from sluice.local.stack import read_status
from sluice.settings import Settings, load_settings
from sluice.warehouse.node import ClickHouseNode


class Stack:
    """One stack: its settings, its processes by name, SQL."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.settings: Settings = load_settings(folder)

    def pid(self, name: str) -> int:
        """Process id of a child of the supervisor."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            for process in read_status(self.folder).processes:
                if process.name == name and process.pid and psutil.pid_exists(process.pid):
                    return int(process.pid)
            time.sleep(0.1)
        raise AssertionError(f"{name} does not run")

    def kill(self, name: str) -> None:
        """Kill -9 of a child; the supervisor starts it again."""
        os.kill(self.pid(name), signal.SIGKILL)

    def rows(self, query: str) -> list[dict[str, Any]]:
        """Rows of a query."""
        from sluice.warehouse.client import query_text

        text = query_text(self.settings, query, "JSONEachRow").decode()
        return [json.loads(line) for line in text.splitlines()]

    def rows_when_up(self, query: str) -> list[dict[str, Any]]:
        """Rows of a query as soon as ClickHouse answers again."""
        deadline = time.monotonic() + 60
        while True:
            try:
                return self.rows(query)
            except OutsideError:
                assert time.monotonic() < deadline
                time.sleep(0.5)

    def value(self, query: str) -> Any:
        """The single value of a query."""
        (row,) = self.rows(query)
        (value,) = row.values()
        return value

    def sluice(self, *words: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run the command line against this stack."""
        argv = [sys.executable, "-m", "sluice.cli", *words, "--dir", str(self.folder)]
        return subprocess.run(
            argv, capture_output=True, text=True, timeout=120, check=False, **options
        )


def until(holds: Callable[[], bool], timeout_s: float = 60.0, what: str = "the condition") -> None:
    """Wait for something that must become true."""
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, f"{what} did not come true within {timeout_s} s"
        time.sleep(0.2)


def start_stack(folder: Path, **over: Any) -> Stack:
    """Start a stack on free ports."""
    port = free_port(2)
    settings = Settings(
        dir=folder, kafka_port=port, clickhouse_port=free_port(), metrics_port=0, **over
    )
    up(settings, folder)
    return Stack(folder)


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """One stack for all tests that disturb nothing."""
    folder = tmp_path_factory.mktemp("stack")
    yield start_stack(folder)
    down(folder)


@pytest.fixture
def own_stack(tmp_path: Path) -> Iterator[Stack]:
    """A stack of one's own, to be disturbed."""
    yield start_stack(tmp_path, session_timeout_ms=6000)
    down(tmp_path)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseNode]:
    """One ClickHouse server for the module."""
    with ClickHouseNode(tmp_path_factory.mktemp("clickhouse")) as running:
        yield running
