"""The barrier: when a change at S holds on every replica that may serve.

Protocol, for the replica that committed S
1. Apply S itself.
2. Read the lease set. Who is in it may serve without S; who is not serves with S (`lease`).
3. Ask each member over core NATS to confirm that it has applied S.
4. A take-away waits until all have confirmed, or left the set, or the time has passed after which
   no lease that counts without S can hold: the longest TTL, and a margin for clock rates, from
   S's acknowledgement. Those who were not renewed meanwhile are then deleted from the set.
   An addition waits a second, and says how many did not confirm.

A member that was renewed meanwhile and did not confirm stays in the set: it has applied S, or
its renewal does not count. Deleting it could take a lease that holds out of sight of the next
take-away.

Schedules
- A member confirms what it does not have: no, it answers when its views have reached S.
- A change of bucket `routing` and a lease that is younger than what this replica has of `iam`:
  the set is read when `iam` is as new as its stream was after S. A replica whose lease is
  younger still asks how far `routing` is after that, and starts with S.
- The member is gone and nobody tells: the wait ends by the clock alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass

import orjson
from nats.aio.msg import Msg

from tidegate.kernel.clock import Clock
from tidegate.kernel.lifecycle import Ready
from tidegate.observability import metrics
from tidegate.store.changes import Committed, Conflict, Delete
from tidegate.store.commit import Committer
from tidegate.store.connection import Connection, StoreError
from tidegate.store.lease import Lease
from tidegate.store.replicas import CLOCK_RATE_MARGIN, Replica, ReplicaView
from tidegate.store.views import Progress
from tidegate.store.watchdog import last_sequence_of

log = logging.getLogger(__name__)

_ADDITION_S = 1.0
_OWN_VIEW_S = 3.0
_ASK_AGAIN_S = 0.1
_CONFIRM_WITHIN_S = 1.0
_MOST_CONFIRMING = 1000
_COMMIT_DEADLINE_S = 5.0


class Effect(enum.Enum):
    """What a change does to what others see, and so whom it waits for."""

    UNSEEN = "unseen"  # no view shows it
    ADDITION = "addition"
    TAKE_AWAY = "take_away"


@dataclass(frozen=True, slots=True)
class Held:
    """The change holds; `unconfirmed` members of the lease set may not have it yet."""

    unconfirmed: int = 0


@dataclass(frozen=True, slots=True)
class NotHeld:
    """It could not be brought about that the change holds everywhere."""


class Barrier:
    """Makes the changes of this replica hold on the others."""

    def __init__(
        self,
        connection: Connection,
        lease: Lease,
        replicas: ReplicaView,
        progress: Mapping[str, Progress],
        clock: Clock,
    ) -> None:
        self._connection = connection
        self._lease = lease
        self._replicas = replicas
        self._progress = progress
        self._clock = clock
        self._committer = Committer(connection, "iam", _COMMIT_DEADLINE_S)

    async def hold(self, bucket: str, sequence: int, effect: Effect) -> Held | NotHeld:
        """Returns when the change at `sequence`, just acknowledged, holds as `effect` demands."""
        if effect is Effect.UNSEEN:
            return Held()
        started = time.perf_counter()
        held = await self._hold(bucket, sequence, effect)
        metrics.BARRIER_SECONDS.labels(effect=effect.value).observe(time.perf_counter() - started)
        result = "pending" if isinstance(held, NotHeld) else "partly" if held.unconfirmed else "all"
        metrics.BARRIERS.labels(result=result).inc()
        return held

    async def _hold(self, bucket: str, sequence: int, effect: Effect) -> Held | NotHeld:
        since_s = self._clock.boottime_s()
        if not await self._own_views_have(bucket, sequence):
            return NotHeld()
        members = [each for each in self._replicas.all() if each.lease_id != self._lease.id]
        if effect is Effect.TAKE_AWAY:
            since_s = max([since_s, *(each.seen_s for each in members)])
            until_s = since_s + max((each.ttl_s for each in members), default=0) * CLOCK_RATE_MARGIN
        else:
            until_s = since_s + _ADDITION_S
        question = orjson.dumps({"bucket": bucket, "sequence": sequence})
        async with asyncio.TaskGroup() as asking:
            asked = [
                (each, asking.create_task(self._confirmed(each, question, until_s)))
                for each in members
            ]
        unconfirmed = [each for each, confirmed in asked if not confirmed.result()]
        if effect is Effect.ADDITION:
            return Held(len(unconfirmed))
        for each in unconfirmed:
            log.warning("replica %s did not confirm a take-away in time", each.lease_id)
            if not await self._reap(each):
                return NotHeld()
        return Held()

    async def _own_views_have(self, bucket: str, sequence: int) -> bool:
        """Whether this replica has applied the change, and every lease that is older."""
        if not await self._progress[bucket].wait_for(sequence, _OWN_VIEW_S):
            return False
        if bucket == "iam":
            return True
        try:
            newest = await last_sequence_of(self._connection, "iam")
        except StoreError:
            return False
        return await self._progress["iam"].wait_for(newest, _OWN_VIEW_S)

    async def _confirmed(self, member: Replica, question: bytes, until_s: float) -> bool:
        """Whether the member confirmed, or left the lease set, in time."""
        while self._replicas.get(member.lease_id) is not None:
            left_s = until_s - self._clock.boottime_s()
            if left_s <= 0:
                return False
            try:
                await self._connection.request(
                    member.confirms_on, question, timeout_s=min(left_s, _CONFIRM_WITHIN_S)
                )
            except (StoreError, ValueError):  # lost, or its subject is none
                await asyncio.sleep(min(left_s, _ASK_AGAIN_S))
            else:
                return True
        return True

    async def _reap(self, member: Replica) -> bool:
        """Deletes the entry of a lease that is over, unless it was renewed: then it may hold."""
        result = await self._committer.commit([Delete(member.key, member.revision)], [])
        return isinstance(result, Committed | Conflict)


class Confirmations:
    """Answers other replicas: yes, when this one's views have what they ask for."""

    def __init__(
        self, connection: Connection, subject: str, progress: Mapping[str, Progress]
    ) -> None:
        self._connection = connection
        self._subject = subject
        self._progress = progress

    async def run(self, ready: Ready) -> None:
        """Answers until cancelled."""
        async with asyncio.TaskGroup() as group:
            confirming: set[asyncio.Task[None]] = set()

            async def receive(question: Msg) -> None:
                # One that is not answered is asked again.
                if len(confirming) < _MOST_CONFIRMING:
                    task = group.create_task(self._confirm(question))
                    confirming.add(task)
                    task.add_done_callback(confirming.discard)

            async with self._connection.subscription(self._subject, receive):
                ready()
                await asyncio.Event().wait()

    async def _confirm(self, question: Msg) -> None:
        try:
            asked = orjson.loads(question.data)
            progress, sequence = self._progress[asked["bucket"]], int(asked["sequence"])
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
            return
        if await progress.wait_for(sequence, _CONFIRM_WITHIN_S):
            with contextlib.suppress(StoreError, ValueError):  # who asked may have left no address
                await self._connection.publish(question.reply, b"applied")
