"""Followers that remember what they show."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol

from tidegate.kernel.clock import Clock, SystemClock
from tidegate.kernel.lifecycle import start
from tidegate.store.changes import Entry
from tidegate.store.connection import Connection
from tidegate.store.follower import Follower
from tidegate.store.views import Progress

State = dict[str, Any]

_START_DEADLINE_S = 30


class Memory:
    """A view that keeps what it is given, and hands each state that it shows to `look`."""

    def __init__(self, kinds: Sequence[str], look: Callable[[State], None]) -> None:
        self.kinds = frozenset(kinds)
        self.state: State = {}
        self.loads = 0
        self._look = look

    def load(self, entries: Iterable[Entry]) -> None:
        self.loads += 1
        self.state = {entry.key: entry.value for entry in entries}
        self._look(self.state)

    def apply(self, changes: Sequence[Entry]) -> None:
        for entry in changes:
            if entry.value is None:
                self.state.pop(entry.key, None)
            else:
                self.state[entry.key] = entry.value
        self._look(self.state)


class Replica:
    """A follower at work, and its one view."""

    def __init__(self, connection: Connection, view: Memory, bucket: str, clock: Clock) -> None:
        self.progress = Progress(clock)
        self.follower = Follower(connection, bucket, [view], self.progress, clock)
        self.task: asyncio.Task[None] | None = None
        self._view = view

    @property
    def state(self) -> State:
        return self._view.state

    @property
    def loads(self) -> int:
        return self._view.loads


class Follow(Protocol):
    """Starts a follower of the kinds, `k` if none is named, and returns it once it is ready."""

    async def __call__(
        self,
        connection: Connection,
        *kinds: str,
        bucket: str = "iam",
        look: Callable[[State], None] = ...,
        clock: Clock = ...,
    ) -> Replica: ...


@asynccontextmanager
async def following() -> AsyncIterator[Follow]:
    """What starts followers. They end with the block, and when one failed, so does the block."""
    async with asyncio.TaskGroup() as group:
        tasks: list[asyncio.Task[None]] = []

        async def begin(
            connection: Connection,
            *kinds: str,
            bucket: str = "iam",
            look: Callable[[State], None] = lambda _: None,
            clock: Clock | None = None,
        ) -> Replica:
            view = Memory(kinds or ("k",), look)
            replica = Replica(connection, view, bucket, clock or SystemClock())
            async with asyncio.timeout(_START_DEADLINE_S):
                replica.task = await start(group, "follower", replica.follower.run)
            tasks.append(replica.task)
            return replica

        yield begin
        for task in tasks:
            task.cancel()
