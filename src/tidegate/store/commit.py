"""Commit: the only way to change state.

Invariants
- A commit is all or nothing. One message alone is one publish with an expected revision;
  anything more is one atomic batch (ADR-50 of NATS), pipelined in a single round trip.
- Nothing is written unconditionally, so a commit that is sent again is written once.
- Nothing is guessed. When an answer is lost the *same* commit is sent again: same commit id,
  same expectations, new batch id. Then

    first       again       what happened
    lost        committed   the first never arrived
    lost        conflict    the first arrived, or somebody else was faster: look for the marker
    lost        lost …      nobody knows; `Unknown`, when the deadline ends it

  The marker is looked for in the entries and under the event's subject, in one read that is at
  least as new as the conflict. Found: committed. Not found: with an event, whose subject nobody
  else can write, a conflict; without one `Unknown`, as our entry may have been overwritten.
- A first sending that arrives after all that changes nothing: what it expects is gone.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections.abc import Sequence
from dataclasses import replace

from tidegate.observability import metrics
from tidegate.store import encoding, reading
from tidegate.store.changes import (
    Busy,
    Change,
    CommitResult,
    Committed,
    Conflict,
    Delete,
    Event,
    Unavailable,
    Unknown,
)
from tidegate.store.connection import (
    AnswerLost,
    ApiError,
    Connection,
    Disconnected,
    StoreError,
    checked,
)
from tidegate.store.encoding import COMMIT_HEADER, Marker, Message

# The server stages at most 50 batches of a stream at once; two replicas stay below that.
_BATCHES_IN_FLIGHT = 16
_FIRST_BACKOFF_S = 0.005
_LONGEST_BACKOFF_S = 0.2

_CONFLICT = 10071
# A write to the subject in flight, or its last sequence not known just now; too many batches;
# too many requests; a batch the server gave up under load; no leader just now; resources short.
_BUSY = frozenset({10164, 10163, 10210, 10167, 10176, 10008, 10023})
# The disk is full, or the account's share of it; the write failed.
_REFUSED = frozenset({10028, 10047, 10077})


class _Backoff:
    """Pauses with full jitter: who was refused together must not come back together."""

    def __init__(self, deadline: float) -> None:
        self._deadline = deadline
        self._longest_s = _FIRST_BACKOFF_S

    async def pause(self) -> bool:
        """Waits; False, at once, when the deadline would come first."""
        pause_s = random.uniform(0, self._longest_s)  # noqa: S311
        if time.monotonic() + pause_s >= self._deadline:
            return False
        await asyncio.sleep(pause_s)
        self._longest_s = min(self._longest_s * 2, _LONGEST_BACKOFF_S)
        return True


class Committer:
    """Commits to one bucket's stream."""

    def __init__(self, connection: Connection, bucket: str, deadline_s: float) -> None:
        self._connection = connection
        self._bucket = bucket
        self._deadline_s = deadline_s
        self._batch_slots = asyncio.Semaphore(_BATCHES_IN_FLIGHT)

    async def commit(self, changes: Sequence[Change], events: Sequence[Event]) -> CommitResult:
        """Writes all of it or nothing.

        Raises ValueError for a commit that can never be written: empty, more than 1000
        messages, two changes of one key, too many guards, or a message over the server's limit.
        """
        encoding.check(changes, events)
        started = time.perf_counter()
        deadline = time.monotonic() + self._deadline_s
        result = await self._outcome(self._encode(changes, events), deadline)
        if isinstance(result, Conflict):
            result = await self._resolve_conflict(changes, events, result, deadline)
        metrics.COMMIT_SECONDS.observe(time.perf_counter() - started)
        metrics.COMMITS.labels(result=type(result).__name__.lower()).inc()
        return result

    def _encode(self, changes: Sequence[Change], events: Sequence[Event]) -> list[Message]:
        messages = encoding.encode(self._bucket, changes, events, secrets.token_hex(12))
        for message in messages:
            self._connection.check_size(message.payload, message.headers)
        return messages

    async def _outcome(self, messages: Sequence[Message], deadline: float) -> CommitResult:
        """Sends one commit until it is known what came of it, or the deadline has come."""
        backoff = _Backoff(deadline)
        lost = False
        while True:
            result = await self._send(messages, deadline)
            match result:
                case Conflict() if lost:
                    return await self._look_up(messages, result, backoff)
                case Unavailable() if not lost:
                    return result
                case Unknown():
                    lost = True
                    metrics.COMMIT_ANSWERS_LOST.inc()
                case Committed() | Conflict():
                    return result
            if not await backoff.pause():
                return Unknown() if lost else result

    async def _look_up(
        self, messages: Sequence[Message], conflict: Conflict, backoff: _Backoff
    ) -> CommitResult:
        """Whether the commit that conflicts now was written when its answer was lost."""
        ours = Marker.parse(messages[0].headers[COMMIT_HEADER])
        # With the guarded ones: where only a guard conflicts, nothing else may be there, and an
        # empty answer does not say how new it is.
        subjects = [subject for message in messages for subject in message.looks_at]
        has_event = any(subject.startswith("tg.") for subject in subjects)
        # The revision in conflict is our own or a later one, so a copy that has it has all of
        # ours. Zero tells nothing: our entry may have expired.
        while conflict.actual > 0:
            try:
                found = await reading.snapshot(self._connection, self._bucket, subjects)
            except StoreError:
                found = reading.NOTHING
            for message in found.messages:
                marker = message.marker
                if marker is not None and ours is not None and marker.commit_id == ours.commit_id:
                    return Committed(marker.end(message.sequence))
            if found.up_to >= conflict.actual:
                return conflict if has_event else Unknown()
            if not await backoff.pause():
                break
        return Unknown()

    async def _send(self, messages: Sequence[Message], deadline: float) -> CommitResult:
        if not self._connection.connected:
            return Unavailable()
        try:
            if len(messages) == 1:
                return await self._publish(messages[0], deadline)
            try:
                async with asyncio.timeout(deadline - time.monotonic()):
                    await self._batch_slots.acquire()
            except TimeoutError:
                return Busy()
            try:
                return await self._publish_batch(messages, deadline)
            finally:
                self._batch_slots.release()
        except Disconnected:
            return Unavailable()
        except AnswerLost:
            return Unknown()
        except ApiError as exc:
            if exc.err_code == _CONFLICT:
                return Conflict(key="", actual=_sequence_in(str(exc)))
            if exc.err_code in _BUSY:
                return Busy()
            if exc.err_code in _REFUSED:
                return Unavailable()
            raise

    async def _publish(self, message: Message, deadline: float) -> CommitResult:
        timeout_s = min(self._connection.request_timeout_s, deadline - time.monotonic())
        answer = await self._connection.request(
            message.subject, message.payload, message.headers, timeout_s
        )
        return Committed(revision=checked(answer.data)["seq"])

    async def _publish_batch(self, messages: Sequence[Message], deadline: float) -> CommitResult:
        batch_id = secrets.token_hex(12)
        for place, message in enumerate(messages[:-1], start=1):
            headers = message.headers | {
                "Nats-Batch-Id": batch_id,
                "Nats-Batch-Sequence": str(place),
            }
            await self._connection.publish(message.subject, message.payload, headers)
        last = messages[-1]
        headers = last.headers | {
            "Nats-Batch-Id": batch_id,
            "Nats-Batch-Sequence": str(len(messages)),
            "Nats-Batch-Commit": "1",
        }
        return await self._publish(replace(last, headers=headers), deadline)

    async def _resolve_conflict(
        self,
        changes: Sequence[Change],
        events: Sequence[Event],
        conflict: Conflict,
        deadline: float,
    ) -> CommitResult:
        """Says which key conflicts, where that can be found out; creates over tombstones.

        The server names only the sequence it found. A tombstone means "absent", so a change
        that expects absence and met one is sent again with the tombstone's revision, once.
        """
        revised: list[Change] = []
        for change in changes:
            try:
                entry = await reading.read_leader(self._connection, self._bucket, change.key)
            except StoreError:
                return conflict
            if entry.revision == change.expected:
                revised.append(change)
            elif change.expected == 0 and entry.value is None and not isinstance(change, Delete):
                revised.append(replace(change, expected=entry.revision))
            else:
                return Conflict(key=change.key, actual=entry.revision)
        return await self._outcome(self._encode(revised, events), deadline)


def _sequence_in(description: str) -> int:
    """The sequence that "wrong last sequence: 17 (10071)" found."""
    for word in description.split():
        if word.isdigit():
            return int(word)
    return 0
