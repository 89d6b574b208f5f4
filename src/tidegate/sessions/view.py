"""Which sessions have been revoked while their access tokens could still live."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from tidegate.kernel.clock import Clock
from tidegate.kernel.ids import PrincipalId, SessionId
from tidegate.observability import metrics
from tidegate.store.changes import Entry, Value

_FIRST_SWEEP = 1024


class RevocationView:
    """Revocations, each until the last access token that it voids has expired anyway.

    The server removes expired entries without telling anybody, so the view sweeps them out
    itself, each time it has doubled.
    """

    kinds = frozenset({"revocation"})

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._until_s: dict[str, float] = {}
        self._sweep_at = _FIRST_SWEEP

    def revoked(self, principal_id: PrincipalId, session_id: SessionId) -> bool:
        return f"revocation.{principal_id}.{session_id}" in self._until_s

    def load(self, entries: Iterable[Entry]) -> None:
        self._until_s = {}
        self.apply(list(entries))

    def apply(self, changes: Sequence[Entry]) -> None:
        for entry in changes:
            if entry.value is None:
                self._until_s.pop(entry.key, None)
            else:
                self._until_s[entry.key] = _until_s(entry.value)
        if len(self._until_s) >= self._sweep_at:
            now_s = self._clock.now_s()
            self._until_s = {key: until for key, until in self._until_s.items() if until > now_s}
            self._sweep_at = max(_FIRST_SWEEP, 2 * len(self._until_s))


def _until_s(value: Value) -> float:
    """Until when a revocation holds. One that cannot be read revokes nonetheless."""
    try:
        return float(value["exp"])
    except (KeyError, TypeError, ValueError):
        metrics.VIEW_REJECTED.labels(view="iam").inc()
        return math.inf
