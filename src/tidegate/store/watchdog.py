"""The watchdog of a follower, for feeds that die without falling silent.

A consumer that waits for a lost flow control answer sends heartbeats and delivers nothing. So
each few seconds the stream itself is asked how far it is. Invariant: a follower that is behind,
and has not been brought one message further since it was asked, gets a new consumer.
"""

from __future__ import annotations

import asyncio

from tidegate.kernel.lifecycle import Ready
from tidegate.observability import metrics
from tidegate.store.connection import Connection, StoreError
from tidegate.store.consumer import SILENCE_S
from tidegate.store.follower import Follower

_EVERY_S = 2.0


class Watchdog:
    """Compares what one follower has with what its stream has."""

    def __init__(self, connection: Connection, bucket: str, follower: Follower) -> None:
        self._connection = connection
        self._bucket = bucket
        self._follower = follower

    async def run(self, ready: Ready) -> None:
        """Watches until cancelled."""
        ready()
        while True:
            await self._look()
            await asyncio.sleep(_EVERY_S)

    async def _look(self) -> None:
        position = self._follower.position
        try:
            last_sequence = await last_sequence_of(self._connection, self._bucket)
        except StoreError:
            return
        behind = max(0, last_sequence - self._follower.progress.revision)
        metrics.VIEW_BEHIND_MESSAGES.labels(view=self._bucket).set(behind)
        if await self._follower.progress.wait_for(last_sequence, SILENCE_S):
            return
        # One that has much to catch up is busy, not dead; a new consumer would start over.
        if self._follower.position == position < last_sequence:
            self._follower.doubt("behind")


async def last_sequence_of(connection: Connection, bucket: str) -> int:
    """The last sequence of the bucket's stream, as its leader has it. Raises StoreError."""
    stream = await connection.api(f"STREAM.INFO.KV_{bucket}")
    return int(stream["state"]["last_seq"])
