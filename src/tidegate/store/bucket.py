"""One bucket: its entries, its commits, its progress. What domains and flows hold.

A command runs through `execute`: read, decide, commit, hold. It reads from any copy of the stream,
which may be old. A conflict says so, and it decides again on what the leader has, a few times
at most; a refusal meets no compare-and-set that could say so, and is final only when it was
decided on what the leader has. Before the caller is answered the change is made to *hold*: on
every replica that may serve, see `barrier`.

Repeating a call finishes what a call before it began. So a take-away that finds nothing left to
take away, whether it answers that with success or with a refusal, waits until the newest
revision that it read holds everywhere: the call that wrote it may still be waiting, or gone.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar, assert_never

from tidegate.kernel import errors
from tidegate.kernel.errors import Refusal
from tidegate.observability import metrics
from tidegate.store import reading
from tidegate.store.barrier import Barrier, Effect, Held
from tidegate.store.changes import (
    Busy,
    Change,
    CommitResult,
    Committed,
    Conflict,
    Entry,
    Event,
    Unavailable,
    Unknown,
)
from tidegate.store.commit import Committer
from tidegate.store.connection import AnswerLost, Connection, Disconnected, StoreError
from tidegate.store.views import Progress

log = logging.getLogger(__name__)

T = TypeVar("T")

_ATTEMPTS = 4
# Who keeps changing a thing (refreshes of a session) must not thereby keep it from being taken.
_ATTEMPTS_OF_TAKE_AWAYS = 16
_RETRY_AFTER_S = 1

UNAVAILABLE = Refusal(
    errors.UNAVAILABLE, "The state cannot be reached just now.", retry_after_s=_RETRY_AFTER_S
)
_UNKNOWN = Refusal(
    errors.COMMIT_UNKNOWN,
    "The answer of the state was lost: it is not known whether this was done. Repeat the call.",
    retry_after_s=_RETRY_AFTER_S,
)
_CONTENDED = Refusal(errors.CONFLICT, "Others kept changing the same thing. Try again.")


@dataclass(frozen=True, slots=True)
class Revision:
    """A point of a bucket's history, written `<bucket>:<sequence>` on the wire."""

    bucket: str
    sequence: int

    def __str__(self) -> str:
        return f"{self.bucket}:{self.sequence}"


@dataclass(frozen=True, slots=True)
class Decision(Generic[T]):
    """What a command decided: the commit to make, and what to answer once it is made.

    Without changes and events there is nothing to do any more.
    """

    changes: Sequence[Change]
    events: Sequence[Event]
    outcome: T


@dataclass(frozen=True, slots=True)
class Done(Generic[T]):
    """A decision that is committed and holds.

    `unconfirmed` replicas did not say in time that they have it; never so for a take-away.
    """

    outcome: T
    revision: Revision
    unconfirmed: int = 0


Read = Callable[[str], Awaitable[Entry]]
Decide = Callable[[Read], Awaitable[Decision[T] | Refusal]]


class _Reading:
    """Reads of one decision, and the newest revision that they met."""

    def __init__(self, read: Read) -> None:
        self._read = read
        self.newest = 0

    async def __call__(self, key: str) -> Entry:
        entry = await self._read(key)
        self.newest = max(self.newest, entry.revision)
        return entry


class Bucket:
    """Reads, commits and commands of one bucket.

    Without a barrier, as an operator's command has it, changes hold when the replicas' feeds
    bring them.
    """

    def __init__(
        self,
        connection: Connection,
        name: str,
        progress: Progress,
        commit_deadline_s: float,
        barrier: Barrier | None = None,
    ) -> None:
        self.name = name
        self.progress = progress
        self._connection = connection
        self._committer = Committer(connection, name, commit_deadline_s)
        self._barrier = barrier

    async def read(self, key: str) -> Entry:
        """What `key` holds, perhaps not the newest. Raises Disconnected or AnswerLost."""
        return await reading.read(self._connection, self.name, key)

    async def read_leader(self, key: str) -> Entry:
        """What the stream's leader has of `key`. Raises Disconnected or AnswerLost."""
        return await reading.read_leader(self._connection, self.name, key)

    async def commit(self, changes: Sequence[Change], events: Sequence[Event]) -> CommitResult:
        """See `Committer.commit`."""
        return await self._committer.commit(changes, events)

    async def hold(self, sequence: int, effect: Effect) -> Held | Refusal:
        """Returns once the change at `sequence` holds as `effect` demands.

        A refusal when that cannot be brought about: the change is made, but may not hold yet.
        """
        if self._barrier is None:
            return Held()
        held = await self._barrier.hold(self.name, sequence, effect)
        if isinstance(held, Held):
            return held
        log.warning("committed to %s, but the change does not hold yet", self.name)
        return Refusal(
            errors.BARRIER_PENDING,
            "The change is made, but may not hold on every replica yet. Repeating it is safe.",
            details={"revision": str(Revision(self.name, sequence))},
            retry_after_s=_RETRY_AFTER_S,
        )

    async def execute(self, decide: Decide[T], effect: Effect) -> Done[T] | Refusal:
        """Runs one command: reads and decides, commits, holds.

        `decide` may run several times and must have no effect of its own.
        """
        read: Read = self.read
        attempts = 0
        most = _ATTEMPTS_OF_TAKE_AWAYS if effect is Effect.TAKE_AWAY else _ATTEMPTS
        while attempts < most:
            from_leader = read == self.read_leader
            seen = _Reading(read)
            decision = await self._decide(decide, seen)
            read = self.read_leader
            if isinstance(decision, Refusal):
                if decision is UNAVAILABLE:
                    return decision
                if from_leader:
                    return await self._refused(decision, seen.newest, effect)
                continue
            if not decision.changes and not decision.events:
                if from_leader:
                    return await self._held(decision, seen.newest, effect)
                continue
            result = await self.commit(decision.changes, decision.events)
            match result:
                case Committed(revision=sequence):
                    return await self._held(decision, sequence, effect)
                case Conflict():
                    metrics.COMMIT_CONFLICTS.inc()
                    attempts += 1
                case Busy() | Unavailable():
                    return UNAVAILABLE
                case Unknown():
                    return _UNKNOWN
                case _:
                    assert_never(result)
        return _CONTENDED

    async def _held(
        self, decision: Decision[T], sequence: int, effect: Effect
    ) -> Done[T] | Refusal:
        held = await self.hold(sequence, effect)
        if isinstance(held, Refusal):
            return held
        return Done(decision.outcome, Revision(self.name, sequence), held.unconfirmed)

    async def _refused(self, refusal: Refusal, newest: int, effect: Effect) -> Refusal:
        if effect is not Effect.TAKE_AWAY:
            return refusal
        held = await self.hold(newest, effect)
        return held if isinstance(held, Refusal) else refusal

    async def _decide(self, decide: Decide[T], read: Read) -> Decision[T] | Refusal:
        try:
            return await decide(read)
        except (Disconnected, AnswerLost):
            return UNAVAILABLE
        except StoreError:
            log.exception("an entry of %s that a command needs cannot be read", self.name)
            return UNAVAILABLE
