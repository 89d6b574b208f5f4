"""Without NATS: known principals go on for one lease, changes fail fast, all of it comes back."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
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


@asynccontextmanager
async def outage(world: World, how: str) -> AsyncIterator[None]:
    """For the length of the block there is no NATS."""
    world.newest.clear()
    if how == "killed":
        world.nats.kill()
        await world.nats.wait()
    else:
        os.kill(world.nats.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        if how == "killed":
            await world.nats.restart()
        else:
            os.kill(world.nats.pid, signal.SIGCONT)


@pytest.mark.parametrize("how", ["killed", "frozen"])
async def test_an_outage_of_nats(how: str, own_world: World, eventually: Eventually) -> None:
    world = own_world
    user = await world.user(acme="tenant-member")
    stranger = await world.user(acme="tenant-member")
    assert (await world.submit(user, "acme")).status == 200
    async with outage(world, how):
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
        refused(await world.submit(stranger, "acme"))
        assert (await world.submit(user, "acme")).status == 200

    async def serves_again() -> bool:
        signed_in = await world.post("/v1/auth/signin", body)
        return signed_in.status == (await world.call("GET", "/ready")).status == 200

    await eventually(serves_again)
    # Changes are made and followed again.
    await world.tenant("late")
    await world.assign(user.id, "late", "tenant-member")
    assert (await world.submit(user, "late")).status == 200
    assert (await world.submit(stranger, "acme")).status == 200


@pytest.mark.parametrize("how", ["killed", "frozen"])
async def test_an_outage_that_outlasts_the_lease(how: str, own_world: World) -> None:
    """Whoever is in memory: what was taken away meanwhile cannot be known."""
    world = own_world
    user = await world.user(acme="tenant-member")
    assert (await world.submit(user, "acme")).status == 200
    async with outage(world, how):
        world.clock.ahead_s += world.settings[0].nats.lease.ttl_s
        bearers = (user.bearer, {}, {"authorization": "Bearer garbage"})
        for answer in await asyncio.gather(
            world.submit(user, "acme"),
            world.post("/v1/query/x", {}, as_=user, headers={"x-tenant-id": "acme"}),
            world.post("/v1/auth/refresh", {"refresh_token": user.refresh_token}),
            world.post("/v1/auth/signout", {"all": False}, as_=user),
            *(world.call("GET", "/v1/auth/me", headers=bearer) for bearer in bearers),
            *(world.call("GET", "/admin/routing", headers=bearer) for bearer in bearers),
            world.call("DELETE", f"/admin/iam/users/{user.id}/sessions", as_=world.admin),
        ):
            assert (answer.status, answer.code) == (503, "REPLICA_FENCED")
            assert answer.headers["retry-after"] == "1"
        ready = await world.call("GET", "/ready")
        assert ready.status == 503
        assert any("the lease has ended" in reason for reason in ready.json["reasons"])
        for path in ("/health", "/version", "/metrics", "/errors/REPLICA_FENCED"):
            assert (await world.call("GET", path)).status == 200
    await world.all_ready()
    assert (await world.submit(user, "acme")).status == 200
