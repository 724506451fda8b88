"""Kafka clients as every process configures them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewPartitions, NewTopic

from sluice.errors import ConfigError, OutsideError
from sluice.settings import Settings
from sluice.wire.topics import Topics, TopicSpec

Config = dict[str, Any]

# librdkafka waits a full second after a full local queue before it fetches again; with 5 ms a fast
# consumer is four to five times faster.
_FETCH_BACKOFF_MS = 5


def topics(settings: Settings) -> Topics:
    """Topic names under the configured prefix."""
    return Topics(settings.topic_prefix, settings.partitions, settings.replication)


def common(settings: Settings) -> Config:
    """Options of every client: broker, quiet log, TLS and SASL as given by the operator."""
    return {
        "bootstrap.servers": settings.bootstrap,
        "client.id": "sluice",
        "reconnect.backoff.ms": 100,
        "reconnect.backoff.max.ms": 2000,
        "log_level": 2,
        **settings.kafka_options,
    }


def producer_config(settings: Settings, **over: Any) -> Config:
    """Idempotent producer; murmur2, so that every producer language picks the same partition."""
    return {
        **common(settings),
        "enable.idempotence": True,
        "acks": "all",
        "partitioner": "murmur2_random",
        "compression.type": "lz4",
        "linger.ms": 5,
        **over,
    }


def consumer_config(settings: Settings, **over: Any) -> Config:
    """Reader of committed records that keeps its own position."""
    return {
        **common(settings),
        "group.id": "sluice-reader",
        "enable.auto.commit": False,
        "auto.offset.reset": "earliest",
        "isolation.level": "read_committed",
        "fetch.queue.backoff.ms": _FETCH_BACKOFF_MS,
        "fetch.wait.max.ms": 10,
        **over,
    }


def wait_for_broker(settings: Settings, timeout_s: float = 30.0) -> None:
    """Return when the broker answers; OutsideError names its address when it does not."""
    admin = AdminClient(common(settings) | {"log_level": 0})
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            admin.list_topics(timeout=2)
        except KafkaException as error:
            if time.monotonic() > deadline:
                raise OutsideError(
                    f"no Kafka broker answers at {settings.bootstrap}; start the stack with "
                    "`sluice up` or set SLUICE_KAFKA_BOOTSTRAP"
                ) from error
            time.sleep(0.2)
        else:
            return


def ensure_topics(settings: Settings) -> list[str]:
    """Create the topics that are missing and return their names.

    A topic that has gained its partition for budgets that span tenants is given it. Raises
    ConfigError where an existing topic has another number of partitions: state is bound to
    it, so growth means a new topic generation.
    """
    wait_for_broker(settings)
    admin = AdminClient(common(settings))
    there = _outside(lambda: admin.list_topics(timeout=10)).topics
    specs = topics(settings).specs()
    for spec in specs:
        if _lacks_one(spec, settings, there):
            _grow(admin, spec)
        else:
            _check_partitions(spec, there)
    missing = [spec for spec in specs if spec.name not in there]
    if not missing:
        return []
    created = admin.create_topics([_new_topic(s, settings.replication) for s in missing])
    for name, future in created.items():
        _await_created(name, future.result)
    return [spec.name for spec in missing]


def _new_topic(spec: TopicSpec, replication: int) -> NewTopic:
    return NewTopic(spec.name, spec.partitions, replication, config=dict(spec.config))


def _lacks_one(spec: TopicSpec, settings: Settings, there: dict[str, Any]) -> bool:
    """Whether a topic is of the time before budgets could span tenants; no key is hashed in it."""
    grown = spec.partitions == settings.partitions + 1
    return grown and spec.name in there and len(there[spec.name].partitions) == settings.partitions


def _grow(admin: AdminClient, spec: TopicSpec) -> None:
    for future in admin.create_partitions([NewPartitions(spec.name, spec.partitions)]).values():
        _outside(future.result)


def _check_partitions(spec: TopicSpec, there: dict[str, Any]) -> None:
    if spec.name in there and len(there[spec.name].partitions) != spec.partitions:
        raise ConfigError(
            f"topic {spec.name} has {len(there[spec.name].partitions)} partitions, the settings "
            f"say {spec.partitions}; set SLUICE_PARTITIONS back, or drain it and start a new "
            "topic generation under another SLUICE_TOPIC_PREFIX"
        )


def _await_created(name: str, result: Callable[[], Any]) -> None:
    try:
        result()
    except KafkaException as error:
        if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
            raise OutsideError(
                f"topic {name} could not be created: {error.args[0].str()}"
            ) from error


def _outside(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except KafkaException as error:
        raise OutsideError(f"Kafka did not answer: {error.args[0].str()}") from error
