"""One bucket: its entries, its commits, its progress. What domains and flows hold.

A command runs through `execute`: read, decide, commit. It reads from any copy of the stream,
which may be old. A conflict says so, and it decides again on what the leader has, a few times
at most; a refusal meets no compare-and-set that could say so, and is final only when it was
decided on what the leader has. Before the caller is answered the change is *settled*: views
show it. `settle` is the one seam at which
"holds here" becomes "holds on every replica".
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
from tidegate.store.connection import AnswerLost, ApiError, Connection, Disconnected
from tidegate.store.views import Progress

log = logging.getLogger(__name__)

T = TypeVar("T")

_ATTEMPTS = 4
_NO_LEADER_NOW = 503
_RETRY_AFTER_S = 1
_SETTLE_DEADLINE_S = 3.0

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
    """What a command decided: the commit to make, and what to answer once it is made."""

    changes: Sequence[Change]
    events: Sequence[Event]
    outcome: T


@dataclass(frozen=True, slots=True)
class Done(Generic[T]):
    """A decision that is committed and settled."""

    outcome: T
    revision: Revision


Read = Callable[[str], Awaitable[Entry]]
Decide = Callable[[Read], Awaitable[Decision[T] | Refusal]]


class Bucket:
    """Reads, commits and commands of one bucket."""

    def __init__(
        self, connection: Connection, name: str, progress: Progress, commit_deadline_s: float
    ) -> None:
        self.name = name
        self.progress = progress
        self._connection = connection
        self._committer = Committer(connection, name, commit_deadline_s)

    async def read(self, key: str, min_revision: int = 0) -> Entry:
        """What `key` holds, perhaps not the newest. Raises Disconnected or AnswerLost."""
        return await reading.read(self._connection, self.name, key, min_revision)

    async def read_leader(self, key: str) -> Entry:
        """What the stream's leader has of `key`. Raises Disconnected or AnswerLost."""
        return await reading.read_leader(self._connection, self.name, key)

    async def commit(self, changes: Sequence[Change], events: Sequence[Event]) -> CommitResult:
        """See `Committer.commit`."""
        return await self._committer.commit(changes, events)

    async def settle(self, sequence: int) -> None:
        """Returns once this replica's views show everything up to `sequence`."""
        if not await self.progress.wait_for(sequence, _SETTLE_DEADLINE_S):
            log.warning("committed, but the views of %s are behind", self.name)

    async def execute(self, decide: Decide[T], *, settle: bool = True) -> Done[T] | Refusal:
        """Runs one command: reads and decides, commits, settles.

        `decide` may run several times and must have no effect of its own. A command that no
        view shows (a refresh rotates an entry that nobody follows) goes without settling.
        """
        read: Read = self.read
        attempts = 0
        while attempts < _ATTEMPTS:
            from_leader = read == self.read_leader
            try:
                decision = await decide(read)
            except (Disconnected, AnswerLost):
                return UNAVAILABLE
            except ApiError as exc:
                if exc.code == _NO_LEADER_NOW:
                    return UNAVAILABLE
                raise
            read = self.read_leader
            if isinstance(decision, Refusal):
                if from_leader:
                    return decision
                continue
            result = await self.commit(decision.changes, decision.events)
            match result:
                case Committed(revision=sequence):
                    if settle:
                        await self.settle(sequence)
                    return Done(decision.outcome, Revision(self.name, sequence))
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
