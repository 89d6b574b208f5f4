"""On-demand views over a real server: never older than what this replica has applied."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import pytest
from harness.lossy import LossyConnection
from nats.aio.msg import Msg

from tidegate.devstack.nats_server import NatsServer
from tidegate.kernel.clock import SystemClock
from tidegate.kernel.lifecycle import start
from tidegate.store import on_demand as on_demand_module
from tidegate.store import reading
from tidegate.store.changes import Change, CommitResult, Committed, Delete, Entry, Event, Put
from tidegate.store.commit import Committer
from tidegate.store.connection import Connection, StoreError
from tidegate.store.follower import Follower
from tidegate.store.on_demand import NotLoaded, OnDemand, Source
from tidegate.store.views import Progress

Connect = Callable[[], Awaitable[Connection]]
MakeEvent = Callable[..., Event]
Eventually = Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]
# What is made of an owner's entries: the number that each holds.
Numbers = dict[str, int]

_OWN_KEY = "replica.me"
_DEADLINE_S = 30


def make(_owner: str, _part: str, entries: Sequence[Entry]) -> Numbers:
    return {entry.key: int((entry.value or {}).get("n", -1)) for entry in entries}


THINGS = Source(
    name="things",
    bucket="iam",
    kinds=frozenset({"thing", "share"}),
    keys=lambda owner, part: [f"thing.{owner}", f"share.{owner}.{part}.*"],
    build=make,
    owner=lambda entry: entry.key.split(".")[1],
)


class Things:
    """An on-demand view and the feed that keeps it honest."""

    def __init__(self, connection: Connection, capacity: int = 100) -> None:
        clock = SystemClock()
        self.connection = LossyConnection(connection)
        # On a busy machine an answer may take its time.
        self.connection.request_timeout_s = _DEADLINE_S
        self.progress = Progress(clock)
        self.view = OnDemand(self.connection, THINGS, self.progress, lambda: _OWN_KEY, capacity)
        self.follower = Follower(connection, "iam", [], self.progress, clock, [self.view])
        self.reads = 0

    async def load(self, owner: str = "1", part: str = "a") -> Numbers:
        async with asyncio.timeout(_DEADLINE_S):
            return await self.view.load(owner, part)

    async def applied(self, revision: int) -> None:
        assert await self.progress.wait_for(revision, _DEADLINE_S)

    @asynccontextmanager
    async def stale(self, times: int) -> AsyncIterator[None]:
        """The next reads are answered by a copy that has nothing from now on."""
        answers = await self.connection.collect(
            "$JS.API.DIRECT.GET.KV_iam",
            b'{"multi_last":["$KV.iam.replica.me","$KV.iam.thing.1","$KV.iam.share.1.a.*"]}',
        )
        self.reads = 0

        async def lag(*_: object) -> list[Msg] | None:
            self.reads += 1
            return answers if self.reads <= times else None

        self.connection.reading = lag
        yield
        self.connection.reading = None


@pytest.fixture
async def things(connect_again: Connect, iam: Committer) -> AsyncIterator[Things]:
    revision(await iam.commit([Put(_OWN_KEY, {}, 0)], []))
    things = Things(await connect_again())
    async with asyncio.TaskGroup() as group:
        running = await start(group, "follower", things.follower.run)
        yield things
        running.cancel()


def revision(result: CommitResult) -> int:
    assert isinstance(result, Committed), result
    return result.revision


async def test_what_is_loaded_is_kept_and_known_at_once(things: Things, iam: Committer) -> None:
    last = revision(
        await iam.commit([Put("thing.1", {"n": 1}, 0), Put("share.1.a.x", {"n": 2}, 0)], [])
    )
    assert things.view.get("1", "a") is None
    assert await things.load() == {"thing.1": 1, "share.1.a.x": 2}
    await things.applied(last)
    assert await things.load() == {"thing.1": 1, "share.1.a.x": 2}
    assert things.view.get("1", "a") == {"thing.1": 1, "share.1.a.x": 2}


async def test_what_is_not_there_is_known_not_to_be_there(things: Things) -> None:
    assert await things.load("nobody") == {}
    assert things.view.get("nobody", "a") == {}


async def test_what_was_deleted_is_not_there(things: Things, iam: Committer) -> None:
    made = revision(await iam.commit([Put("thing.1", {"n": 1}, 0)], []))
    await things.applied(revision(await iam.commit([Delete("thing.1", made)], [])))
    assert await things.load() == {}


async def test_a_part_does_not_show_what_is_of_another(things: Things, iam: Committer) -> None:
    changes = [Put("thing.1", {"n": 1}, 0), Put("share.1.a.x", {"n": 2}, 0)]
    await things.applied(
        revision(await iam.commit([*changes, Put("share.1.b.x", {"n": 3}, 0)], []))
    )
    assert await things.load(part="a") == {"thing.1": 1, "share.1.a.x": 2}
    assert await things.load(part="b") == {"thing.1": 1, "share.1.b.x": 3}


async def test_an_entry_that_cannot_be_read_is_there_but_says_nothing(
    things: Things, store: Connection
) -> None:
    await store.request("$KV.iam.share.1.a.x", b"\xff")
    assert await things.load() == {"share.1.a.x": -1}


# --- changes ---


async def test_a_change_is_seen_once_it_is_applied(things: Things, iam: Committer) -> None:
    first = revision(await iam.commit([Put("thing.1", {"n": 1}, 0)], []))
    await things.applied(first)
    assert await things.load() == {"thing.1": 1}
    assert await things.load(part="b") == {"thing.1": 1}
    await things.applied(revision(await iam.commit([Put("thing.1", {"n": 2}, first)], [])))
    assert things.view.get("1", "a") is None
    assert things.view.get("1", "b") is None
    assert await things.load() == {"thing.1": 2}


async def test_a_change_of_one_owner_leaves_the_others_in_memory(
    things: Things, iam: Committer
) -> None:
    await things.load("1")
    await things.load("2")
    await things.applied(revision(await iam.commit([Put("share.1.a.x", {}, 0)], [])))
    assert things.view.get("1", "a") is None
    assert things.view.get("2", "a") == {}


@pytest.mark.parametrize("touches", [True, False])
async def test_a_copy_that_is_behind_what_was_applied_is_not_believed(
    things: Things, iam: Committer, touches: bool
) -> None:
    await things.applied(revision(await iam.commit([Put("thing.1", {"n": 1}, 0)], [])))
    async with things.stale(times=3):
        changed = await iam.commit([Put("share.1.a.x" if touches else "thing.2", {"n": 2}, 0)], [])
        await things.applied(revision(changed))
        expected = {"thing.1": 1} | ({"share.1.a.x": 2} if touches else {})
        assert await things.load() == expected
        assert things.reads == 4


async def test_a_load_that_a_change_overtakes_reads_again(things: Things, iam: Committer) -> None:
    """It was asked before, and answered after, and the answer is from before."""
    first = revision(await iam.commit([Put("thing.1", {"n": 1}, 0)], []))
    await things.applied(first)
    async with things.stale(times=1):
        lag = things.connection.reading
        assert lag is not None

        async def overtaken(subject: str, payload: bytes) -> list[Msg] | None:
            answers = await lag(subject, payload)
            if things.reads == 1:
                second = revision(await iam.commit([Put("thing.1", {"n": 2}, first)], []))
                await things.applied(second)
            return answers

        things.connection.reading = overtaken
        assert await things.load() == {"thing.1": 2}
        assert things.reads == 2


async def test_copies_that_stay_behind_make_a_load_fail(
    things: Things, iam: Committer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(on_demand_module, "_DEADLINE_S", 0.2)
    async with things.stale(times=10_000):
        await things.applied(revision(await iam.commit([Put("thing.1", {"n": 1}, 0)], [])))
        with pytest.raises(NotLoaded):
            await things.load()
        assert things.view.get("1", "a") is None
    assert await things.load() == {"thing.1": 1}


async def test_whatever_changes_nothing_older_than_applied_is_ever_seen(
    things: Things, connect_again: Connect, event: MakeEvent
) -> None:
    """Writers, a feed and readers, all at once.

    An owner's entries are written together, and hold the same number; it only grows. Whoever
    has waited for the revision of a number never sees a smaller one, in no way of asking.
    """
    owners = [str(n) for n in range(4)]
    newest = dict.fromkeys(owners, 0)  # of the numbers whose revision is applied
    done = asyncio.Event()
    seen: dict[str, set[int]] = {owner: set() for owner in owners}
    rng = random.Random(1)

    async def answer_late(subject: str, payload: bytes) -> list[Msg] | None:
        answers = await things.connection.collect_now(subject, payload)
        await asyncio.sleep(rng.choice([0, 0, 0.005]))
        return answers

    things.connection.reading = answer_late

    async def write(owner: str, rounds: int) -> None:
        committer = Committer(await connect_again(), "iam", _DEADLINE_S)
        at = dict.fromkeys((f"thing.{owner}", f"share.{owner}.a.x", f"share.{owner}.a.y"), 0)
        for number in range(1, rounds + 1):
            changes: list[Change] = [Put(key, {"n": number}, held) for key, held in at.items()]
            events = [event()] if number % 2 else []
            last = revision(await committer.commit(changes, events)) - len(events)
            at = {key: last - 2 + place for place, key in enumerate(at)}
            await things.applied(last)
            newest[owner] = number
            # Every other change meets readers who are still busy with the one before.
            while number % 2 and number not in seen[owner]:
                await asyncio.sleep(0)

    async def read(owner: str) -> int:
        reads = 0
        while not done.is_set():
            await asyncio.sleep(0)
            known = newest[owner]
            for found in (things.view.get(owner, "a"), await things.load(owner)):
                if found is None:
                    continue
                reads += 1
                numbers = set(found.values())
                assert len(numbers) <= 1, "a part of a commit"
                assert not found or len(found) == 3, "a part of a commit"
                number = min(numbers, default=0)
                assert number >= known, "older than what was applied when it was asked for"
                seen[owner].add(number)
            in_memory = things.view.get(owner, "a")
            if in_memory is not None:
                assert min(in_memory.values(), default=0) >= newest[owner], "older than applied"
        return reads

    rounds = 60
    async with asyncio.TaskGroup() as group:
        readers = [group.create_task(read(owner)) for owner in owners * 3]
        async with asyncio.TaskGroup() as writers:
            for owner in owners:
                writers.create_task(write(owner, rounds))
        done.set()
    assert sum(reader.result() for reader in readers) > rounds
    for owner in owners:
        assert set((await things.load(owner)).values()) == {rounds}


# --- many at once ---


async def test_many_who_ask_for_the_same_cause_one_read(things: Things, iam: Committer) -> None:
    await things.applied(revision(await iam.commit([Put("thing.1", {"n": 1}, 0)], [])))
    async with things.stale(times=0):
        found = await asyncio.gather(*(things.load() for _ in range(200)))
        assert things.reads == 1
    assert found == [{"thing.1": 1}] * 200


async def test_who_joins_a_load_whose_starter_gives_up_gets_it_all_the_same(
    things: Things, iam: Committer
) -> None:
    await things.applied(revision(await iam.commit([Put("thing.1", {"n": 1}, 0)], [])))
    asked = asyncio.Event()

    async def never(*_: object) -> list[Msg] | None:
        asked.set()
        await asyncio.Event().wait()
        return None

    things.connection.reading = never
    starter = asyncio.create_task(things.load())
    await asked.wait()
    joining = [asyncio.create_task(things.load()) for _ in range(5)]
    await asyncio.sleep(0)
    things.connection.reading = None
    starter.cancel()
    assert await asyncio.gather(*joining) == [{"thing.1": 1}] * 5
    assert starter.cancelled()


async def test_who_joins_a_load_gets_nothing_older_than_what_is_applied_by_then(
    things: Things, iam: Committer
) -> None:
    """Between the end of a load and the turn of those who joined it the feed may go on."""
    first = revision(await iam.commit([Put("thing.1", {"n": 1}, 0)], []))
    await things.applied(first)
    answering, others = asyncio.Event(), asyncio.Event()

    async def answer(subject: str, payload: bytes) -> list[Msg] | None:
        things.connection.reading = None
        answers = await things.connection.collect_now(subject, payload)
        await others.wait()
        # What waits for this has its turn before whoever joined.
        answering.set()
        return answers

    things.connection.reading = answer
    starter = asyncio.create_task(things.load())
    await asyncio.sleep(0)
    joiner = asyncio.create_task(things.load())
    await asyncio.sleep(0)
    others.set()
    await answering.wait()
    assert starter.done() or things.view.get("1", "a") is not None
    committed = asyncio.Event()

    async def once_committed(subject: str, payload: bytes) -> list[Msg] | None:
        await committed.wait()
        return None

    things.connection.reading = once_committed
    # As the feed would: that a change came is told before its answer is.
    things.view.apply([Entry("thing.1", {"n": 2}, first + 1)])
    assert not joiner.done()
    second = revision(await iam.commit([Put("thing.1", {"n": 2}, first)], []))
    await things.applied(second)
    committed.set()
    assert await starter == {"thing.1": 1}
    assert await joiner != {"thing.1": 1}


async def test_many_owners_at_once_are_all_loaded(
    things: Things, iam: Committer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(on_demand_module, "_DEADLINE_S", _DEADLINE_S)
    changes = [Put(f"thing.{n}", {"n": n}, 0) for n in range(500)]
    await things.applied(revision(await iam.commit(changes, [])))
    found = await asyncio.gather(*(things.load(str(n)) for n in range(500)))
    assert found == [{f"thing.{n}": n} for n in range(500)]


async def test_more_loads_at_once_than_may_be_are_refused_and_the_others_are_not(
    things: Things, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(on_demand_module, "_DEADLINE_S", _DEADLINE_S)
    most = on_demand_module._MOST_LOADING
    found = await asyncio.gather(
        *(things.load(str(n)) for n in range(most + 10)), return_exceptions=True
    )
    refused = [each for each in found if isinstance(each, NotLoaded)]
    assert len(refused) == 10
    assert [each for each in found if each == {}] == [{}] * most
    assert await things.load(str(most + 9)) == {}


async def test_the_longest_unused_go_first(connect_again: Connect, iam: Committer) -> None:
    revision(await iam.commit([Put(_OWN_KEY, {}, 0)], []))
    things = Things(await connect_again(), capacity=3)
    for owner in "123":
        await things.load(owner)
    things.view.get("1", "a")
    await things.load("4")
    assert [owner for owner in "1234" if things.view.get(owner, "a") is not None] == list("134")


# --- limits and faults ---


async def test_what_is_of_more_messages_than_one_answer_takes_fails_and_harms_nothing(
    things: Things, iam: Committer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1024, one of which is the replica's own."""
    monkeypatch.setattr(on_demand_module, "_DEADLINE_S", _DEADLINE_S)
    for first in range(0, 1023, 341):
        changes = [Put(f"share.1.a.{n}", {"n": n}, 0) for n in range(first, first + 341)]
        last = revision(await iam.commit(changes, []))
    await things.applied(last)
    assert len(await things.load()) == 1023
    await things.applied(revision(await iam.commit([Put("share.1.a.more", {}, 0)], [])))
    with pytest.raises(StoreError, match="many"):
        await things.load()
    assert things.view.get("1", "a") is None
    assert await things.load("2") == {}


async def test_without_the_own_entry_what_is_nowhere_cannot_be_told_from_what_is_not_read(
    things: Things, store: Connection, iam: Committer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty answer does not say how new it is."""
    monkeypatch.setattr(on_demand_module, "_DEADLINE_S", 0.2)
    sequence = things.progress.revision
    await store.api("STREAM.MSG.DELETE.KV_iam", {"seq": sequence})
    with pytest.raises(NotLoaded):
        await things.load("nobody")
    revision(await iam.commit([Put(_OWN_KEY, {}, 0)], []))
    assert await things.load("nobody") == {}


async def test_without_a_server_a_load_fails_and_what_is_in_memory_stays(
    things: Things, nats_server: NatsServer, iam: Committer, eventually: Eventually
) -> None:
    first = revision(await iam.commit([Put("thing.1", {"n": 1}, 0)], []))
    await things.applied(first)
    await things.load()
    nats_server.kill()
    await nats_server.wait()
    with pytest.raises(StoreError):
        await things.load("2")
    assert things.view.get("1", "a") == {"thing.1": 1}

    await nats_server.restart()

    async def back() -> bool:
        try:
            return await things.load("2") == {}
        except StoreError:
            return False

    await eventually(back)
    changed: list[CommitResult] = []

    async def committed() -> bool:
        changed.append(await iam.commit([Put("thing.1", {"n": 2}, first)], []))
        return isinstance(changed[-1], Committed)

    await eventually(committed)
    await things.applied(revision(changed[-1]))
    assert await things.load() == {"thing.1": 2}


async def test_a_feed_that_begins_anew_clears_what_is_in_memory(
    things: Things, store: Connection, iam: Committer, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = revision(await iam.commit([Put("thing.1", {"n": 1}, 0)], []))
    await things.applied(made)
    await things.load()
    names = (await store.api("CONSUMER.NAMES.KV_iam"))["consumers"]
    for name in [name for name in names if name.startswith("follower-")]:
        await store.api(f"CONSUMER.DELETE.KV_iam.{name}")
    tombstone = revision(await iam.commit([Delete("thing.1", made)], []))
    await store.api("STREAM.MSG.DELETE.KV_iam", {"seq": tombstone})
    last = revision(await iam.commit([Put("thing.2", {"n": 2}, 0)], []))

    monkeypatch.setattr("tidegate.store.follower._RESYNC_AFTER_S", 0.0)
    things.follower.doubt("on purpose")
    things.connection.reconnected()
    await things.applied(last)
    assert things.view.get("1", "a") is None
    assert await things.load() == {}


async def test_a_read_of_many_misses_nothing_that_is_being_overwritten(
    things: Things, connect_again: Connect
) -> None:
    """The load rule stands on it: an answer is of one moment, whatever is written meanwhile."""
    done = asyncio.Event()
    keys = [f"share.1.a.{n}" for n in range(4)]

    async def write(key: str) -> None:
        committer = Committer(await connect_again(), "iam", _DEADLINE_S)
        at = revision(await committer.commit([Put(key, {}, 0)], []))
        while not done.is_set():
            at = revision(await committer.commit([Put(key, {}, at)], []))

    async with asyncio.TaskGroup() as group:
        for key in keys:
            group.create_task(write(key))
        last: dict[str, int] = {}
        changed = 0
        while changed < 200:
            found = await reading.snapshot(things.connection, "iam", ["$KV.iam.share.1.>"])
            now = {each.subject: each.sequence for each in found.messages}
            assert set(last) <= set(now), "gone for a moment"
            assert max(now.values(), default=0) <= found.up_to
            assert all(now[subject] >= sequence for subject, sequence in last.items())
            changed += len(now) == len(keys) and now != last
            last = now
        done.set()
