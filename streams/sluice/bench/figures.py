"""What a benchmark says: figures with their reach, and the machine they were measured on."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import psutil


class Figure(NamedTuple):
    """One measured value; `reach` is what it must not exceed, None where nothing was promised.

    With `at_least`, reach is what the value must not fall below.
    """

    name: str
    value: float
    unit: str
    reach: float | None = None
    at_least: bool = False

    @property
    def met(self) -> bool | None:
        """Whether the value is within its reach; None without one."""
        if self.reach is None:
            return None
        return self.value >= self.reach if self.at_least else self.value <= self.reach

    def as_dict(self) -> dict[str, Any]:
        """The figure for programs."""
        return {**self._asdict(), "met": self.met}


class Report(NamedTuple):
    """The outcome of one benchmark; `details` is what its figures were made from."""

    benchmark: str
    machine: Mapping[str, Any]
    settings: Mapping[str, Any]
    figures: Sequence[Figure]
    details: Sequence[Mapping[str, Any]] = ()

    @property
    def met(self) -> bool:
        """Whether no figure missed its reach."""
        return all(figure.met is not False for figure in self.figures)

    def as_dict(self) -> dict[str, Any]:
        """The report for programs."""
        return {**self._asdict(), "figures": [f.as_dict() for f in self.figures], "met": self.met}


def machine() -> dict[str, Any]:
    """Processor, cores, memory (bytes), Python and present load (tasks) of this machine."""
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "system": platform.platform(),
        "python": platform.python_version(),
        "load_before": round(os.getloadavg()[0], 2),
    }


def _cpu_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return platform.processor()
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor()
