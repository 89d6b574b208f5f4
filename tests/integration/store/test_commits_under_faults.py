"""Commits while a single server dies, stalls or ends, and while answers are lost on the way.

What is acknowledged is there, once and whole; what is refused is not; see `harness.ledger`.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import pytest
from harness.following import Follow, State
from harness.ledger import BATCH_ENTRIES, Ledger
from harness.proxy import BOTH, TO_CLIENT, TO_SERVER, Direction, FaultProxy

from tidegate.devstack.nats_server import NatsServer
from tidegate.observability import metrics
from tidegate.store import reading
from tidegate.store.changes import Committed, Conflict, Event, Guard, Put
from tidegate.store.commit import Committer
from tidegate.store.connection import Connection, connect
from tidegate.store.settings import Settings

Connect = Callable[[], Awaitable[Connection]]
Eventually = Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]
Fault = Callable[[NatsServer, Eventually], Awaitable[None]]

# nats-py leaves connections to servers that say nothing to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <StreamWriter:ResourceWarning")

_WRITERS = 3  # of each connection
_AROUND_THE_FAULT = 15
_DEADLINE_S = 20


def answers_lost() -> float:
    return float(metrics.COMMIT_ANSWERS_LOST._value.get())


async def answers_are_lost(eventually: Eventually, more: int) -> None:
    goal = answers_lost() + more

    async def lost() -> bool:
        return answers_lost() >= goal

    await eventually(lost)


async def crash(server: NatsServer, _: Eventually) -> None:
    server.kill()
    await server.restart()


async def stall(server: NatsServer, eventually: Eventually) -> None:
    os.kill(server.pid, signal.SIGSTOP)
    try:
        await answers_are_lost(eventually, 2 * _WRITERS)
    finally:
        os.kill(server.pid, signal.SIGCONT)


async def end(server: NatsServer, _: Eventually) -> None:
    os.kill(server.pid, signal.SIGTERM)
    await server.wait()
    await server.restart()


def whole_batches(state: State) -> None:
    assert len(state) % BATCH_ENTRIES == 0, "a part of a commit is shown"


async def newest(connection: Connection) -> int:
    result = await Committer(connection, "iam", 5).commit([Put("last.1", {}, 0)], [])
    assert isinstance(result, Committed), result
    return result.revision


@pytest.mark.parametrize("fault", [crash, stall, end])
async def test_commits_are_as_they_were_answered_and_followers_show_them_all(
    fault: Fault,
    nats_server: NatsServer,
    store: Connection,
    connect_again: Connect,
    follow: Follow,
    eventually: Eventually,
) -> None:
    connections = [store, await connect_again()]
    replicas = [await follow(connection, "k", "b", "c") for connection in connections]
    await follow(store, "b", look=whole_batches)
    ledger = Ledger()
    async with ledger.writing(connections):
        await ledger.wait_committed(_AROUND_THE_FAULT)
        await fault(nats_server, eventually)
        await ledger.wait_committed(_AROUND_THE_FAULT)
    last = await newest(store)
    stored = await ledger.verify(store)
    for replica in replicas:
        assert await replica.progress.wait_for(last, _DEADLINE_S)
        assert replica.state == stored
        assert replica.loads == 1, "the feed was continued, not begun anew"


async def test_a_stall_that_outlasts_the_deadline_leaves_whole_commits_of_unknown_outcome(
    nats_server: NatsServer, store: Connection, eventually: Eventually
) -> None:
    ledger = Ledger()

    async def unknown() -> bool:
        return ledger.answers()["Unknown"] > 1

    async with ledger.writing([store], commit_deadline_s=1.5):
        await ledger.wait_committed(_AROUND_THE_FAULT)
        os.kill(nats_server.pid, signal.SIGSTOP)
        try:
            await eventually(unknown)
        finally:
            os.kill(nats_server.pid, signal.SIGCONT)
        await ledger.wait_committed(_AROUND_THE_FAULT)
    await ledger.verify(store)


@pytest.fixture
async def proxies(nats_server: NatsServer) -> AsyncIterator[list[FaultProxy]]:
    async with FaultProxy(nats_server.port) as first, FaultProxy(nats_server.port) as second:
        yield [first, second]


@pytest.fixture
async def through(
    proxies: Sequence[FaultProxy], store_settings: Settings, nats_server: NatsServer
) -> AsyncIterator[list[Connection]]:
    """A connection through each proxy."""
    login = nats_server.url.rpartition(":")[0]
    first, second = (
        store_settings.model_copy(update={"servers": (f"{login}:{proxy.port}",)})
        for proxy in proxies
    )
    async with connect(first, "first") as one, connect(second, "second") as two:
        yield [one, two]


@pytest.mark.parametrize("direction", [TO_SERVER, TO_CLIENT, BOTH])
async def test_answers_lost_on_the_way_are_found_out(
    direction: Direction,
    store: Connection,
    proxies: Sequence[FaultProxy],
    through: Sequence[Connection],
    eventually: Eventually,
) -> None:
    ledger = Ledger()
    async with ledger.writing(through):
        await ledger.wait_committed(_AROUND_THE_FAULT)
        for proxy in proxies:
            proxy.cut(direction)
        await answers_are_lost(eventually, 2 * _WRITERS)
        for proxy in proxies:
            proxy.heal()
        await ledger.wait_committed(_AROUND_THE_FAULT)
    await ledger.verify(store)
    assert set(ledger.answers()) == {"Committed", "Conflict"}, "every outcome was found out"


async def test_a_refusal_lost_on_the_way_is_found_out(
    store: Connection,
    proxies: Sequence[FaultProxy],
    through: Sequence[Connection],
    event: Callable[..., Event],
) -> None:
    """Also when it was a guard that refused, so that nothing of the commit is anywhere."""
    committer = Committer(through[0], "iam", 20)
    assert isinstance(await committer.commit([Put("k.1", {}, 0)], []), Committed)
    proxies[0].cut(TO_CLIENT)
    before = answers_lost()
    committing = asyncio.create_task(
        committer.commit([Put("k.2", {}, 0), Guard("k.1", 0)], [event()])
    )
    while answers_lost() == before:
        await asyncio.sleep(0.01)
    proxies[0].heal()
    result = await committing
    assert isinstance(result, Conflict)
    assert (await reading.read_leader(through[1], "iam", "k.2")).revision == 0


async def test_connections_reset_over_and_over_lose_and_double_nothing(
    store: Connection, proxies: Sequence[FaultProxy], through: Sequence[Connection]
) -> None:
    ledger = Ledger()
    async with ledger.writing(through):
        for _ in range(4):
            for proxy in proxies:
                await ledger.wait_committed(3)
                proxy.reset()
        await ledger.wait_committed(_AROUND_THE_FAULT)
    await ledger.verify(store)


async def test_one_connection_cut_off_does_not_hold_up_the_other(
    store: Connection,
    proxies: Sequence[FaultProxy],
    through: Sequence[Connection],
) -> None:
    proxies[0].cut()
    committing = asyncio.create_task(
        Committer(through[0], "iam", 3).commit([Put("k.0", {}, 0)], [])
    )
    committer = Committer(through[1], "iam", 3)
    results = [await committer.commit([Put(f"k.{n}", {}, 0)], []) for n in range(1, 20)]
    assert Counter(map(type, results)) == {Committed: 19}
    proxies[0].heal()
    assert isinstance(await committing, Committed)
