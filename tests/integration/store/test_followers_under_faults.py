"""What followers show when the feed dies, is cut, is dropped, or skips what it cannot bridge.

Each time: nothing half, nothing backwards, and current again without anybody's help.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from harness.clock import PutForwardClock
from harness.following import Follow, Replica, State
from harness.proxy import BOTH, TO_CLIENT, TO_SERVER, Direction, FaultProxy

from tidegate.devstack.nats_server import NatsServer
from tidegate.store.changes import CommitResult, Committed, Delete, Event, Put
from tidegate.store.commit import Committer
from tidegate.store.connection import Connection, connect
from tidegate.store.schema import load_migrations, migrate, migrations_folder
from tidegate.store.settings import Settings

MakeEvent = Callable[..., Event]
Eventually = Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]

# nats-py leaves connections to servers that say nothing to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <StreamWriter:ResourceWarning")

_DEADLINE_S = 20
# Longer than a live feed is ever silent.
_STALE_S = 3


def revision(result: CommitResult) -> int:
    assert isinstance(result, Committed), result
    return result.revision


async def put(committer: Committer, key: str, number: int, expected: int = 0) -> int:
    return revision(await committer.commit([Put(key, {"n": number}, expected)], []))


async def consumers_of(connection: Connection) -> list[str]:
    """The followers', not those that feed AUDIT and MAIL."""
    names = (await connection.api("CONSUMER.NAMES.KV_iam"))["consumers"] or []
    return [name for name in names if name.startswith("follower-")]


async def delete_consumers(connection: Connection) -> int:
    """As an operator's hand or a server's memory might: without telling who listens."""
    names = await consumers_of(connection)
    for name in names:
        await connection.api(f"CONSUMER.DELETE.KV_iam.{name}")
    return len(names)


def grown_stale(replica: Replica) -> Callable[[], Awaitable[bool]]:
    async def stale() -> bool:
        return replica.progress.age_s > _STALE_S

    return stale


@pytest.fixture
async def proxy(nats_server: NatsServer) -> AsyncIterator[FaultProxy]:
    async with FaultProxy(nats_server.port) as proxy:
        yield proxy


@pytest.fixture
async def through(
    proxy: FaultProxy, nats_server: NatsServer, store_settings: Settings
) -> AsyncIterator[Connection]:
    """A connection that goes through the proxy."""
    url = f"{nats_server.url.rpartition(':')[0]}:{proxy.port}"
    async with connect(store_settings.model_copy(update={"servers": (url,)}), "test") as connection:
        yield connection


async def test_one_whose_consumer_is_gone_recovers_and_misses_nothing(
    store: Connection, iam: Committer, follow: Follow, event: MakeEvent
) -> None:
    replica = await follow(store)
    made = [await put(iam, f"k.{n}", n) for n in range(4)]
    assert await replica.progress.wait_for(made[-1], _DEADLINE_S)

    assert await delete_consumers(store) == 1
    revision(await iam.commit([Delete("k.0", made[0]), Put("k.1", {"n": 10}, made[1])], [event()]))
    revision(await iam.commit([Delete("k.2", made[2])], []))
    last = await put(iam, "k.2", 20)
    assert "k.0" in replica.state

    assert await replica.progress.wait_for(last, _DEADLINE_S)
    assert replica.state == {"k.1": {"n": 10}, "k.2": {"n": 20}, "k.3": {"n": 3}}
    assert replica.loads == 1
    assert len(await consumers_of(store)) == 1, "one consumer at a time"


@pytest.mark.parametrize(
    "direction",
    [
        TO_CLIENT,
        pytest.param(TO_SERVER, marks=pytest.mark.faults),
        pytest.param(BOTH, marks=pytest.mark.faults),
    ],
)
async def test_one_that_was_cut_off_is_current_again_after_the_cut(
    direction: Direction,
    proxy: FaultProxy,
    through: Connection,
    iam: Committer,
    follow: Follow,
    eventually: Eventually,
) -> None:
    replica = await follow(through)
    first = await put(iam, "k.1", 1)
    assert await replica.progress.wait_for(first, _DEADLINE_S)
    proxy.cut(direction)
    second = await put(iam, "k.1", 2, first)
    if TO_CLIENT not in direction:
        # The feed needs only this way; what cannot be said is that it is still wanted.
        assert await replica.progress.wait_for(second, _DEADLINE_S)
    await eventually(grown_stale(replica))
    assert replica.state == {"k.1": {"n": 1 if TO_CLIENT in direction else 2}}
    third = await put(iam, "k.1", 3, second)
    proxy.heal()
    assert await replica.progress.wait_for(third, _DEADLINE_S)
    assert replica.state == {"k.1": {"n": 3}}
    assert replica.loads == 1


async def test_one_whose_feed_is_dropped_goes_stale_though_its_own_commits_pass(
    proxy: FaultProxy,
    through: Connection,
    follow: Follow,
    eventually: Eventually,
    store: Connection,
) -> None:
    """Such a replica must be able to tell that it may not serve: by the age of its views."""
    replica = await follow(through)
    committer = Committer(through, "iam", 5)
    first = await put(committer, "k.1", 1)
    assert await replica.progress.wait_for(first, _DEADLINE_S)
    proxy.hold_feed()
    second = await put(committer, "k.1", 2, first)
    await eventually(grown_stale(replica))
    third = await put(committer, "k.1", 3, second)
    assert replica.progress.revision == first
    assert replica.state == {"k.1": {"n": 1}}
    proxy.heal()
    assert await replica.progress.wait_for(third, _DEADLINE_S)
    assert replica.state == {"k.1": {"n": 3}}
    assert replica.loads == 1


async def test_a_start_without_a_feed_shows_what_there_was_and_goes_on_when_there_is_one(
    proxy: FaultProxy, through: Connection, iam: Committer, follow: Follow, eventually: Eventually
) -> None:
    first = await put(iam, "k.1", 1)
    proxy.hold_feed()
    shown: list[State] = []
    starting = asyncio.create_task(follow(through, look=lambda state: shown.append(dict(state))))
    tries: set[str] = set()

    async def tried_again() -> bool:
        tries.update(await consumers_of(through))
        return len(tries) > 1

    async def shows() -> bool:
        return bool(shown)

    await eventually(shows)
    second = await put(iam, "k.1", 2, first)
    await eventually(tried_again)
    assert shown == [{"k.1": {"n": 1}}]
    proxy.heal()
    replica = await starting
    assert await replica.progress.wait_for(second, _DEADLINE_S)
    assert shown[-1] == {"k.1": {"n": 2}}


async def test_one_whose_connection_is_reset_over_and_over_misses_nothing(
    proxy: FaultProxy, through: Connection, iam: Committer, follow: Follow
) -> None:
    replica = await follow(through)
    made = 0
    for number in range(20):
        made = await put(iam, f"k.{number}", number)
        if number % 5 == 4:
            proxy.reset()
    assert await replica.progress.wait_for(made, _DEADLINE_S)
    assert replica.state == {f"k.{number}": {"n": number} for number in range(20)}
    assert replica.loads == 1


async def test_a_server_that_stalls_is_caught_up_with_once_it_goes_on(
    nats_server: NatsServer,
    store: Connection,
    iam: Committer,
    follow: Follow,
    eventually: Eventually,
) -> None:
    replica = await follow(store)
    before = await put(iam, "k.1", 1)
    assert await replica.progress.wait_for(before, _DEADLINE_S)
    os.kill(nats_server.pid, signal.SIGSTOP)
    try:
        await eventually(grown_stale(replica))
    finally:
        os.kill(nats_server.pid, signal.SIGCONT)
    last = await put(iam, "k.2", 2)
    assert await replica.progress.wait_for(last, _DEADLINE_S)
    assert replica.state == {"k.1": {"n": 1}, "k.2": {"n": 2}}
    assert replica.progress.age_s < _STALE_S


async def test_one_away_longer_than_tombstones_live_loads_everything_anew(
    store: Connection, iam: Committer, follow: Follow
) -> None:
    clock = PutForwardClock()
    replica = await follow(store, clock=clock)
    made = [await put(iam, f"k.{n}", n) for n in range(2)]
    assert await replica.progress.wait_for(made[-1], _DEADLINE_S)

    await delete_consumers(store)
    clock.ahead_s += 3600
    tombstone = revision(await iam.commit([Delete("k.0", made[0])], []))
    await store.api("STREAM.MSG.DELETE.KV_iam", {"seq": tombstone})
    last = await put(iam, "k.2", 2)
    # Makes it look after its consumer now, not after the silence.
    store.reconnected()

    assert await replica.progress.wait_for(last, _DEADLINE_S)
    assert replica.state == {"k.1": {"n": 1}, "k.2": {"n": 2}}
    assert replica.loads == 2


async def test_one_away_for_less_goes_on_where_it_was(
    store: Connection, iam: Committer, follow: Follow
) -> None:
    clock = PutForwardClock()
    replica = await follow(store, clock=clock)
    made = await put(iam, "k.0", 0)
    assert await replica.progress.wait_for(made, _DEADLINE_S)
    await delete_consumers(store)
    clock.ahead_s += 1800
    last = revision(await iam.commit([Delete("k.0", made)], []))
    store.reconnected()
    assert await replica.progress.wait_for(last, _DEADLINE_S)
    assert replica.state == {}
    assert replica.loads == 1


async def test_who_comes_late_finds_commits_whole_whose_members_are_gone(
    store: Connection, iam: Committer, follow: Follow, event: MakeEvent, eventually: Eventually
) -> None:
    """Members that expired or were overwritten never arrive; nobody may wait for them."""
    early = await follow(store)
    # Of the first only the last member goes; of the second only one in the middle stays.
    first = revision(
        await iam.commit([Put("k.a", {"n": 1}, 0), Put("k.b", {"n": 1}, 0)], [event(ttl_s=1)])
    )
    second = revision(
        await iam.commit([Put(f"k.{key}", {"n": 2}, 0) for key in "cde"], [event(ttl_s=1)])
    )
    await put(iam, "k.c", 3, second - 3)
    last = await put(iam, "k.e", 3, second - 1)

    async def events_are_gone() -> bool:
        stream = await store.api("STREAM.INFO.KV_iam", {"subjects_filter": "tg.iam.event.>"})
        return not stream["state"].get("subjects")

    await eventually(events_are_gone)
    assert first < second < last
    late = await follow(store)
    assert await early.progress.wait_for(last, _DEADLINE_S)
    assert await late.progress.wait_for(last, _DEADLINE_S)
    whole = {"k.a": 1, "k.b": 1, "k.c": 3, "k.d": 2, "k.e": 3}
    assert late.state == early.state == {key: {"n": n} for key, n in whole.items()}


async def test_a_stream_made_anew_replaces_the_views_whole(
    store: Connection,
    iam: Committer,
    follow: Follow,
    store_settings: Settings,
    eventually: Eventually,
) -> None:
    """As when an operator brings a backup back: sequences start again, and lower."""
    shown: list[set[str]] = []
    replica = await follow(store, look=lambda state: shown.append(set(state)))
    old = 0
    for n in range(20):
        old = await put(iam, f"k.old{n}", n)
    assert await replica.progress.wait_for(old, _DEADLINE_S)

    await store.api("STREAM.DELETE.KV_iam")
    await migrate(store, store_settings, load_migrations(migrations_folder())[:1])
    shown.clear()
    new = 0
    for n in range(2):
        new = await put(iam, f"k.new{n}", n)
    assert new < old

    async def reloaded() -> bool:
        return replica.loads == 2

    await eventually(reloaded)
    assert not any(key.startswith("k.old") for keys in shown for key in keys)
    assert new <= replica.progress.revision < old
    later = await put(iam, "k.new2", 2)
    assert await replica.progress.wait_for(later, _DEADLINE_S)
    assert set(replica.state) == {"k.new0", "k.new1", "k.new2"}


async def test_a_missing_stream_stops_nothing_and_is_followed_once_it_is_there(
    empty: Connection, store_settings: Settings, follow: Follow
) -> None:
    following = asyncio.create_task(follow(empty))
    migrating = migrate(empty, store_settings, load_migrations(migrations_folder())[:1])
    async with asyncio.timeout(_DEADLINE_S):
        await migrating
        replica = await following
    assert replica.state == {}
