"""Commit: the only way to change state.

Invariants
- A commit is all or nothing. One change alone is one publish with an expected revision;
  anything more is one atomic batch (ADR-50 of NATS), pipelined in a single round trip.
- Nothing is written unconditionally: every change names the revision it expects.
- Events come after the changes. Followers read events, so the arrival of a commit's last
  event tells them that the whole commit is there, even where they skip some of its entries.
- Nothing is written after the caller was told that it was not: the connection buffers nothing.

Every message carries `Tidegate-Commit: <commit id>:<place>:<size>`. The commit id in a stored
message is the *marker* by which the outcome of a commit can be found out later.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import assert_never

import orjson

from tidegate.observability import metrics
from tidegate.store import reading
from tidegate.store.changes import (
    MAX_MESSAGES,
    Busy,
    Change,
    CommitResult,
    Committed,
    Conflict,
    Delete,
    Event,
    Guard,
    Put,
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

COMMIT_HEADER = "Tidegate-Commit"
TOMBSTONE_TTL_S = 3600

# The server stages at most 50 batches of a stream at once; two replicas stay below that.
_BATCHES_IN_FLIGHT = 16
_FIRST_BACKOFF_S = 0.005
_LONGEST_BACKOFF_S = 0.2

_EXPECTED = "Nats-Expected-Last-Subject-Sequence"
_EXPECTED_SUBJECT = "Nats-Expected-Last-Subject-Sequence-Subject"
_CONFLICT = 10071
# A write to the subject in flight, or its last sequence not known just now; too many batches;
# too many requests; a batch the server gave up under load; no leader just now; resources short.
_BUSY = frozenset({10164, 10163, 10210, 10167, 10176, 10008, 10023})


@dataclass(frozen=True, slots=True)
class _Message:
    subject: str
    payload: bytes
    headers: dict[str, str]


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
        messages, two changes of one key, more guards than events, or a message over the
        server's limit.
        """
        _check(changes, events)
        started = time.perf_counter()
        deadline = time.monotonic() + self._deadline_s
        result = await self._until_not_busy(changes, events, deadline)
        if isinstance(result, Conflict):
            result = await self._resolve_conflict(changes, events, result, deadline)
        metrics.COMMIT_SECONDS.observe(time.perf_counter() - started)
        metrics.COMMITS.labels(result=type(result).__name__.lower()).inc()
        return result

    async def _until_not_busy(
        self, changes: Sequence[Change], events: Sequence[Event], deadline: float
    ) -> CommitResult:
        backoff_s = _FIRST_BACKOFF_S
        while True:
            result = await self._send(changes, events, deadline)
            if not isinstance(result, Busy):
                return result
            # Full jitter: writers that were refused together must not come back together.
            pause_s = random.uniform(0, backoff_s)  # noqa: S311
            if time.monotonic() + pause_s >= deadline:
                return result
            await asyncio.sleep(pause_s)
            backoff_s = min(backoff_s * 2, _LONGEST_BACKOFF_S)

    async def _send(
        self, changes: Sequence[Change], events: Sequence[Event], deadline: float
    ) -> CommitResult:
        messages = self._messages(changes, events, secrets.token_hex(12))
        for message in messages:
            self._connection.check_size(message.payload, message.headers)
        if not self._connection.connected:
            return Unavailable()
        try:
            if len(messages) == 1:
                return await self._publish(messages[0])
            try:
                async with asyncio.timeout(deadline - time.monotonic()):
                    await self._batch_slots.acquire()
            except TimeoutError:
                return Busy()
            try:
                return await self._publish_batch(messages)
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
            raise

    async def _publish(self, message: _Message) -> CommitResult:
        answer = await self._connection.request(message.subject, message.payload, message.headers)
        return Committed(revision=checked(answer.data)["seq"])

    async def _publish_batch(self, messages: Sequence[_Message]) -> CommitResult:
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
        answer = await self._connection.request(last.subject, last.payload, headers)
        return Committed(revision=checked(answer.data)["seq"])

    def _messages(
        self, changes: Sequence[Change], events: Sequence[Event], commit_id: str
    ) -> list[_Message]:
        # A guard is no message of its own: it rides on the message that follows the changes.
        guards = [change for change in changes if isinstance(change, Guard)]
        written = [change for change in changes if not isinstance(change, Guard)]
        size = len(written) + len(events)
        messages: list[_Message] = []
        for change in written:
            marker = f"{commit_id}:{len(messages) + 1}:{size}"
            messages.append(self._change_message(change, marker))
        for event in events:
            marker = f"{commit_id}:{len(messages) + 1}:{size}"
            subject = ".".join(("tg", self._bucket, event.topic, *event.tokens, commit_id))
            headers = {COMMIT_HEADER: marker, "Nats-TTL": f"{event.ttl_s}s"}
            if guards:
                guard = guards.pop()
                headers[_EXPECTED] = str(guard.expected)
                headers[_EXPECTED_SUBJECT] = f"$KV.{self._bucket}.{guard.key}"
            messages.append(_Message(subject, event.value, headers))
        return messages

    def _change_message(self, change: Put | Delete, marker: str) -> _Message:
        subject = f"$KV.{self._bucket}.{change.key}"
        headers = {COMMIT_HEADER: marker, _EXPECTED: str(change.expected)}
        match change:
            case Put(value=value, ttl_s=ttl_s):
                if ttl_s is not None:
                    headers["Nats-TTL"] = f"{ttl_s}s"
                return _Message(subject, orjson.dumps(value), headers)
            case Delete():
                headers["KV-Operation"] = "DEL"
                headers["Nats-TTL"] = f"{TOMBSTONE_TTL_S}s"
                return _Message(subject, b"", headers)
            case _:
                assert_never(change)

    async def _resolve_conflict(
        self,
        changes: Sequence[Change],
        events: Sequence[Event],
        conflict: Conflict,
        deadline: float,
    ) -> CommitResult:
        """Says which key conflicts; creates over tombstones.

        The server names only the sequence it found. A tombstone means "absent", so a change
        that expects absence and met one is sent again with the tombstone's revision, once.
        """
        revised: list[Change] = []
        for change in changes:
            try:
                entry = await reading.read_leader(self._connection, self._bucket, change.key)
            except StoreError:
                return Conflict(key=change.key, actual=conflict.actual)
            if entry.revision == change.expected:
                revised.append(change)
            elif change.expected == 0 and entry.value is None and not isinstance(change, Delete):
                revised.append(replace(change, expected=entry.revision))
            else:
                return Conflict(key=change.key, actual=entry.revision)
        result = await self._until_not_busy(revised, events, deadline)
        if isinstance(result, Conflict):
            return Conflict(key=changes[0].key, actual=result.actual)
        return result


def _check(changes: Sequence[Change], events: Sequence[Event]) -> None:
    size = len(changes) + len(events)
    if not 1 <= size <= MAX_MESSAGES:
        raise ValueError(f"a commit has 1 to {MAX_MESSAGES} messages, not {size}")
    keys = [change.key for change in changes]
    if len(set(keys)) != len(keys):
        raise ValueError("a commit changes each key once")
    if sum(isinstance(change, Guard) for change in changes) > len(events):
        raise ValueError("each guard of a commit needs an event to ride on")


def _sequence_in(description: str) -> int:
    """The sequence that "wrong last sequence: 17 (10071)" found."""
    for word in description.split():
        if word.isdigit():
            return int(word)
    return 0
