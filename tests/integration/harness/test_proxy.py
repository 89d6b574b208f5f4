"""The fault proxy does each fault that it promises, and nothing without being told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import nats
import pytest
from harness.proxy import BOTH, TO_CLIENT, TO_SERVER, Direction, FaultProxy
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig
from nats.js.errors import NotFoundError

from tidegate.devstack.nats_server import NatsServer

Eventually = Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def end(writer: asyncio.StreamWriter) -> None:
    if writer.get_extra_info("socket").fileno() != -1:
        writer.transport.abort()
    with suppress(OSError):
        await writer.wait_closed()


class Peer:
    """A server whose connections the test holds in its hands."""

    def __init__(self) -> None:
        self.port = 0
        self.accepted: asyncio.Queue[Streams] = asyncio.Queue()

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        async with AsyncExitStack() as closing:

            def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                closing.push_async_callback(end, writer)
                self.accepted.put_nowait((reader, writer))

            server = await asyncio.start_server(accept, "127.0.0.1", 0)
            self.port = server.sockets[0].getsockname()[1]
            yield
            server.close()


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    peer = Peer()
    async with peer.listening():
        yield peer


@pytest.fixture
async def proxy(peer: Peer) -> AsyncIterator[FaultProxy]:
    async with asyncio.timeout(30), FaultProxy(peer.port, client_protocol=False) as proxy:
        yield proxy


@pytest.fixture
async def dial(proxy: FaultProxy) -> AsyncIterator[Callable[[], Awaitable[Streams]]]:
    async with AsyncExitStack() as closing:

        async def one() -> Streams:
            reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
            closing.push_async_callback(end, writer)
            return reader, writer

        yield one


Dial = Callable[[], Awaitable[Streams]]


async def pair(dial: Dial, peer: Peer) -> tuple[Streams, Streams]:
    client = await dial()
    return client, await peer.accepted.get()


async def nothing_comes(reader: asyncio.StreamReader) -> bool:
    """For as long as a byte needs that goes round the loop many times over."""
    try:
        async with asyncio.timeout(0.1):
            return not await reader.read(1)
    except TimeoutError:
        return True


async def test_bytes_pass_both_ways_unchanged_and_so_does_the_end(dial: Dial, peer: Peer) -> None:
    (reader, writer), (server_reader, server_writer) = await pair(dial, peer)
    sent = bytes(range(256)) * 20_000

    writer.write(sent)
    writer.write_eof()
    assert await server_reader.read() == sent
    server_writer.write(sent)
    server_writer.close()
    assert await reader.read() == sent


@pytest.mark.parametrize("direction", [TO_SERVER, TO_CLIENT, BOTH])
async def test_a_cut_holds_its_direction_alone_and_heal_delivers(
    direction: Direction, dial: Dial, peer: Peer, proxy: FaultProxy
) -> None:
    (reader, writer), (server_reader, server_writer) = await pair(dial, peer)
    proxy.cut(direction)
    writer.write(b"to server")
    server_writer.write(b"to client")
    for way, end, text in (
        (TO_SERVER, server_reader, b"to server"),
        (TO_CLIENT, reader, b"to client"),
    ):
        if way in direction:
            assert await nothing_comes(end)
        else:
            assert await end.readexactly(len(text)) == text
    proxy.heal()
    if TO_SERVER in direction:
        assert await server_reader.readexactly(9) == b"to server"
    if TO_CLIENT in direction:
        assert await reader.readexactly(9) == b"to client"


async def test_through_a_cut_nobody_learns_that_the_other_has_gone(
    dial: Dial, peer: Peer, proxy: FaultProxy
) -> None:
    (_, writer), (server_reader, _) = await pair(dial, peer)
    proxy.cut()
    writer.write(b"last words")
    writer.close()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await server_reader.read(1)
    proxy.heal()
    assert await server_reader.read() == b"last words"


async def test_during_a_cut_new_connections_are_made_and_stay_mute(
    dial: Dial, peer: Peer, proxy: FaultProxy
) -> None:
    proxy.cut()
    reader, writer = await dial()
    writer.write(b"hello")
    assert await nothing_comes(reader)
    assert peer.accepted.empty()
    proxy.heal()
    server_reader, _ = await peer.accepted.get()
    assert await server_reader.readexactly(5) == b"hello"


async def test_a_full_lane_stops_the_sender_and_loses_nothing(
    dial: Dial, peer: Peer, proxy: FaultProxy
) -> None:
    (_, writer), (server_reader, _) = await pair(dial, peer)
    proxy.cut(TO_SERVER)
    sent = b"x" * (32 * 1024 * 1024)
    writer.write(sent)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await writer.drain()
    proxy.heal()
    assert await server_reader.readexactly(len(sent)) == sent


async def test_a_delay_delays_and_keeps_the_order(
    dial: Dial, peer: Peer, proxy: FaultProxy
) -> None:
    (_, writer), (server_reader, _) = await pair(dial, peer)
    loop = asyncio.get_running_loop()
    proxy.delay(0.3, TO_SERVER)
    began_s = loop.time()
    writer.write(b"first ")
    await asyncio.sleep(0)
    writer.write(b"second")
    assert await server_reader.readexactly(12) == b"first second"
    assert loop.time() - began_s >= 0.3


async def test_heal_ends_a_delay_for_what_is_under_way(
    dial: Dial, peer: Peer, proxy: FaultProxy
) -> None:
    (_, writer), (server_reader, _) = await pair(dial, peer)
    proxy.delay(3600)
    writer.write(b"late")
    assert await nothing_comes(server_reader)
    proxy.heal()
    assert await server_reader.readexactly(4) == b"late"


async def test_reset_ends_connections_on_both_sides_and_new_ones_are_served(
    dial: Dial, peer: Peer, proxy: FaultProxy
) -> None:
    (reader, _), (server_reader, _) = await pair(dial, peer)
    proxy.reset()
    for side in (reader, server_reader):
        with pytest.raises(ConnectionResetError):
            await side.read(1)
    (_, writer), (server_reader, _) = await pair(dial, peer)
    writer.write(b"again")
    assert await server_reader.readexactly(5) == b"again"


async def test_refusing_turns_new_connections_away_and_keeps_the_old(
    dial: Dial, peer: Peer, proxy: FaultProxy
) -> None:
    (_, writer), (server_reader, _) = await pair(dial, peer)
    proxy.refuse()
    refused, _ = await dial()
    with pytest.raises(ConnectionResetError):
        await refused.read(1)
    writer.write(b"old")
    assert await server_reader.readexactly(3) == b"old"
    proxy.refuse(False)
    await pair(dial, peer)


async def test_without_a_server_behind_it_connections_are_reset(
    dial: Dial, proxy: FaultProxy
) -> None:
    async with FaultProxy(1, client_protocol=False) as astray:
        reader, writer = await asyncio.open_connection("127.0.0.1", astray.port)
        with pytest.raises(ConnectionResetError):
            await reader.read(1)
        await end(writer)


async def test_ending_it_during_a_cut_ends_every_connection(peer: Peer) -> None:
    async with FaultProxy(peer.port, client_protocol=False) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        server_reader, _ = await peer.accepted.get()
        writer.write(b"through")
        await server_reader.readexactly(7)
        proxy.cut()
        writer.write(b"held")
    for side in (reader, server_reader):
        with pytest.raises(ConnectionResetError):
            await side.read(1)
    await end(writer)


async def test_the_feed_cannot_be_held_by_one_that_does_not_look(proxy: FaultProxy) -> None:
    with pytest.raises(ValueError, match="does not look"):
        proxy.hold_feed()
    with pytest.raises(ValueError, match="does not look"):
        proxy.reads_late(1)


class Feed:
    """A push consumer of stream S, and what it delivered."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.payloads: list[bytes] = []
        self.heartbeats = 0

    async def subscribe(self, inbox: str) -> None:
        async def received(message: Msg) -> None:
            if (message.headers or {}).get("Status") == "100":
                self.heartbeats += 1
            else:
                self.payloads.append(message.data)

        await self.client.subscribe(inbox, cb=received)
        config = ConsumerConfig(
            deliver_subject=inbox, ack_policy=AckPolicy.NONE, idle_heartbeat=0.1
        )
        await self.client.jetstream().add_consumer("S", config)


@pytest.fixture
async def nats_proxy(nats_server: NatsServer) -> AsyncIterator[FaultProxy]:
    async with FaultProxy(int(nats_server.url.rpartition(":")[2])) as proxy:
        yield proxy


@pytest.fixture
async def client(nats_server: NatsServer, nats_proxy: FaultProxy) -> AsyncIterator[Client]:
    login = nats_server.url.rpartition(":")[0]
    client = await nats.connect(f"{login}:{nats_proxy.port}", allow_reconnect=False)
    yield client
    await client.close()


async def test_held_feeds_are_dropped_while_everything_else_passes(
    client: Client, nats_proxy: FaultProxy, eventually: Eventually
) -> None:
    js = client.jetstream()
    await js.add_stream(name="S", subjects=["s.>"], allow_direct=True)
    feed = Feed(client)
    await feed.subscribe("_INBOX.feed")
    await js.publish("s.a", b"before", headers={"X": "with headers"})
    await js.publish("s.a", b"before too")

    async def flowing() -> bool:
        return len(feed.payloads) == 2 and feed.heartbeats > 0

    await eventually(flowing)
    nats_proxy.hold_feed()
    heartbeats = feed.heartbeats
    core = await client.subscribe("core.>")
    for number in range(5):
        acknowledged = await js.publish("s.a", f"held {number}".encode(), headers={"X": "y"})
    assert acknowledged.seq == 7
    assert (await js.get_last_msg("S", "s.a", direct=True)).data == b"held 4"
    assert (await js.stream_info("S")).state.messages == 7
    await client.publish("core.a", b"not a feed", headers={"X": "y"})
    assert (await core.next_msg(timeout=5)).data == b"not a feed"
    assert feed.payloads == [b"before", b"before too"]
    assert feed.heartbeats == heartbeats

    nats_proxy.heal()
    await js.publish("s.a", b"after")

    async def flowing_again() -> bool:
        return feed.payloads[-1] == b"after" and feed.heartbeats > heartbeats

    await eventually(flowing_again)
    assert feed.payloads == [b"before", b"before too", b"after"], "dropped ones stay dropped"


async def test_late_reads_are_overtaken_by_everything_else(
    client: Client, nats_proxy: FaultProxy
) -> None:
    js = client.jetstream()
    await js.add_stream(name="S", subjects=["s.>"], allow_direct=True)
    await js.publish("s.a", b"first")
    order: list[str] = []

    async def read(subject: str) -> None:
        with suppress(NotFoundError):
            await js.get_last_msg("S", subject, direct=True)
        order.append("read")

    nats_proxy.reads_late(0.3)
    async with asyncio.TaskGroup() as reading:
        reading.create_task(read("s.a"))
        reading.create_task(read("s.none"))
        await js.publish("s.a", b"second")
        await js.stream_info("S")
        order.append("written and asked")
    assert order == ["written and asked", "read", "read"]

    nats_proxy.heal()
    assert (await js.get_last_msg("S", "s.a", direct=True)).data == b"second"


async def test_large_messages_pass_whole(client: Client) -> None:
    replies = await client.subscribe("large")
    sent = [b"MSG x 1 99999\r\n" * 50_000, b"", b"\r\n" * 1000]
    for payload in sent:
        await client.publish("large", payload)
    assert [(await replies.next_msg(timeout=5)).data for _ in sent] == sent
