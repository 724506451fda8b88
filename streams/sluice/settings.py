"""Every setting of every process in one frozen object, read once at the entry point.

Precedence: environment (`SLUICE_…`), then the endpoints of a stack that runs in `dir`, then the
defaults below.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from sluice.errors import ConfigError

Port = Annotated[int, Field(ge=1, le=65535)]


class Settings(BaseSettings):
    """Effective configuration; each field is the environment variable `SLUICE_<NAME>`."""

    model_config = SettingsConfigDict(env_prefix="SLUICE_", frozen=True, extra="ignore")

    dir: Path = Field(Path(".sluice"), description="folder of the local stack: data, logs, state")

    kafka_bootstrap: str | None = Field(
        None, description="external broker(s); unset = the stack's own Apache Kafka"
    )
    kafka_port: Port = Field(19092, description="port of the stack's own broker (loopback)")
    kafka_options: dict[str, str] = Field(
        default_factory=dict,
        description="librdkafka options of every client, as JSON (security.protocol, sasl.*, …)",
    )
    topic_prefix: str = Field("sluice.", pattern=r"^[A-Za-z0-9._-]{0,64}$")
    topic_generation: int = Field(
        0, ge=0, lt=2**15, description="raised when topics are re-created"
    )
    partitions: int = Field(4, ge=1, le=1024, description="partitions of usage, windows, budgets")
    replication: int = Field(1, ge=1, le=9)

    clickhouse_url: str | None = Field(
        None, description="external ClickHouse; unset = the stack's embedded server"
    )
    clickhouse_port: Port = Field(18123, description="port of the embedded server (loopback)")
    clickhouse_user: str = "default"
    clickhouse_password: SecretStr = SecretStr("")
    clickhouse_database: str = Field("sluice", pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")
    clickhouse_replicated: bool = Field(False, description="create Replicated engines")
    clickhouse_memory_bytes: int = Field(2 * 2**30, ge=2**28)

    meter_workers: int = Field(1, ge=1, le=256, description="meter processes, at most `partitions`")
    chunk_records: int = Field(10_000, ge=1, le=100_000, description="records handled at once")
    checkpoint_ms: int = Field(1000, ge=10, le=60_000, description="checkpoint without decisions")
    share_delay_ms: int = Field(
        100, ge=10, le=60_000, description="usage of a budget that spans tenants is told within it"
    )
    decision_delay_ms: int = Field(
        10, ge=0, le=1000, description="least time between two commits of decisions"
    )
    heartbeat_ms: int = Field(2000, ge=100, le=60_000)
    session_timeout_ms: int = Field(10_000, ge=1000, le=300_000)
    lateness_s: int = Field(3600, ge=0, description="how long a closed window takes late usage")
    dedupe_window_s: int = Field(3600, ge=60, description="for producers without sequences")
    sink_batch_rows: int = Field(50_000, ge=1)
    sink_batch_bytes: int = Field(32 * 2**20, ge=1)
    sink_batch_ms: int = Field(1000, ge=10)

    metrics_port: int = Field(
        19400, ge=0, le=65_000,
        description="first port for Prometheus: sink, rollup, then the meters; 0 = any free ports",
    )  # fmt: skip
    watchdog_s: int = Field(
        120,
        ge=10,
        description="a meter ends that commits nothing for so long though records wait",
    )

    log_level: str = Field("INFO", pattern=r"^(DEBUG|INFO|WARNING|ERROR)$")

    @field_validator("meter_workers")
    @classmethod
    def _no_idle_workers(cls, workers: int, info: ValidationInfo) -> int:
        partitions = info.data.get("partitions", workers)
        if workers > partitions:
            raise ValueError(
                f"{workers} workers cannot share {partitions} partitions, a partition has one "
                f"worker; set at most {partitions}, or start with more SLUICE_PARTITIONS"
            )
        return workers

    @property
    def bootstrap(self) -> str:
        """Broker address that clients use."""
        return self.kafka_bootstrap or f"127.0.0.1:{self.kafka_port}"

    @property
    def clickhouse(self) -> str:
        """Base URL of the ClickHouse HTTP interface that clients use."""
        return self.clickhouse_url or f"http://127.0.0.1:{self.clickhouse_port}"

    def shown(self) -> dict[str, Any]:
        """Effective values for people, secrets hidden."""
        shown = self.model_dump(mode="json")
        shown["kafka_options"] = {
            key: "**********" if _secret(key) else value
            for key, value in self.kafka_options.items()
        }
        return shown | {"bootstrap": self.bootstrap, "clickhouse": self.clickhouse}


def _secret(option: str) -> bool:
    return any(word in option for word in ("password", "secret", "key.pem", "oauthbearer.config"))


def load_settings(dir: Path | None = None, *, running: bool = True) -> Settings:
    """Settings for the stack in `dir` (default: SLUICE_DIR or .sluice).

    `running=False` leaves out what a running stack wrote down: what `sluice up` starts with.
    Raises ConfigError naming every wrong variable.
    """
    folder = dir or Path(os.environ.get("SLUICE_DIR", ".sluice"))
    stack = _stack_values(folder) if running else {}
    unset = {k: v for k, v in stack.items() if f"SLUICE_{k.upper()}" not in os.environ}
    try:
        return Settings(**unset, dir=folder)
    except ValidationError as error:
        raise ConfigError(_explain(error)) from error


def _stack_values(folder: Path) -> dict[str, Any]:
    try:
        state = json.loads((folder / "stack.json").read_text())
    except (OSError, ValueError):
        return {}
    values = {**state.get("settings", {}), **state.get("endpoints", {})}
    return {k: v for k, v in values.items() if k in Settings.model_fields and k != "dir"}


def _explain(error: ValidationError) -> str:
    faults = [f"SLUICE_{'.'.join(map(str, e['loc'])).upper()}: {e['msg']}" for e in error.errors()]
    return "wrong settings: " + "; ".join(faults)
