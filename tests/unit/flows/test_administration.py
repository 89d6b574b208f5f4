"""Admins disable and enable users and end their sessions; somebody is left to run the platform."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from harness.memory import GivenBarrier, MemoryBucket, MemoryStream, SetClock

from tidegate.authz import commands
from tidegate.authz.commands import ADMINS_KEY, Actor
from tidegate.authz.model import assignment_key
from tidegate.flows.administration import Users
from tidegate.identity.model import user_key
from tidegate.kernel import errors
from tidegate.kernel.errors import Code, Refusal
from tidegate.kernel.ids import PrincipalId, new_id
from tidegate.store.barrier import Effect, Held, NotHeld
from tidegate.store.bucket import Done
from tidegate.store.events import Origin
from tidegate.store.views import Progress

ADA = PrincipalId("01a20166-5a41-7791-93f3-8a50a86b30e8")
EVE = PrincipalId("01a20166-5a42-7791-93f3-8a50a86b30e9")
ACTOR = Actor(ADA, Origin("req", "192.0.2.1", "agent"))
CALLS = ("disable", "enable", "end_sessions")


class Installation:
    """Two users, of whom Ada is the only platform admin."""

    def __init__(self) -> None:
        clock = SetClock()
        progress = Progress(clock)
        self.stream = MemoryStream(progress)
        self.barrier = GivenBarrier()
        self.bucket = MemoryBucket(self.stream, progress, self.barrier)
        self.users = Users(self.bucket, clock)
        for who in (ADA, EVE):
            self.stream.put(
                user_key(who), {"v": 1, "status": "active", "session_epoch": 4, "email": {"c": who}}
            )
        self.make_admin(ADA)

    def make_admin(self, *admins: PrincipalId, exp: float | None = None) -> None:
        for who in admins:
            self.stream.put(assignment_key(commands.platform_admin(who).id), {"exp": exp})
        if exp is None:
            self.stream.put(ADMINS_KEY, {"v": 1, "principals": sorted({ADA, *admins})})

    async def call(self, name: str, who: PrincipalId = EVE) -> Done[None] | Refusal:
        done: Done[None] | Refusal = await getattr(self.users, name)(who, ACTOR)
        return done

    async def done(self, name: str, who: PrincipalId = EVE) -> Done[None]:
        done = await self.call(name, who)
        assert isinstance(done, Done), done
        return done

    async def refused(self, name: str, who: PrincipalId = EVE) -> Code:
        refusal = await self.call(name, who)
        assert isinstance(refusal, Refusal), refusal
        return refusal.code

    def user(self, who: PrincipalId = EVE) -> tuple[str, int]:
        value = self.stream.entry(user_key(who)).value
        assert value is not None
        assert value["email"] == {"c": who}
        return value["status"], value["session_epoch"]

    @property
    def admins(self) -> list[str]:
        value = self.stream.entry(ADMINS_KEY).value
        assert value is not None
        return [*value["principals"]]

    @property
    def records(self) -> list[tuple[str, str, str]]:
        events = [event for _, events in self.bucket.commits for event in events]
        values = [orjson.loads(event.value) for event in events]
        return [(value["action"], value["target"], value["actor"]) for value in values]


@pytest.fixture
def here() -> Installation:
    return Installation()


# --- what each does ---


async def test_disabling_ends_all_sessions_with_the_same_change(here: Installation) -> None:
    await here.done("disable")
    assert here.user() == ("disabled", 5)
    ((changes, _),) = here.bucket.commits
    assert [change.key for change in changes] == [user_key(EVE)]
    assert here.records == [("user.disabled", EVE, ADA)]


async def test_enabling_brings_no_session_back(here: Installation) -> None:
    await here.done("disable")
    await here.done("enable")
    assert here.user() == ("active", 5)
    assert here.records[1:] == [("user.enabled", EVE, ADA)]


async def test_ending_all_sessions_leaves_the_user_as_it_is_but_for_that(
    here: Installation,
) -> None:
    await here.done("end_sessions")
    assert here.user() == ("active", 5)
    await here.done("disable")
    await here.done("end_sessions")
    assert here.user() == ("disabled", 7)
    assert here.records[0] == ("user.sessions_ended", EVE, ADA)


@pytest.mark.parametrize(
    ("name", "effect"),
    [
        ("disable", Effect.TAKE_AWAY),
        ("enable", Effect.ADDITION),
        ("end_sessions", Effect.TAKE_AWAY),
    ],
)
async def test_each_holds_everywhere_as_what_it_is(
    name: str, effect: Effect, here: Installation
) -> None:
    if name == "enable":
        await here.done("disable")
    done = await here.done(name)
    assert here.barrier.asked[-1] == ("iam", done.revision.sequence, effect)
    assert done.revision.sequence == here.stream.sequence


async def test_nobody_else_is_changed(here: Installation) -> None:
    before = here.stream.entry(user_key(ADA))
    for name in CALLS:
        await here.done(name)
    assert here.stream.entry(user_key(ADA)) == before


# --- what is not there, what was done before ---


@pytest.mark.parametrize("name", CALLS)
async def test_of_somebody_who_does_not_exist_nothing_is_changed(
    name: str, here: Installation
) -> None:
    assert await here.refused(name, PrincipalId(new_id())) is errors.NOT_FOUND
    assert here.bucket.commits == []


async def test_a_repeated_giving_commits_nothing_and_holds_what_the_first_one_wrote(
    here: Installation,
) -> None:
    await here.done("disable")
    first = await here.done("enable")
    after, commits = here.user(), len(here.bucket.commits)
    again = await here.done("enable")
    assert (here.user(), len(here.bucket.commits)) == (after, commits)
    written = here.stream.entry(user_key(EVE)).revision
    assert written <= again.revision.sequence <= first.revision.sequence
    assert here.barrier.asked[-1][1:] == (again.revision.sequence, here.barrier.asked[-2][2])


async def test_a_call_that_was_pending_is_finished_by_its_repetition(here: Installation) -> None:
    here.barrier.answer = NotHeld()
    assert await here.refused("disable") is errors.BARRIER_PENDING
    assert here.user() == ("disabled", 5)
    assert await here.refused("disable") is errors.BARRIER_PENDING
    here.barrier.answer = Held()
    await here.done("disable")
    assert here.user()[0] == "disabled"


async def test_a_repeated_take_away_is_written_anew_so_that_a_late_giving_comes_to_nothing(
    here: Installation,
) -> None:
    await here.done("disable")
    expected = here.stream.entry(user_key(EVE)).revision
    await here.done("disable")
    assert here.user()[0] == "disabled"
    assert here.stream.entry(user_key(EVE)).revision > expected


# --- somebody is left ---


async def test_the_last_admin_cannot_be_disabled(here: Installation) -> None:
    assert await here.refused("disable", ADA) is errors.LAST_ADMIN
    assert here.user(ADA) == ("active", 4)
    assert here.bucket.commits == []


async def test_an_admin_with_an_end_date_is_no_reason_to_disable_the_last_one(
    here: Installation,
) -> None:
    here.make_admin(EVE, exp=9e9)
    assert await here.refused("disable", ADA) is errors.LAST_ADMIN
    await here.done("disable", EVE)


async def test_of_two_admins_one_can_be_disabled_in_one_commit_with_the_count(
    here: Installation,
) -> None:
    here.make_admin(EVE)
    await here.done("disable", EVE)
    assert here.admins == [ADA]
    ((changes, _),) = here.bucket.commits
    assert [change.key for change in changes] == [user_key(EVE), ADMINS_KEY]
    assert await here.refused("disable", ADA) is errors.LAST_ADMIN


async def test_an_admin_who_is_enabled_again_counts_again(here: Installation) -> None:
    here.make_admin(EVE)
    await here.done("disable", EVE)
    await here.done("enable", EVE)
    assert here.admins == sorted((ADA, EVE))
    await here.done("disable", ADA)
    assert here.admins == [EVE]


async def test_who_lost_the_role_while_disabled_does_not_count_again(here: Installation) -> None:
    here.make_admin(EVE)
    await here.done("disable", EVE)
    here.stream.put(assignment_key(commands.platform_admin(EVE).id), None)
    await here.done("enable", EVE)
    assert here.admins == [ADA]
    assert await here.refused("disable", ADA) is errors.LAST_ADMIN


async def test_ending_the_sessions_of_the_last_admin_is_no_loss(here: Installation) -> None:
    await here.done("end_sessions", ADA)
    assert here.user(ADA) == ("active", 5)
    assert here.admins == [ADA]


async def test_of_two_admins_who_disable_each_other_one_stays(
    here: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second is overtaken between its decision and its commit."""
    here.make_admin(EVE)
    commit = MemoryBucket.commit

    async def overtaken(bucket: MemoryBucket, *what: Any) -> Any:
        monkeypatch.setattr(MemoryBucket, "commit", commit)
        await here.done("disable", EVE)
        return await commit(bucket, *what)

    monkeypatch.setattr(MemoryBucket, "commit", overtaken)
    assert await here.refused("disable", ADA) is errors.LAST_ADMIN
    assert (here.user(ADA)[0], here.user(EVE)[0]) == ("active", "disabled")
    assert here.admins == [ADA]
