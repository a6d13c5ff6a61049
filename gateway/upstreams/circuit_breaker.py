"""Stops calls to an upstream that hangs, for a while."""

from __future__ import annotations

import time

FAILURES = 3
OPEN_SECONDS = 5.0


class CircuitBreaker:
    """Opens after several failures in a row. Then only one call every few seconds is allowed, as a trial."""

    def __init__(self) -> None:
        self._failures = 0
        self._tried = 0.0

    def allows(self) -> bool:
        """Whether a call is allowed. A caller that was allowed must report its result."""
        if self._failures < FAILURES:
            return True
        if time.monotonic() - self._tried < OPEN_SECONDS:
            return False
        self._tried = time.monotonic()
        return True

    def succeeded(self) -> None:
        self._failures = 0

    def failed(self) -> None:
        self._failures += 1
        self._tried = time.monotonic()
