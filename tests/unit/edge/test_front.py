"""The front: whose address it is, what every answer carries, and what becomes of failures."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from fastapi import APIRouter
from prometheus_client import REGISTRY
from pydantic import BaseModel

from tidegate.edge.http import asgi
from tidegate.edge.http.asgi import Application, ClientGone, Receive, Scope, Send
from tidegate.edge.http.control import StrictRoute, create_app
from tidegate.edge.http.front import Draining, Front
from tidegate.edge.http.settings import Settings
from tidegate.kernel.clock import SystemClock
from tidegate.observability import context
from tidegate.store.views import Progress

Exchange = Callable[..., Awaitable[tuple[int, dict[str, str], bytes]]]
TRUSTED = ("10.0.0.0/8", "127.0.0.1/32", "fd00::/8")


class Thing(BaseModel, extra="forbid"):
    name: str


def control_plane() -> Application:
    app = create_app(SystemClock(), 200_000)
    router = APIRouter(prefix="/things", route_class=StrictRoute)

    @router.post("")
    async def make(thing: Thing) -> Thing:
        return thing

    @router.get("/{name}")
    async def show(name: str) -> Thing:
        if name == "broken":
            raise RuntimeError("a marked secret")
        if name == "gone":
            raise ClientGone
        return Thing(name=name)

    app.include_router(router)
    return app


async def data_plane(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["path"].endswith("/broken"):
        raise RuntimeError("a marked secret")
    if scope["path"].endswith("/gone"):
        raise ClientGone
    if scope["path"].endswith("/half"):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise RuntimeError("too late")
    request = context.current.get()
    assert request is not None
    await asgi.answer(send, 200, [], request.correlation_id.encode())


def make_front(draining: Draining | None = None, **settings: Any) -> Front:
    progress = {"iam": Progress(SystemClock()), "routing": Progress(SystemClock())}
    progress["iam"].reached(100)
    return Front(
        data_plane,
        control_plane(),
        progress,
        draining or Draining(),
        Settings.model_validate({"min_revision_wait_s": 0.01, **settings}),
        SystemClock(),
    )


@pytest.fixture
def front() -> Front:
    return make_front()


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        ("192.0.2.1", [], "192.0.2.1"),
        # Nobody is believed who is not trusted.
        ("192.0.2.1", ["198.51.100.9"], "192.0.2.1"),
        ("10.0.0.1", ["198.51.100.9"], "198.51.100.9"),
        ("10.0.0.1", [], "10.0.0.1"),
        # The last hop that no trusted proxy vouched for, whatever the client put before it.
        ("10.0.0.1", ["1.1.1.1, 198.51.100.9"], "198.51.100.9"),
        ("10.0.0.1", ["1.1.1.1, 198.51.100.9, 10.0.0.2"], "198.51.100.9"),
        ("10.0.0.1", ["1.1.1.1", "198.51.100.9"], "198.51.100.9"),
        ("10.0.0.1", ["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        # What is no address ends the chain at the last one that is.
        ("10.0.0.1", ["unknown"], "10.0.0.1"),
        ("10.0.0.1", ["1.1.1.1, garbage, 10.0.0.2"], "10.0.0.2"),
        ("10.0.0.1", ["", " , "], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.9:1234"], "10.0.0.1"),
        ("fd00::1", ["2001:DB8::0:1"], "2001:db8::1"),
        ("unix", ["198.51.100.9"], ""),
    ],
)
def test_the_address_is_that_of_the_last_untrusted_hop(
    peer: str, forwarded: list[str], address: str, scope_of: Callable[..., Scope]
) -> None:
    scope = scope_of(client=(peer, 1))
    scope["headers"] = [(b"x-forwarded-for", value.encode()) for value in forwarded]
    assert make_front(trusted_proxies=TRUSTED)._address(scope) == address


def test_without_trusted_proxies_nobody_is_believed(
    front: Front, scope_of: Callable[..., Scope]
) -> None:
    scope = scope_of(client=("10.0.0.1", 1), headers={"x-forwarded-for": "198.51.100.9"})
    assert front._address(scope) == "10.0.0.1"
    assert front._address(scope_of(client=None)) == ""


async def test_every_answer_carries_its_ids(front: Front, exchange: Exchange) -> None:
    for path in ("/v1/query/x", "/things/a", "/nowhere", "/v1/commands/x/broken"):
        _, headers, _ = await exchange(front, path)
        assert headers["x-request-id"]
        assert headers["x-correlation-id"] == headers["x-request-id"]
        assert headers["traceparent"].startswith("00-")
        assert headers["x-content-type-options"] == "nosniff"


async def test_a_correlation_id_is_kept(front: Front, exchange: Exchange) -> None:
    _, headers, body = await exchange(front, "/v1/query/x", headers={"x-correlation-id": "mine"})
    assert headers["x-correlation-id"] == "mine"
    assert body == b"mine"


@pytest.mark.parametrize("path", ["/v1/commands/x/broken", "/things/broken"])
async def test_what_goes_wrong_is_told_with_an_id_and_nothing_else(
    path: str, front: Front, exchange: Exchange, caplog: pytest.LogCaptureFixture
) -> None:
    status, headers, body = await exchange(front, path)
    document = json.loads(body)
    assert (status, document["code"]) == (500, "INTERNAL")
    assert headers["content-type"] == "application/problem+json"
    assert document["request_id"] == headers["x-request-id"]
    assert b"marked" not in body
    assert "RuntimeError" in caplog.text


@pytest.mark.parametrize("path", ["/v1/commands/x/gone", "/things/gone"])
async def test_a_client_that_left_is_counted_as_such(
    path: str, front: Front, exchange: Exchange, caplog: pytest.LogCaptureFixture
) -> None:
    def counted() -> float:
        return sum(
            sample.value
            for metric in REGISTRY.collect()
            for sample in metric.samples
            if sample.name == "tidegate_requests_total" and sample.labels["status"] == "499"
        )

    before = counted()
    await exchange(front, path)
    assert counted() == before + 1
    assert "Traceback" not in caplog.text


async def test_an_answer_that_has_begun_is_not_answered_twice(
    front: Front, exchange: Exchange
) -> None:
    status, _, body = await exchange(front, "/v1/query/half")
    assert (status, body) == (200, b"")


async def test_a_head_request_is_answered_like_a_get(front: Front, exchange: Exchange) -> None:
    status, headers, _ = await exchange(front, "/things/a", method="HEAD")
    assert status == 200
    assert headers["content-type"] == "application/json"
    assert (await exchange(front, "/nowhere", method="HEAD"))[0] == 404


async def test_while_draining_each_answer_closes_its_connection(exchange: Exchange) -> None:
    draining = Draining()
    front = make_front(draining)
    assert "connection" not in (await exchange(front, "/things/a"))[1]
    draining.active = True
    for path in ("/things/a", "/v1/query/x", "/nowhere"):
        assert (await exchange(front, path))[1]["connection"] == "close"


@pytest.mark.parametrize("value", ["iam:0", "iam:100", "routing:0", "iam:0100"])
async def test_a_revision_that_is_reached_changes_nothing(
    value: str, front: Front, exchange: Exchange
) -> None:
    headers = {"x-tidegate-min-revision": value}
    assert (await exchange(front, "/things/a", headers=headers))[0] == 200


@pytest.mark.parametrize("value", ["iam:101", "routing:1", "iam:" + "9" * 19, "iam:" + "9" * 5000])
async def test_a_revision_that_is_not_reached_in_time_is_told(
    value: str, front: Front, exchange: Exchange
) -> None:
    headers = {"x-tidegate-min-revision": value}
    status, answered, body = await exchange(front, "/things/a", headers=headers)
    assert (status, json.loads(body)["code"]) == (503, "VIEW_BEHIND")
    assert answered["retry-after"] == "1"
    assert len(body) < 1000


@pytest.mark.parametrize(
    "value",
    [
        "",
        "iam",
        "iam:",
        ":1",
        "iam:x",
        "iam:-1",
        "iam:1.5",
        "users:1",
        "iam:1:2",
        "iam: 1",
        "iam:²",
    ],
)
async def test_a_revision_that_is_none_is_malformed(
    value: str, front: Front, exchange: Exchange
) -> None:
    headers = {"x-tidegate-min-revision": value}
    status, _, body = await exchange(front, "/things/a", headers=headers)
    assert (status, json.loads(body)["code"]) == (400, "MALFORMED")


async def test_wrong_fields_are_named_by_pointer_and_cut_short(
    front: Front, exchange: Exchange
) -> None:
    sent = json.dumps({"name": 7, "a/b~": 1, "x" * 100_000: 2}).encode()
    json_type = {"content-type": "application/json"}
    status, _, body = await exchange(front, "/things", "POST", json_type, [sent])
    assert status == 422
    assert {e["field"] for e in json.loads(body)["errors"]} == {
        *("/name", "/a~1b~0", "/" + "x" * 128),
    }
    assert len(body) < 2000


async def test_a_wrong_body_is_refused_before_the_route_sees_it(
    front: Front, exchange: Exchange
) -> None:
    json_type = {"content-type": "application/json"}
    for headers, body, expected in (
        (json_type, b"{", 400),
        (json_type, b"", 400),
        ({}, b"{}", 415),
        ({"content-type": "text/plain"}, b"{}", 415),
        (json_type, b"[]", 422),
        (json_type, b" " * 300_000, 413),
        ({**json_type, "content-length": "300000"}, b"", 413),
    ):
        status, _, answered = await exchange(front, "/things", "POST", headers, [body])
        assert status == expected
        assert json.loads(answered)["status"] == expected
