"""What comes of a commit whose answer is lost: each schedule that `store.commit` names."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

import pytest
from harness.lossy import Fate, LossyConnection
from nats.aio.msg import Msg

from tidegate.devstack.nats_server import NatsServer
from tidegate.store import reading
from tidegate.store.changes import (
    Change,
    CommitResult,
    Committed,
    Conflict,
    Delete,
    Event,
    Guard,
    Put,
    Unavailable,
    Unknown,
)
from tidegate.store.commit import Committer
from tidegate.store.connection import AnswerLost, Connection, Disconnected

Connect = Callable[[], Awaitable[Connection]]
MakeEvent = Callable[..., Event]
Eventually = Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]

_PATIENT_S = 20
# Every sending of one commit is lost: enough of them for any deadline here.
_ALL = 1000


@pytest.fixture
def lossy(store: Connection) -> LossyConnection:
    return LossyConnection(store)


@pytest.fixture
def committer(lossy: LossyConnection) -> Committer:
    """Commits over the connection that loses."""
    return Committer(lossy, "iam", _PATIENT_S)


def revision(result: CommitResult) -> int:
    assert isinstance(result, Committed), result
    return result.revision


async def value(connection: Connection, key: str) -> object:
    return (await reading.read_leader(connection, "iam", key)).value


async def last_sequence(connection: Connection) -> int:
    info = await connection.api("STREAM.INFO.KV_iam")
    return int(info["state"]["last_seq"])


class Case:
    """One shape of commit: of what is at `k.old`, changes of so many messages."""

    def __init__(self, *kinds: str) -> None:
        self.kinds = kinds

    def __repr__(self) -> str:
        return "+".join(self.kinds)

    @property
    def has_event(self) -> bool:
        return "event" in self.kinds

    @property
    def size(self) -> int:
        return sum(kind != "guard" for kind in self.kinds)

    def changes(self, old: int) -> list[Change]:
        every: dict[str, Change] = {
            "create": Put("k.new", {"by": "us"}, 0),
            "update": Put("k.old", {"by": "us"}, old),
            "delete": Delete("k.old", old),
            "guard": Guard("k.guarded", 0),
        }
        return [every[kind] for kind in self.kinds if kind in every]


SHAPES = [
    Case("create"),
    Case("update"),
    Case("delete"),
    Case("create", "update"),
    Case("create", "delete"),
    Case("update", "event"),
    Case("delete", "event"),
    Case("create", "delete", "event"),
    Case("create", "guard", "event"),
]


async def prepared(iam: Committer) -> int:
    """The revision of `k.old`, which is somewhere amid the stream."""
    made = revision(await iam.commit([Put("k.old", {"by": "them"}, 0)], []))
    revision(await iam.commit([Put("k.other", {}, 0)], []))
    return made


def events_of(case: Case, event: MakeEvent) -> Sequence[Event]:
    return [event()] if case.has_event else []


# --- it was never applied ---


@pytest.mark.parametrize("fate", [Fate.LOST, Fate.LAST_LOST])
@pytest.mark.parametrize("case", SHAPES, ids=repr)
async def test_what_never_arrived_is_written_by_its_repeat(
    lossy: LossyConnection,
    committer: Committer,
    iam: Committer,
    event: MakeEvent,
    case: Case,
    fate: Fate,
) -> None:
    old = await prepared(iam)
    before = await last_sequence(lossy)
    lossy.fates.extend([fate, fate])
    result = await committer.commit(case.changes(old), events_of(case, event))
    assert result == Committed(before + case.size)
    assert await last_sequence(lossy) == before + case.size
    assert len(lossy.sent) == 3
    assert len(set(lossy.sent)) == 1, "the same commit each time"


# --- it was applied ---


@pytest.mark.parametrize("lost", [1, 2])
@pytest.mark.parametrize("case", SHAPES, ids=repr)
async def test_what_was_applied_is_found_by_its_marker(
    lossy: LossyConnection,
    committer: Committer,
    iam: Committer,
    event: MakeEvent,
    case: Case,
    lost: int,
) -> None:
    old = await prepared(iam)
    before = await last_sequence(lossy)
    lossy.fates.extend([Fate.ANSWER_LOST] * lost)
    result = await committer.commit(case.changes(old), events_of(case, event))
    assert result == Committed(before + case.size)
    assert await last_sequence(lossy) == before + case.size, "written once"


async def test_what_was_applied_is_found_by_its_event_when_its_entries_are_overwritten(
    lossy: LossyConnection, committer: Committer, iam: Committer, event: MakeEvent
) -> None:
    old = await prepared(iam)
    before = await last_sequence(lossy)

    async def others_go_on() -> None:
        lossy.after_sending = None
        revision(await iam.commit([Put("k.old", {"by": "them again"}, before + 1)], []))

    lossy.after_sending = others_go_on
    lossy.fates.append(Fate.ANSWER_LOST)
    result = await committer.commit([Put("k.old", {"by": "us"}, old)], [event()])
    assert result == Committed(before + 2)
    assert await value(lossy, "k.old") == {"by": "them again"}


async def test_what_was_applied_and_half_overwritten_is_found_by_what_is_left_of_it(
    lossy: LossyConnection, committer: Committer, iam: Committer
) -> None:
    old = await prepared(iam)
    before = await last_sequence(lossy)

    async def others_go_on() -> None:
        lossy.after_sending = None
        revision(await iam.commit([Delete("k.old", before + 2)], []))

    lossy.after_sending = others_go_on
    lossy.fates.append(Fate.ANSWER_LOST)
    changes = [Put("k.new", {"by": "us"}, 0), Put("k.old", {"by": "us"}, old)]
    assert await committer.commit(changes, []) == Committed(before + 2)


@pytest.mark.parametrize(
    "overwrite", [Put("k.old", {"by": "them again"}, 0), Delete("k.old", 0)], ids=["put", "delete"]
)
async def test_what_was_applied_and_overwritten_without_an_event_is_unknown(
    lossy: LossyConnection, committer: Committer, iam: Committer, overwrite: Put | Delete
) -> None:
    """Nothing is left that could tell it from what never arrived."""
    old = await prepared(iam)

    async def others_go_on() -> None:
        lossy.after_sending = None
        ours = await reading.read_leader(lossy, "iam", "k.old")
        change: Change = (
            Put("k.old", overwrite.value, ours.revision)
            if isinstance(overwrite, Put)
            else Delete("k.old", ours.revision)
        )
        revision(await iam.commit([change], []))

    lossy.after_sending = others_go_on
    lossy.fates.append(Fate.ANSWER_LOST)
    before = await last_sequence(lossy)
    assert await committer.commit([Put("k.old", {"by": "us"}, old)], []) == Unknown()
    assert await last_sequence(lossy) == before + 2


# --- somebody else was faster ---


@pytest.mark.parametrize("fate", [Fate.LOST, Fate.LAST_LOST, Fate.LATE])
async def test_who_was_overtaken_by_another_has_a_conflict_as_the_event_is_not_there(
    lossy: LossyConnection, committer: Committer, iam: Committer, event: MakeEvent, fate: Fate
) -> None:
    old = await prepared(iam)
    made: list[int] = []

    async def overtake() -> None:
        lossy.after_sending = None
        made.append(revision(await iam.commit([Put("k.old", {"by": "them again"}, old)], [])))

    lossy.after_sending = overtake
    lossy.fates.append(fate)
    changes = [Put("k.new", {"by": "us"}, 0), Put("k.old", {"by": "us"}, old)]
    assert await committer.commit(changes, [event()]) == Conflict("k.old", made[0])

    await lossy.deliver_late()
    assert await last_sequence(lossy) == made[0]
    assert await value(lossy, "k.new") is None


@pytest.mark.parametrize("case", [Case("update"), Case("create", "update")], ids=repr)
async def test_who_was_overtaken_by_another_without_an_event_does_not_know(
    lossy: LossyConnection, committer: Committer, iam: Committer, case: Case
) -> None:
    old = await prepared(iam)

    async def overtake() -> None:
        lossy.after_sending = None
        revision(await iam.commit([Put("k.old", {"by": "them again"}, old)], []))

    lossy.after_sending = overtake
    lossy.fates.append(Fate.LOST)
    assert await committer.commit(case.changes(old), []) == Unknown()
    assert await value(lossy, "k.old") == {"by": "them again"}
    assert await value(lossy, "k.new") is None


async def test_a_guard_that_fails_after_a_loss_is_a_conflict(
    lossy: LossyConnection, committer: Committer, iam: Committer, event: MakeEvent
) -> None:
    guarded: list[int] = []

    async def overtake() -> None:
        lossy.after_sending = None
        guarded.append(revision(await iam.commit([Put("k.guarded", {}, 0)], [])))

    lossy.after_sending = overtake
    lossy.fates.append(Fate.LOST)
    changes: list[Change] = [Put("k.new", {}, 0), Guard("k.guarded", 0)]
    assert await committer.commit(changes, [event()]) == Conflict("k.guarded", guarded[0])
    assert await value(lossy, "k.new") is None


async def test_a_create_over_a_tombstone_is_written_once_whatever_is_lost(
    lossy: LossyConnection, committer: Committer, iam: Committer, event: MakeEvent
) -> None:
    """It is two commits: one that meets the tombstone, and one that replaces it."""
    old = await prepared(iam)
    revision(await iam.commit([Delete("k.old", old)], []))
    before = await last_sequence(lossy)
    lossy.fates.extend([Fate.LATE, Fate.ANSWER_LOST, Fate.PASSES, Fate.LATE, Fate.ANSWER_LOST])
    result = await committer.commit([Put("k.old", {"by": "us"}, 0)], [event()])
    assert result == Committed(before + 2)
    assert len(set(lossy.sent)) == 2
    await lossy.deliver_late()
    assert await last_sequence(lossy) == before + 2


# --- sendings that arrive after all ---


@pytest.mark.parametrize("case", SHAPES, ids=repr)
async def test_a_sending_that_arrives_late_changes_nothing(
    lossy: LossyConnection, committer: Committer, iam: Committer, event: MakeEvent, case: Case
) -> None:
    old = await prepared(iam)
    lossy.fates.extend([Fate.LATE, Fate.LATE])
    end = revision(await committer.commit(case.changes(old), events_of(case, event)))
    await lossy.deliver_late()
    assert await last_sequence(lossy) == end


async def test_a_sending_that_arrives_late_does_not_undo_what_came_after(
    lossy: LossyConnection, committer: Committer, iam: Committer
) -> None:
    """Deleted, made again: what expects absence, or the first revision, finds neither."""
    old = await prepared(iam)
    lossy.fates.append(Fate.LATE)
    tombstone = revision(await committer.commit([Delete("k.old", old)], []))
    lossy.fates.append(Fate.LATE)
    made = revision(await committer.commit([Put("k.new", {"n": 1}, 0)], []))
    revision(await iam.commit([Delete("k.new", made)], []))
    last = revision(await iam.commit([Put("k.old", {"n": 2}, tombstone)], []))
    await lossy.deliver_late()
    assert await last_sequence(lossy) == last
    assert await value(lossy, "k.old") == {"n": 2}
    assert await value(lossy, "k.new") is None


# --- never answered ---


@pytest.mark.parametrize("fate", [Fate.LOST, Fate.ANSWER_LOST])
@pytest.mark.parametrize("case", [Case("update"), Case("update", "event")], ids=repr)
async def test_what_is_never_answered_is_unknown_once_its_deadline_comes(
    lossy: LossyConnection, iam: Committer, event: MakeEvent, case: Case, fate: Fate
) -> None:
    old = await prepared(iam)
    before = await last_sequence(lossy)
    lossy.fates.extend([fate] * _ALL)
    impatient = Committer(lossy, "iam", deadline_s=0.3)
    # The deadline ends it, not the test's.
    async with asyncio.timeout(_PATIENT_S):
        result = await impatient.commit(case.changes(old), events_of(case, event))
    assert result == Unknown()
    assert lossy.fates, "it was sent for ever"
    assert len(set(lossy.sent)) == 1
    applied = case.size if fate is Fate.ANSWER_LOST else 0
    assert await last_sequence(lossy) == before + applied


async def test_a_commit_of_unknown_outcome_can_be_repeated_by_its_caller(
    lossy: LossyConnection, iam: Committer, event: MakeEvent
) -> None:
    """The caller's repeat is another commit: it finds what the first one did, and conflicts."""
    old = await prepared(iam)
    lossy.fates.extend([Fate.ANSWER_LOST] * _ALL)
    impatient = Committer(lossy, "iam", deadline_s=0.1)
    assert await impatient.commit([Put("k.old", {"by": "us"}, old)], [event()]) == Unknown()
    lossy.fates.clear()
    again = await Committer(lossy, "iam", 5).commit([Put("k.old", {"by": "us"}, old)], [event()])
    assert again == Conflict("k.old", (await reading.read_leader(lossy, "iam", "k.old")).revision)


# --- looking for the marker ---


@pytest.mark.parametrize("case", [Case("update"), Case("delete", "event")], ids=repr)
async def test_a_copy_that_is_older_than_the_conflict_is_not_believed(
    lossy: LossyConnection, committer: Committer, iam: Committer, event: MakeEvent, case: Case
) -> None:
    old = await prepared(iam)
    before = await last_sequence(lossy)
    request = b'{"multi_last":["$KV.iam.k.>"]}'
    stale = await lossy.collect("$JS.API.DIRECT.GET.KV_iam", request)
    reads = 0

    async def lag(*_: object) -> list[Msg] | None:
        nonlocal reads
        reads += 1
        return stale if reads <= 3 else None

    lossy.reading = lag
    lossy.fates.append(Fate.ANSWER_LOST)
    result = await committer.commit(case.changes(old), events_of(case, event))
    assert result == Committed(before + case.size)
    assert reads == 4


@pytest.mark.parametrize("case", [Case("update"), Case("delete", "event")], ids=repr)
async def test_a_marker_that_cannot_be_looked_for_in_time_makes_the_outcome_unknown(
    lossy: LossyConnection, iam: Committer, event: MakeEvent, case: Case
) -> None:
    old = await prepared(iam)
    before = await last_sequence(lossy)
    failures = [AnswerLost("lost on purpose"), Disconnected("on purpose")] * _ALL

    async def fail(*_: object) -> list[Msg] | None:
        raise failures.pop()

    lossy.reading = fail
    lossy.fates.append(Fate.ANSWER_LOST)
    impatient = Committer(lossy, "iam", deadline_s=0.3)
    result = await impatient.commit(case.changes(old), events_of(case, event))
    assert result == Unknown()
    assert failures, "it was read for ever"
    assert await last_sequence(lossy) == before + case.size


async def test_a_commit_of_a_thousand_messages_is_found_too(
    lossy: LossyConnection, committer: Committer, event: MakeEvent
) -> None:
    before = await last_sequence(lossy)
    lossy.fates.append(Fate.ANSWER_LOST)
    changes = [Put(f"k.{n}", {"n": n}, 0) for n in range(999)]
    assert await committer.commit(changes, [event()]) == Committed(before + 1000)
    assert await last_sequence(lossy) == before + 1000


# --- disconnects ---


@pytest.mark.parametrize("size", [1, 3])
async def test_a_disconnect_ends_the_wait_for_an_answer_and_a_reconnect_finds_out(
    nats_server: NatsServer, connect_again: Connect, iam: Committer, size: int
) -> None:
    """What was asked over a connection that is gone will never be answered."""
    connection = await connect_again()
    connection.request_timeout_s = 3600
    committer = Committer(connection, "iam", deadline_s=3600)
    old = await prepared(iam)
    os.kill(nats_server.pid, signal.SIGSTOP)
    changes = [Put("k.old", {"by": "us"}, old), *(Put(f"k.{n}", {}, 0) for n in range(1, size))]
    commit = asyncio.create_task(committer.commit(changes, []))
    while not connection._waiting:
        await asyncio.sleep(0)
    nats_server.kill()
    async with asyncio.timeout(_PATIENT_S):
        await nats_server.restart()
        result = await commit
    assert revision(result) == old + 1 + size
    assert await value(connection, "k.old") == {"by": "us"}


async def test_a_commit_that_meets_a_disconnect_before_it_was_sent_is_unavailable_at_once(
    nats_server: NatsServer, connect_again: Connect, iam: Committer, eventually: Eventually
) -> None:
    connection = await connect_again()
    old = await prepared(iam)
    nats_server.kill()
    await nats_server.wait()

    async def noticed() -> bool:
        return not connection.connected

    await eventually(noticed)
    with pytest.raises(Disconnected):
        await connection.request("$KV.iam.k.old", b"{}")
    result = await Committer(connection, "iam", 3600).commit([Put("k.old", {}, old)], [])
    assert result == Unavailable()
    await nats_server.restart()


async def test_a_commit_lost_in_an_outage_that_does_not_end_is_unknown_by_its_deadline(
    nats_server: NatsServer, connect_again: Connect, iam: Committer
) -> None:
    connection = await connect_again()
    old = await prepared(iam)
    os.kill(nats_server.pid, signal.SIGSTOP)
    committer = Committer(connection, "iam", deadline_s=1)
    commit = asyncio.create_task(committer.commit([Put("k.old", {}, old)], []))
    while not connection._waiting:
        await asyncio.sleep(0)
    nats_server.kill()
    async with asyncio.timeout(_PATIENT_S):
        assert await commit == Unknown()
    with suppress(ProcessLookupError):
        os.kill(nats_server.pid, signal.SIGCONT)
    await nats_server.restart()
