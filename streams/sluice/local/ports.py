"""Ports of the stack: who wants which, and who holds it already."""

from __future__ import annotations

import errno
import random
import socket
from dataclasses import dataclass
from typing import Any

import psutil

from sluice.errors import SluiceError

_HOST = "127.0.0.1"
_HIGHEST = 65_535
# Below the ranges from which systems draw the ports of outgoing connections.
_FREE_RANGE = (20_000, 32_000)


@dataclass(frozen=True, slots=True)
class PortUse:
    """One port that the stack will listen on, its purpose, and the setting that moves it."""

    port: int
    purpose: str
    setting: str


def check_ports(uses: list[PortUse]) -> None:
    """Raise SluiceError naming every port that cannot be used, and who holds it if known."""
    faults = [fault for use in uses if (fault := _fault(use, uses))]
    if faults:
        raise SluiceError("; ".join(faults))


def _fault(use: PortUse, uses: list[PortUse]) -> str | None:
    ask = f"set {use.setting} to another port"
    if use.port > _HIGHEST:
        return f"port {use.port} for {use.purpose} does not exist: {ask}"
    if any(other.port == use.port for other in uses if other is not use):
        return f"port {use.port} is wanted twice, here for {use.purpose}: {ask}"
    if port_free(use.port):
        return None
    return f"port {use.port} for {use.purpose} is taken by {holder(use.port)}: stop it or {ask}"


def port_free(port: int) -> bool:
    """Whether a server could listen on this loopback port now."""
    with socket.socket() as server:
        # A port in TIME_WAIT is free for the broker, which sets the same option.
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            server.bind((_HOST, port))
        except OSError as error:
            return error.errno not in (errno.EADDRINUSE, errno.EACCES)
    return True


def holder(port: int) -> str:
    """Name and pid of the process that listens on `port`, as far as this user may see."""
    try:
        pids = [c.pid for c in psutil.net_connections("tcp") if _listens(c, port)]
        if pids and pids[0] is not None:
            return f"{psutil.Process(pids[0]).name()} (pid {pids[0]})"
    except psutil.Error:
        pass
    return "another process"


def _listens(connection: Any, port: int) -> bool:
    return bool(connection.status == psutil.CONN_LISTEN and connection.laddr.port == port)


def free_port(span: int = 1) -> int:
    """A port that is free now, together with the `span - 1` ports after it."""
    for _ in range(1000):
        port = random.randint(*_FREE_RANGE)  # noqa: S311
        if all(port_free(port + offset) for offset in range(span)):
            return port
    raise SluiceError(
        f"no {span} free ports in a row between {_FREE_RANGE[0]} and {_FREE_RANGE[1]}"
    )
