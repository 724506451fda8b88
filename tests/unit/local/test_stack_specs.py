"""What the stack consists of under which settings."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from sluice.errors import ConfigError, OutsideError
from sluice.local.kafka import KafkaNode, broker_env, server_properties
from sluice.local.ports import PortUse
from sluice.local.process import EX_CONFIG, EX_TEMPFAIL, ProcessSpec
from sluice.local.specs import child_env, port_uses, process_specs, written_settings
from sluice.local.stack import StackPaths
from sluice.local.steps import run_step
from sluice.local.supervisor import in_order
from sluice.settings import Settings, load_settings


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No settings from outside, and the broker's command line without jars to fetch."""
    for name in [name for name in os.environ if name.startswith("SLUICE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(KafkaNode, "argv", lambda _: ("java", "kafka.Kafka"))


def _specs(folder: Path, **settings: object) -> dict[str, ProcessSpec]:
    return {s.name: s for s in process_specs(Settings(**settings), folder)}


def test_whole_stack(tmp_path: Path) -> None:
    """By default the stack brings both servers, both steps, one meter and the sink, in order."""
    specs = _specs(tmp_path)
    assert set(specs) == {
        "kafka", "clickhouse", "topics", "migrations", "prices", "meter-0", "rollup", "sink",
    }  # fmt: skip
    assert specs["topics"].after == ("kafka",)
    assert specs["migrations"].after == ("clickhouse",)
    assert specs["meter-0"].after == ("topics",)
    assert specs["sink"].after == ("topics", "migrations")
    assert [s.name for s in in_order(specs.values())][-1] == "sink"


def test_servers_from_outside_are_not_started(tmp_path: Path) -> None:
    """With a broker and a ClickHouse given, only steps and workers remain and no port is needed."""
    outside = {"kafka_bootstrap": "k:9092", "clickhouse_url": "http://c:8123"}
    specs = _specs(tmp_path, **outside)
    assert set(specs) == {"topics", "migrations", "prices", "meter-0", "rollup", "sink"}
    assert specs["topics"].after == specs["migrations"].after == ()
    assert port_uses(Settings(**outside)) == []


def test_one_process_per_meter_slot(tmp_path: Path) -> None:
    """Three meter workers are three processes with the slots 0, 1, 2."""
    specs = _specs(tmp_path, meter_workers=3)
    slots = [specs[f"meter-{n}"].argv[-2:] for n in range(3)]
    assert slots == [("--slot", str(n)) for n in range(3)]


def test_ports_of_the_stack() -> None:
    """The broker needs two ports in a row and ClickHouse one, each with the setting to change."""
    uses = port_uses(Settings(kafka_port=20_000, clickhouse_port=20_005))
    assert uses == [
        PortUse(20_000, "Kafka", "SLUICE_KAFKA_PORT"),
        PortUse(20_001, "Kafka's controller", "SLUICE_KAFKA_PORT"),
        PortUse(20_005, "ClickHouse", "SLUICE_CLICKHOUSE_PORT"),
    ]


def test_children_get_exactly_the_given_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Settings made in code reach a child through its environment, every type and secret whole."""
    given = Settings(
        partitions=7,
        clickhouse_replicated=True,
        kafka_options={"sasl.password": "p"},
        clickhouse_password="s3cret",
    )
    for name, value in child_env(given, StackPaths(tmp_path)).items():
        monkeypatch.setenv(name, value)
    assert load_settings(running=False) == given.model_copy(update={"dir": tmp_path})


def test_secrets_are_not_written_down(tmp_path: Path) -> None:
    """stack.json gets what was set, without passwords and client options."""
    given = Settings(
        partitions=7, clickhouse_password="s3cret", kafka_options={"sasl.password": "hidden"}
    )
    written = written_settings(given)
    assert written == {"partitions": 7}
    json.dumps(written)


def test_the_broker_sees_no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Java's environment holds none of Sluice's variables, because some are secrets."""
    monkeypatch.setenv("SLUICE_CLICKHOUSE_PASSWORD", "s3cret")
    assert "SLUICE_CLICKHOUSE_PASSWORD" not in broker_env()
    assert "PATH" in broker_env()


def test_broker_listens_on_loopback_only(tmp_path: Path) -> None:
    """Every listener and voter address of the broker's configuration is 127.0.0.1."""
    lines = server_properties(20_000, tmp_path).splitlines()
    options = dict(line.split("=", 1) for line in lines)
    assert options["listeners"] == "PLAINTEXT://127.0.0.1:20000,CONTROLLER://127.0.0.1:20001"
    assert options["controller.quorum.voters"] == "1@127.0.0.1:20001"
    assert options["advertised.listeners"] == "PLAINTEXT://127.0.0.1:20000"


@pytest.mark.parametrize(
    ("error", "code"), [(OutsideError("away"), EX_TEMPFAIL), (ConfigError("wrong"), EX_CONFIG)]
)
def test_exit_code_of_a_step(
    error: Exception, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """A step tells the supervisor whether trying again helps, and prints why it did not work."""

    def step() -> None:
        raise error

    assert run_step(step) == code
    assert str(error) in capsys.readouterr().err
    assert run_step(lambda: None) == 0
