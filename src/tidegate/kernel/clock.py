"""Time, passed in wherever a decision needs it.

Three readings, because three questions differ: *when* is it (stored, compared between
replicas), *how long* did it take, and *how long since*, counting the time asleep.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    def now_s(self) -> float:
        """Seconds since the Unix epoch."""

    def monotonic_s(self) -> float:
        """Seconds for measuring; stands still while the machine sleeps."""

    def boottime_s(self) -> float:
        """Seconds that also count sleep: leases end on it."""


class SystemClock:
    """The machine's clocks."""

    def now_s(self) -> float:
        return time.time()

    def monotonic_s(self) -> float:
        return time.monotonic()

    def boottime_s(self) -> float:
        # Only Linux has CLOCK_BOOTTIME; macOS' monotonic clock counts no sleep either way.
        return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def rfc3339(at_s: float) -> str:
    """`at_s` (Unix seconds) as an RFC 3339 time in UTC with milliseconds."""
    moment = datetime.fromtimestamp(at_s, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
