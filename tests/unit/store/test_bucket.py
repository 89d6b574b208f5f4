"""Commands: what is waited for before the caller is answered, by what the command does to others.

A take-away that finds nothing to take away waits too: the call that took it away may have ended
before that held everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from harness.memory import GivenBarrier, MemoryBucket, MemoryStream, SetClock

from tidegate.kernel import errors
from tidegate.kernel.errors import Refusal
from tidegate.store.barrier import Effect, Held, NotHeld
from tidegate.store.bucket import UNAVAILABLE, Bucket, Decision, Done, Read
from tidegate.store.changes import (
    Busy,
    Change,
    CommitResult,
    Conflict,
    Delete,
    Entry,
    Event,
    Put,
    Unavailable,
    Unknown,
)
from tidegate.store.connection import AnswerLost, ApiError, Disconnected, StoreError
from tidegate.store.views import Progress

EFFECTS = list(Effect)
ABSENT = Refusal(errors.NOT_FOUND, "There is no such thing.")


@dataclass
class Case:
    """A bucket with two entries, `k.1` at revision 1 and `k.2` at 2, and its barrier."""

    barrier: GivenBarrier = field(default_factory=GivenBarrier)

    def __post_init__(self) -> None:
        progress = Progress(SetClock())
        self.stream = MemoryStream(progress)
        self.bucket = MemoryBucket(self.stream, progress, self.barrier)
        self.stream.put("k.1", {"n": 1})
        self.stream.put("k.2", {"n": 2})


@pytest.fixture
def case() -> Case:
    return Case()


async def remove(read: Read) -> Decision[str] | Refusal:
    entry = await read("k.1")
    if entry.value is None:
        return ABSENT
    return Decision([Delete(entry.key, entry.revision)], [], "removed")


async def stop(read: Read) -> Decision[str]:
    entry = await read("k.1")
    if entry.value == {"stopped": True}:
        return Decision([], [], "stopped before")
    return Decision([Put(entry.key, {"stopped": True}, entry.revision)], [], "stopped")


# --- a change that is made ---


@pytest.mark.parametrize("effect", EFFECTS)
async def test_what_is_committed_is_made_to_hold_as_its_effect_demands(
    effect: Effect, case: Case
) -> None:
    done = await case.bucket.execute(remove, effect)
    assert isinstance(done, Done)
    assert (done.outcome, str(done.revision), done.unconfirmed) == ("removed", "iam:3", 0)
    assert case.barrier.asked == [("iam", 3, effect)]


async def test_a_batch_holds_as_of_its_last_message(case: Case) -> None:
    async def both(read: Read) -> Decision[None]:
        gone = [Delete(each.key, each.revision) for each in (await read("k.1"), await read("k.2"))]
        return Decision(gone, [Event("event", ("x",), b"{}", 60)], None)

    done = await case.bucket.execute(both, Effect.TAKE_AWAY)
    assert isinstance(done, Done)
    assert done.revision.sequence == 5
    assert case.barrier.asked == [("iam", 5, Effect.TAKE_AWAY)]


async def test_how_many_did_not_confirm_is_told(case: Case) -> None:
    case.barrier.answer = Held(unconfirmed=2)
    done = await case.bucket.execute(remove, Effect.ADDITION)
    assert isinstance(done, Done)
    assert done.unconfirmed == 2


@pytest.mark.parametrize("effect", EFFECTS)
async def test_a_change_that_may_not_hold_yet_is_made_and_told_as_pending(
    effect: Effect, case: Case
) -> None:
    case.barrier.answer = NotHeld()
    pending = await case.bucket.execute(remove, effect)
    assert isinstance(pending, Refusal)
    assert (pending.code, pending.retry_after_s) == (errors.BARRIER_PENDING, 1)
    assert pending.details == {"revision": "iam:3"}
    assert case.stream.entry("k.1").value is None


async def test_without_a_barrier_nothing_is_waited_for(case: Case) -> None:
    progress = Progress(SetClock())
    bucket = MemoryBucket(case.stream, progress)
    assert isinstance(await bucket.execute(remove, Effect.TAKE_AWAY), Done)


# --- a change that was made before ---


async def test_a_take_away_with_nothing_left_to_do_waits_for_the_newest_that_it_read(
    case: Case,
) -> None:
    """Whatever it read it decided on, and any of it may be what the first call wrote."""
    case.stream.put("k.1", {"stopped": True})
    case.stream.put("k.9", {})

    async def read_much(read: Read) -> Decision[str]:
        await read("k.2")
        decision = await stop(read)
        await read("k.none")
        return decision

    done = await case.bucket.execute(read_much, Effect.TAKE_AWAY)
    assert isinstance(done, Done)
    assert (done.outcome, str(done.revision)) == ("stopped before", "iam:3")
    assert case.barrier.asked == [("iam", 3, Effect.TAKE_AWAY)]
    assert case.bucket.commits == []


async def test_a_take_away_that_is_refused_waits_for_the_newest_that_it_read(case: Case) -> None:
    case.stream.put("k.1", None)
    case.stream.put("k.9", {})
    assert await case.bucket.execute(remove, Effect.TAKE_AWAY) is ABSENT
    assert case.barrier.asked == [("iam", 3, Effect.TAKE_AWAY)]


@pytest.mark.parametrize(
    ("decide", "before"), [(remove, None), (stop, {"stopped": True})], ids=["refused", "nothing"]
)
async def test_a_take_away_that_finds_it_gone_is_pending_while_that_does_not_hold(
    decide: Any, before: Any, case: Case
) -> None:
    """Repeating a call that was pending must not pass for its having come to hold."""
    case.stream.put("k.1", before)
    case.barrier.answer = NotHeld()
    pending = await case.bucket.execute(decide, Effect.TAKE_AWAY)
    assert isinstance(pending, Refusal)
    assert pending.code is errors.BARRIER_PENDING
    assert pending.details == {"revision": "iam:3"}
    case.barrier.answer = Held()
    outcome = await case.bucket.execute(decide, Effect.TAKE_AWAY)
    assert outcome is ABSENT or isinstance(outcome, Done)


@pytest.mark.parametrize("effect", [Effect.ADDITION, Effect.UNSEEN])
async def test_what_takes_nothing_away_waits_for_nobody_when_it_is_refused(
    effect: Effect, case: Case
) -> None:
    case.stream.put("k.1", None)
    assert await case.bucket.execute(remove, effect) is ABSENT
    assert case.barrier.asked == []


async def test_an_addition_that_was_made_before_is_held_like_one(case: Case) -> None:
    case.stream.put("k.1", {"stopped": True})
    case.barrier.answer = Held(unconfirmed=1)
    done = await case.bucket.execute(stop, Effect.ADDITION)
    assert isinstance(done, Done)
    assert (str(done.revision), done.unconfirmed) == ("iam:3", 1)
    assert case.barrier.asked == [("iam", 3, Effect.ADDITION)]


# --- what is final, and on whose word ---


@pytest.mark.parametrize("decide", [remove, stop])
async def test_a_copy_that_is_behind_does_not_end_a_take_away(
    decide: Any, case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def behind(_: Bucket, key: str) -> Entry:
        return Entry(key, None if decide is remove else {"stopped": True}, 0)

    monkeypatch.setattr(MemoryBucket, "read", behind)
    done = await case.bucket.execute(decide, Effect.TAKE_AWAY)
    assert isinstance(done, Done)
    assert len(case.bucket.commits) == 1


async def test_who_was_overtaken_decides_on_what_the_leader_has(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The take-away was made by another call between the decision and the commit."""
    commit = MemoryBucket.commit

    async def overtaken(
        bucket: MemoryBucket, changes: Sequence[Change], events: Sequence[Event]
    ) -> CommitResult:
        case.stream.put("k.1", None)
        return await commit(bucket, changes, events)

    monkeypatch.setattr(MemoryBucket, "commit", overtaken)
    assert await case.bucket.execute(remove, Effect.TAKE_AWAY) is ABSENT
    assert case.barrier.asked == [("iam", 3, Effect.TAKE_AWAY)]


@pytest.mark.parametrize(
    ("result", "code"),
    [
        (Busy(), errors.UNAVAILABLE),
        (Unavailable(), errors.UNAVAILABLE),
        (Unknown(), errors.COMMIT_UNKNOWN),
        (Conflict("k.1", 9), errors.CONFLICT),
    ],
)
async def test_what_is_not_known_to_be_made_is_not_waited_for(
    result: CommitResult, code: errors.Code, case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def commit(*_: object) -> CommitResult:
        return result

    monkeypatch.setattr(MemoryBucket, "commit", commit)
    refusal = await case.bucket.execute(remove, Effect.TAKE_AWAY)
    assert isinstance(refusal, Refusal)
    assert refusal.code is code
    assert case.barrier.asked == []


@pytest.mark.parametrize("copy", ["read", "read_leader"])
@pytest.mark.parametrize(
    "error", [Disconnected("gone"), AnswerLost("no answer"), ApiError(503, 10008, "no leader")]
)
async def test_what_cannot_be_read_is_refused_and_not_waited_for(
    error: StoreError, copy: str, case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> Entry:
        raise error

    case.stream.put("k.1", None)
    monkeypatch.setattr(MemoryBucket, copy, fail)
    assert await case.bucket.execute(remove, Effect.TAKE_AWAY) is UNAVAILABLE
    assert case.barrier.asked == []
