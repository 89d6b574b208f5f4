"""When and where a failed attempt is made again. Pure; the clock is passed in.

Only attempts that may be repeated come here: commands, which nodes deduplicate by their
`command_id`, and queries. Two budgets hold a call. What was *sent* is counted, for it cost an
upstream something. Finding no connection is cheap but says little about the next second (a
node may be restarting), so it is timed instead.

    A sent, failed ── at once ──▶ B not connected ── pause ──▶ A not connected ── pause ──▶ B sent
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from tidegate.routing.model import Endpoint

_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 0.4


@dataclass(frozen=True, slots=True)
class Failed:
    """An attempt that may be made again; `sent` when the upstream may have seen it.

    `why` is for operators only, and empty when there is nothing new to say.
    """

    sent: bool
    why: str = ""


@dataclass(frozen=True, slots=True)
class Budget:
    """How often a call is sent, how long it looks for a connection, and when it must end."""

    attempts: int
    reconnect_wait_s: float
    ends_s: float


class Attempts:
    """The attempts of one call, over its endpoints in turn."""

    __slots__ = ("_budget", "_endpoints", "_pause_s", "_rng", "_sent", "_turn", "_unconnected_s")

    def __init__(self, endpoints: Sequence[Endpoint], budget: Budget, rng: random.Random) -> None:
        self._endpoints = endpoints
        self._budget = budget
        self._rng = rng
        self._turn = 0
        self._sent = 0
        self._pause_s = _FIRST_PAUSE_S
        self._unconnected_s: float | None = None

    @property
    def endpoint(self) -> Endpoint:
        """Where the next attempt goes."""
        return self._endpoints[self._turn % len(self._endpoints)]

    def after(self, failed: Failed, now_s: float) -> float | None:
        """Moves on to the next endpoint; how long to wait before it, or None to give up."""
        self._turn += 1
        if failed.sent:
            self._sent += 1
            if self._sent >= self._budget.attempts:
                return None
        else:
            if self._unconnected_s is None:
                self._unconnected_s = now_s
            if now_s - self._unconnected_s >= self._budget.reconnect_wait_s:
                return None
        pause_s = self._next_pause_s()
        return pause_s if now_s + pause_s < self._budget.ends_s else None

    def _next_pause_s(self) -> float:
        if self._turn < len(self._endpoints):
            return 0.0
        # Jitter: callers that failed together must not come back together.
        pause_s = self._rng.uniform(0.5, 1) * self._pause_s
        self._pause_s = min(self._pause_s * 2, _LONGEST_PAUSE_S)
        return pause_s
