"""A server with state, connections to it, and followers that remember what they show."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from typing import Any

import pytest

from tidegate.devstack.nats_server import NatsServer
from tidegate.kernel.clock import SystemClock
from tidegate.kernel.lifecycle import start
from tidegate.store.changes import Entry, Event
from tidegate.store.commit import Committer
from tidegate.store.connection import Connection, connect
from tidegate.store.follower import Follower
from tidegate.store.schema import load_migrations, migrate, migrations_folder
from tidegate.store.settings import Settings
from tidegate.store.views import Progress

State = dict[str, Any]


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

    def __init__(self, connection: Connection, view: Memory, bucket: str) -> None:
        self.follower = Follower(connection, bucket, [view], SystemClock())
        self.task: asyncio.Task[None] | None = None
        self._view = view

    @property
    def progress(self) -> Progress:
        return self.follower.progress

    @property
    def state(self) -> State:
        return self._view.state

    @property
    def loads(self) -> int:
        return self._view.loads


@pytest.fixture
def store_settings(nats_server: NatsServer) -> Settings:
    return Settings(servers=(nats_server.url,), replicas=1, request_timeout_s=1)


@pytest.fixture
async def connect_again(
    store_settings: Settings,
) -> AsyncIterator[Callable[[], Awaitable[Connection]]]:
    """Opens connections, which are closed after the test."""
    async with AsyncExitStack() as stack:

        async def open_one() -> Connection:
            return await stack.enter_async_context(connect(store_settings, "test"))

        yield open_one


@pytest.fixture
async def empty(connect_again: Callable[[], Awaitable[Connection]]) -> Connection:
    """A connection to a server without any state."""
    return await connect_again()


@pytest.fixture
async def store(empty: Connection, store_settings: Settings) -> Connection:
    """A connection to a server with its streams and nothing in them."""
    create_streams = load_migrations(migrations_folder())[:1]
    await migrate(empty, store_settings, create_streams)
    return empty


@pytest.fixture
def iam(store: Connection) -> Committer:
    return Committer(store, "iam", deadline_s=5)


@pytest.fixture
async def follow() -> AsyncIterator[Callable[..., Awaitable[Replica]]]:
    """Starts followers; they end with the test, and when one failed, so does the test."""
    async with asyncio.TaskGroup() as group:
        replicas: list[Replica] = []

        async def begin(
            connection: Connection,
            *kinds: str,
            bucket: str = "iam",
            look: Callable[[State], None] = lambda _: None,
        ) -> Replica:
            replica = Replica(connection, Memory(kinds or ("k",), look), bucket)
            replicas.append(replica)
            async with asyncio.timeout(10):
                replica.task = await start(group, "follower", replica.follower.run)
            return replica

        yield begin
        for replica in replicas:
            if replica.task is not None:
                replica.task.cancel()


@pytest.fixture
def event() -> Callable[..., Event]:
    """Makes events of the audit feed."""

    def make(what: str = "changed", value: bytes = b"{}", ttl_s: int = 60) -> Event:
        return Event("event", ("_", "k", "1", what, "me"), value, ttl_s)

    return make
