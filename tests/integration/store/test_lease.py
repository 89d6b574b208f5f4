"""Leases over a real server: who may decide, and who stands in the lease set for that."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from functools import partial
from typing import Any

import orjson
import pytest
from harness.lossy import Fate
from harness.store_replica import TTL_S, BeginReplica, StandingClock, StoreReplica, store_replicas

from tidegate.devstack.nats_server import NatsServer
from tidegate.store import reading
from tidegate.store.changes import CommitResult, Committed, Conflict, Delete, Put
from tidegate.store.commit import Committer
from tidegate.store.connection import Connection
from tidegate.store.schema import load_migrations, migrate, migrations_folder
from tidegate.store.settings import Settings

Eventually = Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]

_ALL = 1000


@pytest.fixture
async def begin(nats_server: NatsServer, store: Connection) -> AsyncIterator[BeginReplica]:
    async with store_replicas(nats_server.url) as begin:
        yield begin


class LeaseSet:
    """The lease set as the stream has it, and conditions on it that can be waited for."""

    def __init__(self, store: Connection, eventually: Eventually) -> None:
        self._store = store
        self._eventually = eventually

    async def entries(self) -> dict[str, int]:
        """The revision of each lease that is in the set."""
        found = await reading.snapshot(self._store, "iam", ["$KV.iam.replica.>"])
        return {
            each.subject.rpartition(".")[2]: each.sequence
            for each in found.messages
            if each.payload
        }

    async def wait(self, condition: Callable[[dict[str, int]], bool]) -> None:
        async def met() -> bool:
            return condition(await self.entries())

        await self._eventually(met)

    async def wait_renewed(self, lease_id: str, times: int = 1) -> None:
        """Wait until it was renewed so often again."""
        for _ in range(times):
            revision = (await self.entries()).get(lease_id, 0)
            await self.wait(partial(_is_newer, lease_id, revision))

    async def delete(self, replica: StoreReplica) -> None:
        """Take a lease away, as an operator might."""
        committer = Committer(self._store, "iam", 5)
        while True:
            entry = await reading.read_leader(self._store, "iam", replica.lease.key)
            result = await committer.commit([Delete(entry.key, entry.revision)], [])
            if not isinstance(result, Conflict):  # renewed in between
                assert isinstance(result, Committed), result
                return


def _is_newer(lease_id: str, revision: int, entries: dict[str, int]) -> bool:
    return entries.get(lease_id, 0) > revision


@pytest.fixture
def leases(store: Connection, eventually: Eventually) -> LeaseSet:
    return LeaseSet(store, eventually)


def revision(result: CommitResult) -> int:
    assert isinstance(result, Committed), result
    return result.revision


def clock_of(replica: StoreReplica) -> StandingClock:
    assert isinstance(replica.clock, StandingClock)
    return replica.clock


async def wait_holds(replica: StoreReplica, eventually: Eventually) -> None:
    async def holds() -> bool:
        return replica.lease.holds()

    await eventually(holds)


async def wait_begun_anew(replica: StoreReplica, old_id: str, eventually: Eventually) -> None:
    async def other() -> bool:
        return replica.lease.id != old_id

    await eventually(other)


async def advance_alive(replica: StoreReplica, seconds: float, eventually: Eventually) -> None:
    """Let time pass for a replica without its losing the lease: it renews meanwhile."""
    clock = clock_of(replica)
    left_s = seconds
    while left_s > 1e-9:
        step_s = min(left_s, TTL_S / 4)
        clock.advance(step_s)
        left_s -= step_s

        async def counted() -> bool:
            return replica.lease._until_s >= clock.boottime_s() + TTL_S

        await eventually(counted)


# --- when it holds ---


async def test_a_lease_is_in_the_set_when_it_holds(begin: BeginReplica, leases: LeaseSet) -> None:
    replica = await begin()
    assert replica.lease.holds()
    assert set(await leases.entries()) == {replica.lease.id}


async def test_a_lease_is_renewed_and_says_what_others_need_to_know(
    begin: BeginReplica, leases: LeaseSet, store: Connection
) -> None:
    replica = await begin()
    await leases.wait_renewed(replica.lease.id, times=2)
    entry = await reading.read_leader(store, "iam", replica.lease.key)
    assert entry.value == {
        "v": 1,
        "ttl_s": TTL_S,
        "confirms_on": replica.lease.confirms_on,
        "renewed_at": replica.clock.now_s(),
    }
    message = (await store.api("STREAM.MSG.GET.KV_iam", {"seq": entry.revision}))["message"]
    assert b"TTL" not in orjson.dumps(message.get("hdrs", "")), "leases do not end by a TTL"


async def test_a_lease_does_not_hold_before_the_feed_has_brought_its_first_entry(
    begin: BeginReplica, leases: LeaseSet, eventually: Eventually
) -> None:
    replica = await begin(lease=False)
    replica.proxy.hold_feed()
    replica.begin("lease")
    await leases.wait_renewed(replica.lease.id, times=3)
    assert not replica.lease.holds()
    replica.proxy.heal()
    await wait_holds(replica, eventually)


async def test_a_renewal_does_not_count_before_the_feed_has_brought_it(
    begin: BeginReplica, leases: LeaseSet
) -> None:
    replica = await begin()
    replica.proxy.hold_feed()
    await leases.wait_renewed(replica.lease.id, times=2)
    until_s = replica.lease._until_s
    clock_of(replica).advance(TTL_S * 0.9)
    await leases.wait_renewed(replica.lease.id, times=3)
    assert replica.lease.holds()
    assert replica.lease._until_s == until_s
    clock_of(replica).advance(TTL_S * 0.2)
    assert not replica.lease.holds()


async def test_a_renewal_does_not_count_before_the_other_bucket_is_current(
    begin: BeginReplica, leases: LeaseSet, store: Connection, eventually: Eventually
) -> None:
    replica = await begin()
    await replica.stop("routing")
    revision(await Committer(store, "routing", 5).commit([Put("k.1", {}, 0)], []))
    # One renewal may have asked before that.
    await leases.wait_renewed(replica.lease.id, times=2)
    until_s = replica.lease._until_s
    clock_of(replica).advance(TTL_S * 0.9)
    await leases.wait_renewed(replica.lease.id, times=3)
    assert replica.lease._until_s == until_s
    clock_of(replica).advance(TTL_S * 0.2)
    assert not replica.lease.holds()

    await replica.start("routing")
    await wait_holds(replica, eventually)
    assert "k.1" in replica.state("routing")


async def test_a_lease_ends_by_the_clock_alone(begin: BeginReplica) -> None:
    """As after a suspend: nothing has run since, and the first decision must not be made."""
    replica = await begin()
    await replica.stop("lease")
    clock_of(replica).advance(TTL_S - 0.001)
    assert replica.lease.holds()
    clock_of(replica).advance(0.001)
    assert not replica.lease.holds()


async def test_availability_over_strictness_serves_longer_and_no_longer_than_that(
    begin: BeginReplica,
) -> None:
    replica = await begin(serve_beyond_s=60)
    await replica.stop("lease")
    clock_of(replica).advance(TTL_S + 59.9)
    assert replica.lease.holds()
    clock_of(replica).advance(0.2)
    assert not replica.lease.holds()


# --- a feed that is stuck ---


async def test_a_replica_whose_feed_is_stuck_fences_itself_and_comes_back_by_itself(
    begin: BeginReplica, leases: LeaseSet, store: Connection, eventually: Eventually
) -> None:
    """Its publishes pass all the while."""
    replica = await begin()
    old_id = replica.lease.id
    replica.proxy.hold_feed()
    await leases.wait_renewed(old_id, times=2)
    assert replica.lease.holds()
    clock_of(replica).advance(TTL_S)
    assert not replica.lease.holds()

    await leases.wait(lambda entries: not entries)
    revision(await Committer(store, "iam", 5).commit([Put("k.1", {}, 0)], []))
    await _asked_whether_current(replica, times=4)
    assert not await leases.entries(), "one that cannot come to hold makes others wait"
    assert not replica.lease.holds()

    replica.proxy.heal()
    await wait_holds(replica, eventually)
    assert replica.lease.id != old_id
    assert set(await leases.entries()) == {replica.lease.id}
    assert "k.1" in replica.state()


async def _asked_whether_current(replica: StoreReplica, times: int) -> None:
    """Wait until the lease has looked so often whether its feed is current."""
    enough = asyncio.Event()
    look = replica.lease._is_current
    looked = 0

    async def counted(bucket: str) -> bool:
        nonlocal looked
        found = await look(bucket)
        looked += 1
        if looked >= times:
            enough.set()
        return found

    replica.lease._is_current = counted  # type: ignore[method-assign]
    async with asyncio.timeout(20):
        await enough.wait()
    replica.lease._is_current = look  # type: ignore[method-assign]


async def test_a_replica_that_is_cut_off_fences_itself_and_comes_back_by_itself(
    begin: BeginReplica, eventually: Eventually
) -> None:
    replica = await begin()
    replica.proxy.cut()
    clock_of(replica).advance(TTL_S)
    assert not replica.lease.holds()
    replica.proxy.heal()
    await wait_holds(replica, eventually)


async def test_a_lease_of_a_stream_made_anew_does_not_hold_over_what_was_in_the_old_one(
    begin: BeginReplica,
    store: Connection,
    store_settings: Settings,
    iam: Committer,
    eventually: Eventually,
) -> None:
    """As when a backup is brought back. Sequences begin again, below what the views have."""
    replica = await begin()
    old_id = replica.lease.id
    for n in range(50):
        last = revision(await iam.commit([Put(f"k.{n}", {}, 0)], []))
    assert await replica.progress["iam"].wait_for(last, 20)

    await store.api("STREAM.DELETE.KV_iam")
    await migrate(store, store_settings, load_migrations(migrations_folder())[:1])
    await wait_begun_anew(replica, old_id, eventually)
    async with asyncio.timeout(20):
        while replica.state():
            assert not replica.lease.holds()
            await asyncio.sleep(0.01)
    await wait_holds(replica, eventually)


async def test_leases_outlive_a_restart_of_the_server_that_is_shorter(
    begin: BeginReplica, nats_server: NatsServer, leases: LeaseSet, store: Connection
) -> None:
    replica = await begin()
    nats_server.kill()
    await nats_server.restart()
    assert replica.lease.holds()
    async with asyncio.timeout(20):
        while not store.connected:
            await asyncio.sleep(0.02)
    await leases.wait_renewed(replica.lease.id, times=2)
    assert replica.lease.holds()


# --- doubt ---


async def test_who_finds_its_entry_deleted_stops_at_once_and_begins_under_another_id(
    begin: BeginReplica, leases: LeaseSet, eventually: Eventually
) -> None:
    replica = await begin()
    old_id, confirms_on = replica.lease.id, replica.lease.confirms_on
    # So that no new life can hold before it was looked at.
    replica.proxy.hold_feed()
    await leases.delete(replica)
    await wait_begun_anew(replica, old_id, eventually)
    assert not replica.lease.holds(), "the clock has not moved: it is the conflict that fences"

    replica.proxy.heal()
    await wait_holds(replica, eventually)
    assert set(await leases.entries()) == {replica.lease.id}
    assert replica.lease.confirms_on == confirms_on


@pytest.mark.parametrize("fate", [Fate.ANSWER_LOST, Fate.LOST])
async def test_a_renewal_of_unknown_outcome_is_looked_up_and_the_lease_goes_on(
    begin: BeginReplica, leases: LeaseSet, eventually: Eventually, fate: Fate
) -> None:
    replica = await begin()
    old_id = replica.lease.id
    adopted = await _lose_a_renewal(replica, fate)
    assert adopted == (await leases.entries())[old_id]
    replica.connection.fates.clear()
    await leases.wait_renewed(old_id, times=2)
    assert replica.lease.id == old_id
    assert replica.lease.holds()


async def _lose_a_renewal(replica: StoreReplica, fate: Fate) -> int:
    """Lose every sending until the lease has found out its revision by itself; which it was."""
    done = asyncio.Event()
    adopt = replica.lease._adopt

    async def looked_up() -> bool | None:
        found = await adopt()
        # Before the next renewal is sent.
        replica.connection.fates.clear()
        done.set()
        return found

    replica.lease._adopt = looked_up  # type: ignore[method-assign]
    replica.connection.fates.extend([fate] * _ALL)
    async with asyncio.timeout(20):
        await done.wait()
    replica.lease._adopt = adopt  # type: ignore[method-assign]
    return replica.lease._revision


async def test_a_renewal_of_unknown_outcome_does_not_count(begin: BeginReplica) -> None:
    """It may have been written long after it was sent, and by a sending that was given up."""
    replica = await begin()
    await _lose_renewals(replica, times=1)
    until_s = replica.lease._until_s
    clock_of(replica).advance(TTL_S / 2)
    await _lose_renewals(replica, times=2)
    assert replica.lease.holds()
    assert replica.lease._until_s == until_s
    clock_of(replica).advance(TTL_S / 2)
    assert not replica.lease.holds()
    replica.connection.fates.clear()


async def _lose_renewals(replica: StoreReplica, times: int) -> None:
    """Lose all answers from now on; wait until so many renewals have been looked up."""
    enough = asyncio.Semaphore(0)
    adopt = replica.lease._adopt

    async def looked_up() -> bool | None:
        enough.release()
        return await adopt()

    replica.connection.fates.extend([Fate.ANSWER_LOST] * 100 * _ALL)
    replica.lease._adopt = looked_up  # type: ignore[method-assign]
    async with asyncio.timeout(20):
        # One more: only the next shows that the one before it has ended.
        for _ in range(times + 1):
            await enough.acquire()
    replica.lease._adopt = adopt  # type: ignore[method-assign]


async def test_a_first_renewal_of_unknown_outcome_is_looked_up_too(
    begin: BeginReplica, leases: LeaseSet, eventually: Eventually
) -> None:
    replica = await begin(lease=False)
    first_id = replica.lease.id
    replica.connection.fates.extend([Fate.ANSWER_LOST] * _ALL)
    replica.begin("lease")
    await leases.wait(lambda entries: first_id in entries)
    replica.connection.fates.clear()
    await wait_holds(replica, eventually)
    assert set(await leases.entries()) == {replica.lease.id} == {first_id}


async def test_a_renewal_that_arrives_after_it_was_given_up_is_known_as_its_own(
    begin: BeginReplica, leases: LeaseSet, eventually: Eventually
) -> None:
    replica = await begin()
    old_id = replica.lease.id
    await _lose_a_renewal(replica, Fate.LATE)
    await replica.connection.deliver_next_late()
    await advance_alive(replica, TTL_S * 1.1, eventually)
    await wait_holds(replica, eventually)
    assert replica.lease.id == old_id
    await leases.wait(lambda entries: set(entries) == {replica.lease.id})


# --- ending ---


async def test_a_lease_that_is_given_back_is_out_of_the_set(
    begin: BeginReplica, leases: LeaseSet
) -> None:
    replica = await begin()
    await replica.leave()
    assert not replica.lease.holds()
    assert not await leases.entries()


@pytest.mark.parametrize("first", [False, True])
async def test_a_lease_given_back_amid_a_renewal_is_out_of_the_set(
    begin: BeginReplica, leases: LeaseSet, first: bool
) -> None:
    """Else every take-away would wait for a replica that is gone."""
    replica = await begin(lease=not first)
    written = asyncio.Event()

    async def never_told() -> None:
        written.set()
        await asyncio.Event().wait()

    replica.connection.after_sending = never_told
    if first:
        replica.begin("lease")
    async with asyncio.timeout(20):
        await written.wait()
    replica.connection.after_sending = None
    await replica.leave()
    assert not await leases.entries()


# --- burying ---


async def test_who_died_is_buried_once_its_lease_is_surely_over(
    begin: BeginReplica, leases: LeaseSet, eventually: Eventually
) -> None:
    living, dead = await begin(), await begin()
    await leases.wait_renewed(dead.lease.id)
    await dead.die()
    in_set = (await leases.entries())[dead.lease.id]
    assert await living.progress["iam"].wait_for(in_set, 20)

    # Its own clock may be 5 % slower than this one.
    await advance_alive(living, TTL_S * 1.04, eventually)
    await leases.wait_renewed(living.lease.id, times=2)
    assert dead.lease.id in await leases.entries()

    await advance_alive(living, TTL_S * 0.02, eventually)
    await leases.wait(lambda entries: set(entries) == {living.lease.id})


async def test_who_goes_on_renewing_is_never_buried(
    begin: BeginReplica, leases: LeaseSet, eventually: Eventually
) -> None:
    living, other = await begin(), await begin()
    lease_id = other.lease.id
    for _ in range(6):
        await leases.wait_renewed(lease_id)
        seen = (await leases.entries())[lease_id]
        assert await living.progress["iam"].wait_for(seen, 20)
        await advance_alive(living, TTL_S * 0.5, eventually)
    assert other.lease.id == lease_id
    assert other.lease.holds()


async def test_who_renewed_unseen_is_not_buried(
    begin: BeginReplica, leases: LeaseSet, eventually: Eventually
) -> None:
    """The gravedigger's own feed is stuck: what it knows of the other is too old to act on."""
    living, other = await begin(), await begin()
    lease_id = other.lease.id
    await other.stop("lease")
    await advance_alive(living, TTL_S * 0.5, eventually)
    living.proxy.hold_feed()
    other.begin("lease")
    await leases.wait_renewed(lease_id, times=2)
    # Half of it has passed before: over for the one that was last seen, not for its own.
    clock_of(living).advance(TTL_S * 0.6)
    assert living.lease.holds()
    assert [each.surely_over(living.clock.boottime_s()) for each in living.replicas.all()] == [
        each.lease_id == lease_id for each in living.replicas.all()
    ]
    await leases.wait_renewed(living.lease.id, times=3)
    await leases.wait_renewed(lease_id, times=2)
    assert other.lease.id == lease_id
    assert other.lease.holds()


async def test_who_does_not_hold_a_lease_buries_nobody(
    begin: BeginReplica, leases: LeaseSet
) -> None:
    """It renews and its feed is stuck: by what it knows, the other is over."""
    stuck, other = await begin(lease=False), await begin()
    await other.stop("lease")
    assert await stuck.progress["iam"].wait_for((await leases.entries())[other.lease.id], 20)
    clock_of(stuck).advance(TTL_S / 2)
    stuck.proxy.hold_feed()
    stuck.begin("lease")
    await leases.wait_renewed(stuck.lease.id)
    clock_of(stuck).advance(TTL_S * 0.6)
    [known] = stuck.replicas.all()
    assert known.surely_over(stuck.clock.boottime_s())
    await leases.wait_renewed(stuck.lease.id, times=3)
    assert not stuck.lease.holds()
    assert other.lease.id in await leases.entries()


async def test_an_entry_that_no_replica_wrote_is_no_lease_and_harms_nothing(
    begin: BeginReplica, leases: LeaseSet, store: Connection, eventually: Eventually
) -> None:
    replica = await begin()
    committer = Committer(store, "iam", 5)
    odd: list[Mapping[str, Any]] = [{}, {"ttl_s": "x", "confirms_on": 1}, {"ttl_s": None}]
    for n, value in enumerate(odd):
        made = revision(await committer.commit([Put(f"replica.odd{n}", value, 0)], []))
    await store.request("$KV.iam.replica.noise", b"\xff")
    assert await replica.progress["iam"].wait_for(made + 1, 20)
    assert [each.lease_id for each in replica.replicas.all()] == [replica.lease.id]
    await leases.wait_renewed(replica.lease.id, times=2)
    await advance_alive(replica, TTL_S * 2, eventually)
    assert replica.lease.holds()
