"""Commands: read, decide, commit, hold."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tidegate.devstack.nats_server import NatsServer
from tidegate.kernel import errors
from tidegate.kernel.clock import SystemClock
from tidegate.kernel.errors import Refusal
from tidegate.store.barrier import Barrier, Effect
from tidegate.store.bucket import UNAVAILABLE, Bucket, Decision, Done, Read
from tidegate.store.changes import Committed, Delete, Entry, Event, Put
from tidegate.store.connection import ApiError, Connection
from tidegate.store.lease import Lease
from tidegate.store.replicas import ReplicaView
from tidegate.store.settings import LeaseSettings
from tidegate.store.views import Progress

Connect = Callable[[], Awaitable[Connection]]
Follow = Callable[..., Awaitable[Any]]
MakeEvent = Callable[..., Event]
Eventually = Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]


@pytest.fixture
def bucket(store: Connection) -> Bucket:
    """Without a barrier: nothing is waited for."""
    return Bucket(store, "iam", Progress(SystemClock()), commit_deadline_s=5)


def alone(store: Connection, progress: Progress) -> Bucket:
    """The bucket of the only replica there is, whose changes hold when its own views have them."""
    clock = SystemClock()
    replicas, feeds = ReplicaView(clock), {"iam": progress}
    lease = Lease(store, replicas, feeds, LeaseSettings(), clock)
    barrier = Barrier(store, lease, replicas, feeds, clock)
    return Bucket(store, "iam", progress, commit_deadline_s=5, barrier=barrier)


async def add_one(read: Read) -> Decision[int]:
    counter = await read("k.counter")
    n = 1 if counter.value is None else counter.value["n"] + 1
    return Decision([Put("k.counter", {"n": n}, counter.revision)], [], n)


async def test_a_command_is_decided_committed_and_answered_with_its_revision(
    bucket: Bucket,
) -> None:
    done = await bucket.execute(add_one, Effect.ADDITION)
    assert isinstance(done, Done)
    assert done.outcome == 1
    held = await bucket.read("k.counter")
    assert (held.value, held.revision) == ({"n": 1}, done.revision.sequence)
    assert str(done.revision) == f"iam:{held.revision}"


@pytest.mark.parametrize("effect", [Effect.ADDITION, Effect.TAKE_AWAY])
@pytest.mark.parametrize("with_event", [False, True])
async def test_when_it_returns_the_views_show_it(
    store: Connection, follow: Follow, event: MakeEvent, with_event: bool, effect: Effect
) -> None:
    replica = await follow(store)
    bucket = alone(store, replica.progress)
    for n in range(1, 20):

        async def decide(read: Read) -> Decision[int]:
            decision = await add_one(read)
            return Decision(decision.changes, [event()] if with_event else [], decision.outcome)

        done = await bucket.execute(decide, effect)
        assert isinstance(done, Done)
        assert replica.state == {"k.counter": {"n": n}}
        assert replica.progress.revision >= done.revision.sequence


async def test_a_conflict_is_decided_again_on_what_is_there_now(bucket: Bucket) -> None:
    seen: list[Any] = []

    async def overtaken(read: Read) -> Decision[int]:
        counter = await read("k.counter")
        seen.append(counter.value)
        if len(seen) < 3:
            # Someone else is faster, twice.
            changed = [Put("k.counter", {"n": 10 * len(seen)}, counter.revision)]
            assert isinstance(await bucket.commit(changed, []), Committed)
        n = 0 if counter.value is None else counter.value["n"]
        return Decision([Put("k.counter", {"n": n + 1}, counter.revision)], [], n)

    done = await bucket.execute(overtaken, Effect.ADDITION)
    assert isinstance(done, Done)
    assert seen == [None, {"n": 10}, {"n": 20}]
    assert (await bucket.read("k.counter")).value == {"n": 21}


async def test_a_conflict_with_a_deletion_is_decided_again(bucket: Bucket) -> None:
    await bucket.execute(add_one, Effect.ADDITION)
    seen: list[Any] = []

    async def overtaken(read: Read) -> Decision[None]:
        counter = await read("k.counter")
        seen.append(counter.value)
        if len(seen) == 1:
            await bucket.commit([Delete("k.counter", counter.revision)], [])
        return Decision([Put("k.counter", {"n": 7}, counter.revision)], [], None)

    assert isinstance(await bucket.execute(overtaken, Effect.ADDITION), Done)
    assert seen == [{"n": 1}, None]


async def test_commands_that_all_count_lose_no_count(
    connect_again: Connect, store: Connection
) -> None:
    other = await connect_again()
    progress = Progress(SystemClock())
    buckets = [Bucket(each, "iam", progress, commit_deadline_s=5) for each in (store, other)]

    async def client(n: int) -> int:
        done = 0
        while done < 5:
            result = await buckets[n % 2].execute(add_one, Effect.ADDITION)
            if isinstance(result, Done):
                done += 1
            else:
                assert result.code is errors.CONFLICT
        return done

    async with asyncio.timeout(30):
        done = await asyncio.gather(*(client(n) for n in range(8)))
    held = await buckets[0].read("k.counter")
    assert held.value == {"n": sum(done)}


async def test_a_command_that_is_always_overtaken_is_refused_after_a_few_tries(
    bucket: Bucket,
) -> None:
    tries = 0

    async def unlucky(read: Read) -> Decision[None]:
        nonlocal tries
        tries += 1
        counter = await read("k.counter")
        await bucket.commit([Put("k.counter", {"n": tries}, counter.revision)], [])
        return Decision([Put("k.counter", {"n": -1}, counter.revision)], [], None)

    result = await bucket.execute(unlucky, Effect.ADDITION)
    assert isinstance(result, Refusal)
    assert result.code is errors.CONFLICT
    assert tries == 4
    assert (await bucket.read("k.counter")).value == {"n": 4}


@pytest.mark.parametrize("effect", Effect)
async def test_a_refusal_passes_through_and_nothing_is_written(
    effect: Effect, store: Connection, follow: Follow
) -> None:
    replica = await follow(store)
    refusal = Refusal(errors.NOT_FOUND, "No such user.")

    async def refuse(_: Read) -> Refusal:
        return refusal

    assert await alone(store, replica.progress).execute(refuse, effect) is refusal
    assert replica.state == {}


async def test_a_refusal_that_rests_on_an_old_copy_is_not_final(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def old(key: str) -> Entry:
        return Entry(key, None, 0)

    await bucket.execute(add_one, Effect.ADDITION)
    monkeypatch.setattr(bucket, "read", old)

    async def must_exist(read: Read) -> Decision[int] | Refusal:
        counter = await read("k.counter")
        if counter.value is None:
            return Refusal(errors.NOT_FOUND, "No such counter.")
        return Decision([Put(counter.key, {"n": 7}, counter.revision)], [], counter.value["n"])

    done = await bucket.execute(must_exist, Effect.ADDITION)
    assert isinstance(done, Done)
    assert done.outcome == 1


async def test_what_goes_wrong_in_a_decision_goes_through(bucket: Bucket) -> None:
    async def fail(_: Read) -> Refusal:
        raise LookupError

    with pytest.raises(LookupError):
        await bucket.execute(fail, Effect.ADDITION)


async def test_an_answer_of_a_stream_without_a_leader_is_unavailable(bucket: Bucket) -> None:
    async def decide(_: Read) -> Refusal:
        raise ApiError(503, 10008, "JetStream system temporarily unavailable")

    assert await bucket.execute(decide, Effect.ADDITION) is UNAVAILABLE


@pytest.mark.parametrize("effect", [Effect.ADDITION, Effect.TAKE_AWAY])
async def test_a_change_that_the_own_views_do_not_show_in_time_is_told_as_pending(
    effect: Effect, store: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tidegate.store.barrier._OWN_VIEW_S", 0.05)
    bucket = alone(store, Progress(SystemClock()))
    pending = await bucket.execute(add_one, effect)
    assert isinstance(pending, Refusal)
    assert pending.code is errors.BARRIER_PENDING
    held = await bucket.read("k.counter")
    assert held.value == {"n": 1}
    assert pending.details == {"revision": f"iam:{held.revision}"}


async def test_without_nats_a_command_is_refused_at_once(
    nats_server: NatsServer, store: Connection, bucket: Bucket, eventually: Eventually
) -> None:
    nats_server.kill()
    await nats_server.wait()

    async def noticed() -> bool:
        return not store.connected

    await eventually(noticed)

    async def writes_only(_: Read) -> Decision[None]:
        return Decision([Put("k.1", {}, 0)], [], None)

    for decide in (add_one, writes_only):
        command = asyncio.create_task(bucket.execute(decide, Effect.TAKE_AWAY))
        for _ in range(20):
            await asyncio.sleep(0)
        assert command.done()
        assert command.result() is UNAVAILABLE
    assert UNAVAILABLE.code.kind is errors.ErrorKind.UNAVAILABLE
    assert UNAVAILABLE.retry_after_s == 1


async def test_a_lost_answer_is_told_as_unknown(
    nats_server: NatsServer, store: Connection, bucket: Bucket
) -> None:
    async def decide(_: Read) -> Decision[None]:
        return Decision([Put("k.1", {}, 0)], [], None)

    os.kill(nats_server.pid, signal.SIGSTOP)
    try:
        result = await bucket.execute(decide, Effect.TAKE_AWAY)
    finally:
        os.kill(nats_server.pid, signal.SIGCONT)
    assert isinstance(result, Refusal)
    assert result.code is errors.COMMIT_UNKNOWN
