"""A real Apache Kafka broker in one folder: KRaft, one node, loopback only."""

from __future__ import annotations

import base64
import os
import shutil
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Self

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from sluice.errors import OutsideError, SluiceError
from sluice.local.jars import Tell, ensure_jars
from sluice.local.java import find_java
from sluice.local.process import spawn, tail

_HOST = "127.0.0.1"
_MAX_MESSAGE_BYTES = 16 * 2**20
_SMALL_CORES = 4
_PARALLEL_GC_CORES = 3


class KafkaNode:
    """One broker in `folder`, its client port `port`, its controller port `port + 1`.

    As a context manager it starts on entry and stops on exit; the data stay in the folder. Start
    it from a thread that outlives the broker: on Linux it ends with that thread.
    """

    def __init__(self, folder: Path, port: int, *, log: Path | None = None) -> None:
        self.folder = folder.resolve()
        self.port = port
        self.log = log or self.folder / "kafka.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def bootstrap(self) -> str:
        """Address for clients."""
        return f"{_HOST}:{self.port}"

    @property
    def ports(self) -> tuple[int, int]:
        """Client and controller port."""
        return self.port, self.port + 1

    @property
    def pid(self) -> int | None:
        """Process id while this object runs the broker."""
        return self._process.pid if self._process else None

    @cached_property
    def _java(self) -> list[str]:
        class_path = os.pathsep.join(map(str, ensure_jars()))
        return [str(find_java()), *_jvm_options(self._log4j), "-cp", class_path]

    @property
    def _log4j(self) -> Path:
        return self.folder / "log4j2.properties"

    @property
    def _properties(self) -> Path:
        return self.folder / "server.properties"

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    def argv(self) -> tuple[str, ...]:
        """Command line of the broker; needs `prepare` once before it runs."""
        return (*self._java, "kafka.Kafka", str(self._properties))

    def prepare(self, tell: Tell = lambda _: None) -> None:
        """Fetch jars, write the configuration and format the storage; repeating it is harmless.

        Raises ConfigError without a Java, OutsideError without jars, SluiceError when Kafka
        refuses the folder.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        ensure_jars(tell=tell)
        self._log4j.write_text(_LOG4J)
        if not self._data.is_dir():
            self._format()
        self._properties.write_text(server_properties(self.port, self._data))

    def _format(self) -> None:
        # Formatted aside and renamed, so that an interrupted format never passes for a broker.
        fresh = self.folder / "data.new"
        shutil.rmtree(fresh, ignore_errors=True)
        self._properties.write_text(server_properties(self.port, fresh))
        cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        # `=` form, because an id may begin with a dash.
        command = ["kafka.tools.StorageTool", "format", f"--cluster-id={cluster}"]
        done = subprocess.run(
            [*self._java, *command, "--config", str(self._properties)],
            env=broker_env(),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise SluiceError(
                f"Kafka could not format {fresh}: {(done.stderr or done.stdout).strip()[-500:]}"
            )
        fresh.rename(self._data)

    def ready(self) -> bool:
        """Whether the broker answers a metadata request; at most about a second."""
        try:
            socket.create_connection((_HOST, self.port), timeout=0.2).close()
            AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0}).list_topics(
                timeout=1
            )
        except (OSError, KafkaException):
            return False
        return True

    def start(self, timeout_s: float = 60.0) -> None:
        """Start and wait until it answers; OutsideError with the end of its log if it does not."""
        self.prepare()
        process = self._process = spawn(self.argv(), self.log, broker_env())
        deadline = time.monotonic() + timeout_s
        while not self.ready():
            if process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise OutsideError(f"Kafka did not start; its log ends:\n{tail(self.log)}")
            time.sleep(0.05)

    def stop(self, timeout_s: float = 30.0) -> None:
        """Clean shutdown; killed when it takes longer."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGCONT)
        self._process.terminate()
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def kill(self) -> None:
        """SIGKILL, as a power cut of the process; `start` brings it back with its data."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        """Freeze the broker: connections stay open, nothing answers."""
        if self._process is not None:
            self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a frozen broker go on."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def broker_env() -> Mapping[str, str]:
    """Environment of the broker: ours without Sluice's settings, which may hold secrets."""
    return {key: value for key, value in os.environ.items() if not key.startswith("SLUICE_")}


def _jvm_options(log4j: Path) -> list[str]:
    cores = os.cpu_count() or 1
    return [
        "-Xms128m",
        "-Xmx512m",
        # The optimising compiler steals seconds of CPU from the workers beside it.
        *(["-XX:TieredStopAtLevel=1"] if cores <= _SMALL_CORES else []),
        *(["-XX:+UseSerialGC"] if cores < _PARALLEL_GC_CORES else []),
        "-XX:+ExitOnOutOfMemoryError",
        "-Djava.awt.headless=true",
        f"-Dlog4j2.configurationFile={log4j.as_uri()}",
    ]


def server_properties(port: int, data: Path) -> str:
    """Text of server.properties for one combined broker and controller on loopback."""
    options = {
        "process.roles": "broker,controller",
        "node.id": 1,
        "controller.quorum.voters": f"1@{_HOST}:{port + 1}",
        "controller.listener.names": "CONTROLLER",
        "listeners": f"PLAINTEXT://{_HOST}:{port},CONTROLLER://{_HOST}:{port + 1}",
        "advertised.listeners": f"PLAINTEXT://{_HOST}:{port}",
        "log.dirs": data,
        "auto.create.topics.enable": "false",
        "group.initial.rebalance.delay.ms": 0,
        # Clients may ask for quicker failure detection than Kafka's default minimum of 6 s.
        "group.min.session.timeout.ms": 1000,
        # A killed broker may register again only when its old session is over; by default that
        # keeps a restart waiting for 9 s. There is no second broker to be told apart from.
        "broker.session.timeout.ms": 3000,
        "broker.heartbeat.interval.ms": 500,
        "message.max.bytes": _MAX_MESSAGE_BYTES,
        "replica.fetch.max.bytes": _MAX_MESSAGE_BYTES,
        # The default of 128 MiB would take a quarter of the heap.
        "log.cleaner.dedupe.buffer.size": 32 * 2**20,
        "num.network.threads": 2,
        "num.io.threads": 4,
        **_INTERNAL_TOPICS,
    }
    return "".join(f"{key}={_escaped(str(value))}\n" for key, value in options.items())


_INTERNAL_TOPICS = {
    "offsets.topic.replication.factor": 1,
    "offsets.topic.num.partitions": 8,
    "transaction.state.log.replication.factor": 1,
    "transaction.state.log.min.isr": 1,
    "transaction.state.log.num.partitions": 8,
    "share.coordinator.state.topic.replication.factor": 1,
    "share.coordinator.state.topic.min.isr": 1,
    "share.coordinator.state.topic.num.partitions": 1,
}


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\")


# To standard output, so that the process's log file also holds what the JVM itself prints.
_LOG4J = """\
appender.out.type = Console
appender.out.name = out
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = %d{yyyy-MM-dd HH:mm:ss,SSS} %p %m (%c)%n
rootLogger.level = INFO
rootLogger.appenderRef.out.ref = out
logger.config.name = org.apache.kafka.common.config.AbstractConfig
logger.config.level = WARN
logger.cleaner.name = org.apache.kafka.storage.internals.log
logger.cleaner.level = WARN
"""
