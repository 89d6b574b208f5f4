"""Commands and queries: for whom they pass, where they go, and what goes with them."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from tidegate.kernel.ids import is_uuid7, new_id

if TYPE_CHECKING:
    from tests.integration.app.conftest import Answer, LogLines, User, World

pytestmark = pytest.mark.asyncio(loop_scope="session")

ACME = {"x-tenant-id": "acme"}
TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACEPARENT = f"00-{TRACE_ID}-00f067aa0ba902b7-01"


def command(**members: Any) -> dict[str, Any]:
    return {"command_type": "order.place", **members}


async def submit(world: World, user: User, body: Any = None, **how: Any) -> Answer:
    how = {"headers": ACME, **how}
    return await world.post("/v1/commands/order/o-1", body or command(), as_=user, **how)


async def query(world: World, user: User, body: Any = None, **how: Any) -> Answer:
    how = {"headers": ACME, **how}
    return await world.post("/v1/query/open-orders", body or {}, as_=user, **how)


async def test_a_command_reaches_the_node_and_its_events_come_back(world: World) -> None:
    user = await world.someone(acme="tenant-member")
    body = command(command_id="c-1", expected_version=0, payload={"amount": 5, "to": "Ada"})
    answer = await submit(world, user, body)
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json"
    event = answer.json["events"][0]
    assert is_uuid7(event.pop("event_id"))
    assert answer.json["command_id"] == "c-1"
    assert event == {
        "event_type": "order.placed",
        "version": "1",
        "payload": {"of": "o-1", "amount": 5},
    }
    assert (answer.json["version"], answer.json["duplicate"]) == ("1", False)
    sent, _ = world.aggregate.calls[-1]
    assert (sent.aggregate_type, sent.aggregate_id) == ("order", "o-1")
    assert (sent.command_id, sent.command_type) == ("c-1", "order.place")
    assert dict(sent.payload) == {"amount": 5, "to": "Ada"}
    assert sent.expected_version == 0


async def test_the_node_is_told_for_whom_and_nothing_that_the_client_says(world: World) -> None:
    user = await world.someone(acme="tenant-member")
    spoofed = {
        "x-principal-id": "mallory",
        "x-principal-kind": "admin",
        "x-principal-roles": "platform-admin",
        "x-session-id": "mallory",
        "x-user-id": "mallory",
        "x-tidegate-internal": "mallory",
        "x_tenant_id": "globex",
        "x_principal_id": "mallory",
        "x-forwarded-for": "203.0.113.66",
        "x-forwarded-user": "mallory",
        "forwarded": "for=203.0.113.66",
        "cookie": "session=mallory",
        "grpc-timeout": "1n",
        "te": "trailers",
        "x-custom": "mallory",
    }
    await submit(world, user, headers={**ACME, **spoofed})
    _, metadata = world.aggregate.calls[-1]
    await query(world, user, headers={**ACME, **spoofed})
    path, received, _ = world.projection.calls[-1]
    expected = {
        "x-tenant-id": "acme",
        "x-principal-id": user.id,
        "x-principal-kind": "user",
        "x-session-id": user.session_id,
    }
    assert path == "/v1/query/open-orders"
    for upstream in (metadata.items(), _grouped(received).items()):
        found = dict(upstream)
        for name, value in expected.items():
            assert found[name] == [value]
        flat = json.dumps(found)
        assert "mallory" not in flat
        assert "globex" not in flat
        assert "203.0.113.66" not in flat
        assert "authorization" not in found
        assert user.access_token not in flat
        assert not [name for name in found if name.startswith(("x-tidegate-", "x-user-", "x_"))]


def _grouped(headers: list[tuple[str, str]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, value in headers:
        found.setdefault(name, []).append(value)
    return found


async def test_a_query_is_answered_by_the_node_of_its_tenant(world: World) -> None:
    user = await world.someone(acme="tenant-member")
    world.projection.answer = (200, {"etag": '"7"', "set-cookie": "a=b"}, b'{"rows":[1]}')
    try:
        answer = await query(world, user, {"filter": {"open": True}})
    finally:
        world.projection.answer = (200, {}, b'{"rows": []}')
    assert (answer.status, answer.json) == (200, {"rows": [1]})
    assert answer.headers["etag"] == '"7"'
    assert "set-cookie" not in answer.headers
    _, headers, body = world.projection.calls[-1]
    assert json.loads(body) == {"filter": {"open": True}}
    assert dict(headers)["x-tenant-id"] == "acme"


async def test_what_a_node_answers_to_a_query_is_passed_on_with_its_status(world: World) -> None:
    user = await world.someone(acme="tenant-member")
    for status in (404, 422, 503):
        world.projection.answer = (status, {}, b'{"why":"mine"}')
        try:
            answer = await query(world, user)
        finally:
            world.projection.answer = (200, {}, b'{"rows": []}')
        assert (answer.status, answer.raw) == (status, b'{"why":"mine"}')


@pytest.mark.parametrize(
    ("status", "expected", "code"),
    [
        (grpc.StatusCode.ABORTED, 409, "VERSION_CONFLICT"),
        (grpc.StatusCode.FAILED_PRECONDITION, 409, "COMMAND_REJECTED"),
        (grpc.StatusCode.INVALID_ARGUMENT, 422, "COMMAND_INVALID"),
        (grpc.StatusCode.INTERNAL, 502, "UPSTREAM_FAILED"),
        (grpc.StatusCode.PERMISSION_DENIED, 502, "UPSTREAM_FAILED"),
    ],
)
async def test_what_a_node_refuses_is_told_as_a_problem(
    status: grpc.StatusCode, expected: int, code: str, world: World
) -> None:
    user = await world.someone(acme="tenant-member")
    world.aggregate.abort = (status, "10.0.0.7 says no")
    try:
        answer = await submit(world, user)
    finally:
        world.aggregate.abort = None
    assert (answer.status, answer.code) == (expected, code)
    assert (b"10.0.0.7" in answer.raw) is (expected != 502)


@pytest.mark.parametrize(
    "tenant", [["globex"], ["nowhere"], ["acme", "globex"], ["globex", "acme"], ["acme,globex"]]
)
@pytest.mark.parametrize("path", ["/v1/commands/order/o-1", "/v1/query/open-orders"])
async def test_no_spelling_reaches_a_tenant_that_one_does_not_belong_to(
    path: str, tenant: list[str], world: World
) -> None:
    user = await world.someone(acme="tenant-member")
    calls = len(world.aggregate.calls), len(world.projection.calls)
    headers = [("x-tenant-id", value) for value in tenant]
    answer = await world.post(path, command(), as_=user, headers=headers)
    expected = (403, "TENANT_FORBIDDEN") if len(tenant[0]) > 4 and len(tenant) == 1 else None
    if expected is None or "," in tenant[0]:
        expected = (400, "TENANT_INVALID")
    assert (answer.status, answer.code) == expected
    assert (len(world.aggregate.calls), len(world.projection.calls)) == calls


@pytest.mark.parametrize("place", ["query", "body", "cookie", "path"])
async def test_the_tenant_is_taken_from_its_header_alone(place: str, world: World) -> None:
    user = await world.someone(acme="tenant-member")
    headers = dict(ACME)
    path, body = "/v1/query/open-orders", {}
    if place == "query":
        path += "?x-tenant-id=globex&tenant=globex"
    elif place == "body":
        body = {"tenant_id": "globex", "x-tenant-id": "globex"}
    elif place == "cookie":
        headers["cookie"] = "x-tenant-id=globex"
    else:
        path = "/v1/query/globex"
    answer = await world.post(path, body, as_=user, headers=headers)
    assert answer.status == 200
    _, received, _ = world.projection.calls[-1]
    assert [v for k, v in received if k == "x-tenant-id"] == ["acme"]


async def test_an_unknown_and_a_foreign_tenant_get_one_answer(world: World) -> None:
    user = await world.someone(acme="tenant-member")
    answers = [
        await submit(world, user, headers={"x-tenant-id": name}) for name in ("globex", "nowhere")
    ]
    own = ("request_id", "timestamp")
    bodies = [{k: v for k, v in answer.json.items() if k not in own} for answer in answers]
    assert bodies[0] == bodies[1]
    assert bodies[0]["code"] == "TENANT_FORBIDDEN"


@pytest.mark.parametrize("headers", [{}, {"x-tenant-id": ""}])
async def test_without_a_tenant_the_answer_is_400(headers: dict[str, str], world: World) -> None:
    user = await world.someone(acme="tenant-member")
    for path in ("/v1/commands/order/o-1", "/v1/query/open-orders"):
        answer = await world.post(path, command(), as_=user, headers=headers)
        assert (answer.status, answer.code) == (400, "TENANT_REQUIRED")


async def test_a_role_allows_its_actions_and_nothing_else(world: World) -> None:
    admin = await world.someone(acme="tenant-admin")
    member = await world.someone(acme="tenant-member")
    for call in (submit, query):
        refused = await call(world, admin)
        assert (refused.status, refused.code) == (403, "FORBIDDEN")
        assert (await call(world, member)).status == 200


async def test_a_platform_admin_without_a_role_in_the_tenant_does_not_act_there(
    world: World,
) -> None:
    for call in (submit, query):
        answer = await call(world, world.admin)
        assert (answer.status, answer.code) == (403, "TENANT_FORBIDDEN")


async def test_an_assignment_counts_on_both_replicas_until_it_is_taken_away(world: World) -> None:
    user = await world.user()
    assert (await submit(world, user)).status == 403
    made = await world.assign(user.id, "acme", "tenant-member")
    for replica in (0, 1):
        assert (await submit(world, user, replica=replica)).status == 200
    path = f"/admin/iam/assignments/{made.json['id']}"
    taken = await world.call("DELETE", path, as_=world.admin, replica=1)
    assert taken.status == 204
    for replica in (0, 1):
        assert (await submit(world, user, replica=replica)).status == 403


async def test_a_tenant_without_a_placement_is_told_to_members_only(world: World) -> None:
    tenant = f"t-{new_id()[-12:]}"
    await world.tenant(tenant, placed=False)
    user = await world.user(**{tenant: "tenant-member"})
    stranger = await world.user()
    headers = {"x-tenant-id": tenant}
    assert (await submit(world, user, headers=headers)).code == "TENANT_NOT_PLACED"
    assert (await submit(world, stranger, headers=headers)).code == "TENANT_FORBIDDEN"


async def test_a_placement_decides_where_a_command_goes_as_resolve_says(world: World) -> None:
    tenant = f"t-{new_id()[-12:]}"
    await world.tenant(tenant)
    user = await world.user(**{tenant: "tenant-member"})
    where = f"/admin/routing/resolve?tenant={tenant}&kind="
    found = (await world.call("GET", where + "aggregate", as_=world.admin, replica=1)).json
    assert found["shard"] == "s1"
    assert found["endpoints"] == [f"grpc://127.0.0.1:{world.aggregate.port}"]
    before = len(world.aggregate.calls)
    assert (await submit(world, user, headers={"x-tenant-id": tenant}, replica=1)).status == 200
    assert len(world.aggregate.calls) == before + 1
    # Another shard with a dead endpoint: the very next request goes there, and nowhere else.
    document = {
        "aggregate_shards": {f"dead-{tenant}": ["grpc://127.0.0.1:1"]},
        "aggregate_placement": {tenant: f"dead-{tenant}"},
    }
    moved = await world.post("/admin/routing/apply", document, as_=world.admin)
    assert moved.status == 200
    headers = {"x-tenant-id": tenant, "x-request-timeout-ms": "300"}
    failed = await submit(world, user, headers=headers, replica=1)
    assert failed.status in {503, 504}
    assert len(world.aggregate.calls) == before + 1
    assert b"127.0.0.1" not in failed.raw


async def test_the_client_can_be_less_patient_than_the_gateway(world: World) -> None:
    user = await world.someone(acme="tenant-member")
    world.aggregate.gate.clear()
    try:
        headers = {**ACME, "x-request-timeout-ms": "100"}
        answer = await submit(world, user, headers=headers)
    finally:
        world.aggregate.gate.set()
    assert (answer.status, answer.code) == (504, "DEADLINE")
    malformed = await submit(world, user, headers={**ACME, "x-request-timeout-ms": "soon"})
    assert malformed.code == "MALFORMED"


async def test_a_missing_correlation_id_is_made_and_echoed(
    world: World, log_lines: LogLines
) -> None:
    user = await world.someone(acme="tenant-member")
    answer = await submit(world, user)
    made = answer.headers["x-correlation-id"]
    assert is_uuid7(made)
    assert world.aggregate.calls[-1][1]["x-correlation-id"] == [made]
    for path in ("/health", "/nowhere"):
        assert is_uuid7((await world.call("GET", path)).headers["x-correlation-id"])
    replaced = await world.call("GET", "/health", headers={"x-correlation-id": "x" * 129})
    assert is_uuid7(replaced.headers["x-correlation-id"])
    assert log_lines.lines


async def test_correlation_and_trace_reach_upstreams_answers_and_logs(
    world: World, log_lines: LogLines
) -> None:
    user = await world.someone(acme="tenant-member")
    headers = {
        **ACME,
        "x-correlation-id": "my-correlation",
        "traceparent": TRACEPARENT,
        "tracestate": "vendor=value",
    }
    commanded = await submit(world, user, headers=headers)
    _, metadata = world.aggregate.calls[-1]
    queried = await query(world, user, headers=headers)
    received = _grouped(world.projection.calls[-1][1])
    for answer, upstream in ((commanded, metadata), (queried, received)):
        assert answer.headers["x-correlation-id"] == "my-correlation"
        assert upstream["x-correlation-id"] == ["my-correlation"]
        (traceparent,) = upstream["traceparent"]
        _, trace_id, span_id, flags = traceparent.split("-")
        assert (trace_id, flags) == (TRACE_ID, "01")
        assert span_id != "00f067aa0ba902b7"
        assert upstream["tracestate"] == ["vendor=value"]
        assert answer.headers["traceparent"] == traceparent
        (line,) = log_lines.of(answer.headers["x-request-id"])
        assert line["correlation_id"] == "my-correlation"
        assert (line["trace_id"], line["span_id"]) == (TRACE_ID, span_id)
        assert (line["principal_id"], line["tenant_id"]) == (user.id, "acme")
        assert (line["status"], line["method"], line["upstream"]) == (200, "POST", "s1")


async def test_concurrent_requests_keep_their_identities_apart(world: World) -> None:
    users = [await world.user(acme="tenant-member") for _ in range(4)]
    before = len(world.aggregate.calls)
    names = [f"c-{n}" for n in range(32)]
    answers = await asyncio.gather(
        *(
            submit(
                world,
                users[n % 4],
                command(command_id=name),
                headers={**ACME, "x-correlation-id": name},
                replica=n % 2,
            )
            for n, name in enumerate(names)
        )
    )
    assert [answer.json["command_id"] for answer in answers] == names
    for sent, metadata in world.aggregate.calls[before:]:
        number = int(sent.command_id.removeprefix("c-"))
        assert metadata["x-correlation-id"] == [sent.command_id]
        assert metadata["x-principal-id"] == [users[number % 4].id]
