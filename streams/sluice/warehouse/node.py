"""A ClickHouse server of one's own in a child process: for tests and small tools."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Self

import psutil

from sluice.errors import OutsideError
from sluice.local.ports import free_port
from sluice.settings import Settings, load_settings
from sluice.warehouse.client import wait_ready

_START_S = 30.0
_STOP_S = 20.0
_POLL_S = 0.05


class ClickHouseNode:
    """`sluice clickhouse` on `dir`; `with ClickHouseNode(dir) as node: node.settings ...`.

    `environment` are SLUICE_* variables of the server and of `settings`, such as a password.
    """

    def __init__(
        self, dir: Path, port: int | None = None, environment: dict[str, str] | None = None
    ) -> None:
        self.dir = dir
        self.port = port or free_port()
        self._environment = {"SLUICE_LOG_LEVEL": "WARNING", **(environment or {})}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Base URL of its HTTP interface."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int | None:
        """Process id while it runs."""
        return self._process.pid if self._process else None

    @property
    def settings(self) -> Settings:
        """Settings of a client of this server."""
        prefix = "SLUICE_"
        given = {k.removeprefix(prefix).lower(): v for k, v in self._environment.items()}
        base = load_settings(self.dir, running=False).model_dump(exclude_unset=True)
        return Settings.model_validate({**base, **given, "clickhouse_url": self.url})

    def start(self) -> Self:
        """Start it and wait until it answers; OutsideError with its last words if it does not."""
        self.dir.mkdir(parents=True, exist_ok=True)
        argv = [sys.executable, "-m", "sluice.cli", "clickhouse",
                "--dir", str(self.dir), "--port", str(self.port)]  # fmt: skip
        environment = {**os.environ, **self._environment}
        with (self.dir / "clickhouse.log").open("ab") as log:
            self._process = subprocess.Popen(argv, env=environment, stdout=log, stderr=log)
        self._wait()
        return self

    def stop(self) -> None:
        """End it the polite way."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it as a power cut would."""
        self._end(signal.SIGKILL)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _wait(self) -> None:
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline:
            if self._process is None or self._process.poll() is not None:
                words = (self.dir / "clickhouse.log").read_text(errors="replace")
                raise OutsideError(f"ClickHouse did not start: {words.strip()[-500:]}")
            if self._listens():
                wait_ready(self.settings, _START_S)
                return
            time.sleep(_POLL_S)
        self.kill()
        raise OutsideError(f"ClickHouse did not answer within {_START_S:g} s")

    def _listens(self) -> bool:
        """Whether it is this process that owns the port, and not one that was there before."""
        try:
            sockets = psutil.Process(self.pid).net_connections("tcp")
        except psutil.Error:
            return False
        return any(s.status == psutil.CONN_LISTEN and s.laddr.port == self.port for s in sockets)

    def _end(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.send_signal(number)
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None
