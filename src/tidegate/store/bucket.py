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
from tidegate.store.connection import AnswerLost, ApiError, Connection, Disconnected, StoreError
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

    async def settle(self, sequence: int) -> Refusal | None:
        """Returns once this replica's views show everything up to `sequence`.

        A refusal when they do not in time: the change is made, but does not hold yet.
        """
        if await self.progress.wait_for(sequence, _SETTLE_DEADLINE_S):
            return None
        log.warning("committed, but the views of %s are behind", self.name)
        return Refusal(
            errors.BARRIER_PENDING,
            "The change is made, but this replica does not show it yet. Repeating it is safe.",
            details={"revision": str(Revision(self.name, sequence))},
            retry_after_s=_RETRY_AFTER_S,
        )

    async def execute(self, decide: Decide[T], *, settle: bool = True) -> Done[T] | Refusal:
        """Runs one command: reads and decides, commits, settles.

        `decide` may run several times and must have no effect of its own. A command that no
        view shows (a refresh rotates an entry that nobody follows) goes without settling.
        """
        read: Read = self.read
        attempts = 0
        while attempts < _ATTEMPTS:
            from_leader = read == self.read_leader
            decision = await self._decide(decide, read)
            read = self.read_leader
            if isinstance(decision, Refusal):
                if from_leader or decision is UNAVAILABLE:
                    return decision
                continue
            result = await self.commit(decision.changes, decision.events)
            match result:
                case Committed(revision=sequence):
                    pending = await self.settle(sequence) if settle else None
                    if pending is not None:
                        return pending
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

    async def _decide(self, decide: Decide[T], read: Read) -> Decision[T] | Refusal:
        try:
            return await decide(read)
        except (Disconnected, AnswerLost):
            return UNAVAILABLE
        except ApiError as exc:
            if exc.code == _NO_LEADER_NOW:
                return UNAVAILABLE
            raise
        except StoreError:
            log.exception("an entry of %s that a command needs cannot be read", self.name)
            return UNAVAILABLE
