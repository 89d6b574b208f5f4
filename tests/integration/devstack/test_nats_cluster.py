"""Three servers as one: what survives which of them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import nats
import pytest
import pytest_asyncio
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js.errors import NotFoundError

from tidegate.devstack.nats_cluster import ClusterPorts, NatsCluster
from tidegate.devstack.nats_server import NatsServer, NatsServerError, StoreDirectoryInUseError
from tidegate.devstack.ports import HOST

# One cluster for the whole module; a child process belongs to the loop that started it.
pytestmark = pytest.mark.asyncio(loop_scope="module")

_DEADLINE_S = 40


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[NatsCluster]:
    cluster = NatsCluster(tmp_path_factory.mktemp("cluster"))
    await cluster.start()
    yield cluster
    await cluster.stop()


@pytest_asyncio.fixture(loop_scope="module")
async def client(cluster: NatsCluster) -> AsyncIterator[Client]:
    async def ignore(_: Exception) -> None:
        """Errors are the servers' deaths, which the tests are about."""

    client = await nats.connect(
        list(cluster.urls), max_reconnect_attempts=-1, reconnect_time_wait=0.05, error_cb=ignore
    )
    yield client
    await client.close()


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(_DEADLINE_S):
        while not await condition():
            await asyncio.sleep(0.05)


async def publish(client: Client, subject: str, payload: bytes) -> None:
    """Until it is stored: elections pass."""

    async def stored() -> bool:
        with suppress(NatsError, TimeoutError):
            await client.jetstream().publish(subject, payload, timeout=1)
            return True
        return False

    await until(stored)


async def make_stream(client: Client, name: str) -> None:
    await client.jetstream().add_stream(name=name, subjects=[f"{name}.>"], num_replicas=3)


async def all_current(client: Client, stream: str) -> bool:
    with suppress(NatsError, TimeoutError):
        cluster = (await client.jetstream().stream_info(stream)).cluster
        others = cluster.replicas if cluster else None
        return others is not None and [each.current for each in others] == [True, True]
    return False


async def another_leads(cluster: NatsCluster, stream: str, old: NatsServer) -> bool:
    return await cluster.leader_of(stream) is not old


async def test_a_stream_gets_a_copy_on_each_node(cluster: NatsCluster, client: Client) -> None:
    await make_stream(client, "copies")
    await publish(client, "copies.a", b"x")
    await until(lambda: all_current(client, "copies"))
    info = await client.jetstream().stream_info("copies")
    assert info.cluster is not None
    names = {info.cluster.leader, *(each.name for each in info.cluster.replicas or ())}
    assert names == {"node-1", "node-2", "node-3"}
    leader = cluster.servers[int((info.cluster.leader or "")[-1]) - 1]
    assert await cluster.leader_of("copies") is leader


async def test_clients_are_told_of_no_addresses_but_those_they_were_given(
    cluster: NatsCluster,
) -> None:
    for server in cluster.servers:
        client = await nats.connect(server.url)
        assert client.discovered_servers == []
        await client.close()


async def test_accounts_are_the_same_on_every_node(cluster: NatsCluster, client: Client) -> None:
    await make_stream(client, "gateway")
    for url in cluster.nodes_urls:
        nodes = await nats.connect(url)
        with pytest.raises(NotFoundError):
            await nodes.jetstream().stream_info("gateway")
        await nodes.close()


@pytest.mark.faults
async def test_a_killed_leader_is_replaced_and_comes_back_at_its_address(
    cluster: NatsCluster, client: Client
) -> None:
    await make_stream(client, "killed")
    await publish(client, "killed.a", b"before")
    old = await cluster.leader_of("killed")
    url, pid = old.url, old.pid
    old.kill()
    assert await old.wait() == -signal.SIGKILL
    await until(lambda: another_leads(cluster, "killed", old))
    await publish(client, "killed.b", b"while one is away")
    assert (await client.jetstream().get_last_msg("killed", "killed.a")).data == b"before"

    await old.restart()
    assert (old.url, old.pid != pid) == (url, True)
    await cluster.wait_complete()
    await until(lambda: all_current(client, "killed"))


async def test_a_leader_that_is_told_to_end_hands_over(
    cluster: NatsCluster, client: Client
) -> None:
    await make_stream(client, "ended")
    await publish(client, "ended.a", b"before")
    old = await cluster.leader_of("ended")
    await old.stop()
    await until(lambda: another_leads(cluster, "ended", old))
    await publish(client, "ended.b", b"after")
    await old.start()
    await until(lambda: all_current(client, "ended"))


async def test_who_does_not_know_the_password_cannot_join(cluster: NatsCluster) -> None:
    reader, writer = await asyncio.open_connection(HOST, cluster.ports.routes[0])
    greeting = await reader.readline()
    assert json.loads(greeting.removeprefix(b"INFO "))["auth_required"] is True
    login = {"verbose": False, "user": "route", "pass": "wrong", "server": "x", "name": "x"}
    writer.write(f"CONNECT {json.dumps(login)}\r\nPING\r\n".encode())
    assert b"Authorization Violation" in await reader.readline()
    writer.close()
    await writer.wait_closed()


async def test_the_stream_of_nobody_has_no_leader(
    cluster: NatsCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tidegate.devstack.nats_cluster._ELECTION_DEADLINE_S", 0.2)
    with pytest.raises(NatsServerError, match="none has no leader"):
        await cluster.leader_of("none")


async def test_its_directory_is_for_one_cluster(cluster: NatsCluster, tmp_path: Path) -> None:
    second = NatsCluster(cluster.store_dir)
    with pytest.raises(StoreDirectoryInUseError):
        await second.start()
    assert [server.pid for server in cluster.servers]


async def test_a_start_that_fails_leaves_no_server(tmp_path: Path) -> None:
    ports = ClusterPorts.any_free(3)
    cluster = NatsCluster(tmp_path, ports=ports)
    with (
        socket.create_server((HOST, ports.routes[1])),
        pytest.raises(NatsServerError, match="address already in use"),
    ):
        await cluster.start()
    for port in (*ports.clients, *ports.routes):
        socket.create_server((HOST, port)).close()


async def test_it_keeps_everything_over_a_stop_of_all_nodes(tmp_path: Path) -> None:
    cluster = NatsCluster(tmp_path)
    await cluster.start()
    urls, pids = cluster.urls, [server.pid for server in cluster.servers]
    client = await nats.connect(urls[0])
    await make_stream(client, "kept")
    await publish(client, "kept.a", b"x")
    await client.close()
    await cluster.stop()
    await cluster.stop()
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)

    await cluster.start()
    assert cluster.urls == urls
    client = await nats.connect(urls[1])

    async def there() -> bool:
        with suppress(NatsError, TimeoutError):
            return (await client.jetstream().get_last_msg("kept", "kept.a")).data == b"x"
        return False

    await until(there)
    await client.close()
    await cluster.stop()
