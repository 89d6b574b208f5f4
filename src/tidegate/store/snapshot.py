"""The newest message of each key of some kinds: what a follower starts from.

Invariant: a snapshot is never older than the sequence it was asked for. What the live feed brings
begins after that, and what lies between would come with neither.

Kind by kind, with one read each where that is enough. A consumer of several kinds, or of one
that has no entry, makes the server walk through the whole stream, users and all: with a million of
them it says nothing for seconds, and the follower would take that for silence. (A read is answered
with 1024 entries at most; kinds that have more are left to one consumer.)
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from tidegate.kernel.clock import Clock
from tidegate.observability import metrics
from tidegate.store import reading
from tidegate.store.assembly import Member
from tidegate.store.changes import Entry
from tidegate.store.connection import AnswerLost, Connection, Disconnected, StoreError
from tidegate.store.consumer import SILENCE_S, Consumer, Delivered
from tidegate.store.reading import Stored

log = logging.getLogger(__name__)

_HEARTBEAT_S = 0.1
# Its answer says how new an otherwise empty read is.
_ALWAYS_THERE = {"iam": "schema.version"}


def member(bucket: str, stored: Stored) -> Member:
    """What a stored message is to a follower."""
    end = stored.sequence if stored.marker is None else stored.marker.end(stored.sequence)
    prefix = f"$KV.{bucket}."
    if not stored.subject.startswith(prefix):
        return Member(stored.sequence, end, None)
    key = stored.subject[len(prefix) :]
    try:
        entry = reading.decode(key, stored.payload, stored.sequence, stored.headers)
    except StoreError:
        # Some other tool wrote it. It is there but says nothing; what that comes to is for
        # each view to say: a right is not given, a placement stays as it was.
        metrics.VIEW_REJECTED.labels(view=bucket).inc()
        log.exception("an entry of %s cannot be read", bucket)
        entry = Entry(key, {}, stored.sequence)
    return Member(stored.sequence, end, entry)


async def take(
    connection: Connection,
    bucket: str,
    subjects: Sequence[str],
    last_sequence: int,
    clock: Clock,
    patience_s: float,
) -> list[Member]:
    """All entries under `subjects`, at least as new as `last_sequence`. Raises StoreError."""
    found: list[Stored] = []
    many: list[str] = []
    for subject in subjects:
        few = await _read(connection, bucket, subject, last_sequence)
        if few is None:
            many.append(subject)
        else:
            found += few
    if many:
        found += await _consume(connection, bucket, many, last_sequence, clock, patience_s)
    return [member(bucket, stored) for stored in found]


async def _read(
    connection: Connection, bucket: str, subject: str, last_sequence: int
) -> list[Stored] | None:
    """One read; None when it is too much for one, or the copy that answered is behind."""
    known = _ALWAYS_THERE.get(bucket)
    if known is None:
        return None
    beacon = f"$KV.{bucket}.{known}"
    try:
        read = await reading.snapshot(connection, bucket, [beacon, subject])
    except (Disconnected, AnswerLost):
        raise
    except StoreError:
        return None
    if read.up_to < last_sequence:
        return None
    return [stored for stored in read.messages if stored.subject != beacon]


async def _consume(
    connection: Connection,
    bucket: str,
    subjects: list[str],
    last_sequence: int,
    clock: Clock,
    patience_s: float,
) -> list[Stored]:
    found: list[Stored] = []
    heard_s = clock.boottime_s()

    def on_delivered(delivered: Delivered) -> None:
        nonlocal heard_s
        heard_s = clock.boottime_s()
        found.append(delivered.stored)
        if delivered.pending == 0:
            on_idle(delivered.stored.sequence)

    def on_idle(sequence: int) -> None:
        if sequence >= last_sequence:
            consumer.finish()
        elif clock.boottime_s() - heard_s > SILENCE_S:
            # It never will be: the stream is another one by now.
            consumer.doubt("behind")

    consumer = Consumer(connection, f"KV_{bucket}", clock, on_delivered, on_idle, patience_s)
    policy = {"deliver_policy": "last_per_subject"}
    async with consumer.open(policy, subjects, _HEARTBEAT_S):
        await consumer.until_finished()
    return found
