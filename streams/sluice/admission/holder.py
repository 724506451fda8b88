"""The holder's side of leases: asks for room, renews what is used, closes in the end."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from sluice.admission.accounts import Account
from sluice.admission.leases import Grants, Leases
from sluice.admission.publisher import Publisher
from sluice.errors import OutsideError, SluiceError

# Accounts looked at under one hold of the lock: requests do not wait for all of them.
_AT_ONCE = 100

_log = logging.getLogger(__name__)


class Holder:
    """Reports on the accounts of this process, one report at a time.

    `lock` guards the accounts and is held while a report is made, never while it is sent.
    """

    def __init__(self, publisher: Publisher, slot: str | None, lock: threading.Lock,
                 grants: Callable[[], Grants], clock: Callable[[], int]) -> None:  # fmt: skip
        self._publisher = publisher
        self._slot = slot or publisher.holder
        self._lock = lock
        self._grants = grants
        self._clock = clock
        self._sending = threading.Lock()
        self.leases = Leases(publisher.holder)

    def tell(self, among: Iterable[Account] | None = None) -> None:
        """Send the reports that are due, on some accounts or on all."""
        if not self._publisher.reports:
            return
        with self._sending:
            with self._lock:
                accounts = list(self.leases.accounts.values() if among is None else among)
            for begin in range(0, len(accounts), _AT_ONCE):
                with self._lock:
                    some = accounts[begin : begin + _AT_ONCE]
                    due = list(self.leases.due(some, self._grants(), self._clock(), self._slot))
                for account, report in due:
                    self._send(account, report)

    def _send(self, account: Account, report: Mapping[str, Any]) -> None:
        try:
            epoch = self._publisher.report(report)
        except OutsideError as error:
            _log.warning("a report on budget %s waits: %s", account.key.budget_id, error)
            with self._lock:
                account.report_failed()
        except SluiceError:
            _log.exception("a report on budget %s was given up", account.key.budget_id)
        else:
            self.leases.source_epoch = epoch

    def close(self) -> None:
        """Close every lease: nothing will be spent under it beyond what was reported."""
        with self._sending:
            with self._lock:
                last = list(self.leases.closing(self._clock(), self._slot))
            for account, report in last:
                self._send(account, report)
