"""Queries to real HTTP servers on loopback; raw ones where a server must misbehave."""

from __future__ import annotations

import asyncio
import gzip
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import orjson
import pytest
from aiohttp import web

from tidegate.kernel import errors
from tidegate.kernel.errors import Refusal
from tidegate.routing.model import Endpoint, Transport
from tidegate.upstream.call import CallContext
from tidegate.upstream.projections import Projections, UpstreamAnswer

Make = Callable[..., Projections]
MakeContext = Callable[..., CallContext]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Conversation = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

PATH = "/v1/query/orders"
JSON = "application/json"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"


@asynccontextmanager
async def serving(
    handler: Handler, port: int = 0, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Endpoint]:
    application = web.Application()
    application.router.add_route("*", "/{rest:.*}", handler)
    # So that a handler is told when its client has gone.
    runner = web.AppRunner(application, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, ssl_context=tls).start()
    try:
        transport = Transport.HTTPS if tls else Transport.HTTP
        yield Endpoint(f"127.0.0.1:{runner.addresses[0][1]}", transport)
    finally:
        await runner.cleanup()


@asynccontextmanager
async def talking(*conversations: Conversation) -> AsyncIterator[Endpoint]:
    """A raw server that has one conversation after another, each on a connection of its own."""
    remaining = iter(conversations)

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await next(remaining)(reader, writer)
            await writer.drain()
        finally:
            writer.close()

    server = await asyncio.start_server(converse, "127.0.0.1", 0)
    try:
        yield Endpoint(f"127.0.0.1:{server.sockets[0].getsockname()[1]}", Transport.HTTP)
    finally:
        server.close()
        await server.wait_closed()


async def read_request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    return head + await reader.readexactly(2)


def saying(answer: bytes) -> Conversation:
    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(answer)

    return converse


async def ask(
    nodes: Projections, context: CallContext, *endpoints: Endpoint, path: str = PATH
) -> UpstreamAnswer | Refusal:
    return await nodes.query(endpoints, path, b"{}", JSON, context)


def answered(answer: UpstreamAnswer | Refusal) -> UpstreamAnswer:
    assert isinstance(answer, UpstreamAnswer), answer
    return answer


def refused(answer: UpstreamAnswer | Refusal) -> Refusal:
    assert isinstance(answer, Refusal), answer
    assert "127.0.0.1" not in repr(answer)
    return answer


async def test_the_query_arrives_with_its_context_and_nothing_else(
    projections: Make, context: MakeContext
):
    async def echo(request: web.Request) -> web.Response:
        assert request.method == "POST"
        return web.json_response(
            {
                "target": request.raw_path,
                "body": await request.text(),
                "headers": {name.lower(): value for name, value in request.headers.items()},
            }
        )

    async with serving(echo) as endpoint, projections() as nodes:
        answer = answered(
            await ask(nodes, context(deadline_s=15), endpoint, path=f"{PATH}%7Ea?b=%63")
        )
    seen = orjson.loads(answer.body)
    assert seen["target"] == f"{PATH}%7Ea?b=%63"
    assert seen["body"] == "{}"
    assert 0 < int(seen["headers"].pop("x-request-timeout-ms")) <= 15_000
    assert seen["headers"] == {
        "host": endpoint.address,
        "content-type": JSON,
        "content-length": "2",
        "accept-encoding": "identity",
        "x-tenant-id": "acme",
        "x-principal-id": "principal-1",
        "x-principal-kind": "user",
        "x-session-id": "session-1",
        "x-correlation-id": "correlation-1",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "tracestate": "vendor=1",
    }


@pytest.mark.parametrize("status", [200, 204, 404, 422, 500, 503])
async def test_the_answer_passes_whatever_its_status(
    projections: Make, context: MakeContext, status: int
):
    queries = 0

    async def answer(_: web.Request) -> web.Response:
        nonlocal queries
        queries += 1
        body = None if status == 204 else b'{"a": 1}'
        return web.Response(status=status, body=body, headers={"x-projection-lag": "3"})

    async with serving(answer) as endpoint, projections() as nodes:
        got = answered(await ask(nodes, context(), endpoint))
    assert got.status == status
    assert got.body == (b"" if status == 204 else b'{"a": 1}')
    assert (b"x-projection-lag", b"3") in got.headers
    assert queries == 1


async def test_a_compressed_body_passes_untouched(projections: Make, context: MakeContext):
    squeezed = gzip.compress(b"{}" * 1000)

    async def answer(_: web.Request) -> web.Response:
        return web.Response(body=squeezed, headers={"content-encoding": "gzip"})

    async with serving(answer) as endpoint, projections() as nodes:
        got = answered(await ask(nodes, context(), endpoint))
    assert got.body == squeezed
    assert (b"content-encoding", b"gzip") in got.headers


async def test_what_ends_at_this_hop_does_not_pass(projections: Make, context: MakeContext):
    answer = saying(
        b"HTTP/1.1 200 OK\r\n"
        b"Content-Type: application/json\r\n"
        b"Connection: close, X-Internal\r\n"
        b"X-Internal: secret\r\n"
        b"Keep-Alive: timeout=5\r\n"
        b"Transfer-Encoding: chunked\r\n"
        b"Trailer: x-checksum\r\n"
        b"Set-Cookie: session=stolen\r\n"
        b"Server: node/1\r\n"
        b"X-Tidegate-Revision: iam:1\r\n"
        b"Vary: accept\r\n"
        b"\r\n2\r\n{}\r\n0\r\nx-checksum: 7\r\n\r\n"
    )
    async with talking(answer) as endpoint, projections() as nodes:
        got = answered(await ask(nodes, context(), endpoint))
    assert got.headers == ((b"content-type", b"application/json"), (b"vary", b"accept"))
    assert got.body == b"{}"


async def test_a_cookie_of_one_answer_is_not_sent_with_the_next_query(
    projections: Make, context: MakeContext
):
    cookies: list[str | None] = []

    async def answer(request: web.Request) -> web.Response:
        cookies.append(request.headers.get("cookie"))
        return web.Response(headers={"set-cookie": "a=b; Path=/"})

    async with serving(answer) as endpoint, projections() as nodes:
        for _ in range(2):
            answered(await ask(nodes, context(), endpoint))
    assert cookies == [None, None]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_neither_followed_nor_shown(
    projections: Make, context: MakeContext, status: int
):
    paths: list[str] = []

    async def redirect(request: web.Request) -> web.Response:
        paths.append(request.path)
        return web.Response(status=status, headers={"location": "/elsewhere"})

    async with serving(redirect) as endpoint, projections() as nodes:
        refusal = refused(await ask(nodes, context(), endpoint))
    assert refusal.code is errors.UPSTREAM_FAILED
    assert paths == [PATH]


async def test_an_answer_that_never_ends_is_cut_off(projections: Make, context: MakeContext):
    cut_off = asyncio.Event()

    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            while True:
                await response.write(b"x" * 10_000)
        except (ConnectionError, asyncio.CancelledError):
            cut_off.set()
            raise

    async with serving(endless) as endpoint, projections(max_answer_bytes=50_000) as nodes:
        refusal = refused(await ask(nodes, context(), endpoint))
        async with asyncio.timeout(10):
            await cut_off.wait()
    assert refusal.code is errors.UPSTREAM_FAILED


async def test_the_largest_answer_passes(projections: Make, context: MakeContext):
    async def answer(_: web.Request) -> web.Response:
        return web.Response(body=b"x" * 50_000)

    async with serving(answer) as endpoint:
        async with projections(max_answer_bytes=50_000) as nodes:
            assert len(answered(await ask(nodes, context(), endpoint)).body) == 50_000
        async with projections(max_answer_bytes=49_999) as nodes:
            refused(await ask(nodes, context(), endpoint))


async def test_a_query_whose_connection_breaks_before_the_answer_is_sent_again(
    projections: Make, context: MakeContext
):
    requests: list[bytes] = []

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append(await read_request(reader))

    async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append(await read_request(reader))
        writer.transport.abort()

    async with talking(hang_up, reset, saying(OK)) as endpoint, projections() as nodes:
        assert answered(await ask(nodes, context(), endpoint)).body == b"{}"
    assert len(requests) == 2
    assert requests[0].startswith(b"POST /v1/query/orders HTTP/1.1\r\n")


async def test_a_connection_that_was_closed_while_idle_costs_no_query(
    projections: Make, context: MakeContext
):
    async with talking(saying(OK), saying(OK)) as endpoint, projections() as nodes:
        for _ in range(2):
            assert answered(await ask(nodes, context(), endpoint)).body == b"{}"


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{}", id="cut short"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", id="bad chunk"
        ),
        pytest.param(b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n{}", id="bad length"),
        pytest.param(b"SSH-2.0-OpenSSH_9.2\r\n\r\n", id="not HTTP"),
        pytest.param(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n", id="upgrade"),
        pytest.param(b"HTTP/1.1 200 OK\r\nx: " + b"x" * 100_000 + b"\r\n\r\n", id="huge header"),
    ],
)
async def test_an_answer_that_is_broken_is_a_failure(
    projections: Make, context: MakeContext, answer: bytes
):
    async with talking(saying(answer)) as endpoint, projections() as nodes:
        refusal = refused(await ask(nodes, context(), endpoint))
    assert refusal.code is errors.UPSTREAM_FAILED


async def test_a_query_is_not_sent_again_once_its_answer_has_begun(
    projections: Make, context: MakeContext
):
    async def reset_half_way(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{}")
        await writer.drain()
        no_farewell = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, no_farewell)

    async with talking(reset_half_way, saying(OK)) as endpoint, projections() as nodes:
        refusal = refused(await ask(nodes, context(), endpoint))
    assert refusal.code is errors.UPSTREAM_FAILED


async def test_an_endpoint_that_does_not_listen_is_passed_over(
    projections: Make, context: MakeContext, free_port: int
):
    async def answer(_: web.Request) -> web.Response:
        return web.Response()

    nobody = Endpoint(f"127.0.0.1:{free_port}", Transport.HTTP)
    async with serving(answer) as endpoint, projections() as nodes:
        for _ in range(10):
            answered(await ask(nodes, context(), nobody, endpoint))


async def test_where_nothing_listens_the_client_may_come_again(
    projections: Make, context: MakeContext, free_port: int
):
    nobody = Endpoint(f"127.0.0.1:{free_port}", Transport.HTTP)
    async with projections(reconnect_wait_s=0.2) as nodes:
        refusal = refused(await ask(nodes, context(), nobody))
    assert refusal.code is errors.NO_ENDPOINT
    assert refusal.retry_after_s == 1


async def test_a_node_that_comes_back_on_its_port_is_found_again(
    projections: Make, context: MakeContext, free_port: int
):
    async def answer(_: web.Request) -> web.Response:
        return web.Response()

    endpoint = Endpoint(f"127.0.0.1:{free_port}", Transport.HTTP)
    async with projections(reconnect_wait_s=25) as nodes:
        async with serving(answer, free_port):
            answered(await ask(nodes, context(), endpoint))
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(ask(nodes, context(30), endpoint))
            async with projections(attempts=1, reconnect_wait_s=0) as probe:
                refused(await ask(probe, context(), endpoint))
            assert not waiting.done()
            async with serving(answer, free_port):
                answered(await waiting)


async def test_cancelling_the_caller_cancels_the_node(projections: Make, context: MakeContext):
    arrived, cancelled = asyncio.Event(), asyncio.Event()

    async def hang(_: web.Request) -> web.Response:
        arrived.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return web.Response()

    async with serving(hang) as endpoint, projections() as nodes:
        call = asyncio.create_task(ask(nodes, context(), endpoint))
        async with asyncio.timeout(10):
            await arrived.wait()
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            await cancelled.wait()


@pytest.mark.parametrize("begun", [b"", b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{}"])
async def test_the_deadline_ends_a_query_also_while_it_is_answered(
    projections: Make, context: MakeContext, begun: bytes
):
    async def stall(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(begun)
        await reader.read()

    async with talking(stall) as endpoint, projections() as nodes:
        refusal = refused(await ask(nodes, context(deadline_s=0.3), endpoint))
    assert refusal.code is errors.DEADLINE


async def test_an_endpoint_may_speak_tls(
    projections: Make, context: MakeContext, certificate: tuple[Path, Path]
):
    async def answer(_: web.Request) -> web.Response:
        return web.Response()

    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(*certificate)
    async with serving(answer, tls=tls) as endpoint:
        async with projections(ca_file=certificate[0]) as nodes:
            answered(await ask(nodes, context(), endpoint))
        async with projections(reconnect_wait_s=0.2) as distrustful:
            refusal = refused(await ask(distrustful, context(), endpoint))
    assert refusal.code is errors.NO_ENDPOINT


async def test_a_path_that_would_change_the_host_is_an_error(
    projections: Make, context: MakeContext
):
    async with projections() as nodes:
        with pytest.raises(ValueError, match="path"):
            await ask(nodes, context(), Endpoint("n:1", Transport.HTTP), path="@evil/v1")


async def test_queries_need_an_open_session(projections: Make, context: MakeContext):
    with pytest.raises(RuntimeError, match="not open"):
        await ask(projections(), context(), Endpoint("127.0.0.1:1", Transport.HTTP))
