"""A server with state, connections to it, and followers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import pytest
from harness.following import Follow, following

from tidegate.devstack.nats_server import NatsServer
from tidegate.store.changes import Event
from tidegate.store.commit import Committer
from tidegate.store.connection import Connection, connect
from tidegate.store.schema import load_migrations, migrate, migrations_folder
from tidegate.store.settings import Settings


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
async def follow() -> AsyncIterator[Follow]:
    """Starts followers; they end with the test, and when one failed, so does the test."""
    async with following() as begin:
        yield begin


@pytest.fixture
def event() -> Callable[..., Event]:
    """Makes events of the audit feed."""

    def make(what: str = "changed", value: bytes = b"{}", ttl_s: int = 60) -> Event:
        return Event("event", ("_", "k", "1", what, "me"), value, ttl_s)

    return make
