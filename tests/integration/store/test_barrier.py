"""The barrier over a real server: when an answered change holds on every replica that serves."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Self

import orjson
import pytest
from harness.store_replica import TTL_S, BeginReplica, StandingClock, StoreReplica, store_replicas
from nats.aio.msg import Msg

from tidegate.devstack.nats_server import NatsServer
from tidegate.kernel.clock import SystemClock
from tidegate.store import barrier as barrier_module
from tidegate.store.barrier import Effect, Held, NotHeld
from tidegate.store.changes import CommitResult, Committed, Put
from tidegate.store.commit import Committer
from tidegate.store.connection import Connection, Disconnected, StoreError

Eventually = Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]

_DEADLINE_S = 30
# What CLOCK_RATE_MARGIN adds, and a little more.
_SURELY_OVER = 1.06


@pytest.fixture
async def begin(nats_server: NatsServer, store: Connection) -> AsyncIterator[BeginReplica]:
    async with store_replicas(nats_server.url) as begin:
        yield begin


def revision(result: CommitResult) -> int:
    assert isinstance(result, Committed), result
    return result.revision


def clock_of(replica: StoreReplica) -> StandingClock:
    assert isinstance(replica.clock, StandingClock)
    return replica.clock


async def change(replica: StoreReplica, key: str = "k.1", bucket: str = "iam") -> int:
    """Commit something; the sequence that it has."""
    return revision(await replica.buckets[bucket].commit([Put(key, {}, 0)], []))


async def knows(one: StoreReplica, *others: StoreReplica) -> None:
    """Wait until `one` has the leases of the others in view."""
    async with asyncio.timeout(_DEADLINE_S):
        while not all(one.replicas.get(other.lease.id) for other in others):
            await asyncio.sleep(0.01)


class Questions:
    """What is asked of a replica, as seen from another connection."""

    def __init__(self, connection: Connection, replica: StoreReplica) -> None:
        self._connection = connection
        self._subject = replica.lease.confirms_on
        self.asked = asyncio.Condition()
        self.count = 0

    async def __aenter__(self) -> Self:
        async def receive(_: Msg) -> None:
            async with self.asked:
                self.count += 1
                self.asked.notify_all()

        self._subscription = self._connection.subscription(self._subject, receive)
        await self._subscription.__aenter__()
        # The server has the subscription once it answers what was sent after it.
        await self._connection.api("INFO")
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._subscription.__aexit__(None, None, None)

    async def wait(self, more: int) -> None:
        """Wait until so many more have been asked."""
        goal = self.count + more
        async with asyncio.timeout(_DEADLINE_S), self.asked:
            await self.asked.wait_for(lambda: self.count >= goal)


async def finish(holding: asyncio.Task[Held | NotHeld]) -> Held | NotHeld:
    async with asyncio.timeout(_DEADLINE_S):
        return await holding


def hold(
    replica: StoreReplica, sequence: int, effect: Effect, bucket: str = "iam"
) -> asyncio.Task[Held | NotHeld]:
    return asyncio.create_task(replica.barrier.hold(bucket, sequence, effect))


# --- all there ---


@pytest.mark.parametrize("effect", list(Effect))
@pytest.mark.parametrize("bucket", ["iam", "routing"])
async def test_with_all_alive_a_change_holds_though_no_clock_moves(
    begin: BeginReplica, effect: Effect, bucket: str
) -> None:
    one, two, three = await begin(), await begin(), await begin()
    await knows(one, two, three)
    sequence = await change(one, bucket=bucket)
    assert await finish(hold(one, sequence, effect, bucket)) == Held()
    if effect is not Effect.UNSEEN:
        for replica in (one, two, three):
            assert replica.progress[bucket].revision >= sequence
            assert "k.1" in replica.state(bucket)


async def test_a_lone_replica_waits_for_nobody(begin: BeginReplica) -> None:
    one = await begin()
    assert await finish(hold(one, await change(one), Effect.TAKE_AWAY)) == Held()


# --- the slow ---


@pytest.mark.parametrize("effect", [Effect.TAKE_AWAY, Effect.ADDITION])
async def test_a_change_waits_for_a_slow_member_and_holds_once_that_has_it(
    begin: BeginReplica, store: Connection, effect: Effect
) -> None:
    one, slow = await begin(), await begin()
    await knows(one, slow)
    async with Questions(store, slow) as questions:
        slow.proxy.hold_feed()
        sequence = await change(one)
        holding = hold(one, sequence, effect)
        await questions.wait(2)
        assert not holding.done()
        slow.proxy.heal()
        assert await finish(holding) == Held()
    assert slow.progress["iam"].revision >= sequence


async def test_a_member_that_left_in_order_is_not_waited_for(
    begin: BeginReplica, store: Connection
) -> None:
    one, leaving = await begin(), await begin()
    await knows(one, leaving)
    async with Questions(store, leaving) as questions:
        leaving.proxy.hold_feed()
        sequence = await change(one)
        holding = hold(one, sequence, Effect.TAKE_AWAY)
        await questions.wait(1)
        await leaving.leave()
        assert not leaving.lease.holds()
        assert await finish(holding) == Held()


# --- the dead ---


async def test_a_take_away_waits_for_the_dead_until_its_lease_is_surely_over_and_reaps_it(
    begin: BeginReplica, store: Connection
) -> None:
    one, dead = await begin(), await begin()
    await knows(one, dead)
    await dead.die()
    # One that holds no lease buries nobody: it is the barrier that is looked at here.
    await one.stop("lease")
    async with Questions(store, dead) as questions:
        holding = hold(one, await change(one), Effect.TAKE_AWAY)
        await questions.wait(1)
        clock_of(one).advance(TTL_S * 1.04)
        await questions.wait(2)
        assert not holding.done()
        assert dead.lease.holds(), "its own clock may be slower"
        clock_of(one).advance(TTL_S * 0.02)
        assert await finish(holding) == Held()
    assert (await one.iam.read_leader(dead.lease.key)).value is None


async def test_of_the_dead_the_longest_lease_is_waited_for(
    begin: BeginReplica, store: Connection
) -> None:
    one, brief, long = await begin(), await begin(), await begin(ttl_s=TTL_S * 10)
    await knows(one, brief, long)
    await brief.die()
    await long.die()
    await one.stop("lease")
    async with Questions(store, long) as questions:
        holding = hold(one, await change(one), Effect.TAKE_AWAY)
        await questions.wait(1)
        clock_of(one).advance(TTL_S * 10)
        await questions.wait(2)
        assert not holding.done()
        clock_of(one).advance(TTL_S)
        assert await finish(holding) == Held()


async def test_an_addition_waits_a_second_and_says_how_many_did_not_confirm(
    begin: BeginReplica, store: Connection
) -> None:
    one, two, dead = await begin(), await begin(), await begin()
    await knows(one, two, dead)
    await dead.die()
    await one.stop("lease")
    async with Questions(store, dead) as questions:
        holding = hold(one, await change(one), Effect.ADDITION)
        await questions.wait(1)
        assert not holding.done()
        clock_of(one).advance(1.0)
        assert await finish(holding) == Held(unconfirmed=1)
    assert (await one.iam.read_leader(dead.lease.key)).value is not None


async def test_who_was_renewed_and_did_not_confirm_stays_in_the_set(
    begin: BeginReplica, store: Connection
) -> None:
    """Its feed works: it has the change, and may serve."""
    one, mute = await begin(), await begin()
    await knows(one, mute)
    lease_id = mute.lease.id
    await mute.stop("confirmations")
    await one.stop("lease")
    async with Questions(store, mute) as questions:
        sequence = await change(one)
        holding = hold(one, sequence, Effect.TAKE_AWAY)
        await questions.wait(1)
        assert await mute.progress["iam"].wait_for(sequence, _DEADLINE_S)
        before = (await one.iam.read_leader(mute.lease.key)).revision

        async with asyncio.timeout(_DEADLINE_S):
            while (await one.iam.read_leader(mute.lease.key)).revision <= before:
                await asyncio.sleep(0.01)
        clock_of(one).advance(TTL_S * _SURELY_OVER)
        assert await finish(holding) == Held()
    assert (await one.iam.read_leader(mute.lease.key)).value is not None
    assert mute.lease.id == lease_id
    assert mute.lease.holds()


async def test_who_is_mute_and_stuck_does_not_serve_when_the_take_away_is_answered(
    begin: BeginReplica, store: Connection
) -> None:
    """It renews all the while, and so is never reaped: its own clock ends its lease."""
    one, stuck = await begin(), await begin()
    await knows(one, stuck)
    await stuck.stop("confirmations")
    async with Questions(store, stuck) as questions:
        stuck.proxy.hold_feed()
        sequence = await change(one)
        holding = hold(one, sequence, Effect.TAKE_AWAY)
        await questions.wait(2)
        for replica in (stuck, one):
            clock_of(replica).advance(TTL_S * _SURELY_OVER)
        assert not stuck.lease.holds()
        assert await finish(holding) == Held()
    assert not stuck.lease.holds()
    assert stuck.progress["iam"].revision < sequence


# --- what cannot be brought about ---


async def test_without_nats_a_take_away_that_waits_is_pending(
    begin: BeginReplica, nats_server: NatsServer, store: Connection
) -> None:
    one, dead = await begin(), await begin()
    await knows(one, dead)
    await dead.die()
    await one.stop("lease")
    async with Questions(store, dead) as questions:
        holding = hold(one, await change(one), Effect.TAKE_AWAY)
        await questions.wait(1)
        nats_server.kill()
        await nats_server.wait()
        clock_of(one).advance(TTL_S * _SURELY_OVER)
        assert await finish(holding) == NotHeld()
        await nats_server.restart()


async def test_who_cannot_apply_the_change_itself_cannot_make_it_hold(
    begin: BeginReplica, store: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(barrier_module, "_OWN_VIEW_S", 0.2)
    one = await begin()
    one.proxy.hold_feed()
    # Else it could have been applied before.
    sequence = revision(await Committer(store, "iam", 5).commit([Put("k.2", {}, 0)], []))
    for effect in (Effect.TAKE_AWAY, Effect.ADDITION):
        assert await finish(hold(one, sequence, effect)) == NotHeld()


# --- routing ---


async def test_a_routing_change_waits_for_the_feed_of_routing(
    begin: BeginReplica, store: Connection
) -> None:
    one, slow = await begin(), await begin()
    await knows(one, slow)
    async with Questions(store, slow) as questions:
        await slow.stop("routing")
        sequence = await change(one, bucket="routing")
        holding = hold(one, sequence, Effect.TAKE_AWAY, "routing")
        await questions.wait(2)
        assert not holding.done()
        await slow.start("routing")
        assert await finish(holding) == Held()
    assert "k.1" in slow.state("routing")


async def test_a_routing_change_waits_for_a_replica_that_is_not_in_view_yet(
    begin: BeginReplica, store: Connection
) -> None:
    """The writer's feed of `iam` is behind: it does not know of a lease that is older."""
    one = await begin()
    await one.stop("iam")
    young = await begin()
    assert young.lease.holds()
    assert one.replicas.get(young.lease.id) is None
    async with Questions(store, young) as questions:
        await young.stop("routing")
        sequence = await change(one, bucket="routing")
        holding = hold(one, sequence, Effect.TAKE_AWAY, "routing")
        await one.start("iam")
        await questions.wait(2)
        assert not holding.done()
        await young.start("routing")
        assert await finish(holding) == Held()


async def test_a_routing_change_of_who_does_not_know_the_lease_set_is_pending(
    begin: BeginReplica, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(barrier_module, "_OWN_VIEW_S", 0.2)
    one = await begin()
    await one.stop("iam")
    await begin()
    sequence = await change(one, bucket="routing")
    assert await finish(hold(one, sequence, Effect.TAKE_AWAY, "routing")) == NotHeld()


# --- the new ---


async def test_a_replica_that_starts_during_a_take_away_serves_with_it_applied(
    begin: BeginReplica, store: Connection
) -> None:
    one, dead = await begin(), await begin()
    await knows(one, dead)
    await dead.die()
    async with Questions(store, dead) as questions:
        sequence = await change(one)
        holding = hold(one, sequence, Effect.TAKE_AWAY)
        await questions.wait(1)
        new = await begin()
        assert new.lease.holds()
        assert new.progress["iam"].revision >= sequence
        assert "k.1" in new.state()
        assert not holding.done()
        clock_of(one).advance(TTL_S * _SURELY_OVER)
        assert await finish(holding) == Held()


async def test_one_whose_lease_is_lost_and_taken_anew_confirms_for_both(
    begin: BeginReplica, store: Connection
) -> None:
    """The entry of its first life is still in the set; nobody waits for that one's end."""
    one, two = await begin(), await begin()
    await knows(one, two)
    old_id = two.lease.id
    entry = await one.iam.read_leader(two.lease.key)
    await two.stop("lease")
    # As when the deletion of the old entry had failed.
    two.lease.id = "anew"
    two.lease._revision = 0
    await two.start("lease")
    await knows(one, two)
    assert one.replicas.get(old_id) is not None, entry
    assert await finish(hold(one, await change(one), Effect.TAKE_AWAY)) == Held()


# --- confirmations ---


async def test_what_is_no_question_is_not_answered_and_harms_nothing(
    begin: BeginReplica, store: Connection
) -> None:
    one, two = await begin(), await begin()
    await knows(one, two)
    noise: list[object] = [
        [],
        {},
        "x",
        {"bucket": "iam"},
        {"bucket": [], "sequence": 1},
        {"bucket": "iam", "sequence": "x"},
        {"bucket": "other", "sequence": 1},
    ]
    for each in [b"", b"\xff", *map(orjson.dumps, noise)]:
        with pytest.raises(StoreError):
            await store.request(two.lease.confirms_on, each, timeout_s=0.05)
    assert await finish(hold(one, await change(one), Effect.TAKE_AWAY)) == Held()


async def test_a_question_that_nobody_waits_to_hear_of_harms_nothing(
    begin: BeginReplica, store: Connection
) -> None:
    one, two = await begin(), await begin()
    await knows(one, two)
    await store.publish(
        two.lease.confirms_on, orjson.dumps({"bucket": "iam", "sequence": 1}), reply=""
    )
    assert await finish(hold(one, await change(one), Effect.TAKE_AWAY)) == Held()
    assert not two._tasks["confirmations"].done()


async def test_a_lease_that_nobody_can_be_asked_by_is_one_that_does_not_confirm(
    begin: BeginReplica, store: Connection
) -> None:
    one = await begin()
    await one.stop("lease")
    value = {"v": 1, "ttl_s": TTL_S, "confirms_on": "no subject", "renewed_at": 0}
    committer = Committer(store, "iam", 5)
    revision(await committer.commit([Put("replica.odd", value, 0)], []))
    sequence = await change(one)
    assert await one.progress["iam"].wait_for(sequence, _DEADLINE_S)
    holding = hold(one, sequence, Effect.ADDITION)
    for _ in range(20):
        await asyncio.sleep(0)
    clock_of(one).advance(1.0)
    assert await finish(holding) == Held(unconfirmed=1)


# --- under faults ---


class Trial:
    """Take-aways without end by one replica, while others meet faults.

    After each answer no replica may hold a lease without having applied the change. All of it
    runs in one loop, so what is looked at then is what a decision at that moment would see.
    """

    def __init__(self, begin: BeginReplica, rng: random.Random) -> None:
        self._begin = begin
        self._rng = rng
        self.replicas: list[StoreReplica] = []
        self.held = 0
        self.fenced = 0

    async def write(self, bucket: str, times: int) -> None:
        writer = self.replicas[0]
        for n in range(times):
            result = await writer.buckets[bucket].commit([Put(f"k.{n}", {}, 0)], [])
            if not isinstance(result, Committed):
                continue
            held = await writer.barrier.hold(bucket, result.revision, Effect.TAKE_AWAY)
            if isinstance(held, NotHeld):
                continue
            self.held += 1
            for replica in self.replicas:
                if replica.lease.holds():
                    assert replica.progress[bucket].revision >= result.revision
                    assert f"k.{n}" in replica.state(bucket)
                else:
                    self.fenced += 1

    async def disturb(self) -> None:
        """One fault after the other, none of which meets the writer."""
        while True:
            victim = self._rng.choice(self.replicas[1:])
            match self._rng.choice(["feed", "cut", "reset", "mute", "hang", "die", "leave"]):
                case "feed":
                    victim.proxy.hold_feed()
                case "cut":
                    victim.proxy.cut()
                case "reset":
                    victim.proxy.reset()
                case "mute":
                    await victim.stop("confirmations")
                case "hang":
                    await victim.stop(self._rng.choice(["iam", "routing", "lease"]))
                case "die":
                    await victim.die()
                case "leave":
                    with suppress(Disconnected):
                        await victim.leave()
            await asyncio.sleep(self._rng.uniform(0, 2 * TTL_S))
            victim.proxy.heal()
            await victim.die()
            self.replicas.remove(victim)
            self.replicas.append(await self._begin(clock=SystemClock))


async def _try(begin: BeginReplica, times: int, seed: int) -> None:
    trial = Trial(begin, random.Random(seed))
    trial.replicas = [await begin(clock=SystemClock) for _ in range(3)]
    async with asyncio.TaskGroup() as group:
        disturbing = group.create_task(trial.disturb())
        async with asyncio.TaskGroup() as writers:
            for bucket in ("iam", "routing"):
                writers.create_task(trial.write(bucket, times))
        disturbing.cancel()
    assert trial.held > times
    assert trial.fenced, "no fault had an effect"


@pytest.mark.parametrize("seed", [1, 2])
async def test_after_a_take_away_nobody_who_serves_is_without_it(
    begin: BeginReplica, seed: int
) -> None:
    await _try(begin, times=20, seed=seed)


@pytest.mark.faults
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", range(10, 20))
async def test_after_a_take_away_nobody_who_serves_is_without_it_for_long(
    begin: BeginReplica, seed: int
) -> None:
    await _try(begin, times=300, seed=seed)
