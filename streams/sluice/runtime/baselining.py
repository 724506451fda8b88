"""Baselines out of what the meters measured: published ones, and one made now."""

from __future__ import annotations

from sluice.metering.baselines import Baseline, load_baseline
from sluice.metering.refresh import Refresh
from sluice.settings import Settings
from sluice.wire.codec import decode
from sluice.wire.kafka import topics
from sluice.wire.scan import committed_records


def published_baseline(settings: Settings) -> Baseline | None:
    """The newest baseline on its topic, or None; blocks while the topic is read."""
    newest = None
    for record in committed_records(settings, topics(settings).reference):
        if record.value:
            name, fields = decode(record.value)
            newest = fields["body"] if name == "Baseline" else newest
    return None if newest is None else load_baseline(newest)


def baseline_now(settings: Settings) -> Baseline:
    """A baseline from everything on the partials topic; blocks while it is read."""
    refresh = Refresh(published_baseline(settings))
    for record in committed_records(settings, topics(settings).partials):
        take(refresh, record.key, record.value)
    return refresh.now()


def take(refresh: Refresh, key: bytes | None, value: bytes | None) -> None:
    """Hand a record of the partials topic to `refresh`; other records are none of its business."""
    if key is None or not key.startswith(b"cohort|"):
        return
    refresh.take(key, decode(value)[1] if value else None)
