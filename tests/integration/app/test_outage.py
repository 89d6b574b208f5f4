"""Without NATS: known principals go on, changes fail fast, and it all comes back by itself."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.integration.app.conftest import Answer, World
    from tests.integration.conftest import Eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")


def refused(answer: Answer) -> None:
    assert (answer.status, answer.headers["content-type"]) == (503, "application/problem+json")
    assert answer.code in {"UNAVAILABLE", "COMMIT_UNKNOWN"}
    assert int(answer.headers["retry-after"]) >= 1


@pytest.mark.parametrize("how", ["killed", "frozen"])
async def test_an_outage_of_nats(how: str, own_world: World, eventually: Eventually) -> None:
    world = own_world
    user = await world.user(acme="tenant-member")
    world.newest.clear()
    if how == "killed":
        world.nats.kill()
        await world.nats.wait()
    else:
        os.kill(world.nats.pid, signal.SIGSTOP)
    try:
        assert (await world.call("GET", "/health")).status == 200
        assert (await world.submit(user, "acme")).status == 200
        query = await world.post("/v1/query/x", {}, as_=user, headers={"x-tenant-id": "acme"})
        assert query.status == 200
        found = await world.call("GET", "/admin/routing", as_=world.admin)
        assert found.json["kinds"]["aggregate"]["tenants"] == 2
        body = {"email": user.email, "password": user.password}
        for answer in await asyncio.gather(
            *(world.post("/v1/auth/signin", body) for _ in range(8)),
            world.post("/v1/auth/signup", {**body, "email": "new@example.org"}),
            world.post("/v1/auth/refresh", {"refresh_token": user.refresh_token}),
            world.post("/v1/auth/verify-email", {"token": "x"}),
            world.post("/v1/auth/signout", {"all": False}, as_=user),
            world.call("GET", "/v1/auth/me", as_=user),
            world.post("/admin/iam/tenants", {"id": "late", "name": "Late"}, as_=world.admin),
            world.post(
                "/admin/routing/apply", {"aggregate_placement": {"acme": None}}, as_=world.admin
            ),
        ):
            refused(answer)
        assert (await world.submit(user, "acme")).status == 200
    finally:
        if how == "killed":
            await world.nats.restart()
        else:
            os.kill(world.nats.pid, signal.SIGCONT)

    async def serves_again() -> bool:
        signed_in = await world.post("/v1/auth/signin", body)
        return signed_in.status == (await world.call("GET", "/ready")).status == 200

    await eventually(serves_again)
    # Changes are made and followed again.
    await world.tenant("late")
    await world.assign(user.id, "late", "tenant-member")
    assert (await world.submit(user, "late")).status == 200
