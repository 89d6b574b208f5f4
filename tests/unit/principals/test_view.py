"""Principals: made of the entries that there are, all of one moment, and forgotten when touched."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from harness.memory import MemoryStream, SetClock

from tidegate.authz import engine
from tidegate.authz.engine import Assigned
from tidegate.authz.model import Assignment, Right, Role
from tidegate.identity.model import user_key
from tidegate.identity.standing import Standing
from tidegate.kernel import errors
from tidegate.kernel.errors import Refusal
from tidegate.kernel.ids import PrincipalId, TenantId, new_id
from tidegate.principals.settings import Settings
from tidegate.principals.view import Known, Principals
from tidegate.store import reading
from tidegate.store.changes import Entry
from tidegate.store.connection import Connection, Disconnected, StoreError
from tidegate.store.reading import Snapshot
from tidegate.store.views import Progress

ADA = PrincipalId("01a20166-5a41-7791-93f3-8a50a86b30e8")
EVE = PrincipalId("01a20166-5a42-7791-93f3-8a50a86b30e9")
ACME, GLOBEX = TenantId("acme"), TenantId("globex")
ACTIVE = {"status": "active", "session_epoch": 4}
OWN_KEY = "replica.me"
NOTHING = Assigned((), ())


class Here:
    """Principals over a stream in memory; `asked` are the keys that were read, read by read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, settings: Settings) -> None:
        progress = Progress(SetClock())
        nobody: Any = None
        self.asked: list[list[str]] = []
        self.principals = Principals(nobody, progress, lambda: OWN_KEY, settings)
        self.stream = MemoryStream(progress, self.principals.views)
        self.put(OWN_KEY, {})
        monkeypatch.setattr(reading, "snapshot", self._snapshot)

    def put(self, key: str, value: Any) -> Entry:
        return self.stream.put(key, value)

    def assign(self, scope: str, role: str, who: str = ADA, exp: Any = None) -> Assignment:
        entry = self.put(f"assignment.{scope}.{who}.{role}", {"exp": exp})
        tenant_id = None if scope == "_" else TenantId(scope)
        return Assignment(PrincipalId(who), tenant_id, role, exp, entry.revision)

    async def _snapshot(
        self, connection: Connection, bucket: str, subjects: Sequence[str]
    ) -> Snapshot:
        assert bucket == "iam"
        self.asked.append([subject.removeprefix("$KV.iam.") for subject in subjects])
        return await self.stream.snapshot(connection, bucket, subjects)

    async def find(self, tenant_id: TenantId | None = ACME, who: PrincipalId = ADA) -> Known:
        found = await self.principals.find(who, tenant_id)
        assert isinstance(found, Known)
        assert self.principals.known(who, tenant_id) is found
        return found


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Here:
    return Here(monkeypatch, Settings())


# --- what is known ---


async def test_a_principal_is_its_standing_and_its_roles_there_and_on_the_platform(
    here: Here,
) -> None:
    here.put(user_key(ADA), ACTIVE)
    there = here.assign("acme", "clerk"), here.assign("acme", "tenant-admin", exp=1.5)
    elsewhere = here.assign("globex", "clerk")
    platform = here.assign("_", "platform-admin")
    here.assign("acme", "clerk", EVE)

    standing = Standing(active=True, session_epoch=4)
    assert await here.find(ACME) == Known(standing, Assigned(there, (platform,)))
    assert await here.find(GLOBEX) == Known(standing, Assigned((elsewhere,), (platform,)))
    assert await here.find(None) == Known(standing, Assigned((), (platform,)))


async def test_what_is_read_for_a_tenant_is_named_key_by_key(here: Here) -> None:
    await here.find(ACME)
    await here.find(None)
    await here.principals.assignments_of(ADA)
    assert here.asked == [
        [OWN_KEY, user_key(ADA), f"assignment._.{ADA}.*", f"assignment.acme.{ADA}.*"],
        [OWN_KEY, user_key(ADA), f"assignment._.{ADA}.*"],
        [OWN_KEY, f"assignment.*.{ADA}.*"],
    ]


async def test_somebody_who_does_not_exist_is_known_as_nobody(here: Here) -> None:
    assert await here.find() == Known(None, NOTHING)
    here.put(user_key(ADA), ACTIVE)
    assert (await here.find()).standing is not None
    here.put(user_key(ADA), None)
    assert await here.find() == Known(None, NOTHING)


async def test_a_role_that_was_taken_away_is_gone_and_nothing_else(here: Here) -> None:
    kept, taken = here.assign("acme", "a"), here.assign("acme", "b")
    assert (await here.find()).assigned.in_tenant == (kept, taken)
    here.put(f"assignment.{taken.id}", None)
    assert (await here.find()).assigned.in_tenant == (kept,)


async def test_all_assignments_are_listed_by_id(here: Here) -> None:
    given = [here.assign(*each) for each in (("globex", "z"), ("acme", "m"), ("_", "a"))]
    here.assign("acme", "m", EVE)
    listed = await here.principals.assignments_of(ADA)
    assert listed == tuple(sorted(given, key=lambda each: each.id))
    assert await here.principals.assignments_of(PrincipalId(new_id())) == ()


# --- what cannot be read ---


@pytest.mark.parametrize(
    "value",
    [{}, {"status": "active"}, {"status": "sleeping", "session_epoch": 1}, {"session_epoch": 1}],
    ids=str,
)
async def test_a_user_that_cannot_be_read_has_no_standing(value: Any, here: Here) -> None:
    given = here.assign("acme", "clerk")
    here.put(user_key(ADA), value)
    assert await here.find() == Known(None, Assigned((given,), ()))


@pytest.mark.parametrize("payload", [b"\xff", b"[]", b'{"v":1', b"null"])
async def test_what_is_no_entry_at_all_gives_nothing(payload: bytes, here: Here) -> None:
    good = here.assign("acme", "b")
    here.put(user_key(ADA), ACTIVE)
    here.stream.write({f"assignment.acme.{ADA}.a": payload})
    assert (await here.find()).assigned == Assigned((good,), ())
    assert await here.principals.assignments_of(ADA) == (good,)
    here.stream.write({user_key(ADA): payload})
    assert await here.find() == Known(None, Assigned((good,), ()))


@pytest.mark.parametrize("value", [{}, {"exp": "never"}, {"exp": []}, {"exp": {}}], ids=str)
async def test_an_assignment_that_cannot_be_read_gives_nothing(value: Any, here: Here) -> None:
    good = here.assign("acme", "b")
    here.put(f"assignment.acme.{ADA}.a", value)
    here.put(f"assignment._.{ADA}.a", value)
    assert (await here.find()).assigned == Assigned((good,), ())
    assert await here.principals.assignments_of(ADA) == (good,)


@pytest.mark.parametrize(
    "key",
    [
        "assignment.acme",
        f"assignment.acme.{ADA}",
        f"assignment.ACME.{ADA}.a",
        f"assignment.acme.{ADA}.a.b",
        f"assignment.acme.a.{ADA}",
    ],
)
async def test_an_assignment_under_a_key_that_is_none_gives_nothing(key: str, here: Here) -> None:
    """In a tenant that there can be; the walk over all shows it, so that it can be taken away."""
    here.put(key, {"exp": None})
    known = await here.find()
    role = Role("a", "A", None, (Right("*"),))

    class Roles:
        def role(self, _: str) -> Role:
            return role

    decision = engine.authorize(Roles(), known.assigned, ACME, "command.submit", {}, 0.0)
    assert not decision.allowed


# --- how long it is known ---


@pytest.mark.parametrize(
    ("key", "touches"),
    [
        (user_key(ADA), {"in acme", "in globex", "platform"}),
        (f"assignment.acme.{ADA}.r", {"in acme", "in globex", "platform", "list"}),
        (f"assignment._.{ADA}.r", {"in acme", "in globex", "platform", "list"}),
        (user_key(EVE), set()),
        (f"assignment.acme.{EVE}.r", set()),
        ("tenant.acme", set()),
        (f"credential.{ADA}", set()),
        ("user", set()),
        ("assignment.acme", set()),
    ],
)
async def test_whatever_touches_a_principal_has_it_forgotten_and_nothing_else_does(
    key: str, touches: set[str], here: Here
) -> None:
    here.put(user_key(ADA), ACTIVE)
    for tenant in (ACME, GLOBEX, None):
        await here.find(tenant)
    await here.principals.assignments_of(ADA)
    reads = len(here.asked)
    here.put(key, {"exp": None})
    known = here.principals.known
    parts = {
        "in acme": known(ADA, ACME),
        "in globex": known(ADA, GLOBEX),
        "platform": known(ADA, None),
    }
    forgotten = {part for part, found in parts.items() if found is None}
    await here.principals.assignments_of(ADA)
    if len(here.asked) > reads:
        forgotten.add("list")
    assert forgotten == touches


async def test_of_so_many_principals_the_one_longest_unused_is_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here = Here(monkeypatch, Settings(cached_max=2))
    first, second, third = (PrincipalId(new_id()) for _ in range(3))
    for who in (first, second):
        await here.find(who=who)
    here.principals.known(first, ACME)
    await here.find(who=third)
    assert here.principals.known(second, ACME) is None
    assert here.principals.known(first, ACME) is not None


@pytest.mark.parametrize("error", [Disconnected("gone"), StoreError("too many")])
async def test_who_cannot_be_read_now_is_a_refusal_that_passes(
    error: StoreError, here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> Snapshot:
        raise error

    with monkeypatch.context() as outage:
        outage.setattr(reading, "snapshot", fail)
        for found in (
            await here.principals.find(ADA, ACME),
            await here.principals.assignments_of(ADA),
        ):
            assert isinstance(found, Refusal)
            assert (found.code, found.retry_after_s) == (errors.UNAVAILABLE, 1)
    assert here.principals.known(ADA, ACME) is None
    await here.find()
