"""Metrics count what happened, under labels that are few and known."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tidegate.kernel.ids import new_id
from tidegate.store.lease import Lease

if TYPE_CHECKING:
    from tests.integration.app.conftest import World

pytestmark = pytest.mark.asyncio(loop_scope="session")

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


async def scrape(world: World) -> Samples:
    answer = await world.call("GET", "/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.raw.decode())
        for sample in family.samples
    }


def grown(before: Samples, after: Samples, name: str, **labels: str) -> float:
    key = (name, frozenset(labels.items()))
    return after.get(key, 0) - before.get(key, 0)


async def test_requests_are_counted_by_route_template(world: World) -> None:
    user = await world.someone(acme="tenant-member")
    before = await scrape(world)
    for number in range(3):
        headers = {"x-tenant-id": "acme"}
        path = f"/v1/commands/order/o-{number}"
        await world.post(path, {"command_type": "a"}, as_=user, headers=headers)
        await world.call("GET", f"/nowhere/{number}")
        await world.call("GET", f"/admin/iam/assignments?principal_id={user.id}", as_=world.admin)
    await world.post("/v1/commands/order/o-1", {"command_type": "a"}, headers=headers)
    await world.call("DELETE", f"/admin/iam/assignments/acme.{new_id()}.x", as_=world.admin)
    after = await scrape(world)
    command = "/v1/commands/{aggregate_type}/{aggregate_id}"
    for method, route, status, service, count in (
        ("POST", command, "200", "aggregate", 3),
        ("POST", command, "401", "aggregate", 1),
        ("GET", "unmatched", "404", "control", 3),
        ("GET", "/admin/iam/assignments", "200", "control", 3),
        ("DELETE", "/admin/iam/assignments/{assignment_id}", "404", "control", 1),
    ):
        found = grown(
            before, after, "tidegate_requests_total",
            method=method, route=route, status=status, service=service,
        )  # fmt: skip
        assert found == count, route
    seconds = "tidegate_request_duration_seconds_count"
    assert grown(before, after, seconds, route=command) == 4
    assert grown(before, after, "tidegate_auth_failures_total", reason="missing") == 1
    assert grown(
        before, after, "tidegate_upstream_requests_total", kind="aggregate", result="answered"
    ) == 3  # fmt: skip


async def test_refusals_are_counted_by_their_reason(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def not_now(_: Lease) -> bool:
        return False

    # The renewals of leases are commits too, and would be counted among the others.
    monkeypatch.setattr(Lease, "_renew", not_now)
    member = await world.someone(acme="tenant-member")
    tenant = f"t-{new_id()[-12:]}"
    await world.tenant(tenant, placed=False)
    await world.assign(member.id, tenant, "tenant-member")
    before = await scrape(world)
    for name in ("globex", tenant):
        await world.submit(member, name)
    await world.call("GET", "/admin/iam/roles", as_=member)
    await world.call("GET", "/v1/auth/me", headers={"authorization": "Bearer x"})
    await world.post("/v1/auth/signin", {"email": "nobody@example.org", "password": "x"})
    await world.sign_in(member.email)
    after = await scrape(world)
    for name, labels, count in (
        ("tidegate_authz_denials_total", {"reason": "not_a_member"}, 2),
        ("tidegate_routing_misses_total",
         {"kind": "aggregate", "reason": "TENANT_NOT_PLACED"}, 1),
        ("tidegate_auth_failures_total", {"reason": "malformed"}, 1),
        ("tidegate_signins_total", {"method": "password", "result": "refused"}, 1),
        ("tidegate_signins_total", {"method": "password", "result": "ok"}, 1),
        ("tidegate_commits_total", {"result": "committed"}, 1),
    ):  # fmt: skip
        assert grown(before, after, name, **labels) == count, name


async def test_no_label_has_values_that_a_client_can_choose(world: World) -> None:
    strange = new_id()
    await world.call("GET", f"/{strange}", headers={"user-agent": strange})
    await world.post(f"/v1/commands/{strange}/{strange}", {}, as_=world.admin)
    await world.post(f"/v1/query/{strange}", {}, headers={"x-tenant-id": strange})
    await world.call("GET", f"/errors/{strange}")
    samples = await scrape(world)
    uuid = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7")
    for name, labels in samples:
        for _, value in labels:
            assert uuid.search(value) is None, name
            assert "127.0.0.1" not in value


async def test_the_views_tell_how_far_and_how_old_they_are(world: World) -> None:
    """Sooner or later: the gauges are the process's, and other replicas in it set them too."""
    for bucket in ("iam", "routing"):
        labels = frozenset({("view", bucket)})
        async with asyncio.timeout(20):
            while True:
                samples = await scrape(world)
                revision = samples["tidegate_view_revision", labels]
                lag_s = samples["tidegate_view_lag_seconds", labels]
                if revision >= world.newest[bucket] and 0 <= lag_s < 15:
                    break
                await asyncio.sleep(0.05)
