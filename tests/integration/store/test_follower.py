"""What followers show: whole commits, all of them, in order."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

import pytest
from harness.memory import SetClock

from tidegate.kernel.clock import SystemClock
from tidegate.store import reading
from tidegate.store.changes import (
    Change,
    CommitResult,
    Committed,
    Conflict,
    Delete,
    Entry,
    Event,
    Put,
)
from tidegate.store.commit import Committer
from tidegate.store.connection import Connection, Disconnected
from tidegate.store.follower import Follower
from tidegate.store.views import Progress

Connect = Callable[[], Awaitable[Connection]]
Follow = Callable[..., Awaitable[Any]]
MakeEvent = Callable[..., Event]
Eventually = Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]


class Seen:
    def __init__(self, *kinds: str) -> None:
        self.kinds = frozenset(kinds)
        self.keys: list[str] = []

    def load(self, entries: Iterable[Entry]) -> None:
        self.keys = [entry.key for entry in entries]

    def apply(self, changes: Sequence[Entry]) -> None:
        self.keys += [entry.key for entry in changes]


def new_follower(connection: Connection, *views: Seen) -> Follower:
    clock = SystemClock()
    return Follower(connection, "iam", views, Progress(clock), clock)


def revision(result: CommitResult) -> int:
    assert isinstance(result, Committed), result
    return result.revision


async def consumers(connection: Connection, stream: str = "KV_iam") -> int:
    """How many there are, besides those that feed AUDIT and MAIL."""
    names = (await connection.api(f"CONSUMER.NAMES.{stream}"))["consumers"] or []
    return sum(name.startswith("follower-") for name in names)


async def test_a_follower_starts_with_what_there_is(
    store: Connection, iam: Committer, follow: Follow, event: MakeEvent
) -> None:
    revision(await iam.commit([Put("k.1", {"n": 1}, 0), Put("other.1", {}, 0)], [event()]))
    made = revision(await iam.commit([Put("k.2", {"n": 2}, 0)], []))
    revision(await iam.commit([Delete("k.2", made)], []))
    last = revision(await iam.commit([Put("other.2", {}, 0)], []))

    replica = await follow(store, "k")
    assert replica.state == {"k.1": {"n": 1}}
    assert replica.progress.revision == last
    assert replica.progress.age_s < 60


async def test_a_follower_of_an_empty_stream_is_ready(store: Connection, follow: Follow) -> None:
    replica = await follow(store, bucket="routing")
    assert replica.state == {}
    assert replica.loads == 1
    routing = Committer(store, "routing", deadline_s=5)
    made = revision(await routing.commit([Put("k.1", {"n": 1}, 0)], []))
    assert await replica.progress.wait_for(made, 5)
    assert replica.state == {"k.1": {"n": 1}}


async def test_changes_are_shown_once_their_revision_is_reached(
    store: Connection, iam: Committer, follow: Follow, event: MakeEvent
) -> None:
    replica = await follow(store)
    first = revision(await iam.commit([Put("k.1", {"n": 1}, 0)], []))
    assert await replica.progress.wait_for(first, 5)
    assert replica.state == {"k.1": {"n": 1}}
    both: list[Change] = [Put("k.2", {"n": 2}, 0), Delete("k.1", first)]
    assert await replica.progress.wait_for(revision(await iam.commit(both, [event()])), 5)
    assert replica.state == {"k.2": {"n": 2}}
    assert replica.loads == 1


async def test_a_commit_that_nobody_follows_moves_the_position_too(
    store: Connection, iam: Committer, follow: Follow
) -> None:
    replica = await follow(store)
    end = revision(await iam.commit([Put("k.1", {}, 0), Put("other.1", {}, 0)], []))
    assert await replica.progress.wait_for(end, 5)
    assert replica.state == {"k.1": {}}


async def test_an_entry_of_another_tool_that_cannot_be_read_is_there_but_says_nothing(
    store: Connection, iam: Committer, follow: Follow
) -> None:
    replica = await follow(store)
    made = revision(await iam.commit([Put("k.1", {"n": 1}, 0)], []))
    await store.request("$KV.iam.k.1", b"\xff")
    await store.request("$KV.iam.k.2", b"[]", {"Tidegate-Commit": "x:9"})
    last = revision(await iam.commit([Put("k.3", {}, 0)], []))
    assert last == made + 3
    assert await replica.progress.wait_for(last, 5)
    assert replica.state == {"k.1": {}, "k.2": {}, "k.3": {}}

    late = await follow(store)
    assert late.state == {"k.1": {}, "k.2": {}, "k.3": {}}


async def test_views_may_share_a_kind(store: Connection, iam: Committer) -> None:
    revision(await iam.commit([Put("a.1", {}, 0), Put("b.1", {}, 0)], []))
    views = [Seen("a", "b"), Seen("b")]
    follower = new_follower(store, *views)
    ready = asyncio.Event()
    running = asyncio.create_task(follower.run(ready.set))
    async with asyncio.timeout(5):
        await ready.wait()
    last = revision(await iam.commit([Put("b.2", {}, 0)], []))
    assert await follower.progress.wait_for(last, 5)
    assert [sorted(view.keys) for view in views] == [["a.1", "b.1", "b.2"], ["b.1", "b.2"]]
    running.cancel()
    await asyncio.wait({running})


# --- whole commits ---


async def test_no_batch_is_ever_seen_in_part(
    connect_again: Connect, store: Connection, follow: Follow, event: MakeEvent
) -> None:
    """Two writers, a follower that watches them, and others that start amid it."""
    keys = ("k.a", "k.b", "k.c")
    shown: list[tuple[object, ...]] = []

    def look(state: dict[str, Any]) -> None:
        shown.append(tuple(state.get(key, {}).get("n") for key in keys))

    async def write(connection: Connection, name: str, rounds: int) -> list[int]:
        committer = Committer(connection, "iam", deadline_s=5)
        revisions: list[int] = []
        for n in range(rounds):
            held = [await reading.read(connection, "iam", key) for key in keys]
            changes = [Put(each.key, {"n": f"{name} {n}"}, each.revision) for each in held]
            result = await committer.commit(changes, [event()])
            if isinstance(result, Committed):
                revisions.append(result.revision)
            else:
                assert isinstance(result, Conflict)
        return revisions

    async def start_over_and_over(connection: Connection, until: asyncio.Event) -> int:
        started = 0
        while not until.is_set():
            replica = await follow(connection, look=look)
            replica.task.cancel()
            await asyncio.wait({replica.task})
            started += 1
        return started

    watching = await follow(store, look=look)
    other, third = await connect_again(), await connect_again()
    written = asyncio.Event()
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        starting = group.create_task(start_over_and_over(third, written))
        writing = [
            group.create_task(write(store, "one", 120)),
            group.create_task(write(other, "two", 120)),
        ]
        await asyncio.wait(writing)
        written.set()

    revisions = sorted(writing[0].result() + writing[1].result())
    assert len(revisions) > 100
    assert starting.result() > 10
    assert await watching.progress.wait_for(revisions[-1], 5)
    assert [values for values in shown if len(set(values)) > 1] == []
    # The one that watched was there for every commit, and had time to show them one by one.
    assert len(set(shown)) > len(revisions) / 2


async def test_whoever_is_behind_never_shows_what_never_was(
    store: Connection, iam: Committer, follow: Follow
) -> None:
    """Something wanders from key to key while the follower lacks its consumer.

    Each step overwrites a half of the one before, which the follower therefore never gets.
    """
    places = [f"k.{n}" for n in range(6)]
    at = dict.fromkeys(places, 0)
    where: list[list[str]] = []

    def look(state: dict[str, Any]) -> None:
        where.append([key for key, value in state.items() if value["here"]])

    end = revision(await iam.commit([Put(key, {"here": key == "k.0"}, 0) for key in places], []))
    at = {key: end - 5 + n for n, key in enumerate(places)}
    replica = await follow(store, look=look)

    [name] = [
        name
        for name in (await store.api("CONSUMER.NAMES.KV_iam"))["consumers"]
        if name.startswith("follower-")
    ]
    await store.api(f"CONSUMER.DELETE.KV_iam.{name}")
    for here, there in itertools.pairwise(places):
        moved = [Put(there, {"here": True}, at[there]), Put(here, {"here": False}, at[here])]
        end = revision(await iam.commit(moved, []))
        at[there], at[here] = end - 1, end
    # Makes it look after its consumer now, not after the silence.
    store.reconnected()
    assert await replica.progress.wait_for(end, 10)
    assert where == [["k.0"], ["k.5"]]
    assert replica.loads == 1


# --- a last sequence that went back ---


class Deposed:
    """While `behind`, the connection is told of the stream by a leader that was deposed."""

    def __init__(self, connection: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
        self.behind = False
        self.asked = 0
        self._connection = connection
        self._api = connection.api
        monkeypatch.setattr(connection, "api", self._answer)

    async def _answer(
        self, subject: str, body: object = None, timeout_s: float | None = None
    ) -> dict[str, Any]:
        answer = await self._api(subject, body, timeout_s)
        if self.behind and subject == "STREAM.INFO.KV_iam":
            self.asked += 1
            answer["state"]["last_seq"] = 1
        return answer

    async def asked_again(self) -> bool:
        return self.asked > 2

    async def depose(self, eventually: Eventually) -> None:
        """The feed breaks and is to be set up again, which is tried again and again."""
        self.behind, self.asked = True, 0
        self._connection.reconnected()
        await eventually(self.asked_again)


async def test_a_deposed_leader_is_not_believed(
    connect_again: Connect,
    iam: Committer,
    follow: Follow,
    eventually: Eventually,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Twice, and the time between does not count."""
    clock, connection = SetClock(), await connect_again()
    first = revision(await iam.commit([Put("k.1", {}, 0), Put("k.2", {}, 0)], []))
    replica = await follow(connection, clock=clock)
    deposed = Deposed(connection, monkeypatch)
    for n in range(2):
        await deposed.depose(eventually)
        assert (replica.progress.revision, replica.loads) == (first + n, 1)
        clock.now += 14.9
        deposed.behind = False
        made = revision(await iam.commit([Put(f"k.{3 + n}", {}, 0)], []))
        assert await replica.progress.wait_for(made, 20)
    assert replica.state == {f"k.{n}": {} for n in (1, 2, 3, 4)}
    assert replica.loads == 1


async def test_a_last_sequence_that_stays_back_is_believed(
    connect_again: Connect,
    iam: Committer,
    follow: Follow,
    eventually: Eventually,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As of a stream restored from a backup, which keeps the time of its creation."""
    clock, connection = SetClock(), await connect_again()
    revision(await iam.commit([Put("k.1", {}, 0), Put("k.2", {}, 0)], []))
    replica = await follow(connection, clock=clock)
    deposed = Deposed(connection, monkeypatch)
    await deposed.depose(eventually)
    clock.now += 14.9
    deposed.asked = 0
    await eventually(deposed.asked_again)
    assert replica.loads == 1
    clock.now += 0.2

    async def loaded_anew() -> bool:
        return replica.loads == 2

    await eventually(loaded_anew)
    deposed.behind = False
    made = revision(await iam.commit([Put("k.3", {}, 0)], []))
    assert await replica.progress.wait_for(made, 20)
    assert replica.state == {f"k.{n}": {} for n in (1, 2, 3)}


# --- ending ---


async def test_an_ended_follower_leaves_no_consumer_and_no_task(
    store: Connection, follow: Follow, eventually: Eventually
) -> None:
    before = asyncio.all_tasks()
    replica = await follow(store)
    assert await consumers(store) == 1
    replica.task.cancel()
    await asyncio.wait({replica.task})
    assert replica.task.cancelled()
    await asyncio.sleep(0)
    assert asyncio.all_tasks() <= before

    async def gone() -> bool:
        return await consumers(store) == 0

    await eventually(gone)


async def test_a_view_that_fails_ends_the_follower_with_its_error(
    store: Connection, iam: Committer
) -> None:
    """Going on would lose the change for ever."""

    class Broken(Seen):
        def apply(self, changes: Sequence[Entry]) -> None:
            raise KeyError("missing")

    follower = new_follower(store, Broken("k"))
    ready = asyncio.Event()
    running = asyncio.create_task(follower.run(ready.set))
    async with asyncio.timeout(5):
        await ready.wait()
    applied = follower.progress.revision
    revision(await iam.commit([Put("k.1", {}, 0)], []))
    with pytest.raises(KeyError, match="missing"):
        await asyncio.wait_for(running, 5)
    assert follower.progress.revision == applied


async def test_a_connection_closed_for_good_ends_the_follower(
    connect_again: Connect, store: Connection
) -> None:
    """The client library gives up on some errors of the server; only a restart helps."""
    connection = await connect_again()
    follower = new_follower(connection, Seen("k"))
    ready = asyncio.Event()
    running = asyncio.create_task(follower.run(ready.set))
    async with asyncio.timeout(5):
        await ready.wait()
    await connection.close()
    connection.reconnected()
    with pytest.raises(Disconnected, match="closed for good"):
        await asyncio.wait_for(running, 10)
