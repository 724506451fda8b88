"""Calls to what is outside of the process, tried until it answers, without blocking the loop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from sluice.errors import OutsideError

log = logging.getLogger(__name__)

_RETRY_S = 1.0


class Patience:
    """Makes one call at a time in a thread; `waiting` is why it waits, or None."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(max_workers=1)
        self.waiting: str | None = None

    async def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """The result of `function`; OutsideError is told once and tried again each second."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                result = await loop.run_in_executor(self._executor, function, *args)
            except OutsideError as error:
                if self.waiting is None:
                    log.warning("%s; waiting", error)
                self.waiting = str(error)
                await asyncio.sleep(_RETRY_S)
            else:
                self.waiting = None
                return result
