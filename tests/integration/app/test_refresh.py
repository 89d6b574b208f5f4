"""Refresh over two replicas: one token, one use, whoever races whom."""

from __future__ import annotations

import asyncio
import base64
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.integration.app.conftest import Answer, User, World

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def refresh(world: World, token: str, replica: int = 0) -> Answer:
    return await world.post("/v1/auth/refresh", {"refresh_token": token}, replica=replica)


async def works(world: World, access_token: str) -> bool:
    bearer = {"authorization": f"Bearer {access_token}"}
    answers = [
        await world.call("GET", "/v1/auth/me", headers=bearer, replica=replica)
        for replica in (0, 1)
    ]
    return all(answer.status == 200 for answer in answers)


async def test_who_signed_in_on_one_replica_refreshes_on_the_other(world: World) -> None:
    user = await world.user()
    token, session_id = user.refresh_token, user.session_id
    for turn in range(6):
        answer = await refresh(world, token, replica=(turn + 1) % 2)
        assert answer.status == 200
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-tidegate-revision"].startswith("iam:")
        assert answer.json["session_id"] == session_id
        assert answer.json["refresh_token"] != token
        token = answer.json["refresh_token"]
        assert await works(world, answer.json["access_token"])


async def test_the_old_token_is_invalid_after_the_rotation(world: World) -> None:
    user = await world.user()
    assert (await refresh(world, user.refresh_token)).status == 200
    for replica in (0, 1):
        raced = await refresh(world, user.refresh_token, replica)
        assert (raced.status, raced.code) == (409, "REFRESH_RACED")


async def test_of_many_concurrent_uses_exactly_one_succeeds_and_the_session_lives(
    world: World,
) -> None:
    user = await world.user()
    token = user.refresh_token
    for _ in range(5):
        answers = await asyncio.gather(*(refresh(world, token, n % 2) for n in range(32)))
        won = [answer for answer in answers if answer.status == 200]
        assert len(won) == 1
        assert {answer.status for answer in answers} <= {200, 401, 409}
        assert not any("refresh_token" in a.json for a in answers if a.status != 200)
        token = won[0].json["refresh_token"]
        assert await works(world, won[0].json["access_token"])
    assert (await refresh(world, token, 1)).status == 200


async def test_a_token_used_again_later_ends_the_session_with_all_its_tokens(
    world: World,
) -> None:
    user = await world.user()
    second = (await refresh(world, user.refresh_token)).json
    third = (await refresh(world, second["refresh_token"], 1)).json
    assert await works(world, third["access_token"])
    reused = await refresh(world, user.refresh_token, 1)
    assert (reused.status, reused.code) == (401, "REFRESH_INVALID")
    for access_token in (user.access_token, second["access_token"], third["access_token"]):
        bearer = {"authorization": f"Bearer {access_token}"}
        me = await world.call("GET", "/v1/auth/me", headers=bearer, replica=1)
        assert me.code == "TOKEN_INVALID"
    assert (await refresh(world, third["refresh_token"])).code == "REFRESH_INVALID"
    # Signing in again is not affected.
    assert (await world.sign_in(user.email)).session_id != user.session_id


async def test_reuse_is_answered_like_any_other_bad_token(world: World) -> None:
    user = await world.user()
    second = (await refresh(world, user.refresh_token)).json
    await refresh(world, second["refresh_token"])
    reused, garbage = await refresh(world, user.refresh_token), await refresh(world, "tgr_x")
    own = ("request_id", "timestamp")
    assert {k: v for k, v in reused.json.items() if k not in own} == {
        k: v for k, v in garbage.json.items() if k not in own
    }


async def test_nobody_ends_a_session_by_guessing(world: World) -> None:
    user = await world.user()
    raw = user.refresh_token.removeprefix("tgr_")
    decoded = base64.urlsafe_b64decode(raw + "=" * (-len(raw) % 4))
    for place in range(0, len(decoded), 7):
        changed = bytearray(decoded)
        changed[place] ^= 0x80
        text = "tgr_" + base64.urlsafe_b64encode(bytes(changed)).rstrip(b"=").decode()
        assert (await refresh(world, text, place % 2)).code == "REFRESH_INVALID"
    assert await works(world, user.access_token)
    assert (await refresh(world, user.refresh_token)).status == 200


@pytest.mark.parametrize("token", ["", "x", "tgr_", "tgr_AAAA", "tgr_é", "tgr_" + "A" * 500])
async def test_garbage_is_void(token: str, world: World) -> None:
    answer = await refresh(world, token)
    assert (answer.status, answer.code) == (401, "REFRESH_INVALID")


async def test_an_access_token_does_not_refresh_and_a_refresh_token_does_not_open(
    world: World,
) -> None:
    user: User = await world.user()
    answer = await world.post("/v1/auth/refresh", {"refresh_token": user.access_token})
    assert answer.status in {401, 422}
    assert not await works(world, user.refresh_token)


async def test_a_refresh_races_a_sign_out_and_never_revives_the_session(world: World) -> None:
    for _ in range(5):
        user = await world.user()
        refreshed, gone = await asyncio.gather(
            refresh(world, user.refresh_token, 1),
            world.post("/v1/auth/signout", {"all": False}, as_=user),
        )
        assert gone.status == 204
        assert refreshed.status in {200, 401}
        if refreshed.status == 200:
            again = await refresh(world, refreshed.json["refresh_token"])
            assert again.code == "REFRESH_INVALID"
