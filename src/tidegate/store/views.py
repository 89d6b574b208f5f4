"""Views: memory that follows the change feed, and how far it has come.

Invariants: a view never shows a part of a commit, never goes backwards, and is replaced
whole after a gap that the feed could not bridge.
"""

from __future__ import annotations

import asyncio
import bisect
import itertools
from collections.abc import Iterable, Sequence
from typing import Protocol

from tidegate.kernel.clock import Clock
from tidegate.store.changes import Entry


class View(Protocol):
    """A resident read model: all entries of some kinds. Both calls are synchronous, never fail."""

    kinds: frozenset[str]

    def load(self, entries: Iterable[Entry]) -> None:
        """Replaces everything by `entries` (the present ones only)."""

    def apply(self, changes: Sequence[Entry]) -> None:
        """Applies whole commits in order; a change whose value is None is a removal."""


class OnDemandView(Protocol):
    """A read model that holds what was asked for. Both calls are synchronous and never fail."""

    kinds: frozenset[str]

    def apply(self, changes: Sequence[Entry]) -> None:
        """Forgets what `changes` touch."""

    def clear(self) -> None:
        """Forgets everything: the feed went on after a gap that it could not bridge."""


class Progress:
    """How far the views of one bucket are, and how long ago the feed was last heard."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._heard_s: float | None = None
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._order = itertools.count()
        self.revision = 0

    @property
    def age_s(self) -> float:
        """Seconds since the feed was last heard; infinite before the first time."""
        if self._heard_s is None:
            return float("inf")
        return self._clock.boottime_s() - self._heard_s

    def heard(self) -> None:
        self._heard_s = self._clock.boottime_s()

    def reached(self, revision: int) -> None:
        """Everything up to `revision` is applied; wakes who waits for it."""
        self.revision = revision
        reached = bisect.bisect_right(self._waiting, revision, key=lambda waiting: waiting[0])
        for _, _, future in self._waiting[:reached]:
            if not future.done():
                future.set_result(None)
        del self._waiting[:reached]

    def restarted(self, revision: int) -> None:
        """The stream is another one; its sequences start anew."""
        self.revision = revision

    async def wait_for(self, revision: int, deadline_s: float) -> bool:
        """Waits until `revision` is applied; False when it is not within `deadline_s` seconds."""
        if revision <= self.revision:
            return True
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting = (revision, next(self._order), future)
        bisect.insort(self._waiting, waiting)
        try:
            async with asyncio.timeout(deadline_s):
                await future
        except TimeoutError:
            return revision <= self.revision
        finally:
            # Clients choose revisions: one that never comes must not be kept for ever.
            if future.cancelled():
                at = bisect.bisect_left(self._waiting, waiting)
                if at < len(self._waiting) and self._waiting[at] is waiting:
                    del self._waiting[at]
        return True
