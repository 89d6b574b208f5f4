"""Commits on a real server."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tidegate.devstack.nats_server import NatsServer
from tidegate.store import encoding, reading
from tidegate.store.changes import (
    Busy,
    Change,
    CommitResult,
    Committed,
    Conflict,
    Delete,
    Entry,
    Event,
    Guard,
    Put,
    Unavailable,
    Unknown,
)
from tidegate.store.commit import Committer
from tidegate.store.connection import ApiError, Connection
from tidegate.store.encoding import TOMBSTONE_TTL_S

Connect = Callable[[], Awaitable[Connection]]
MakeEvent = Callable[..., Event]
Eventually = Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]


async def entry(connection: Connection, key: str) -> Entry:
    return await reading.read_leader(connection, "iam", key)


async def last_sequence(connection: Connection) -> int:
    info = await connection.api("STREAM.INFO.KV_iam")
    return int(info["state"]["last_seq"])


def revision(result: CommitResult) -> int:
    assert isinstance(result, Committed), result
    return result.revision


@contextmanager
def stopped(server: NatsServer) -> Iterator[None]:
    """The server takes part in nothing, without its connections noticing."""
    os.kill(server.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(server.pid, signal.SIGCONT)


# --- what is written ---


async def test_one_change_is_written_with_the_revision_that_the_result_tells(
    store: Connection, iam: Committer
) -> None:
    made = revision(await iam.commit([Put("k.1", {"n": 1}, 0)], []))
    assert await entry(store, "k.1") == Entry("k.1", {"n": 1}, made)
    assert await reading.read(store, "iam", "k.1") == Entry("k.1", {"n": 1}, made)
    changed = revision(await iam.commit([Put("k.1", {"n": 2}, made)], []))
    assert await entry(store, "k.1") == Entry("k.1", {"n": 2}, changed)


async def test_what_was_never_written_has_revision_0(store: Connection) -> None:
    assert await entry(store, "k.1") == Entry("k.1", None, 0)
    assert await reading.read(store, "iam", "k.1") == Entry("k.1", None, 0)


async def test_a_batch_is_written_without_gaps_changes_first_then_events_in_order(
    store: Connection, iam: Committer, event: MakeEvent
) -> None:
    made = revision(await iam.commit([Put("k.old", {}, 0)], []))
    before = await last_sequence(store)
    result = await iam.commit(
        [Put("k.1", {"n": 1}, 0), Delete("k.old", made), Put("k.2", {"n": 2}, 0)],
        [event("first"), event("second")],
    )
    assert revision(result) == before + 5

    written = []
    for sequence in range(before + 1, before + 6):
        answer = await store.api("STREAM.MSG.GET.KV_iam", {"seq": sequence})
        written.append(answer["message"]["subject"])
    assert written[:3] == ["$KV.iam.k.1", "$KV.iam.k.old", "$KV.iam.k.2"]
    assert [subject.rpartition(".")[0] for subject in written[3:]] == [
        "tg.iam.event._.k.1.first.me",
        "tg.iam.event._.k.1.second.me",
    ]
    assert len({subject.rpartition(".")[2] for subject in written[3:]}) == 1
    assert await entry(store, "k.old") == Entry("k.old", None, before + 2)


async def test_an_event_alone_is_a_commit(
    store: Connection, iam: Committer, event: MakeEvent
) -> None:
    assert revision(await iam.commit([], [event()])) == await last_sequence(store)


async def test_a_batch_of_a_thousand_messages_is_written(
    store: Connection, iam: Committer, event: MakeEvent
) -> None:
    before = await last_sequence(store)
    changes = [Put(f"k.{n}", {"n": n}, 0) for n in range(999)]
    assert revision(await iam.commit(changes, [event()])) == before + 1000
    assert (await entry(store, "k.998")).value == {"n": 998}


@pytest.mark.parametrize("with_event", [False, True])
async def test_a_deleted_key_can_be_created_again(
    store: Connection, iam: Committer, event: MakeEvent, with_event: bool
) -> None:
    events = [event()] if with_event else []
    made = revision(await iam.commit([Put("k.1", {"n": 1}, 0)], events))
    first = (await entry(store, "k.1")).revision
    assert first <= made
    revision(await iam.commit([Delete("k.1", first)], events))
    tombstone = await entry(store, "k.1")
    assert tombstone.value is None
    assert tombstone.revision > made

    again = revision(await iam.commit([Put("k.1", {"n": 2}, 0)], events))
    assert again > tombstone.revision
    assert (await entry(store, "k.1")).value == {"n": 2}


async def test_an_entry_with_a_ttl_goes_unless_it_is_updated_without_one(
    store: Connection, iam: Committer, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding, "TOMBSTONE_TTL_S", 0)
    kept = revision(await iam.commit([Put("k.kept", {}, 0, ttl_s=1)], []))
    kept = revision(await iam.commit([Put("k.kept", {}, kept)], []))
    revision(await iam.commit([Put("k.gone", {}, 0, ttl_s=1)], []))

    async def gone() -> bool:
        return (await entry(store, "k.gone")).revision == 0

    assert not await gone()
    await eventually(gone)
    assert (await entry(store, "k.kept")).revision == kept
    revision(await iam.commit([Put("k.gone", {}, 0)], []))


# --- what is not ---


async def test_a_conflict_names_the_key_and_its_revision(store: Connection, iam: Committer) -> None:
    made = revision(await iam.commit([Put("k.1", {"n": 1}, 0)], []))
    for expected in (0, made + 100):
        result = await iam.commit([Put("k.1", {"n": 2}, expected)], [])
        assert result == Conflict("k.1", made)
    assert await iam.commit([Delete("k.1", made - 1)], []) == Conflict("k.1", made)
    assert await entry(store, "k.1") == Entry("k.1", {"n": 1}, made)


async def test_a_conflict_in_a_batch_names_the_key_and_nothing_is_written(
    store: Connection, iam: Committer, event: MakeEvent
) -> None:
    made = revision(await iam.commit([Put("k.2", {"n": 1}, 0)], []))
    changes = [Put("k.1", {}, 0), Put("k.2", {"n": 2}, made - 1), Put("k.3", {}, 0)]
    assert await iam.commit(changes, [event()]) == Conflict("k.2", made)
    assert await last_sequence(store) == made


async def test_a_change_of_a_key_that_is_not_there_conflicts(iam: Committer) -> None:
    assert await iam.commit([Put("k.1", {}, 7)], []) == Conflict("k.1", 0)


async def test_a_stale_update_does_not_pass_for_a_create_over_a_tombstone(
    store: Connection, iam: Committer
) -> None:
    made = revision(await iam.commit([Put("k.1", {"n": 1}, 0)], []))
    deleted = revision(await iam.commit([Delete("k.1", made)], []))
    assert await iam.commit([Put("k.1", {"n": 2}, made)], []) == Conflict("k.1", deleted)
    assert (await entry(store, "k.1")).value is None


async def test_a_guard_that_holds_lets_the_commit_pass_and_writes_nothing(
    store: Connection, iam: Committer, event: MakeEvent
) -> None:
    role = revision(await iam.commit([Put("role.1", {}, 0)], []))
    result = await iam.commit([Guard("role.1", role), Put("k.1", {}, 0)], [event()])
    assert revision(result) == role + 2
    assert (await entry(store, "role.1")).revision == role


async def test_guards_hold_on_a_commit_of_events(
    store: Connection, iam: Committer, event: MakeEvent
) -> None:
    events = [event("first"), event("second")]
    role = revision(await iam.commit([Put("role.1", {}, 0)], []))
    assert await iam.commit([Guard("role.1", role - 1)], events) == Conflict("role.1", role)
    assert revision(await iam.commit([Guard("role.1", role)], events)) == role + 2


async def test_a_guard_that_fails_lets_nothing_pass(
    store: Connection, iam: Committer, event: MakeEvent
) -> None:
    old = revision(await iam.commit([Put("role.1", {}, 0)], []))
    role = revision(await iam.commit([Put("role.1", {"n": 2}, old)], []))
    changes: list[Change] = [Put("k.1", {}, 0), Guard("role.1", old)]
    assert await iam.commit(changes, [event()]) == Conflict("role.1", role)
    changes = [Put("k.1", {}, 0), Guard("role.1", 0)]
    assert await iam.commit(changes, [event()]) == Conflict("role.1", role)
    assert await last_sequence(store) == role


async def test_a_guard_of_absence_holds_before_and_after_the_key_was_there(
    iam: Committer, event: MakeEvent
) -> None:
    absent = Guard("role.1", 0)
    assert isinstance(await iam.commit([Put("k.1", {}, 0), absent], [event()]), Committed)
    role = revision(await iam.commit([Put("role.1", {}, 0)], []))
    revision(await iam.commit([Delete("role.1", role)], []))
    assert isinstance(await iam.commit([Put("k.2", {}, 0), absent], [event()]), Committed)


async def test_what_can_never_be_written_is_an_error_and_harms_nothing(
    store: Connection, iam: Committer
) -> None:
    never: list[tuple[list[Change], str]] = [
        ([Put(f"k.{n}", {}, 0) for n in range(1001)], "1 to 1000 messages"),
        ([Put("k.1", {}, 0), Put("k.2", {}, 0), Put("k.1", {}, 0)], "each key once"),
        ([Put("k.1", {}, 0), Guard("k.2", 0)], "needs an event"),
        ([Put("k.1", {}, 0), Put("k.2", {"x": "x" * 1_048_576}, 0)], "more than the server takes"),
        # The value alone would be small enough.
        ([Put("k.2", {"x": "x" * (1_048_576 - 60)}, 0)], "more than the server takes"),
        ([Put("k. 1", {}, 0)], "not a subject"),
        ([], "1 to 1000 messages"),
    ]
    before = await last_sequence(store)
    for changes, problem in never:
        with pytest.raises(ValueError, match=problem):
            await iam.commit(changes, [])
    assert await last_sequence(store) == before
    assert isinstance(await iam.commit([Put("k.9", {}, 0)], []), Committed)


async def test_an_answer_that_means_a_mistake_of_ours_is_raised(
    store: Connection, iam: Committer
) -> None:
    before = await last_sequence(store)
    with pytest.raises(ApiError, match="TTL"):
        await iam.commit([Put("k.1", {}, 0, ttl_s=-2 * TOMBSTONE_TTL_S)], [])
    assert await last_sequence(store) == before


# --- faults ---


@pytest.mark.parametrize("size", [1, 3])
async def test_without_a_connection_nothing_is_written_then_or_later(
    nats_server: NatsServer, store: Connection, iam: Committer, eventually: Eventually, size: int
) -> None:
    before = await last_sequence(store)
    nats_server.kill()
    await nats_server.wait()

    async def noticed() -> bool:
        return not store.connected

    await eventually(noticed)
    changes = [Put(f"k.{n}", {}, 0) for n in range(size)]
    # At once: within a few turns of the loop, and so without waiting for anything.
    attempt = asyncio.create_task(iam.commit(changes, []))
    for _ in range(10):
        await asyncio.sleep(0)
    assert attempt.done()
    assert attempt.result() == Unavailable()

    await nats_server.restart()

    async def again() -> bool:
        return store.connected

    await eventually(again)
    assert await last_sequence(store) == before
    assert revision(await iam.commit(changes, [])) == before + size


async def test_a_server_that_does_not_answer_makes_the_outcome_unknown(
    nats_server: NatsServer, store: Connection, iam: Committer
) -> None:
    with stopped(nats_server):
        one = iam.commit([Put("k.1", {}, 0)], [])
        batch = iam.commit([Put("k.2", {}, 0), Put("k.3", {}, 0)], [])
        assert set(await asyncio.gather(one, batch)) == {Unknown()}
    # It was sent, and so written once the server went on.
    assert isinstance(await iam.commit([Put("k.1", {}, 0)], []), Conflict)


async def test_a_commit_that_gets_no_turn_before_its_deadline_is_busy(
    nats_server: NatsServer, store: Connection
) -> None:
    """Batches wait for each other, but none longer than a commit may take."""
    store.request_timeout_s = 60
    committer = Committer(store, "iam", deadline_s=60)

    def batch(n: int) -> list[Change]:
        return [Put(f"k.{n}.1", {}, 0), Put(f"k.{n}.2", {}, 0)]

    with stopped(nats_server):
        at_work = [asyncio.create_task(committer.commit(batch(n), [])) for n in range(16)]
        async with asyncio.timeout(20):
            while not committer._batch_slots.locked():
                await asyncio.sleep(0)
        committer._deadline_s = 0.1
        late = await asyncio.gather(*(committer.commit(batch(n), []) for n in range(16, 40)))
    assert set(late) == {Busy()}
    assert {type(result) for result in await asyncio.gather(*at_work)} == {Committed}
    assert [(await entry(store, f"k.{n}.1")).revision for n in range(16, 40)] == [0] * 24


async def test_a_cancelled_commit_is_cancelled_and_gives_its_turn_back(
    nats_server: NatsServer, store: Connection, iam: Committer
) -> None:
    with stopped(nats_server):
        commits = [
            asyncio.create_task(iam.commit([Put(f"k.{n}", {}, 0), Put(f"j.{n}", {}, 0)], []))
            for n in range(40)
        ]
        for _ in range(10):
            await asyncio.sleep(0)
        for commit in commits:
            commit.cancel()
        ended = await asyncio.gather(*commits, return_exceptions=True)
    assert {type(each) for each in ended} == {asyncio.CancelledError}
    made = await asyncio.gather(
        *(iam.commit([Put(f"m.{n}", {}, 0), Put(f"l.{n}", {}, 0)], []) for n in range(40))
    )
    assert {type(each) for each in made} == {Committed}


# --- many at once ---


@pytest.mark.parametrize("size", [1, 3])
async def test_of_64_who_change_the_same_exactly_one_wins(
    connect_again: Connect, store: Connection, event: MakeEvent, size: int
) -> None:
    connections = (store, await connect_again())
    for connection in connections:
        # On a busy machine an answer may take its time; a lost one is another test's business.
        connection.request_timeout_s = 20
    committers = [Committer(each, "iam", deadline_s=20) for each in connections]

    def changes(expected: dict[str, int], who: int) -> list[Change]:
        return [Put(key, {"who": who}, at) for key, at in expected.items()]

    expected = dict.fromkeys((f"k.{n}" for n in range(size)), 0)
    for _ in range(3):
        results = await asyncio.gather(
            *(
                committers[who % 2].commit(changes(expected, who), [event()] if size > 1 else [])
                for who in range(64)
            )
        )
        [winner] = [who for who, result in enumerate(results) if isinstance(result, Committed)]
        held = {key: await entry(store, key) for key in expected}
        assert [each.value for each in held.values()] == [{"who": winner}] * size
        expected = {key: each.revision for key, each in held.items()}
        losers = [result for who, result in enumerate(results) if who != winner]
        assert all(isinstance(result, Conflict) for result in losers), losers
        assert {
            (result.key, result.actual) for result in losers if isinstance(result, Conflict)
        } <= (set(expected.items()))


async def test_200_batches_at_once_from_two_connections_are_all_written(
    connect_again: Connect, store: Connection, event: MakeEvent
) -> None:
    committers = [Committer(each, "iam", deadline_s=20) for each in (store, await connect_again())]
    before = await last_sequence(store)
    results = await asyncio.gather(
        *(
            committers[n % 2].commit([Put(f"k.{n}", {}, 0), Put(f"j.{n}", {}, 0)], [event()])
            for n in range(200)
        )
    )
    assert {type(result) for result in results} == {Committed}
    assert len({revision(result) for result in results}) == 200
    assert await last_sequence(store) == before + 600


async def test_one_connection_serves_many_tasks(
    store: Connection, iam: Committer, event: MakeEvent
) -> None:
    """Every answer reaches the task that asked, whatever is in flight beside it."""

    async def task(n: int) -> list[Any]:
        seen: list[Any] = []
        at = 0
        for step in range(4):
            at = revision(await iam.commit([Put(f"k.{n}", {"n": n, "step": step}, at)], []))
            seen.append(await reading.read(store, "iam", f"k.{n}"))
            assert await iam.commit([Put(f"k.{n}", {}, at - 1)], []) == Conflict(f"k.{n}", at)
        if n % 20 == 0:
            revision(await iam.commit([Delete(f"k.{n}", at)], [event()]))
        return [(each.key, each.value) for each in seen]

    results = await asyncio.gather(*(task(n) for n in range(200)))
    for n, seen in enumerate(results):
        assert seen == [(f"k.{n}", {"n": n, "step": step}) for step in range(4)]
