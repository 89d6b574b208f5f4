"""HTTP at the edge: whatever is sent, the answer is well formed and never a 500."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import pytest

from tidegate.kernel.errors import CODES

if TYPE_CHECKING:
    from tests.integration.app.conftest import Answer, World

pytestmark = pytest.mark.asyncio(loop_scope="session")

JSON = {"content-type": "application/json"}
TENANT = {"x-tenant-id": "acme"}
MEMBERS = {
    *("type", "title", "status", "detail", "code", "details", "request_id", "timestamp"),
    *("errors", "retry_after"),
}
OPEN = ["/v1/auth/signup", "/v1/auth/signin", "/v1/auth/verify-email", "/v1/auth/refresh"]
POSTS = [
    *OPEN,
    *("/v1/auth/signout", "/admin/iam/tenants", "/admin/iam/assignments", "/admin/routing/apply"),
    *("/v1/commands/order/o-1", "/v1/query/open-orders"),
]
# A projection gets the bytes of a query as they are: only it can say what they mean.
PARSED = POSTS[:-1]
MALFORMED = [
    *(b"", b"{", b"nul", b'{"a" 1}', b"{'a': 1}", b"NaN", b'{"email": NaN}', b'{"a": Infinity}'),
    *(b'{"email": "\\ud800"}', b'{"\\udfff": 1}', b'{"email": "\xff\xfe"}', b"\xef\xbb\xbf{}"),
    *(b'{"email": 1e999}', b'{"email": -1e999}', b'{"email": ' + b"9" * 5000 + b"}"),
    *(b"[" * 60_000, b'{"a":' * 12_000, b"\x00", b"[1,]"),
]
ODD = [
    *(b"[]", b"1", b'"x"', b"null", b"true", b"{}", b'{"email": 1, "email": 2}'),
    *(b'{"email": null, "password": null}', b'{"email": {}, "password": []}', b'{"": ""}'),
    *(b'{"token": ["x"]}', b'{"refresh_token": {"a": 1}}', b'{"all": "perhaps"}'),
    *(b'{"id": 18446744073709551616, "name": 1e300}', b'{"command_type": "\\u0000"}'),
    *(b'{"payload": {"n": 1e308}, "command_type": "a"}', b'{"expected_version": -1}'),
    *(b'{"payload": ' + b'{"a":' * 900 + b"1" + b"}" * 900 + b', "command_type": "a"}',),
]


def check_problem(answer: Answer) -> None:
    document = answer.json
    assert answer.headers["content-type"] == "application/problem+json"
    assert set(document) == MEMBERS
    assert document["status"] == answer.status
    code = CODES[document["code"]]
    assert (document["title"], document["type"]) == (code.title, f"/errors/{code.word}")
    assert document["request_id"] == answer.headers["x-request-id"]
    assert document["timestamp"].endswith("Z")
    assert isinstance(document["detail"], str)
    assert isinstance(document["details"], dict)
    assert isinstance(document["errors"], list)
    assert answer.headers.get("retry-after", "") == str(document["retry_after"] or "")
    assert "Traceback" not in answer.raw.decode()


async def send(world: World, path: str, body: bytes, **how: Any) -> Answer:
    """As somebody who may do everything everywhere."""
    user = await world.someone(acme="tenant-member")
    who = world.admin if path.startswith("/admin") else user
    bearer = {} if path in OPEN or path == "/v1/auth/signout" else who.bearer
    headers = {**JSON, **TENANT, **bearer, **how.pop("headers", {})}
    return await world.call("POST", path, data=body, headers=headers, **how)


@pytest.mark.parametrize("path", PARSED)
async def test_a_body_that_is_not_json_is_malformed(path: str, world: World) -> None:
    for body in MALFORMED:
        answer = await send(world, path, body)
        check_problem(answer)
        assert (answer.status, answer.code) == (400, "MALFORMED"), body[:20]


@pytest.mark.parametrize("path", POSTS)
async def test_odd_bodies_never_break_anything(path: str, world: World) -> None:
    for body in ODD:
        answer = await send(world, path, body)
        assert answer.status < 500, body[:40]
        if answer.status >= 400:
            check_problem(answer)


@pytest.mark.parametrize("path", POSTS)
async def test_a_body_over_the_limit_is_refused_with_a_length_and_without(
    path: str, world: World
) -> None:
    body = b'{"a": "' + b"x" * 70_000 + b'"}'

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(body), 9_000):
            yield body[start : start + 9_000]

    for data in (body, chunks()):
        answer = await send(world, path, data)  # type: ignore[arg-type]
        check_problem(answer)
        assert (answer.status, answer.code) == (413, "BODY_TOO_LARGE")


@pytest.mark.parametrize("path", POSTS)
async def test_a_body_that_is_not_declared_as_json_is_refused(path: str, world: World) -> None:
    for content_type in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        answer = await send(world, path, b"{}", headers={"content-type": content_type})
        check_problem(answer)
        assert (answer.status, answer.code) == (415, "MEDIA_TYPE")
    user = await world.someone(acme="tenant-member")
    who = world.admin if path.startswith("/admin") else user
    answer = await world.call("POST", path, data=b"{}", headers={**TENANT, **who.bearer})
    assert answer.status == 415


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS"])
async def test_a_wrong_method_is_refused_and_the_right_one_named(
    method: str, path: str, world: World
) -> None:
    answer = await world.call(method, path, headers={**TENANT, **world.admin.bearer})
    check_problem(answer)
    assert (answer.status, answer.code) == (405, "METHOD_NOT_ALLOWED")
    assert "POST" in answer.headers["allow"] or "GET" in answer.headers["allow"]


@pytest.mark.parametrize("path", ["/health", "/ready", "/version", "/metrics", "/v1/auth/me"])
async def test_what_is_only_read_cannot_be_posted_to(path: str, world: World) -> None:
    answer = await world.post(path, {}, as_=world.admin)
    check_problem(answer)
    assert (answer.status, answer.headers["allow"]) == (405, "GET")


@pytest.mark.parametrize(
    "path",
    [
        *("/", "/nowhere", "/v1", "/v1/auth", "/v1/auth/", "/v1/auth/nothing", "/admin"),
        *("/v1/commands", "/v1/commands/", "/v1/commands/order", "/v1/commands/order/a/b"),
        *("/v1/query/", "/v1/query/a/b", "/v1/query/%2e%2e", "//health", "/health/", "/%00"),
        *("/errors/", "/health/x", "/.well-known/", "/V1/auth/signin", "/é"),
    ],
)
async def test_an_unknown_path_is_404(path: str, world: World) -> None:
    for method in ("GET", "POST"):
        answer = await world.call(method, path, as_=world.admin)
        check_problem(answer)
        assert (answer.status, answer.code) == (404, "NOT_FOUND")


async def test_a_head_request_is_answered_without_a_body(world: World) -> None:
    for path in ("/health", "/ready", "/version", "/.well-known/jwks.json"):
        head = await world.call("HEAD", path)
        get = await world.call("GET", path)
        assert (head.status, head.raw) == (200, b"")
        assert head.headers["content-length"] == get.headers["content-length"]
    # The connection is still in step.
    assert (await world.call("GET", "/health")).json == {"status": "ok"}


@pytest.mark.parametrize("value", ["iam:99999999", "routing:99999999", "iam:" + "9" * 30])
async def test_a_revision_far_ahead_is_not_waited_for_in_vain(value: str, world: World) -> None:
    user = await world.someone(acme="tenant-member")
    headers = {"x-tidegate-min-revision": value, **TENANT}
    for call in (
        world.call("GET", "/v1/auth/me", as_=user, headers=headers),
        world.post("/v1/commands/order/o-1", {}, as_=user, headers=headers),
    ):
        answer = await call
        check_problem(answer)
        assert (answer.status, answer.code) == (503, "VIEW_BEHIND")
        assert answer.headers["retry-after"] == "1"


@pytest.mark.parametrize("value", ["", "x", "iam", "iam:", "iam:x", "iam:-1", "mail:1", "iam:1,2"])
async def test_a_malformed_revision_is_refused(value: str, world: World) -> None:
    answer = await world.call("GET", "/health", headers={"x-tidegate-min-revision": value})
    check_problem(answer)
    assert (answer.status, answer.code) == (400, "MALFORMED")


async def test_no_answer_leads_elsewhere_by_the_host_that_a_client_names(world: World) -> None:
    headers = {"host": "evil.example", "x-forwarded-host": "evil.example"}
    for path in ("/health/", "/v1/auth/signin/", "/docs", "/openapi.json", "/nowhere"):
        answer = await world.call("GET", path, headers=headers)
        assert "location" not in answer.headers
        assert b"evil.example" not in answer.raw


async def test_every_error_leads_to_what_it_means(world: World) -> None:
    for word, code in CODES.items():
        answer = await world.call("GET", f"/errors/{word}")
        assert answer.status == 200
        assert answer.json["title"] == code.title


async def test_the_public_keys_can_be_cached_and_hold_nothing_private(world: World) -> None:
    answer = await world.call("GET", "/.well-known/jwks.json", replica=1)
    assert answer.headers["cache-control"] == "public, max-age=300"
    (key,) = answer.json["keys"]
    assert set(key) == {"kty", "crv", "x", "y", "kid", "use", "alg"}


async def test_the_document_of_the_api_is_there_in_both_forms(world: World) -> None:
    document = (await world.call("GET", "/openapi.json")).json
    assert {"/v1/auth/signin", "/v1/commands/{aggregate_type}/{aggregate_id}"} <= set(
        document["paths"]
    )
    assert (await world.call("GET", "/openapi.yaml")).status == 200
    assert (await world.call("GET", "/docs")).status == 200


RAW = [
    b"GET /\xff\xfe HTTP/1.1\r\nhost: x\r\n\r\n",
    b"GET / HTTP/9.9\r\nhost: x\r\n\r\n",
    b"\x00\x01\x02\r\n\r\n",
    b"GET\r\n\r\n",
    b"POST /v1/auth/signin HTTP/1.1\r\nhost: x\r\ncontent-length: abc\r\n\r\n",
    b"POST /v1/auth/signin HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
    b"POST /v1/auth/signin HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n",
    b"POST /v1/auth/signin HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    b"GET /health HTTP/1.1\r\nhost: x\r\nbad header: x\r\n\r\n",
]


@pytest.mark.parametrize("request_", RAW, ids=lambda raw: ascii(raw)[:40])
async def test_what_is_not_http_is_refused_and_the_connection_closed(
    request_: bytes, world: World
) -> None:
    port = world.settings[0].http.port
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request_)
        async with asyncio.timeout(20):
            answer = await reader.read()
    finally:
        writer.close()
        await writer.wait_closed()
    assert answer == b"" or answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 404 "))
    assert (await world.call("GET", "/health")).status == 200


async def test_a_client_that_leaves_in_the_middle_leaves_no_trace(world: World) -> None:
    port = world.settings[0].http.port
    for path in (b"/v1/auth/signin", b"/v1/commands/order/o-1"):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        head = b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n" % path
        bearer = (await world.someone(acme="tenant-member")).bearer["authorization"].encode()
        head += b"x-tenant-id: acme\r\nauthorization: " + bearer
        writer.write(head + b"\r\ncontent-length: 100\r\n\r\n" + json.dumps({"a": 1}).encode())
        await writer.drain()
        writer.close()
        await writer.wait_closed()
    assert (await world.call("GET", "/health")).status == 200
