"""Runs a call: attempts on one endpoint after another, within its deadline.

Invariants
- A call ends by its deadline, is sent a few times at most, and is cancelled with its caller.
- Nothing queues here: beyond `max_in_flight` calls at once, a call is refused immediately.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from tidegate.kernel import errors
from tidegate.kernel.clock import Clock
from tidegate.kernel.errors import Refusal
from tidegate.observability import metrics
from tidegate.routing.model import Endpoint, ServiceKind
from tidegate.upstream.choice import in_turn
from tidegate.upstream.retry import Attempts, Budget, Failed
from tidegate.upstream.settings import Settings

log = logging.getLogger(__name__)

T = TypeVar("T")
Attempt = Callable[[Endpoint, float], Awaitable[T | Refusal | Failed]]
"""Makes one attempt on an endpoint with so many seconds left."""

DEADLINE = Refusal(errors.DEADLINE, "The upstream did not answer in time.")
UPSTREAM_FAILED = Refusal(errors.UPSTREAM_FAILED, "The upstream failed or answered nonsense.")
_NO_ENDPOINT = Refusal(
    errors.NO_ENDPOINT, "No endpoint of the shard can take it just now.", retry_after_s=1
)
_OVERLOADED = Refusal(errors.OVERLOADED, "Too many calls are in flight already.", retry_after_s=1)


class Caller(Generic[T]):
    """Calls to the upstreams of one service kind."""

    def __init__(
        self, kind: ServiceKind, settings: Settings, clock: Clock, rng: random.Random
    ) -> None:
        self._kind = kind
        self._settings = settings
        self._clock = clock
        self._rng = rng
        self._in_flight = 0

    async def call(
        self, endpoints: Sequence[Endpoint], deadline_s: float, attempt: Attempt[T]
    ) -> T | Refusal:
        """Makes `attempt` until it comes to something, on one of `endpoints` (at least one)."""
        if self._in_flight >= self._settings.max_in_flight:
            metrics.UPSTREAM_REQUESTS.labels(self._kind, "overloaded").inc()
            return _OVERLOADED
        began_s = self._clock.monotonic_s()
        ends_s = began_s + min(deadline_s, self._settings.total_timeout_s)
        result = "aborted"
        self._in_flight += 1
        try:
            outcome = await self._until_done(endpoints, ends_s, attempt)
            result = outcome.code.word.lower() if isinstance(outcome, Refusal) else "answered"
        finally:
            self._in_flight -= 1
            took_s = self._clock.monotonic_s() - began_s
            metrics.UPSTREAM_SECONDS.labels(self._kind).observe(took_s)
            metrics.UPSTREAM_REQUESTS.labels(self._kind, result).inc()
        return outcome

    async def _until_done(
        self, endpoints: Sequence[Endpoint], ends_s: float, attempt: Attempt[T]
    ) -> T | Refusal:
        budget = Budget(self._settings.attempts, self._settings.reconnect_wait_s, ends_s)
        attempts = Attempts(in_turn(endpoints, self._rng), budget, self._rng)
        why = ""
        while True:
            remaining_s = ends_s - self._clock.monotonic_s()
            if remaining_s <= 0:
                return DEADLINE
            endpoint = attempts.endpoint
            outcome = await attempt(endpoint, remaining_s)
            if not isinstance(outcome, Failed):
                return outcome
            why = outcome.why or why
            pause_s = attempts.after(outcome, self._clock.monotonic_s())
            if pause_s is None:
                log.warning(
                    "no %s endpoint took a call; the last, %s: %s",
                    self._kind,
                    endpoint.address,
                    why,
                )
                return _NO_ENDPOINT
            if outcome.sent:
                metrics.UPSTREAM_RETRIES.labels(self._kind).inc()
            if pause_s > 0:
                await asyncio.sleep(pause_s)
