"""Faust applications as Sluice runs them: settings, TLS and SASL, start and end of a process."""

from __future__ import annotations

import gc
import json
import logging
import os
import ssl
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import faust
from faust.transport.drivers import aiokafka as driver

from sluice.errors import ConfigError, OutsideError
from sluice.runtime.chunks import ChunkConsumer
from sluice.settings import Settings
from sluice.wire.kafka import wait_for_broker

log = logging.getLogger(__name__)

EXIT_CONFIG = 78  # sysexits; the supervisor does not start such a process again
EXIT_FENCED = 73
EXIT_STUCK = 74
EXIT_FAULT = 71
# A broker that just restarted may name no topics; with the default age of five minutes the group
# would sit there without partitions for as long.
_METADATA_AGE_MS = 2000
_MAX_POLL_S = 30 * 86_400  # a watchdog's job; Faust would drop spare workers out of the group


class WorkerApp(faust.App):  # type: ignore[misc]
    """Faust application that consumes chunks through the given consumer class."""

    def __init__(self, *args: Any, consumer_class: type[ChunkConsumer], **kwargs: Any) -> None:
        self._consumer_class = consumer_class
        super().__init__(*args, **kwargs)

    def _new_transport(self) -> Any:
        transport = type("ChunkTransport", (driver.Transport,), {"Consumer": self._consumer_class})
        return transport(self.conf.broker_consumer, self)


def make_app(
    settings: Settings, name: str, slot: str, consumer_class: type[ChunkConsumer]
) -> WorkerApp:
    """The Faust application of one worker process; `slot` makes its group membership static."""
    consumer_class.chunk_records = settings.chunk_records
    datadir = settings.dir / "faust" / f"{name}-{slot}"
    datadir.mkdir(parents=True, exist_ok=True)
    credentials = _credentials(settings.kafka_options)
    return WorkerApp(
        f"{settings.topic_prefix}{name}",
        consumer_class=consumer_class,
        broker=";".join(f"kafka://{host}" for host in settings.bootstrap.split(",")),
        **({"broker_credentials": credentials} if credentials else {}),
        store="memory://",
        datadir=str(datadir),
        topic_partitions=settings.partitions,
        topic_allow_declare=False,
        topic_disable_leader=True,
        table_standby_replicas=0,
        consumer_auto_offset_reset="earliest",
        consumer_group_instance_id=f"{name}-{slot}",
        consumer_max_fetch_size=4 * 2**20,
        consumer_metadata_max_age_ms=_METADATA_AGE_MS,
        broker_commit_interval=1.0,
        broker_max_poll_records=4 * settings.chunk_records,
        broker_max_poll_interval=_MAX_POLL_S,
        broker_session_timeout=settings.session_timeout_ms / 1000,
        broker_heartbeat_interval=min(3.0, settings.session_timeout_ms / 5000),
        stream_buffer_maxsize=65_536,
        web_enabled=False,
        worker_redirect_stdouts=False,
    )


def run(app: WorkerApp, settings: Settings) -> None:
    """Wait for the broker, then run until SIGTERM or SIGINT; never returns."""
    await_broker(settings)
    worker = faust.Worker(
        app, loglevel=settings.log_level, redirect_stdouts=False, override_logging=False
    )
    worker.execute_from_commandline()


def await_broker(settings: Settings) -> None:
    """Return when the broker answers, however long that takes; say so once in a while."""
    while True:
        try:
            wait_for_broker(settings, timeout_s=30)
        except OutsideError as error:
            log.warning("%s; waiting", error)
        else:
            return


def die(code: int, reason: str) -> NoReturn:
    """End the process at once without another word to Kafka; the supervisor starts a successor."""
    log.critical("%s; ending with code %d", reason, code)
    logging.shutdown()
    sys.stderr.flush()
    os._exit(code)


def rest_collector() -> None:
    """Let the garbage collector look less often: what runs of usage leave behind has no cycles."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)


def write_status(directory: Path, name: str, status: Mapping[str, Any]) -> None:
    """Replace the status file of a process; what `sluice status` shows."""
    folder = directory / "status"
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{name}.{os.getpid()}"
    temporary.write_text(json.dumps({"pid": os.getpid(), "written_at": time.time(), **status}))
    temporary.replace(folder / f"{name}.json")


def setup_logging(settings: Settings) -> None:
    """Log lines with time and level to standard error, which the supervisor keeps per process."""
    logging.basicConfig(
        level=settings.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr, force=True,
    )  # fmt: skip
    for noisy in ("faust", "mode", "aiokafka"):
        logging.getLogger(noisy).setLevel("WARNING")


def _credentials(options: Mapping[str, str]) -> Any:
    """Faust credentials that say the same as librdkafka's options."""
    protocol = options.get("security.protocol", "PLAINTEXT").upper()
    if protocol == "PLAINTEXT":
        return None
    context = _ssl_context(options) if protocol.endswith("SSL") else None
    if not protocol.startswith("SASL"):
        return faust.SSLCredentials(context=context)
    mechanism = options.get("sasl.mechanism", options.get("sasl.mechanisms", "PLAIN"))
    if mechanism not in ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"):
        raise ConfigError(f"sasl.mechanism {mechanism} is not supported by the workers")
    return faust.SASLCredentials(
        mechanism=mechanism, username=options.get("sasl.username", ""),
        password=options.get("sasl.password", ""), ssl_context=context,
    )  # fmt: skip


def _ssl_context(options: Mapping[str, str]) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=options.get("ssl.ca.location"))
    if "ssl.certificate.location" in options:
        context.load_cert_chain(
            options["ssl.certificate.location"], options.get("ssl.key.location"),
            options.get("ssl.key.password"),
        )  # fmt: skip
    if options.get("ssl.endpoint.identification.algorithm") == "none":
        context.check_hostname = False
    return context
