"""Secrets: not readable in any stream, not in any log line, answer or metric."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import pytest

from tidegate.kernel.ids import new_id
from tidegate.store.connection import ApiError, connect

if TYPE_CHECKING:
    from tests.integration.app.conftest import Answer, LogLines, World

pytestmark = pytest.mark.asyncio(loop_scope="session")

STREAMS = ("KV_iam", "KV_routing", "MAIL", "AUDIT", "LIMITS", "QUOTA")


def spellings(secret: str) -> Iterable[bytes]:
    """A secret in clear and as it would look inside base64, wherever it starts there."""
    raw = secret.encode()
    yield raw.lower()
    yield raw.hex().encode()
    for place in range(3):
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            # Without its ends, which depend on what stands around it.
            inner = encode(bytes(place) + raw)[4:-4].lower()
            if len(inner) >= 10:
                yield inner


def assert_nowhere(secrets: Iterable[str], where: bytes) -> None:
    searched = where.lower()
    for secret in secrets:
        for spelling in spellings(secret):
            assert spelling not in searched, secret


async def everything_in(world: World) -> bytes:
    """Subjects, headers and payloads of all that the streams hold."""
    found: list[bytes] = []
    async with connect(world.settings[0].nats, "reader") as connection:
        for stream in STREAMS:
            state = (await connection.api(f"STREAM.INFO.{stream}"))["state"]
            for sequence in range(state["first_seq"], state["last_seq"] + 1):
                try:
                    got = await connection.api(f"STREAM.MSG.GET.{stream}", {"seq": sequence})
                except ApiError:
                    continue  # Replaced or removed since.
                message = got["message"]
                found.append(message["subject"].encode())
                found += [base64.b64decode(message.get(part, "")) for part in ("hdrs", "data")]
    return b"\n".join(found)


async def test_what_is_stored_gives_no_secret_away(own_world: World) -> None:
    world = own_world
    address, name = f"grace.{new_id()[-12:]}@example.org", "Grace Brewster Murray Hopper"
    password = "compilers cannot be written"
    unverified = f"unverified.{new_id()[-12:]}@example.org"
    await world.sign_up(address, password, name)
    verification = await world.sink.token_for(address)
    await world.post("/v1/auth/signup", {"email": unverified, "password": "another passphrase"})
    pending = await world.sink.token_for(unverified)
    user = await world.sign_in(address, password)
    refreshed = await world.post("/v1/auth/refresh", {"refresh_token": user.refresh_token})
    await world.post("/v1/auth/signup", {"email": address, "password": "a third passphrase"})
    await world.post("/v1/auth/signin", {"email": address, "password": "a wrong passphrase"})
    again = await world.sign_in(address, password)
    await world.post("/v1/auth/signout", {"all": False}, as_=again)
    stored = await everything_in(world)
    # The search sees what is there, or finding nothing would mean nothing.
    assert user.id.encode() in stored
    assert b"user.signed_up" in stored
    assert b"tg.iam.mail." in stored
    tokens = (user.refresh_token, refreshed.json["refresh_token"], again.refresh_token)
    raw_secrets = [
        base64.urlsafe_b64decode(token[4:] + "=" * (-len(token[4:]) % 4)).hex()[74:138]
        for token in tokens
    ]
    for raw in raw_secrets:
        assert bytes.fromhex(raw) not in stored
    assert_nowhere(
        [
            *(address, unverified, name, "Hopper", "grace."),
            *(password, "another passphrase", "a third passphrase", "a wrong passphrase"),
            *(verification, pending, *tokens, *raw_secrets),
            *(user.access_token, refreshed.json["access_token"], user.access_token.split(".")[2]),
            *("please confirm that this address", "Your token"),
            *(
                (world.folder / ring).read_text().split()[1]
                for ring in ("wrapping-keys", "peppers")
            ),
        ],
        stored,
    )


async def test_marked_secrets_appear_in_no_log_answer_or_metric(
    own_world: World, log_lines: LogLines
) -> None:
    world = own_world
    user = await world.user(acme="tenant-member")
    marked = "marked-secret-7f3a"
    answers: list[Answer] = []

    async def provoke(method: str, path: str, body: Any = None, **how: Any) -> None:
        answers.append(await world.call(method, path, body, **how))

    address = f"{new_id()[-12:]}@example.org"
    bearer = {"authorization": f"Bearer {marked}"}
    fields = {"email": address, "password": marked}
    # Refused for what is in them.
    await provoke("POST", "/v1/auth/signup", {**fields, "password": f"{marked} long enough"})
    await provoke("POST", "/v1/auth/signup", fields | {"password": marked[:10]})
    await provoke("POST", "/v1/auth/signup", {"email": address, "password": {"value": marked}})
    await provoke("POST", "/v1/auth/signup", {"email": address, "password": [marked] * 3})
    await provoke("POST", "/v1/auth/signup", fields | {"password": marked * 100})
    await provoke("POST", "/v1/auth/signin", fields)
    await provoke("POST", "/v1/auth/signin", {**fields, "device_name": 7})
    await provoke("POST", "/v1/auth/verify-email", {"token": marked})
    await provoke("POST", "/v1/auth/verify-email", {"token": {"t": marked}})
    await provoke("POST", "/v1/auth/refresh", {"refresh_token": f"tgr_{marked}"})
    await provoke("POST", "/v1/auth/refresh", {"refresh_token": [f"tgr_{marked}"]})
    await provoke("POST", "/v1/auth/signin", data=f'{{"password": "{marked}"'.encode(),
                  headers={"content-type": "application/json"})  # fmt: skip
    await provoke("POST", "/v1/auth/signin", data=f"password={marked}".encode(),
                  headers={"content-type": "application/x-www-form-urlencoded"})  # fmt: skip
    await provoke("GET", "/v1/auth/me", headers=bearer)
    await provoke("GET", "/v1/auth/me", headers={"authorization": f"Basic {marked}"})
    await provoke("POST", "/v1/commands/order/o-1", {}, headers={**bearer, "x-tenant-id": "acme"})
    await provoke("GET", f"/v1/auth/me?access_token={marked}", as_=user)
    await provoke("GET", f"/nowhere?token={marked}", headers={"cookie": f"refresh={marked}"})
    await provoke("DELETE", "/v1/auth/signin", headers={"x-api-key": marked})
    # Refused upstream, and passed on with a body that only the node may see.
    for command in ({"command_type": "order.place", "payload": {"card": marked}}, {"card": 1}):
        tenant = {"x-tenant-id": "acme"}
        await provoke("POST", "/v1/commands/order/o-1", command, as_=user, headers=tenant)
        await provoke("POST", "/v1/query/orders", command, as_=user, headers=tenant)
    # Failing for reasons of our own.
    stored_user = await world.sign_in(user.email)
    async with connect(world.settings[0].nats, "vandal") as connection:
        key = f"user.{int(user.id[-3:], 16) % 4096}.{user.id}"
        broken = {"v": 1, "status": "active", "session_epoch": 0, "email": {"k": "own", "c": "x"}}
        payload = json.dumps({**broken, "email_verified": True}).encode()
        await connection.request(f"$KV.iam.{key}", payload)
        await provoke("GET", "/v1/auth/me", as_=stored_user)
        assert answers[-1].status == 500
        await connection.request(f"$KV.iam.{key}", f'["{marked}"]'.encode())
        await provoke("POST", "/v1/auth/signin", {"email": user.email, "password": user.password})
        assert answers[-1].status == 503
    world.nats.kill()
    await provoke("POST", "/v1/auth/signin", fields)
    await provoke("POST", "/v1/auth/signup", {**fields, "password": f"{marked} long enough"})
    await provoke("POST", "/v1/auth/refresh", {"refresh_token": user.refresh_token})
    await world.nats.restart()
    assert {answer.status for answer in answers} >= {
        200,
        202,
        400,
        401,
        404,
        405,
        415,
        422,
        500,
        503,
    }
    exposed = (await world.call("GET", "/metrics")).raw
    shown = b"\n".join([*(a.raw + str(a.headers).encode() for a in answers), exposed])
    logged = "\n".join(log_lines.lines).encode()
    assert b"Traceback" in logged
    secrets = [
        *(marked, user.password, user.access_token.split(".")[2], user.refresh_token[60:]),
        *((world.folder / ring).read_text().split()[1] for ring in ("wrapping-keys", "peppers")),
        world.nats.url.partition("://")[2].partition("@")[0].partition(":")[2],
    ]
    assert_nowhere(secrets, logged)
    tokens = [stored_user.access_token.split(".")[2]]
    assert_nowhere([*secrets[1:], *tokens], shown)
    assert marked.encode() not in shown
    assert user.email.encode() not in logged
