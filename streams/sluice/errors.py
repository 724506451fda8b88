"""Errors that people and programs meet.

SluiceError
 ├─ ConfigError    a setting, policy or price file is wrong: mend it and start again
 ├─ WireError      a value that crossed a boundary is not what it claims: dead-letter it
 └─ OutsideError   Kafka, ClickHouse or a file system is away: wait and try again
"""

from __future__ import annotations


class SluiceError(Exception):
    """Root of every error that Sluice raises on purpose; its text says what to do next."""


class ConfigError(SluiceError):
    """A setting or file given by the operator is wrong; nothing of it was applied."""


class WireError(SluiceError):
    """A value on the wire breaks its contract; `reason` is a stable code, `detail` the numbers."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


class OutsideError(SluiceError):
    """An outside system did not answer; the same call may succeed later."""
