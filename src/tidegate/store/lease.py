"""This replica's lease: its right to decide from what it has in memory.

Invariants
- The lease lasts `ttl_s` from *before* a renewal was sent, on a clock that counts sleep, and
  the renewal counts only once this replica's own follower has applied it. Changes and leases
  are one sequence, so a replica whose lease holds has applied everything that was committed
  before the renewal that it counts:

    sent ─── renewal r ─── S ─── S acknowledged ──────────── sent + ttl
                                 a replica without S counts at most r: it ends here at the latest

  A replica whose publishes work and whose feed is stuck renews, applies nothing, and fences
  itself. For what is committed to other buckets the same holds by asking, after each renewal,
  how far their streams are: it counts only once the views are there.
- A lease id is used for one life: from its first renewal to the first doubt. Doubt is a conflict
  (somebody deleted the entry) or the end of the lease, whatever the cause. Then the replica
  does not serve, deletes the entry if it is still there, and begins anew under another id. It
  begins only when its feed is current: an entry in the lease set that cannot come to hold
  would make others wait for nothing.
- An entry is deleted only when its lease is over: by its replica, which has stopped deciding;
  or by others when it was not renewed for longer than it can last (a compare-and-set on the
  revision that is too old).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

from tidegate.kernel import errors
from tidegate.kernel.clock import Clock
from tidegate.kernel.errors import Refusal
from tidegate.kernel.ids import new_id
from tidegate.kernel.lifecycle import Ready
from tidegate.observability import metrics
from tidegate.store import reading
from tidegate.store.changes import Committed, Conflict, Delete, Put, Unknown
from tidegate.store.commit import Committer
from tidegate.store.connection import Connection, StoreError
from tidegate.store.replicas import KIND, ReplicaView
from tidegate.store.settings import LeaseSettings
from tidegate.store.views import Progress
from tidegate.store.watchdog import last_sequence_of

log = logging.getLogger(__name__)

FENCED = Refusal(
    errors.REPLICA_FENCED,
    "This replica cannot follow the changes just now. Try again, or another replica.",
    retry_after_s=1,
)
_RENEWALS_PER_TTL = 5
_LONGEST_INTERVAL_S = 2.0
_TRIES_PER_INTERVAL = 8
_NEVER_S = float("-inf")
_BUCKET = "iam"


class Lease:
    """The lease of one replica process. `progress` has one entry for each bucket it follows."""

    def __init__(
        self,
        connection: Connection,
        replicas: ReplicaView,
        progress: Mapping[str, Progress],
        settings: LeaseSettings,
        clock: Clock,
    ) -> None:
        self._connection = connection
        self._replicas = replicas
        self._progress = progress
        self._settings = settings
        self._clock = clock
        self._interval_s = min(_LONGEST_INTERVAL_S, settings.ttl_s / _RENEWALS_PER_TTL)
        self._committer = Committer(connection, _BUCKET, deadline_s=self._interval_s)
        self._until_s = _NEVER_S
        self._revision = 0
        self._told_held = False
        self.id = new_id()
        # The process confirms what it has applied, whichever lease it has at the time.
        self.confirms_on = f"tg.replica.{self.id}"

    @property
    def key(self) -> str:
        """The entry of the present lease."""
        return f"{KIND}.{self.id}"

    def holds(self) -> bool:
        """Whether this replica may decide now. To be asked anew for each decision."""
        return self._clock.boottime_s() < self._until_s + self._settings.serve_beyond_s

    async def run(self, ready: Ready) -> None:
        """Holds a lease until cancelled; `ready` when the first one holds."""
        while True:
            if await self._is_current(_BUCKET):
                await self._live(ready)
                await self._leave()
            else:
                await asyncio.sleep(self._interval_s)

    async def release(self) -> None:
        """Gives the lease back, so that nobody waits for this replica. After `run` has ended."""
        # Given back, not lost: nothing to tell of.
        self._until_s, self._told_held = _NEVER_S, False
        # A renewal may have been cut short: the entry may be newer than this process knows.
        await self._adopt()
        await self._leave()

    async def _live(self, ready: Ready) -> None:
        """One life: from the first renewal to the first doubt."""
        began_s = self._clock.boottime_s()
        held = False
        while True:
            sent_s = self._clock.boottime_s()
            renewed = await self._renew()
            if renewed is None:
                # Fenced: whoever took the entry away counts on that.
                self._until_s = _NEVER_S
                return
            counted = renewed and await self._counts()
            if counted:
                held = True
                self._until_s = sent_s + self._settings.ttl_s
                ready()
            self._tell()
            ends_s = self._until_s if held else began_s + self._settings.ttl_s
            if self._clock.boottime_s() >= ends_s:
                return
            await self._bury()
            # An election may use up most of the lease: what is left is for trying again.
            interval_s = self._interval_s if counted else self._interval_s / _TRIES_PER_INTERVAL
            await asyncio.sleep(max(0, sent_s + interval_s - self._clock.boottime_s()))

    async def _renew(self) -> bool | None:
        """Whether the entry was renewed; None when it is not ours any more."""
        value = {
            "v": 1,
            "ttl_s": self._settings.ttl_s,
            "confirms_on": self.confirms_on,
            "renewed_at": self._clock.now_s(),
        }
        result = await self._committer.commit([Put(self.key, value, self._revision)], [])
        match result:
            case Committed(revision=revision):
                self._revision = revision
                return True
            case Conflict() | Unknown():
                # A conflict, too, may be with a renewal of ours whose answer was lost.
                return await self._adopt()
            case _:
                return False

    async def _adopt(self) -> bool | None:
        """Finds out what the entry is when a renewal did not come out as expected.

        Nobody else writes a value to it, so any value is from a renewal of ours. It does not
        count: this replica may not have had it sent when it was written.
        """
        try:
            entry = await reading.read_leader(self._connection, _BUCKET, self.key)
        except StoreError:
            return False
        taken_away = entry.value is None and self._revision > 0
        self._revision = 0 if taken_away else entry.revision
        return None if taken_away else False

    async def _counts(self) -> bool:
        """Whether the views have this renewal, and what the other buckets had when it was made."""
        others = [bucket for bucket in self._progress if bucket != _BUCKET]
        if not await self._applied(_BUCKET, self._revision):
            return False
        # The sequence alone could be one that the views reached in a stream that is no more.
        mine = self._replicas.get(self.id)
        if mine is None or mine.revision != self._revision:
            return False
        return all([await self._is_current(bucket) for bucket in others])

    async def _applied(self, bucket: str, revision: int) -> bool:
        return await self._progress[bucket].wait_for(revision, self._interval_s)

    async def _is_current(self, bucket: str) -> bool:
        try:
            last_sequence = await last_sequence_of(self._connection, bucket)
        except StoreError:
            return False
        return await self._applied(bucket, last_sequence)

    def _tell(self) -> None:
        held = self._clock.boottime_s() < self._until_s
        metrics.LEASE_HELD.set(held)
        if held != self._told_held:
            self._told_held = held
            if held:
                log.info("lease %s holds", self.id)
            elif self._settings.serve_beyond_s > 0:
                log.error("the lease has ended: serving from memory until there is another")
            else:
                log.error("the lease has ended: this replica does not serve until it has another")

    async def _leave(self) -> None:
        """Takes the entry of a life that is over out of the lease set."""
        self._tell()
        old_key, old_revision = self.key, self._revision
        self.id, self._revision = new_id(), 0
        if old_revision > 0:
            await self._committer.commit([Delete(old_key, old_revision)], [])

    async def _bury(self) -> None:
        """Takes out of the lease set who ended without a word."""
        now_s = self._clock.boottime_s()
        if now_s >= self._until_s:
            return
        for replica in self._replicas.all():
            if replica.lease_id != self.id and replica.surely_over(now_s):
                await self._committer.commit([Delete(replica.key, replica.revision)], [])
