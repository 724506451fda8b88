"""Ports: conflicts are found before the start and named."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from sluice.errors import SluiceError
from sluice.local.ports import PortUse, check_ports, free_port, holder, port_free


@pytest.fixture
def taken() -> Iterator[int]:
    """A loopback port on which this process listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_conflict_names_port_purpose_holder_and_setting(taken: int) -> None:
    """A taken port is named with its purpose, its holder's pid and the setting that moves it."""
    free = PortUse(free_port(), "ClickHouse", "SLUICE_CLICKHOUSE_PORT")
    with pytest.raises(SluiceError) as caught:
        check_ports([PortUse(taken, "Kafka", "SLUICE_KAFKA_PORT"), free])
    text = str(caught.value)
    assert f"port {taken} for Kafka is taken by" in text
    assert f"(pid {os.getpid()})" in text
    assert "SLUICE_KAFKA_PORT" in text
    assert "ClickHouse" not in text


def test_a_listener_on_all_addresses_conflicts_too() -> None:
    """A server on the wildcard address takes the port on loopback as well."""
    with socket.create_server(("0.0.0.0", 0)) as server:
        assert not port_free(server.getsockname()[1])


def test_free_ports_pass() -> None:
    """Free ports raise nothing."""
    port = free_port(2)
    check_ports([PortUse(port, "Kafka", "A"), PortUse(port + 1, "ClickHouse", "B")])


def test_one_port_for_two_purposes() -> None:
    """The same port asked for twice is a fault of both."""
    port = free_port()
    with pytest.raises(SluiceError, match=r"wanted twice.*wanted twice"):
        check_ports([PortUse(port, "Kafka", "A"), PortUse(port, "ClickHouse", "B")])


def test_port_beyond_the_last() -> None:
    """A controller port that the client port pushes beyond 65535 is refused before the start."""
    with pytest.raises(SluiceError, match="65536 for Kafka's controller does not exist"):
        check_ports([PortUse(65_536, "Kafka's controller", "SLUICE_KAFKA_PORT")])


def test_unknown_holder() -> None:
    """A port that nobody is seen to hold is still answered with words."""
    assert holder(free_port()) == "another process"
