"""The emitter as a holder of leases needs it: in order, and telling whether it takes anything."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from sluice.admission.reporting import Emitter
from sluice.errors import OutsideError


@runtime_checkable
class ReportsHolders(Protocol):
    """An emitter that carries reports of lease holders too, like UsageEmitter."""

    @property
    def source(self) -> str:
        """Name of this process as the holder of its leases."""

    def emit(self, event: Mapping[str, Any]) -> object:
        """Send one event."""

    def report(self, report: Mapping[str, Any]) -> str:
        """Send one HolderReport behind all usage so far; returns its source_epoch."""


class Publisher:
    """Sends usage and reports; `down` from the first refusal of the outside to the next success."""

    def __init__(self, emitter: Emitter | None, source: str) -> None:
        self._emitter = emitter
        self._reporter = emitter if isinstance(emitter, ReportsHolders) else None
        self.holder = source if self._reporter is None else self._reporter.source
        self.down = False

    @property
    def reports(self) -> bool:
        """Whether leases can be asked for at all."""
        return self._reporter is not None

    @property
    def emits(self) -> bool:
        """Whether usage goes anywhere."""
        return self._emitter is not None

    def emit(self, event: Mapping[str, Any]) -> None:
        """Send one event; raises as the emitter does."""
        if self._emitter is not None:
            self._watched(lambda emitter: emitter.emit(event), self._emitter)

    def report(self, report: Mapping[str, Any]) -> str | None:
        """Send one HolderReport and return its epoch; raises as the emitter does."""
        if self._reporter is None:
            return None
        epoch: str = self._watched(lambda reporter: reporter.report(report), self._reporter)
        return epoch

    def _watched(self, send: Any, emitter: Any) -> Any:
        try:
            answer = send(emitter)
        except OutsideError:
            self.down = True
            raise
        self.down = False
        return answer
