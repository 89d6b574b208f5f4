"""What admins take away is gone on every replica when the call returns, and comes back as soon.

The clients of these tests name no revision, so nothing waits for them.
"""

from __future__ import annotations

import asyncio
import copy
from typing import TYPE_CHECKING, Any

import pytest
from yarl import URL

from tidegate.kernel.ids import new_id
from tidegate.store.barrier import Barrier, NotHeld
from tidegate.store.connection import connect
from tidegate.store.replicas import CLOCK_RATE_MARGIN

if TYPE_CHECKING:
    from tests.integration.app.conftest import Answer, User, World
    from tests.integration.conftest import Eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")

UNKNOWN = "01890000-0000-7000-8000-00000000abcd"
ROUNDS = 4


class NothingKept(dict[str, int]):
    """Of the revisions that it is told."""

    def __setitem__(self, key: str, value: int) -> None:
        pass


def forgetful(world: World) -> World:
    made = copy.copy(world)
    made.newest = NothingKept()
    return made


@pytest.fixture
def here(world: World, late_feed: None) -> World:
    return forgetful(world)


async def admin(world: World, method: str, path: str, replica: int = 0, body: Any = None) -> Answer:
    answer = await world.call(method, f"/admin/iam/{path}", body, as_=world.admin, replica=replica)
    if answer.status < 300:
        assert answer.headers["x-tidegate-revision"].startswith("iam:")
        assert "x-tidegate-unconfirmed" not in answer.headers
    return answer


async def everywhere(world: World, user: User, tenant: str = "acme") -> set[str]:
    """What a command of the user comes to, on each replica."""
    answers = await asyncio.gather(*(world.submit(user, tenant, replica) for replica in (0, 1)))
    return {"OK" if answer.status == 200 else answer.code for answer in answers}


# --- users ---


async def test_a_disabled_user_is_nobody_on_every_replica(here: World) -> None:
    user = await here.user(acme="tenant-member")
    for n in range(ROUNDS):
        assert await everywhere(here, user) == {"OK"}
        done = await admin(here, "POST", f"users/{user.id}/disable", n % 2)
        assert (done.status, done.raw) == (204, b"")
        assert await everywhere(here, user) == {"TOKEN_INVALID"}
        for replica in (0, 1):
            for call, code in (
                (here.call("GET", "/v1/auth/me", as_=user, replica=replica), "TOKEN_INVALID"),
                (
                    here.post(
                        "/v1/auth/refresh", {"refresh_token": user.refresh_token}, replica=replica
                    ),
                    "REFRESH_INVALID",
                ),
                (
                    here.post(
                        "/v1/auth/signin",
                        {"email": user.email, "password": user.password},
                        replica=replica,
                    ),
                    "SIGNIN_FAILED",
                ),
            ):
                answer = await call
                assert (answer.status, answer.code) == (401, code)
        assert (await admin(here, "POST", f"users/{user.id}/enable", n % 2)).status == 204
        assert await everywhere(here, user) == {"TOKEN_INVALID"}
        user = await here.sign_in(user.email, replica=(n + 1) % 2)


async def test_ended_sessions_are_void_on_every_replica_and_new_ones_are_not(here: World) -> None:
    user = await here.user(acme="tenant-member")
    for n in range(ROUNDS):
        other = await here.sign_in(user.email)
        assert await everywhere(here, user) == await everywhere(here, other) == {"OK"}
        done = await admin(here, "DELETE", f"users/{user.id}/sessions", n % 2)
        assert (done.status, done.raw) == (204, b"")
        for old in (user, other):
            assert await everywhere(here, old) == {"TOKEN_INVALID"}
            body = {"refresh_token": old.refresh_token}
            refused = await here.post("/v1/auth/refresh", body, replica=n % 2)
            assert (refused.status, refused.code) == (401, "REFRESH_INVALID")
        user = await here.sign_in(user.email, replica=(n + 1) % 2)


async def test_somebody_else_notices_nothing(here: World) -> None:
    user, other = await here.user(acme="tenant-member"), await here.user(acme="tenant-member")
    assert await everywhere(here, other) == {"OK"}
    for method, what in (("POST", "disable"), ("POST", "enable"), ("DELETE", "sessions")):
        assert (await admin(here, method, f"users/{user.id}/{what}")).status == 204
        assert await everywhere(here, other) == {"OK"}


@pytest.mark.parametrize("what", ["disable", "enable"])
async def test_a_repeated_call_answers_like_the_first(what: str, here: World) -> None:
    """A take-away is written anew: a giving that is still on its way must not match any more."""
    user = await here.user()
    if what == "enable":
        await admin(here, "POST", f"users/{user.id}/disable")
    first = await admin(here, "POST", f"users/{user.id}/{what}")
    key = f"$KV.iam.user.{int(user.id[-3:], 16)}.{user.id}"
    async with connect(here.settings[0].nats, "reader") as connection:
        before = await connection.request(f"$JS.API.DIRECT.GET.KV_iam.{key}")
        for replica in (0, 1):
            again = await admin(here, "POST", f"users/{user.id}/{what}", replica)
            assert (again.status, again.raw) == (first.status, first.raw) == (204, b"")
        after = await connection.request(f"$JS.API.DIRECT.GET.KV_iam.{key}")
    rewritten = before.headers != after.headers
    assert rewritten == (what == "disable")


async def test_who_runs_the_platform_is_left(here: World, shared_world: World) -> None:
    path = f"users/{here.admin.id}/disable"
    refused = await admin(here, "POST", path)
    assert (refused.status, refused.code) == (409, "LAST_ADMIN")
    second = await here.user()
    given = await here.assign(second.id, None, "platform-admin")
    assert (await admin(here, "POST", f"users/{second.id}/disable")).status == 204
    assert (await admin(here, "POST", path, replica=1)).code == "LAST_ADMIN"
    assert (await admin(here, "POST", f"users/{second.id}/enable")).status == 204
    # Who is enabled again is counted on again.
    back = await here.sign_in(second.email)
    assert (await here.call("POST", f"/admin/iam/{path}", as_=back)).status == 204
    mine = f"/admin/iam/assignments/{given.json['id']}"
    assert (await here.call("DELETE", mine, as_=back)).code == "LAST_ADMIN"
    enabled = await here.call("POST", f"/admin/iam/users/{here.admin.id}/enable", as_=back)
    assert enabled.status == 204
    shared_world.admin = here.admin = await here.sign_in(here.admin.email)
    assert (await admin(here, "DELETE", f"assignments/{given.json['id']}")).status == 204


async def test_a_helper_of_the_platform_may_do_it_by_the_right_alone(here: World) -> None:
    helper, user = await here.user(), await here.user()
    path = f"/admin/iam/users/{user.id}/disable"
    refused = await here.call("POST", path, as_=helper)
    assert (refused.status, refused.code) == (403, "FORBIDDEN")
    assert refused.json["details"]["action"] == "iam.user.write"
    await here.assign(helper.id, None, "tenant-admin")
    assert (await here.call("POST", path, as_=helper, replica=1)).status == 204


# --- tenants ---


async def test_a_suspended_tenant_refuses_its_members_on_every_replica(here: World) -> None:
    tenant = f"t-{new_id()[-12:]}"
    await here.tenant(tenant)
    member = await here.user(**{tenant: "tenant-member", "acme": "tenant-member"})
    stranger = await here.user()
    told = {"id": tenant, "name": tenant.title()}
    for n in range(ROUNDS):
        assert await everywhere(here, member, tenant) == {"OK"}
        done = await admin(here, "POST", f"tenants/{tenant}/suspend", n % 2)
        assert (done.status, done.json) == (200, {**told, "status": "suspended"})
        assert await everywhere(here, member, tenant) == {"TENANT_SUSPENDED"}
        assert await everywhere(here, stranger, tenant) == {"TENANT_FORBIDDEN"}
        assert await everywhere(here, member) == {"OK"}
        again = await admin(here, "POST", f"tenants/{tenant}/suspend", (n + 1) % 2)
        assert (again.status, again.json) == (done.status, done.json)
        listed = await here.call("GET", "/admin/iam/tenants?limit=500", as_=here.admin, replica=1)
        assert {**told, "status": "suspended"} in listed.json["items"]
        done = await admin(here, "POST", f"tenants/{tenant}/resume", (n + 1) % 2)
        assert (done.status, done.json) == (200, {**told, "status": "active"})


async def test_a_suspended_tenant_can_still_be_administered(here: World) -> None:
    tenant = f"t-{new_id()[-12:]}"
    await here.tenant(tenant)
    await admin(here, "POST", f"tenants/{tenant}/suspend")
    user = await here.user(**{tenant: "tenant-member"})
    assert await everywhere(here, user, tenant) == {"TENANT_SUSPENDED"}
    await admin(here, "POST", f"tenants/{tenant}/resume")
    assert await everywhere(here, user, tenant) == {"OK"}


# --- roles ---


async def test_a_role_counts_and_is_gone_on_every_replica(here: World) -> None:
    user = await here.user()
    assert await everywhere(here, user) == {"TENANT_FORBIDDEN"}
    body = {"principal_id": user.id, "tenant_id": "acme", "role_id": "tenant-member"}
    for n in range(ROUNDS):
        given = await admin(here, "POST", "assignments", n % 2, body)
        assert given.status == 201
        assert await everywhere(here, user) == {"OK"}
        path = f"assignments/{given.json['id']}"
        assert (await admin(here, "DELETE", path, (n + 1) % 2)).status == 204
        assert await everywhere(here, user) == {"TENANT_FORBIDDEN"}
        assert (await admin(here, "DELETE", path, n % 2)).code == "NOT_FOUND"


async def test_signing_out_holds_on_every_replica(here: World) -> None:
    user = await here.user(acme="tenant-member")
    for n in range(ROUNDS):
        for everything in (False, True):
            assert await everywhere(here, user) == {"OK"}
            out = await here.post("/v1/auth/signout", {"all": everything}, as_=user, replica=n % 2)
            assert out.status == 204
            assert await everywhere(here, user) == {"TOKEN_INVALID"}
            user = await here.sign_in(user.email)


async def test_a_placement_holds_and_is_gone_on_every_replica(here: World) -> None:
    tenant = f"t-{new_id()[-12:]}"
    await here.tenant(tenant, placed=False)
    member = await here.user(**{tenant: "tenant-member"})
    for n in range(ROUNDS):
        for shard, outcome in (("s1", "OK"), (None, "TENANT_NOT_PLACED")):
            document = {"aggregate_placement": {tenant: shard}}
            applied = await here.post(
                "/admin/routing/apply", document, as_=here.admin, replica=n % 2
            )
            assert applied.status == 200
            assert await everywhere(here, member, tenant) == {outcome}


# --- what cannot be ---

_CALLS = [
    ("POST", "users/{}/disable"),
    ("POST", "users/{}/enable"),
    ("DELETE", "users/{}/sessions"),
    ("POST", "tenants/{}/suspend"),
    ("POST", "tenants/{}/resume"),
]


@pytest.mark.parametrize(("method", "path"), _CALLS)
async def test_of_what_is_not_there_nothing_is_taken_away(
    method: str, path: str, here: World
) -> None:
    answer = await admin(here, method, path.format(UNKNOWN))
    assert (answer.status, answer.code) == (404, "NOT_FOUND")


@pytest.mark.parametrize(
    "bad",
    [
        *("*", "%3E", "_", "ACME", "a.b", "a%20b", "a%0A", "%C3%A9", "x" * 64),
        *(UNKNOWN.upper(), "%2A.*", "..", "-a"),
    ],
)
@pytest.mark.parametrize(("method", "path"), _CALLS)
async def test_what_can_be_no_id_never_becomes_a_key(
    method: str, path: str, bad: str, here: World
) -> None:
    url = here.url(f"/admin/iam/{path}".format(bad))
    request = here.http.request(method, URL(url, encoded=True), headers=here.admin.bearer)
    async with request as answer:
        problem = await answer.json(content_type=None)
    assert (answer.status, problem["code"]) == (422, "INVALID")
    field = "/user_id" if path.startswith("users") else "/tenant_id"
    assert [error["field"] for error in problem["errors"]] == [field]


@pytest.mark.parametrize(("method", "path"), _CALLS)
async def test_another_method_is_told_which_one_is_right(
    method: str, path: str, here: World
) -> None:
    wrong = "DELETE" if method == "POST" else "POST"
    answer = await admin(here, wrong, path.format(UNKNOWN))
    assert (answer.status, answer.code) == (405, "METHOD_NOT_ALLOWED")
    assert answer.headers["allow"] == method


# --- what does not hold yet ---


async def test_a_take_away_that_may_not_hold_is_told_and_finished_by_its_repetition(
    here: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = await here.user(acme="tenant-member")
    path = f"users/{user.id}/disable"

    async def not_held(*_: object) -> NotHeld:
        return NotHeld()

    with monkeypatch.context() as broken:
        broken.setattr(Barrier, "hold", not_held)
        for _ in range(2):
            pending = await admin(here, "POST", path)
            assert (pending.status, pending.code) == (503, "BARRIER_PENDING")
            assert pending.json["details"]["revision"].startswith("iam:")
            assert pending.headers["retry-after"] == "1"
    assert (await admin(here, "POST", path, replica=1)).status == 204
    assert await everywhere(here, user) == {"TOKEN_INVALID"}


async def test_a_replica_that_crashed_is_waited_for_until_its_lease_is_over(
    own_pair: World, eventually: Eventually
) -> None:
    world = forgetful(own_pair)
    user = await world.user(acme="tenant-member")
    await world.crash_replica(1)
    taking = asyncio.create_task(admin(world, "POST", f"users/{user.id}/disable"))

    async def refused() -> bool:
        return (await world.submit(user, "acme")).status == 401

    # It is in force here before it is answered, for it may have to wait.
    await eventually(refused)
    added = await world.post("/admin/iam/tenants", {"id": "late", "name": "Late"}, as_=world.admin)
    assert (added.status, added.headers["x-tidegate-unconfirmed"]) == (201, "1")
    assert not taking.done()
    world.clock.ahead_s += world.settings[0].nats.lease.ttl_s * CLOCK_RATE_MARGIN
    async with asyncio.timeout(20):
        taken = await taking
    assert taken.status == 204
    await world.all_ready()
    # Nobody waits for it any more.
    again = await admin(world, "POST", f"users/{user.id}/enable")
    assert again.status == 204


async def test_a_replica_that_stops_is_not_waited_for(own_pair: World) -> None:
    world = forgetful(own_pair)
    user = await world.user(acme="tenant-member")
    app, run = world.apps.pop(1), world.runs.pop(1)
    app.stop()
    async with asyncio.timeout(20):
        await run
    assert len(await world.leases()) == 1
    assert (await admin(world, "POST", f"users/{user.id}/disable")).status == 204
