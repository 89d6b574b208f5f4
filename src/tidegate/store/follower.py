"""The change feed of one bucket: small, ours, and always suspicious.

Invariants
- Views see every commit of the kinds that they follow, whole, once, in order.
- Start: read the stream's last sequence L; take the newest message of each resident key; then
  live from L + 1. The snapshot is shown only when the live feed has passed everything in it: it
  was taken after L and may hold one half of a commit whose other half is still to come. Nor may
  it be older than L, for then what lies between would come with neither:

    leader     … x₁ x₂           L read here: x₂
    a copy     … x₁              the snapshot read here, where x₂ is still to come: not yet over
- The position is the sequence of the last delivered message, or what an idle heartbeat says
  (`Nats-Last-Stream`) when it also says that all was delivered (`Nats-Last-Consumer`).
- A consumer in doubt is not repaired but replaced, from the applied position on. When the feed
  could have missed a tombstone (away for as long as tombstones live), or the stream is another
  one, everything is loaded anew. A last sequence that went back says so only when it stays so:
  a deposed leader, too, tells an old one for a while.

Our own, because the client library's watcher was measured to stall for 10 to 20 s after a
server restart.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Sequence
from typing import Any

from tidegate.kernel.clock import Clock
from tidegate.kernel.lifecycle import Ready
from tidegate.observability import metrics
from tidegate.store import snapshot
from tidegate.store.assembly import NOT_SHOWN, Assembler
from tidegate.store.changes import Entry
from tidegate.store.connection import Connection, Disconnected, StoreError
from tidegate.store.consumer import SILENCE_S, Consumer, Delivered, FeedBroken
from tidegate.store.encoding import TOMBSTONE_TTL_S
from tidegate.store.views import OnDemandView, Progress, View

log = logging.getLogger(__name__)

_FIRST_BACKOFF_S = 0.05
_LONGEST_BACKOFF_S = 0.2
# What is asked while there is no leader is never answered: to be current soon after an election
# is to ask often. A server that is merely slow gets the time it needs later.
_IMPATIENT_S = 0.5
_IMPATIENT_FOR_S = 20.0
_WARN_AGAIN_S = 30.0
# Away for longer than this, a delete may have come and its tombstone gone unseen.
_RESYNC_AFTER_S = TOMBSTONE_TTL_S * 0.9
# Longer than a leader that lost its quorum goes on believing in itself.
_DEPOSED_S = 15.0


class Follower:
    """Keeps the views of one bucket current."""

    def __init__(
        self,
        connection: Connection,
        bucket: str,
        views: Sequence[View],
        progress: Progress,
        clock: Clock,
        on_demand: Sequence[OnDemandView] = (),
    ) -> None:
        self.progress = progress
        self._connection = connection
        self._bucket = bucket
        self._stream = f"KV_{bucket}"
        self._prefix = f"$KV.{bucket}."
        self._views = views
        self._on_demand = on_demand
        self._clock = clock
        self._resident_subjects = self._subjects(views)
        self._live_subjects = [
            *self._subjects([*views, *on_demand]),
            f"tg.{bucket}.event.>",
        ]
        self._assembler = Assembler(0)
        self._loaded = False
        self._warned_of = ""
        self._warned_s = 0.0
        self._stream_created = ""
        self._complete_s = float("-inf")
        self._followed_s = clock.boottime_s()
        self._went_back_s: float | None = None
        self._consumer: Consumer | None = None

    @property
    def position(self) -> int:
        """The last sequence known to be delivered; views may be behind it."""
        return self._assembler.position

    def doubt(self, reason: str) -> None:
        """Has the consumer replaced, if there is one."""
        if self._consumer is not None:
            self._consumer.doubt(reason)

    def _subjects(self, views: Sequence[View | OnDemandView]) -> list[str]:
        # A set, because views may share a kind and the server refuses overlapping filters.
        return sorted({f"{self._prefix}{kind}.>" for view in views for kind in view.kinds})

    async def run(self, ready: Ready) -> None:
        """Follows until cancelled; `ready` once the views hold all that there was at the start.

        Raises Disconnected when the connection is closed for good.
        """
        backoff_s = _FIRST_BACKOFF_S
        while True:
            began_s = self._clock.monotonic_s()
            try:
                await self._follow(ready)
            except StoreError as exc:
                if self._connection.closed:
                    raise Disconnected("the connection to NATS is closed for good") from exc
                reason = str(exc) if isinstance(exc, FeedBroken) else type(exc).__name__
                metrics.FEED_RESTARTS.labels(view=self._bucket, reason=reason).inc()
                self._warn(str(exc))
            if self._clock.monotonic_s() - began_s > SILENCE_S:
                backoff_s = _FIRST_BACKOFF_S
            await self._pause(random.uniform(0.5, 1) * backoff_s)  # noqa: S311
            backoff_s = min(backoff_s * 2, _LONGEST_BACKOFF_S)

    def _warn(self, reason: str) -> None:
        """One line for each cause in a while, not one for each try: an outage has many."""
        now_s = self._clock.monotonic_s()
        if reason != self._warned_of or now_s - self._warned_s > _WARN_AGAIN_S:
            self._warned_of, self._warned_s = reason, now_s
            log.warning("the feed of %s broke and is set up again: %s", self._bucket, reason)

    async def _pause(self, longest_s: float) -> None:
        """Waits; a reconnect ends it, for then trying again makes sense."""
        again = asyncio.Event()
        with (
            self._connection.reconnects(again.set),
            contextlib.suppress(TimeoutError),
        ):
            async with asyncio.timeout(longest_s):
                await again.wait()

    async def _follow(self, ready: Ready) -> None:
        """One consumer's life. Ends only by raising."""
        patience_s = self._patience_s()
        stream = await self._connection.api(f"STREAM.INFO.{self._stream}", timeout_s=patience_s)
        if self._may_continue(stream):
            self._assembler = Assembler(self._assembler.applied)
        else:
            self._loaded = False
            self._assembler = await self._snapshot(stream["state"]["last_seq"], patience_s)
            self._stream_created = stream["created"]
        assembler = self._assembler

        def on_delivered(delivered: Delivered) -> None:
            self._heard(complete=delivered.pending == 0)
            member = snapshot.member(self._bucket, delivered.stored)
            self._show(assembler.deliver(member, delivered.pending), ready)

        def on_idle(last_sequence: int) -> None:
            self._heard(complete=True)
            self._show(assembler.advance(last_sequence), ready)

        consumer = Consumer(
            self._connection, self._stream, self._clock, on_delivered, on_idle, patience_s
        )
        policy = {
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": assembler.position + 1,
        }
        async with consumer.open(policy, self._live_subjects):
            if not self._loaded:
                self._heard(complete=True)
                self._show(assembler.advance(assembler.position), ready)
            self._consumer = consumer
            try:
                await consumer.until_finished()
            finally:
                self._consumer = None
                self._followed_s = self._clock.boottime_s()

    def _patience_s(self) -> float:
        """How long to wait for an answer that sets the feed up."""
        away_s = self._clock.boottime_s() - self._followed_s
        longest_s = self._connection.request_timeout_s
        return min(_IMPATIENT_S, longest_s) if away_s < _IMPATIENT_FOR_S else longest_s

    def _may_continue(self, stream: dict[str, Any]) -> bool:
        """Whether the feed can go on from where it was. Raises FeedBroken when it is too early."""
        if not self._loaded or stream["created"] != self._stream_created:
            return False
        now_s = self._clock.boottime_s()
        if stream["state"]["last_seq"] >= self._assembler.applied:
            self._went_back_s = None
            return now_s - self._complete_s < _RESYNC_AFTER_S
        if self._went_back_s is None:
            self._went_back_s = now_s
        if now_s - self._went_back_s < _DEPOSED_S:
            raise FeedBroken("sequence went back")
        return False

    def _heard(self, *, complete: bool) -> None:
        self.progress.heard()
        # Not by every message: one that catches up and fails again may have tombstones to miss.
        if complete:
            self._complete_s = self._clock.boottime_s()

    async def _snapshot(self, last_sequence: int, patience_s: float) -> Assembler:
        """The resident entries, held until the live feed has passed them."""
        members = await snapshot.take(
            self._connection,
            self._bucket,
            self._resident_subjects,
            last_sequence,
            self._clock,
            patience_s,
        )
        return Assembler.from_snapshot(members, last_sequence)

    def _show(self, released: Sequence[Entry], ready: Ready) -> None:
        applied = self._assembler.applied
        if applied == NOT_SHOWN:
            return
        if not self._loaded:
            self._load(released)
            self._loaded = True
            self._went_back_s = None
            self.progress.restarted(applied)
        elif released:
            every: list[View | OnDemandView] = [*self._views, *self._on_demand]
            for view in every:
                mine = [entry for entry in released if entry.kind in view.kinds]
                if mine:
                    view.apply(mine)
        self.progress.reached(applied)
        metrics.VIEW_REVISION.labels(view=self._bucket).set(applied)
        ready()

    def _load(self, released: Sequence[Entry]) -> None:
        newest: dict[str, Entry] = {}
        for entry in released:
            known = newest.get(entry.key)
            if known is None or known.revision <= entry.revision:
                newest[entry.key] = entry
        for view in self._views:
            view.load(
                entry
                for entry in newest.values()
                if entry.kind in view.kinds and entry.value is not None
            )
        for on_demand in self._on_demand:
            on_demand.clear()
