"""The admin API: who reaches it, what it records, and what it refuses to write."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest

from tidegate.app import bootstrap_admin
from tidegate.kernel.errors import Refusal
from tidegate.kernel.ids import new_id
from tidegate.store.connection import connect

if TYPE_CHECKING:
    from tests.integration.app.conftest import World
    from tests.integration.conftest import Eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")

UNKNOWN = "01890000-0000-7000-8000-00000000abcd"
ROUTES: list[tuple[str, str, Any]] = [
    ("GET", "/admin/iam/tenants", None),
    ("POST", "/admin/iam/tenants", {"id": "evil", "name": "Evil"}),
    ("POST", "/admin/iam/tenants/acme/suspend", None),
    ("POST", "/admin/iam/tenants/acme/resume", None),
    ("GET", "/admin/iam/roles", None),
    ("POST", f"/admin/iam/users/{UNKNOWN}/disable", None),
    ("POST", f"/admin/iam/users/{UNKNOWN}/enable", None),
    ("DELETE", f"/admin/iam/users/{UNKNOWN}/sessions", None),
    ("GET", f"/admin/iam/assignments?principal_id={UNKNOWN}", None),
    (
        "POST",
        "/admin/iam/assignments",
        {"principal_id": UNKNOWN, "tenant_id": None, "role_id": "platform-admin"},
    ),
    ("DELETE", f"/admin/iam/assignments/acme.{UNKNOWN}.tenant-member", None),
    ("GET", "/admin/routing", None),
    ("GET", "/admin/routing/resolve?tenant=acme&kind=aggregate", None),
    ("POST", "/admin/routing/apply", {"aggregate_placement": {"acme": None}}),
]


@pytest.mark.parametrize(("method", "path", "body"), ROUTES)
async def test_only_a_platform_admin_reaches_the_platforms_routes(
    method: str, path: str, body: Any, world: World
) -> None:
    member = await world.someone(acme="tenant-member")
    tenant_admin = await world.someone(acme="tenant-admin")
    for user in (member, tenant_admin):
        for headers in ({}, {"x-tenant-id": "acme"}):
            answer = await world.call(method, path, body, as_=user, headers=headers)
            assert (answer.status, answer.code) == (403, "FORBIDDEN")
    assert (await world.call(method, path, body)).code == "TOKEN_MISSING"
    shown = await world.call("GET", "/admin/routing", as_=world.admin)
    assert shown.json["kinds"]["aggregate"]["tenants"] >= 2


async def test_every_change_answers_with_its_revision(world: World) -> None:
    tenant, address = f"t-{new_id()[-12:]}", f"{new_id()[-12:]}@example.org"
    account = {"email": address, "password": "a long enough passphrase"}
    made = await world.post("/admin/iam/tenants", {"id": tenant, "name": "T"}, as_=world.admin)
    placed = await world.post(
        "/admin/routing/apply", {"aggregate_placement": {tenant: "s1"}}, as_=world.admin
    )
    up = await world.post("/v1/auth/signup", account)
    token = {"token": await world.sink.token_for(address)}
    verified = await world.post("/v1/auth/verify-email", token)
    signed_in = await world.post("/v1/auth/signin", account)
    user = await world.sign_in(address)
    given = await world.assign(user.id, tenant, "tenant-member")
    taken = await world.call(
        "DELETE", f"/admin/iam/assignments/{given.json['id']}", as_=world.admin
    )
    refreshed = await world.post("/v1/auth/refresh", {"refresh_token": user.refresh_token})
    out = await world.post("/v1/auth/signout", {"all": False}, as_=user)
    bucket, _, routing_revision = placed.headers["x-tidegate-revision"].partition(":")
    assert (bucket, routing_revision.isdigit()) == ("routing", True)
    revisions = []
    for answer in (made, up, verified, signed_in, given, taken, refreshed, out):
        assert answer.status < 300
        bucket, _, sequence = answer.headers["x-tidegate-revision"].partition(":")
        assert bucket == "iam"
        revisions.append(int(sequence))
    assert revisions == sorted(set(revisions))


async def test_a_tenant_is_made_once_and_listed(world: World) -> None:
    tenant = f"t-{new_id()[-12:]}"
    body = {"id": tenant, "name": "Née & Söhne"}
    made = await world.post("/admin/iam/tenants", body, as_=world.admin)
    assert made.status == 201
    assert made.json == {**body, "status": "active"}
    assert made.headers["x-tidegate-revision"].startswith("iam:")
    again = await world.post("/admin/iam/tenants", body, as_=world.admin, replica=1)
    assert (again.status, again.code) == (409, "ALREADY_EXISTS")
    listed = await world.call("GET", "/admin/iam/tenants", as_=world.admin, replica=1)
    assert {**body, "status": "active"} in listed.json["items"]


async def test_lists_come_in_pages(world: World) -> None:
    names = sorted(f"page-{new_id()[-12:]}" for _ in range(5))
    for name in names:
        await world.tenant(name, placed=False)
    found: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        path = f"/admin/iam/tenants?limit=2&cursor={cursor}"
        page = (await world.call("GET", path, as_=world.admin)).json
        assert len(page["items"]) <= 2
        found += [item["id"] for item in page["items"]]
        cursor = page["next_cursor"]
    assert found == sorted(set(found))
    assert set(names) <= set(found)


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=501", "limit=x", "limit=1e3", "cursor=" + "x" * 65]
)
async def test_a_page_that_cannot_be_is_refused(query: str, world: World) -> None:
    for what in ("tenants", "roles"):
        answer = await world.call("GET", f"/admin/iam/{what}?{query}", as_=world.admin)
        assert (answer.status, answer.code) == (422, "INVALID")


async def test_the_standard_roles_are_listed_with_their_rights(world: World) -> None:
    page = (await world.call("GET", "/admin/iam/roles", as_=world.admin)).json
    roles = {role["id"]: role for role in page["items"]}
    assert roles["platform-admin"]["rights"] == [{"action": "*", "resource": {}}]
    assert roles["tenant-member"]["tenant_id"] is None


async def test_assignments_are_listed_by_principal(world: World) -> None:
    user = await world.user(acme="tenant-member", globex="tenant-admin")
    path = f"/admin/iam/assignments?principal_id={user.id}"
    page = (await world.call("GET", path, as_=world.admin, replica=1)).json
    assert [item["id"] for item in page["items"]] == [
        f"acme.{user.id}.tenant-member",
        f"globex.{user.id}.tenant-admin",
    ]
    assert page["next_cursor"] is None


async def test_an_assignment_with_an_end_date_is_told_in_utc_ends_and_is_given_again(
    world: World, eventually: Eventually
) -> None:
    user = await world.user()
    body = {"principal_id": user.id, "tenant_id": "acme", "role_id": "tenant-member"}
    end = datetime.now(timezone(timedelta(hours=2))) + timedelta(seconds=1.5)
    made = await world.post(
        "/admin/iam/assignments", {**body, "expires_at": end.isoformat()}, as_=world.admin
    )
    assert made.status == 201
    told = end.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    assert made.json["expires_at"] == told

    async def over() -> bool:
        return (await world.submit(user, "acme")).status == 403

    await eventually(over)
    assert (await world.post("/admin/iam/assignments", body, as_=world.admin)).status == 201
    assert (await world.submit(user, "acme")).status == 200
    again = await world.post("/admin/iam/assignments", body, as_=world.admin)
    assert (again.status, again.code) == (409, "ALREADY_EXISTS")


async def test_nobody_gives_a_role_that_reaches_further_than_their_own(world: World) -> None:
    helper = await world.user()
    await world.assign(helper.id, None, "tenant-admin")
    for scope, role in ((None, "platform-admin"), ("acme", "tenant-member")):
        body = {"principal_id": helper.id, "tenant_id": scope, "role_id": role}
        refused = await world.post("/admin/iam/assignments", body, as_=helper)
        assert (refused.status, refused.code) == (403, "FORBIDDEN")
    other = await world.user()
    body = {"principal_id": other.id, "tenant_id": "acme", "role_id": "tenant-admin"}
    assert (await world.post("/admin/iam/assignments", body, as_=helper)).status == 201


async def test_the_last_platform_admin_stays(world: World) -> None:
    me = (await world.call("GET", "/v1/auth/me", as_=world.admin)).json["id"]
    path = f"/admin/iam/assignments/_.{me}.platform-admin"
    refused = await world.call("DELETE", path, as_=world.admin)
    assert (refused.status, refused.code) == (409, "LAST_ADMIN")
    second = await world.user()
    await world.assign(second.id, None, "platform-admin")
    mine, theirs = path, path.replace(me, second.id)
    at_once = await asyncio.gather(
        world.call("DELETE", theirs, as_=world.admin),
        world.call("DELETE", mine, as_=second, replica=1),
    )
    assert sorted(answer.status for answer in at_once) in ([204, 403], [204, 409])
    if at_once[1].status == 204:
        body = {"principal_id": me, "tenant_id": None, "role_id": "platform-admin"}
        assert (await world.post("/admin/iam/assignments", body, as_=second)).status == 201
        assert (await world.call("DELETE", theirs, as_=world.admin)).status == 204


async def test_what_cannot_be_read_can_be_taken_away(world: World) -> None:
    user = await world.user()
    async with connect(world.settings[0].nats, "vandal") as connection:
        await connection.request(f"$KV.iam.assignment.acme.{user.id}.tenant-member", b'{"v":1}')
        await connection.request("$KV.iam.role.broken", b'{"v":1}')
    path = f"/admin/iam/assignments/acme.{user.id}.tenant-member"
    assert (await world.call("DELETE", path, as_=world.admin)).status == 204
    body = {"principal_id": user.id, "tenant_id": "acme", "role_id": "broken"}
    refused = await world.post("/admin/iam/assignments", body, as_=world.admin)
    assert (refused.status, refused.code) == (422, "INVALID")


@pytest.mark.parametrize(
    "changed",
    [
        {"principal_id": "nobody"},
        {"principal_id": "*"},
        {"principal_id": UNKNOWN.upper()},
        {"tenant_id": "nowhere"},
        {"tenant_id": "*"},
        {"tenant_id": "_"},
        {"tenant_id": "acme.globex"},
        {"role_id": "no-such-role"},
        {"role_id": "*"},
        {"role_id": "tenant-member.x"},
        {"role_id": ""},
        {"expires_at": "soon"},
        {"expires_at": "2020-01-01T00:00:00Z"},
        {"expires_at": "2030-01-01T00:00:00"},
        {"expires_at": "9999-12-31T23:59:59-12:00"},
        {"expires_at": "0001-01-01T00:00:00+12:00"},
        {"expires_at": 1e300},
        {"expires_at": -1e18},
        {"granted_by": "me"},
    ],
    ids=str,
)
async def test_an_assignment_that_cannot_be_is_refused_whole(
    changed: dict[str, Any], world: World
) -> None:
    body = {"principal_id": UNKNOWN, "tenant_id": "acme", "role_id": "tenant-member", **changed}
    answer = await world.post("/admin/iam/assignments", body, as_=world.admin)
    assert (answer.status, answer.code) == (422, "INVALID")
    path = f"/admin/iam/assignments?principal_id={UNKNOWN}"
    assert (await world.call("GET", path, as_=world.admin)).json["items"] == []


async def test_giving_the_same_role_twice_is_a_conflict(world: World) -> None:
    user = await world.user(acme="tenant-member")
    body = {"principal_id": user.id, "tenant_id": "acme", "role_id": "tenant-member"}
    again = await world.post("/admin/iam/assignments", body, as_=world.admin, replica=1)
    assert (again.status, again.code) == (409, "ALREADY_EXISTS")


@pytest.mark.parametrize(
    "path", ["x", "acme.x.tenant-member", f"acme.{UNKNOWN}.*", ">", "*", f"acme.{UNKNOWN}.gone"]
)
async def test_taking_away_what_is_not_there_is_404(path: str, world: World) -> None:
    answer = await world.call("DELETE", f"/admin/iam/assignments/{path}", as_=world.admin)
    assert (answer.status, answer.code) == (404, "NOT_FOUND")


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"aggregate_placement": {"acme": "no-such-shard"}},
        {"aggregate_placement": {"ACME": "s1"}},
        {"aggregate_shards": {"s9": []}},
        {"aggregate_shards": {"s9": ["http://10.0.0.1:1"]}},
        {"aggregate_shards": {"s9": ["grpc://10.0.0.1"]}},
        {"aggregate_shards": {"s1": None}},
        {"users": {}},
        {"aggregate_placement": None},
    ],
    ids=str,
)
async def test_a_change_set_that_cannot_be_changes_nothing(
    document: dict[str, Any], world: World
) -> None:
    before = (await world.call("GET", "/admin/routing", as_=world.admin)).json
    answer = await world.post("/admin/routing/apply", document, as_=world.admin)
    assert (answer.status, answer.code) == (422, "INVALID")
    assert answer.json["errors"]
    after = (await world.call("GET", "/admin/routing", as_=world.admin)).json
    assert after["endpoints"] == before["endpoints"]
    assert after["kinds"]["aggregate"]["revision"] == before["kinds"]["aggregate"]["revision"]


async def test_every_change_leaves_its_record_with_who_and_from_where(world: World) -> None:
    tenant = f"t-{new_id()[-12:]}"
    made = await world.post(
        "/admin/iam/tenants", {"id": tenant, "name": "T"}, as_=world.admin,
        headers={"user-agent": "the-admin-ui/1"},
    )  # fmt: skip
    applied = await world.post(
        "/admin/routing/apply", {"aggregate_placement": {tenant: "s1"}}, as_=world.admin
    )
    user = await world.user()
    given = await world.assign(user.id, tenant, "tenant-member")
    path = f"/admin/iam/assignments/{given.json['id']}"
    taken = await world.call("DELETE", path, as_=world.admin)
    users, tenants = f"/admin/iam/users/{user.id}", f"/admin/iam/tenants/{tenant}"
    set_since = [
        await world.call(method, path, as_=world.admin)
        for method, path in (
            ("POST", f"{users}/disable"),
            ("POST", f"{users}/enable"),
            ("DELETE", f"{users}/sessions"),
            ("POST", f"{tenants}/suspend"),
            ("POST", f"{tenants}/resume"),
        )
    ]
    answers = (made, given, taken, *set_since)
    wanted = {answer.headers["x-request-id"] for answer in (applied, *answers)}
    records: dict[str, dict[str, Any]] = {}
    async with connect(world.settings[0].nats, "reader") as connection:
        for bucket in ("iam", "routing"):
            info = await connection.api(f"STREAM.INFO.KV_{bucket}")
            for sequence in range(1, info["state"]["last_seq"] + 1):
                message = await connection.request(
                    f"$JS.API.DIRECT.GET.KV_{bucket}", json.dumps({"seq": sequence}).encode()
                )
                subject = (message.headers or {}).get("Nats-Subject", "")
                if subject.startswith(f"tg.{bucket}.event."):
                    record = json.loads(message.data)
                    records[record["request"]["id"]] = record
    assert wanted <= records.keys()
    assert [records[answer.headers["x-request-id"]]["action"] for answer in answers] == [
        *("tenant.created", "assignment.created", "assignment.deleted"),
        *("user.disabled", "user.enabled", "user.sessions_ended"),
        *("tenant.suspended", "tenant.resumed"),
    ]
    record = records[made.headers["x-request-id"]]
    assert (record["actor"], record["target"], record["tenant"]) == (world.admin.id, tenant, tenant)
    assert record["request"]["address"] == "127.0.0.1"
    assert record["request"]["user_agent"] == "the-admin-ui/1"


async def test_a_role_is_not_given_to_a_principal_that_does_not_exist(world: World) -> None:
    body = {"principal_id": UNKNOWN, "tenant_id": "acme", "role_id": "tenant-member"}
    answer = await world.post("/admin/iam/assignments", body, as_=world.admin)
    assert (answer.status, answer.code) == (422, "INVALID")
    assert [error["field"] for error in answer.json["errors"]] == ["/principal_id"]


async def test_the_first_admin_needs_an_address_that_mail_can_go_to(world: World) -> None:
    refused = await bootstrap_admin(world.settings[0], "op", "a long enough passphrase")
    assert isinstance(refused, Refusal)
    assert [problem.field for problem in refused.errors] == ["/email"]
