from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import pytest

from tidegate.devstack.nats_server import NatsServer
from tidegate.store import connection as connection_module
from tidegate.store.connection import Connection, Disconnected, StoreError, connect
from tidegate.store.settings import Settings

Connect = Callable[[], Awaitable[Connection]]
Eventually = Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]


async def round_trip(connection: Connection) -> None:
    """Everything that was said before has been heard by the server, and its answers here."""
    await connection.api("INFO")


async def refusal(*servers: str, **settings: Any) -> str:
    """How a connection that cannot be had is refused."""
    chosen = Settings(servers=servers, request_timeout_s=0.2, **settings)
    with pytest.raises(Disconnected) as caught:
        await contextlib.AsyncExitStack().enter_async_context(connect(chosen, "test"))
    # Nothing of the client is left running.
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    return str(caught.value)


async def test_a_server_that_is_not_there_is_named_without_the_password() -> None:
    told = await refusal("nats://me:hush@127.0.0.1:1", "nats://127.0.0.1:2")
    assert "at nats://127.0.0.1:1, nats://127.0.0.1:2: " in told
    assert "hush" not in told


@pytest.mark.parametrize("address", ["", "nats://me:hush@[", "nats://127.0.0.1:99999"])
async def test_an_address_that_is_none_is_refused(address: str) -> None:
    assert "hush" not in await refusal(address)


async def test_a_wrong_password_is_told_as_such(nats_server: NatsServer, tmp_path: Path) -> None:
    port = urlsplit(nats_server.url).port
    password = tmp_path / "password"
    password.write_text("hush\n")
    told = await refusal(f"nats://127.0.0.1:{port}", user="gateway", password_file=password)
    assert "Authorization Violation" in told
    assert "hush" not in told


async def test_the_password_may_come_from_a_file(nats_server: NatsServer, tmp_path: Path) -> None:
    address = urlsplit(nats_server.url)
    password = tmp_path / "password"
    password.write_text(f"{address.password}\n")
    settings = Settings(
        servers=(f"nats://127.0.0.1:{address.port}",), user="gateway", password_file=password
    )
    async with connect(settings, "test") as connection:
        assert connection.connected


async def test_someone_who_accepts_and_says_nothing_is_given_up_on() -> None:
    gone = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()
        gone.set()

    async with await asyncio.start_server(silent, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(Disconnected):
            async with connect(
                Settings(servers=(f"nats://127.0.0.1:{port}",), request_timeout_s=0.2), "test"
            ):
                pytest.fail("connected")
        async with asyncio.timeout(5):
            await gone.wait()


@pytest.mark.parametrize(("version", "enough"), [((2, 11), False), ((2, 12), True), ((3, 0), True)])
def test_a_server_without_atomic_batches_is_refused(version: tuple[int, int], enough: bool) -> None:
    server = SimpleNamespace(major=version[0], minor=version[1])
    client: Any = SimpleNamespace(connected_server_version=server)
    with contextlib.nullcontext() if enough else pytest.raises(StoreError, match=r"needs 2\.12"):
        connection_module._check_version(client)


async def test_a_cancellation_that_comes_with_the_answer_is_not_swallowed(
    store: Connection,
) -> None:
    asking = asyncio.create_task(store.api("STREAM.INFO.KV_iam"))
    waiting = store._client._resp_map
    while not waiting:
        await asyncio.sleep(0)
    [answer] = waiting.values()
    answer.set_result(SimpleNamespace(data=b"{}", headers=None))
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking


async def test_a_request_nobody_serves_is_not_sent(store: Connection) -> None:
    with pytest.raises(Disconnected, match="nobody answers on nobody"):
        await store.request("nobody.serves.this")


async def test_nothing_is_handed_on_once_a_subscription_has_ended(
    connect_again: Connect, store: Connection
) -> None:
    sender = await connect_again()
    heard: list[bytes] = []
    more = asyncio.Event()

    async def on_message(message: Any) -> None:
        heard.append(message.data)
        more.set()

    async with store.subscription("news", on_message):
        await round_trip(store)
        await sender.publish("news", b"1")
        async with asyncio.timeout(5):
            await more.wait()
        # These may be on their way while the subscription ends.
        for _ in range(100):
            await sender.publish("news", b"2")
    ended_with = list(heard)
    await round_trip(sender)
    await round_trip(store)
    assert heard == ended_with


async def test_reconnects_are_told_for_the_length_of_the_block(
    nats_server: NatsServer, store: Connection, eventually: Eventually
) -> None:
    told: list[str] = []
    with store.reconnects(lambda: told.append("inner")), store.reconnects(lambda: None):
        await nats_server.restart()

        async def heard() -> bool:
            return bool(told)

        await eventually(heard)
    await nats_server.restart()

    async def back() -> bool:
        with contextlib.suppress(StoreError):
            await round_trip(store)
            return True
        return False

    await eventually(back)
    assert told == ["inner"]


async def test_closing_is_no_loss_of_connection(
    nats_server: NatsServer, store_settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        async with connect(store_settings, "test") as connection:
            assert connection.connected
    assert connection.closed
    assert not caplog.records
