"""What becomes of commits and views when the server dies, stalls, forgets or is replaced."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest

from tidegate.devstack.nats_server import NatsServer
from tidegate.store import follower as follower_module
from tidegate.store import reading
from tidegate.store.changes import CommitResult, Committed, Delete, Event, Put, Unavailable, Unknown
from tidegate.store.commit import Committer
from tidegate.store.connection import Connection
from tidegate.store.schema import load_migrations, migrate, migrations_folder
from tidegate.store.settings import Settings

Connect = Callable[[], Awaitable[Connection]]
Follow = Callable[..., Coroutine[Any, Any, Any]]
MakeEvent = Callable[..., Event]
Eventually = Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]


def revision(result: CommitResult) -> int:
    assert isinstance(result, Committed), result
    return result.revision


async def delete_consumers(connection: Connection) -> int:
    """As an operator's hand or a server's memory might: without telling who listens."""
    names = (await connection.api("CONSUMER.NAMES.KV_iam"))["consumers"] or []
    followers = [name for name in names if name.startswith("follower-")]
    for name in followers:
        await connection.api(f"CONSUMER.DELETE.KV_iam.{name}")
    return len(followers)


async def test_no_acknowledged_commit_is_lost_in_a_crash_and_followers_are_soon_current(
    nats_server: NatsServer,
    connect_again: Connect,
    store: Connection,
    iam: Committer,
    follow: Follow,
    event: MakeEvent,
) -> None:
    replicas = [await follow(store), await follow(await connect_again())]
    acknowledged: dict[str, int] = {}
    not_written: list[str] = []
    enough = asyncio.Event()

    async def write(name: str, *, batches: bool) -> Committed:
        """Until the crash has come and gone; gives the first commit after it."""
        n, crashed = 0, False
        while True:
            n += 1
            key = f"k.{name}-{n}"
            change = Put(key, {"n": n}, 0)
            result = await iam.commit([change], [event()] if batches else [])
            match result:
                case Committed():
                    acknowledged[key] = n
                    if crashed:
                        return result
                case Unavailable():
                    crashed = True
                    not_written.append(key)
                    # Where a caller would answer 503 and its client come back later.
                    await asyncio.sleep(0.01)
                case _:
                    assert result == Unknown()
                    crashed = True
            if n == 30:
                enough.set()

    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        writing = [
            group.create_task(write("single", batches=False)),
            group.create_task(write("batch", batches=True)),
        ]
        await enough.wait()
        nats_server.kill()
        await nats_server.restart()
        done, _ = await asyncio.wait(writing, return_when=asyncio.FIRST_COMPLETED)
        first = min(each.result().revision for each in done)
        for replica in replicas:
            assert await replica.progress.wait_for(first, 1.0)

    last = revision(await iam.commit([Put("k.last", {"n": 0}, 0)], [event()]))
    acknowledged["k.last"] = 0
    for replica in replicas:
        assert await replica.progress.wait_for(last, 1.0)
    for key, n in acknowledged.items():
        assert (await reading.read_leader(store, "iam", key)).value == {"n": n}
    for key in not_written:
        assert (await reading.read_leader(store, "iam", key)).revision == 0
    for replica in replicas:
        assert {key: replica.state[key] for key in acknowledged} == {
            key: {"n": n} for key, n in acknowledged.items()
        }
        assert replica.loads == 1, "the feed was continued, not begun anew"


async def test_a_follower_whose_consumer_is_gone_recovers_and_misses_nothing(
    store: Connection, iam: Committer, follow: Follow, event: MakeEvent
) -> None:
    replica = await follow(store)
    made = [revision(await iam.commit([Put(f"k.{n}", {"n": n}, 0)], [])) for n in range(4)]
    assert await replica.progress.wait_for(made[-1], 5)

    assert await delete_consumers(store) == 1
    revision(await iam.commit([Delete("k.0", made[0]), Put("k.1", {"n": 10}, made[1])], [event()]))
    revision(await iam.commit([Delete("k.2", made[2])], []))
    last = revision(await iam.commit([Put("k.2", {"n": 20}, 0)], []))
    assert "k.0" in replica.state

    assert await replica.progress.wait_for(last, 10)
    assert replica.state == {"k.1": {"n": 10}, "k.2": {"n": 20}, "k.3": {"n": 3}}
    assert replica.loads == 1
    assert await delete_consumers(store) == 1, "one consumer at a time"


async def test_a_follower_away_longer_than_tombstones_live_loads_everything_anew(
    store: Connection, iam: Committer, follow: Follow, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica = await follow(store)
    made = [revision(await iam.commit([Put(f"k.{n}", {"n": n}, 0)], [])) for n in range(2)]
    assert await replica.progress.wait_for(made[-1], 5)

    monkeypatch.setattr(follower_module, "_RESYNC_AFTER_S", 0.0)
    await delete_consumers(store)
    tombstone = revision(await iam.commit([Delete("k.0", made[0])], []))
    await store.api("STREAM.MSG.DELETE.KV_iam", {"seq": tombstone})
    last = revision(await iam.commit([Put("k.2", {"n": 2}, 0)], []))
    # Makes it look after its consumer now, not after the silence.
    store.reconnected()

    assert await replica.progress.wait_for(last, 10)
    assert replica.state == {"k.1": {"n": 1}, "k.2": {"n": 2}}
    assert replica.loads == 2


async def test_a_server_that_stalls_is_caught_up_with_once_it_goes_on(
    nats_server: NatsServer,
    store: Connection,
    iam: Committer,
    follow: Follow,
    eventually: Eventually,
) -> None:
    replica = await follow(store)
    before = revision(await iam.commit([Put("k.1", {"n": 1}, 0)], []))
    assert await replica.progress.wait_for(before, 5)

    async def stale() -> bool:
        return bool(replica.progress.age_s > 4)

    os.kill(nats_server.pid, signal.SIGSTOP)
    try:
        await eventually(stale)
    finally:
        os.kill(nats_server.pid, signal.SIGCONT)
    last = revision(await iam.commit([Put("k.2", {"n": 2}, 0)], []))
    assert await replica.progress.wait_for(last, 2.5)
    assert replica.state == {"k.1": {"n": 1}, "k.2": {"n": 2}}
    assert replica.progress.age_s < 4


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
    for n in range(20):
        old = revision(await iam.commit([Put(f"k.old{n}", {}, 0)], []))
    assert await replica.progress.wait_for(old, 5)

    await store.api("STREAM.DELETE.KV_iam")
    await migrate(store, store_settings, load_migrations(migrations_folder())[:1])
    shown.clear()
    for n in range(2):
        new = revision(await iam.commit([Put(f"k.new{n}", {}, 0)], []))
    assert new < old

    async def reloaded() -> bool:
        return bool(replica.loads == 2)

    await eventually(reloaded)
    assert shown == [{"k.new0", "k.new1"}]
    assert new <= replica.progress.revision < old
    later = revision(await iam.commit([Put("k.new2", {}, 0)], []))
    assert await replica.progress.wait_for(later, 5)
    assert set(replica.state) == {"k.new0", "k.new1", "k.new2"}


async def test_a_missing_stream_stops_nothing_and_is_followed_once_it_is_there(
    empty: Connection, store_settings: Settings, follow: Follow
) -> None:
    following = asyncio.create_task(follow(empty))
    migrating = migrate(empty, store_settings, load_migrations(migrations_folder())[:1])
    async with asyncio.timeout(10):
        await migrating
        replica = await following
    assert replica.state == {}
