"""State with a copy on each of three servers: the leader dies, stalls or ends, or is cut off.

One cluster serves the whole module, and each fault is repaired before the next test.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import pytest
import pytest_asyncio
from harness.following import Follow, State, following
from harness.ledger import BATCH_ENTRIES, Ledger
from harness.partition import PartitionedCluster, partitioned_cluster

from tidegate.devstack.nats_server import NatsServer
from tidegate.store import reading
from tidegate.store.changes import Committed, Put
from tidegate.store.commit import Committer
from tidegate.store.connection import Connection, StoreError, connect
from tidegate.store.schema import load_migrations, migrate, migrations_folder
from tidegate.store.settings import Settings

pytestmark = [
    # A child process belongs to the loop that started it.
    pytest.mark.asyncio(loop_scope="module"),
    # nats-py leaves connections to servers that say nothing to the garbage collector.
    pytest.mark.filterwarnings("ignore:unclosed <StreamWriter:ResourceWarning"),
]

_AROUND_THE_FAULT = 10
_DEADLINE_S = 60


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[PartitionedCluster]:
    async with partitioned_cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        migrations = load_migrations(migrations_folder())[:1]
        settings = settings_for(cluster.urls)
        async with connect(settings, "migrate") as connection:
            await migrate(connection, settings, migrations)
        yield cluster


def settings_for(urls: tuple[str, ...]) -> Settings:
    return Settings(servers=urls, replicas=3, request_timeout_s=1)


@pytest_asyncio.fixture(loop_scope="module")
async def follow() -> AsyncIterator[Follow]:
    async with following() as begin:
        yield begin


@asynccontextmanager
async def connections(cluster: PartitionedCluster, count: int) -> AsyncIterator[list[Connection]]:
    """So many, each of which uses whatever server it can reach."""
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(connect(settings_for(cluster.urls), f"test {place}"))
            for place in range(count)
        ]


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(_DEADLINE_S):
        while not await condition():
            await asyncio.sleep(0.05)


async def until_another_leads(cluster: PartitionedCluster, old: NatsServer) -> NatsServer:
    async with asyncio.timeout(_DEADLINE_S):
        while (leader := await cluster.leader_of("KV_iam")) is old:
            await asyncio.sleep(0.05)
        return leader


async def until_all_current(connection: Connection) -> None:
    async def current() -> bool:
        with suppress(StoreError):
            stream = await connection.api("STREAM.INFO.KV_iam")
            others = stream["cluster"].get("replicas") or []
            return [other["current"] for other in others] == [True, True]
        return False

    await until(current)


async def write(connection: Connection, key: str, number: int) -> int:
    """Until it is committed, over elections; gives the revision."""
    committer = Committer(connection, "iam", 5)
    async with asyncio.timeout(_DEADLINE_S):
        while True:
            with suppress(StoreError):
                entry = await reading.read_leader(connection, "iam", key)
                result = await committer.commit([Put(key, {"n": number}, entry.revision)], [])
                if isinstance(result, Committed):
                    return result.revision
            await asyncio.sleep(0.05)


Fault = Callable[[PartitionedCluster, NatsServer], Awaitable[None]]


async def crash(cluster: PartitionedCluster, leader: NatsServer) -> None:
    leader.kill()
    await leader.wait()
    await until_another_leads(cluster, leader)
    await leader.restart()


async def stall(cluster: PartitionedCluster, leader: NatsServer) -> None:
    os.kill(leader.pid, signal.SIGSTOP)
    try:
        await until_another_leads(cluster, leader)
    finally:
        os.kill(leader.pid, signal.SIGCONT)


async def end(cluster: PartitionedCluster, leader: NatsServer) -> None:
    os.kill(leader.pid, signal.SIGTERM)
    await leader.wait()
    await until_another_leads(cluster, leader)
    await leader.restart()


async def cut_off(cluster: PartitionedCluster, leader: NatsServer) -> None:
    cluster.isolate(leader)
    try:
        await until_another_leads(cluster, leader)
    finally:
        cluster.heal()


def whole_batches(state: State) -> None:
    assert len(state) % BATCH_ENTRIES == 0, "a part of a commit is shown"


@pytest.mark.parametrize(
    "fault",
    [
        end,
        crash,
        pytest.param(stall, marks=pytest.mark.faults),
        pytest.param(cut_off, marks=pytest.mark.faults),
    ],
)
async def test_commits_are_as_they_were_answered_and_followers_show_them_all(
    fault: Fault, cluster: PartitionedCluster, follow: Follow
) -> None:
    async with connections(cluster, 3) as all_connections:
        await until_all_current(all_connections[0])
        replicas = [await follow(connection, "k", "b", "c") for connection in all_connections]
        await follow(all_connections[0], "b", look=whole_batches)
        ledger = Ledger(fault.__name__)
        async with ledger.writing(all_connections):
            await ledger.wait_committed(_AROUND_THE_FAULT)
            await fault(cluster, await cluster.leader_of("KV_iam"))
            await ledger.wait_committed(_AROUND_THE_FAULT)
        await until_all_current(all_connections[0])
        last = await write(all_connections[0], "last.1", 0)
        stored = await ledger.verify(all_connections[0])
        for replica in replicas:
            assert await replica.progress.wait_for(last, _DEADLINE_S)
            assert {key: replica.state.get(key) for key in stored} == stored
            assert replica.loads == 1, "the feed was continued, not begun anew"


@pytest.mark.faults
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(2))
async def test_one_fault_after_another_loses_and_doubles_nothing(
    seed: int, cluster: PartitionedCluster, follow: Follow
) -> None:
    chance = random.Random(seed)
    async with connections(cluster, 3) as all_connections:
        await until_all_current(all_connections[0])
        replicas = [await follow(connection, "k", "b", "c") for connection in all_connections]
        ledger = Ledger(f"seed{seed}")
        async with ledger.writing(all_connections):
            for _ in range(10):
                await ledger.wait_committed(_AROUND_THE_FAULT)
                fault = chance.choice([crash, stall, end, cut_off])
                await fault(cluster, await cluster.leader_of("KV_iam"))
                await until_all_current(all_connections[0])
            await ledger.wait_committed(_AROUND_THE_FAULT)
        last = await write(all_connections[0], "last.1", 0)
        stored = await ledger.verify(all_connections[0])
        for replica in replicas:
            assert await replica.progress.wait_for(last, _DEADLINE_S)
            assert {key: replica.state.get(key) for key in stored} == stored
            assert replica.loads == 1


async def test_a_deposed_leader_takes_no_commit_and_turns_no_view_back(
    cluster: PartitionedCluster, follow: Follow
) -> None:
    """It believes in itself for a while: what it answers to reads is old, not wrong."""
    old = await cluster.leader_of("KV_iam")
    others = tuple(server.url for server in cluster.servers if server is not old)
    async with (
        connect(settings_for((old.url,)), "with the old one") as behind,
        connect(settings_for(others), "with the others") as ahead,
    ):
        await until_all_current(ahead)
        first = await write(ahead, "d.1", 1)
        replica = await follow(behind, "d")
        assert await replica.progress.wait_for(first, _DEADLINE_S)

        cluster.isolate(old)
        try:
            refused = await Committer(behind, "iam", 3).commit([Put("d.2", {"n": 1}, 0)], [])
            assert not isinstance(refused, Committed)
            await until_another_leads(cluster, old)
            second = await write(ahead, "d.1", 2)
            stale = await Committer(behind, "iam", 3).commit([Put("d.1", {"n": 3}, first)], [])
            assert not isinstance(stale, Committed)
            assert replica.state == {"d.1": {"n": 1}}
        finally:
            cluster.heal()

        assert await replica.progress.wait_for(second, _DEADLINE_S)
        await until_all_current(ahead)
        assert (await reading.read_leader(ahead, "iam", "d.1")).value == {"n": 2}
        assert replica.state["d.1"] == {"n": 2}
