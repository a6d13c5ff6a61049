"""An upstream that hangs is left alone for a while."""

from __future__ import annotations

import time

FAILURES = 3
OPEN_SECONDS = 5.0


class CircuitBreaker:
    """Open after some failures in a row: then only one call every few seconds tries again."""

    def __init__(self) -> None:
        self._failures = 0
        self._tried = 0.0

    def allows(self) -> bool:
        """Whether to call. Whoever is allowed says how it went."""
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
