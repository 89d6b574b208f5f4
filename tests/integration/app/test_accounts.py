"""Sign-up, verification, sign-in, sign-out: what each comes to, and what nobody can find out."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from tidegate.kernel.ids import is_uuid7, new_id
from tidegate.store.connection import connect

if TYPE_CHECKING:
    from tests.integration.app.conftest import Answer, World
    from tests.integration.conftest import Eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")

PASSWORD = "a long enough passphrase"
OTHER_PASSWORD = "another long passphrase"


def fresh_address() -> str:
    return f"user-{new_id()[-12:]}@example.org"


def signup(address: str, password: Any = PASSWORD, **more: Any) -> dict[str, Any]:
    return {"email": address, "password": password, **more}


def told(answer: Answer) -> tuple[int, dict[str, Any], dict[str, str]]:
    """An answer without what differs for every request."""
    own = ("request_id", "timestamp")
    body = {name: value for name, value in answer.json.items() if name not in own}
    headers = ("content-type", "cache-control", "www-authenticate", "retry-after", "content-length")
    return answer.status, body, {name: answer.headers.get(name, "") for name in headers}


async def test_an_account_is_made_verified_and_signed_in_to(world: World) -> None:
    address = fresh_address()
    made = await world.post("/v1/auth/signup", signup(address, display_name="Ada"))
    assert (made.status, made.json) == (202, {"status": "verification_sent"})
    assert made.headers["x-tidegate-revision"].startswith("iam:")
    token = await world.sink.token_for(address)
    verified = await world.post("/v1/auth/verify-email", {"token": token})
    assert (verified.status, verified.raw) == (204, b"")
    assert verified.headers["x-tidegate-revision"].startswith("iam:")
    answer = await world.post("/v1/auth/signin", signup(address, device_name="laptop"))
    tokens = answer.json
    assert answer.status == 200
    assert answer.headers["cache-control"] == "no-store"
    assert set(tokens) == {
        *("access_token", "token_type", "expires_in", "refresh_token", "refresh_expires_in"),
        "session_id",
    }
    assert (tokens["token_type"], tokens["expires_in"]) == ("Bearer", 600)
    assert is_uuid7(tokens["session_id"])
    user = await world.sign_in(address)
    me = await world.call("GET", "/v1/auth/me", as_=user)
    assert me.status == 200
    found = me.json
    assert is_uuid7(found["id"])
    assert found["email"] == address
    assert found["email_verified"] is True
    assert found["display_name"] == "Ada"
    assert found["status"] == "active"
    assert found["mfa"] == {"totp": False, "recovery_codes_left": 0}
    assert found["tenants"] == []
    assert found["created_at"].endswith("Z")


async def test_the_profile_names_each_tenant_with_its_roles(world: World) -> None:
    user = await world.user(acme="tenant-member", globex="tenant-admin")
    await world.assign(user.id, "acme", "tenant-admin")
    me = await world.call("GET", "/v1/auth/me", as_=user, replica=1)
    assert me.json["tenants"] == [
        {"id": "acme", "roles": ["tenant-admin", "tenant-member"]},
        {"id": "globex", "roles": ["tenant-admin"]},
    ]


async def test_a_sign_up_for_a_taken_address_differs_in_the_mail_alone(
    world: World, eventually: Eventually
) -> None:
    address = fresh_address()
    first = await world.post("/v1/auth/signup", signup(address))
    token = await world.sink.token_for(address)
    await world.post("/v1/auth/verify-email", {"token": token})
    again = await world.post("/v1/auth/signup", signup(address.upper(), OTHER_PASSWORD))
    assert (again.status, again.raw) == (first.status, first.raw)
    assert set(again.headers) == set(first.headers)

    async def mailed_twice() -> bool:
        return len(world.sink.to(address)) == 2

    await eventually(mailed_twice)
    assert "tried to sign up" in world.sink.to(address)[1]
    # The password that came with it opens nothing.
    refused = await world.post("/v1/auth/signin", signup(address, OTHER_PASSWORD))
    assert refused.code == "SIGNIN_FAILED"
    assert (await world.post("/v1/auth/signin", signup(address))).status == 200


async def test_every_sign_up_moves_the_revision_as_far(world: World) -> None:
    """Whoever counts revisions learns nothing of an address: new, waiting or verified."""
    verified, waiting = await world.user(), fresh_address()
    await world.post("/v1/auth/signup", signup(waiting))
    marked = []
    async with connect(world.settings[0].nats, "reader") as connection:
        for address in (fresh_address(), waiting, verified.email, fresh_address()):
            answer = await world.post("/v1/auth/signup", signup(address))
            last = int(answer.headers["x-tidegate-revision"].removeprefix("iam:"))
            message = await connection.request(
                "$JS.API.DIRECT.GET.KV_iam", json.dumps({"seq": last}).encode()
            )
            marked.append((message.headers or {})["Tidegate-Commit"].partition(":")[2])
    assert marked == ["6:6"] * 4


async def test_nobody_waits_with_a_password_in_an_account_not_yet_verified(world: World) -> None:
    """The password that counts is that of the sign-up whose mail was answered."""
    address = fresh_address()
    await world.post("/v1/auth/signup", signup(address, "the password of a stranger"))
    await world.sink.token_for(address)
    await world.post("/v1/auth/signup", signup(address, "the password of the owner"))
    token = await world.sink.token_for(address, 2)
    assert (await world.post("/v1/auth/verify-email", {"token": token})).status == 204
    refused = await world.post("/v1/auth/signin", signup(address, "the password of a stranger"))
    assert refused.code == "SIGNIN_FAILED"
    await world.sign_in(address, "the password of the owner")
    # The stranger's own token, should it ever be found, changes nothing any more.
    stale = await world.sink.token_for(address, 1)
    assert (await world.post("/v1/auth/verify-email", {"token": stale})).code == "TOKEN_VOID"


async def test_many_sign_ups_for_one_address_make_one_account(world: World) -> None:
    address = fresh_address()
    answers = await asyncio.gather(
        *(world.post("/v1/auth/signup", signup(address), replica=n % 2) for n in range(8))
    )
    assert {answer.status for answer in answers} == {202}
    for number in range(1, 9):
        token = await world.sink.token_for(address, number)
        answer = await world.post("/v1/auth/verify-email", {"token": token})
        assert answer.status == (204 if number == 1 else 422)


async def test_a_verification_works_once_however_many_use_it_at_once(world: World) -> None:
    for _ in range(3):
        address = fresh_address()
        await world.post("/v1/auth/signup", signup(address))
        body = {"token": await world.sink.token_for(address)}
        answers = await asyncio.gather(
            *(world.post("/v1/auth/verify-email", body, replica=n % 2) for n in range(16))
        )
        statuses = sorted(answer.status for answer in answers)
        assert statuses == [204] + [422] * 15
        assert {a.code for a in answers if a.status == 422} == {"TOKEN_VOID"}


@pytest.mark.parametrize("token", ["x", "*", ">", "a.b", "a b", "\u0000", "é" * 100, "t" * 200])
async def test_an_unknown_verification_is_void(token: str, world: World) -> None:
    answer = await world.post("/v1/auth/verify-email", {"token": token})
    assert (answer.status, answer.code) == (422, "TOKEN_VOID")


async def test_refused_sign_ins_all_look_the_same(world: World) -> None:
    unverified, verified = fresh_address(), fresh_address()
    await world.post("/v1/auth/signup", signup(unverified))
    await world.sign_up(verified)
    attempts = [
        signup(fresh_address()),
        signup(unverified),
        signup(verified, "not the right password"),
        signup("no address at all"),
        signup(""),
        signup(verified, ""),
        signup(verified, "x" * 1024),
    ]
    answers = [await world.post("/v1/auth/signin", attempt) for attempt in attempts]
    assert told(answers[0])[0] == 401
    assert answers[0].code == "SIGNIN_FAILED"
    assert all(told(answer) == told(answers[0]) for answer in answers)


@pytest.mark.parametrize("spelling", [str.upper, str.title, "  {}  ".format])
async def test_an_address_signs_in_however_it_is_spelt(spelling: Any, world: World) -> None:
    address = fresh_address()
    await world.sign_up(address)
    assert (await world.post("/v1/auth/signin", signup(spelling(address)))).status == 200


async def test_a_password_is_the_same_however_it_is_typed(world: World) -> None:
    address = fresh_address()
    await world.sign_up(address, "pässwörter für jede tastatur")
    decomposed = "pa\u0308sswo\u0308rter fu\u0308r jede tastatur"
    assert (await world.post("/v1/auth/signin", signup(address, decomposed))).status == 200


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({}, {"/email", "/password"}),
        (signup("nobody"), {"/email"}),
        (signup("a@localhost"), {"/email"}),
        (signup("a@example.org\r\nBcc: b@example.org"), {"/email"}),
        (signup("a@example.org", 7), {"/password"}),
        (signup("a@example.org", "short"), {"/password"}),
        (signup("a@example.org", "x" * 257), {"/password"}),
        (signup("a@example.org", "x" * 2000), {"/password"}),
        (signup("lovelace@example.org", "lovelace lovelace lovelace"), {"/password"}),
        (signup("a@example.org", display_name="x" * 201), {"/display_name"}),
        (signup("a@example.org", email_verified=True, status="active"),
         {"/email_verified", "/status"}),
    ],
)  # fmt: skip
async def test_a_sign_up_names_every_wrong_field(
    body: dict[str, Any], fields: set[str], world: World
) -> None:
    answer = await world.post("/v1/auth/signup", body)
    assert (answer.status, answer.code) == (422, "INVALID")
    assert {error["field"] for error in answer.json["errors"]} == fields


async def test_a_wrong_password_is_never_echoed(world: World) -> None:
    answer = await world.post("/v1/auth/signup", signup("a@example.org", "marked"))
    assert answer.status == 422
    assert b"marked" not in answer.raw


async def test_signing_out_ends_the_session_on_every_replica(world: World) -> None:
    user = await world.user(acme="tenant-member")
    other = await world.sign_in(user.email)
    for replica in (0, 1):
        assert (await world.submit(user, "acme", replica)).status == 200
    gone = await world.post("/v1/auth/signout", {"all": False}, as_=user)
    assert (gone.status, gone.raw) == (204, b"")
    for replica in (0, 1):
        me = await world.call("GET", "/v1/auth/me", as_=user, replica=replica)
        assert (me.status, me.code) == (401, "TOKEN_INVALID")
        assert me.headers["www-authenticate"] == 'Bearer realm="tidegate", error="invalid_token"'
        assert (await world.submit(user, "acme", replica)).status == 401
        assert (await world.submit(other, "acme", replica)).status == 200
    spent = await world.post("/v1/auth/refresh", {"refresh_token": user.refresh_token})
    assert (spent.status, spent.code) == (401, "REFRESH_INVALID")
    assert (
        await world.post("/v1/auth/refresh", {"refresh_token": other.refresh_token})
    ).status == 200


async def test_signing_out_everywhere_ends_every_session(world: World) -> None:
    users = [await world.user()]
    users += [await world.sign_in(users[0].email, replica=n % 2) for n in range(3)]
    bystander = await world.user()
    gone = await world.post("/v1/auth/signout", {"all": True}, as_=users[1], replica=1)
    assert gone.status == 204
    for replica in (0, 1):
        for user in users:
            me = await world.call("GET", "/v1/auth/me", as_=user, replica=replica)
            assert me.code == "TOKEN_INVALID"
            spent = await world.post(
                "/v1/auth/refresh", {"refresh_token": user.refresh_token}, replica=replica
            )
            assert spent.code == "REFRESH_INVALID"
        assert (await world.call("GET", "/v1/auth/me", as_=bystander)).status == 200
    again = await world.sign_in(users[0].email)
    assert (await world.call("GET", "/v1/auth/me", as_=again)).status == 200


async def test_signing_out_at_the_same_time_is_no_error(world: World) -> None:
    user = await world.user()
    answers = await asyncio.gather(
        *(world.post("/v1/auth/signout", {"all": False}, as_=user, replica=n % 2) for n in range(6))
    )
    assert {answer.status for answer in answers} <= {204, 401}
    assert 204 in {answer.status for answer in answers}


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, "TOKEN_MISSING"),
        ({"authorization": "Bearer"}, "TOKEN_MISSING"),
        ({"authorization": "Basic YTpi"}, "TOKEN_MISSING"),
        ({"authorization": "Bearer garbage"}, "TOKEN_INVALID"),
        ({"authorization": "Bearer " + "A" * 5000}, "TOKEN_INVALID"),
        ({"authorization": "Bearer é.ü.ö"}, "TOKEN_INVALID"),
        ([("authorization", "Bearer a"), ("authorization", "Bearer b")], "TOKEN_MISSING"),
    ],
)
@pytest.mark.parametrize(
    "path", ["GET /v1/auth/me", "POST /v1/auth/signout", "GET /admin/iam/tenants"]
)
async def test_what_needs_a_token_is_closed_without_one(
    path: str, headers: Any, code: str, world: World
) -> None:
    method, _, route = path.partition(" ")
    body = {"all": False} if method == "POST" else None
    answer = await world.call(method, route, body, headers=headers)
    assert (answer.status, answer.code) == (401, code)
    assert answer.headers["www-authenticate"].startswith('Bearer realm="tidegate"')
