import asyncio
from collections.abc import AsyncIterator

import pytest

from tidegate.devstack.nodes.connection import NatsLostError, connected


@pytest.fixture
async def impatient_nats() -> AsyncIterator[str]:
    """A server that lets clients in and then turns them away."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"server_id": "x", "version": "2.15.1", "max_payload": 1048576}\r\n')
        while (await reader.readline()).strip() != b"PING":
            pass
        writer.write(b"PONG\r\n-ERR 'User Authentication Expired'\r\n")
        await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield "nats://user:secret@127.0.0.1:{1}".format(*server.sockets[0].getsockname())


async def test_being_turned_away_ends_whoever_uses_the_connection(impatient_nats: str) -> None:
    with pytest.raises(NatsLostError, match="user authentication expired") as lost:
        async with connected([impatient_nats], "test"):
            await asyncio.Event().wait()
    assert "secret" not in str(lost.value)


async def test_another_cancellation_stays_one(impatient_nats: str) -> None:
    async def use() -> None:
        async with connected([impatient_nats], "test"):
            raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await use()
