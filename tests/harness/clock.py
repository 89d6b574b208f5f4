"""A clock that can be put forward."""

from __future__ import annotations

from tidegate.kernel.clock import SystemClock


class PutForwardClock:
    """The machine's clocks, `ahead_s` seconds later: as after a long sleep."""

    def __init__(self) -> None:
        self.ahead_s = 0.0
        self._system = SystemClock()

    def now_s(self) -> float:
        return self._system.now_s() + self.ahead_s

    def monotonic_s(self) -> float:
        return self._system.monotonic_s() + self.ahead_s

    def boottime_s(self) -> float:
        return self._system.boottime_s() + self.ahead_s
