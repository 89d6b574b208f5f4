"""Commands to real gRPC servers on loopback."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest

from tidegate.kernel import errors
from tidegate.kernel.errors import Code, Refusal
from tidegate.routing.model import Endpoint, Transport
from tidegate.upstream.aggregates import Aggregates
from tidegate.upstream.call import CallContext
from tidegate.wire.aggregate.gateway.v1 import command_pb2_grpc
from tidegate.wire.aggregate.gateway.v1.command_pb2 import (
    SubmitCommandRequest,
    SubmitCommandResponse,
)

Make = Callable[..., Aggregates]
MakeContext = Callable[..., CallContext]
Answer = Callable[[SubmitCommandRequest], Awaitable[SubmitCommandResponse]]

COMMAND = SubmitCommandRequest(
    command_id="c-1", command_type="order.place", aggregate_type="order", aggregate_id="o-1"
)
ANSWER = SubmitCommandResponse(command_id="c-1", version=1)
PROCESS = Path(__file__).with_name("aggregate_process.py")


class Node(command_pb2_grpc.CommandServiceServicer):
    """Answers, after the statuses it was told to give first, and remembers what came."""

    def __init__(self, *first: grpc.StatusCode, details: str = "") -> None:
        self._first = list(first)
        self._details = details
        self.answer = ANSWER
        self.commands: list[SubmitCommandRequest] = []
        self.metadata: dict[str, str] = {}
        self.remaining_s: float | None = None
        self.endpoint = Endpoint("", Transport.GRPC)

    async def SubmitCommand(  # noqa: N802
        self,
        request: SubmitCommandRequest,
        context: grpc.aio.ServicerContext[SubmitCommandRequest, SubmitCommandResponse],
    ) -> SubmitCommandResponse:
        self.commands.append(request)
        self.metadata = {name: str(value) for name, value in context.invocation_metadata() or ()}
        self.remaining_s = context.time_remaining()
        if self._first:
            await context.abort(self._first.pop(0), self._details)
        return await self.decide()

    async def decide(self) -> SubmitCommandResponse:
        return self.answer


class HangingNode(Node):
    """Never answers; tells when a command has come, and when it was cancelled."""

    def __init__(self) -> None:
        super().__init__()
        self.arrived = asyncio.Event()
        self.cancelled = asyncio.Event()

    async def decide(self) -> SubmitCommandResponse:
        self.arrived.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return ANSWER


@asynccontextmanager
async def listening(
    node: Node, port: int = 0, credentials: grpc.ServerCredentials | None = None
) -> AsyncIterator[Endpoint]:
    server = grpc.aio.server()
    command_pb2_grpc.add_CommandServiceServicer_to_server(node, server)
    if credentials is None:
        port = server.add_insecure_port(f"127.0.0.1:{port}")
    else:
        port = server.add_secure_port(f"127.0.0.1:{port}", credentials)
    await server.start()
    try:
        yield Endpoint(f"127.0.0.1:{port}", Transport.GRPCS if credentials else Transport.GRPC)
    finally:
        await server.stop(None)


def refused(answer: SubmitCommandResponse | Refusal) -> Refusal:
    assert isinstance(answer, Refusal), answer
    assert "127.0.0.1" not in repr(answer)
    return answer


async def test_the_command_arrives_with_its_context_and_the_events_come_back(
    aggregates: Make, context: MakeContext
):
    node = Node()
    node.answer = SubmitCommandResponse(command_id="c-1", version=2, duplicate=True)
    node.answer.events.add(event_id="e-1", event_type="order.placed", version=2)
    async with listening(node) as endpoint, aggregates() as nodes:
        assert await nodes.submit([endpoint], COMMAND, context(deadline_s=15)) == node.answer
    assert node.commands == [COMMAND]
    expected = {
        "x-tenant-id": "acme",
        "x-principal-id": "principal-1",
        "x-principal-kind": "user",
        "x-session-id": "session-1",
        "x-correlation-id": "correlation-1",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "tracestate": "vendor=1",
    }
    assert expected.items() <= node.metadata.items()
    assert node.remaining_s is not None
    assert 0 < node.remaining_s <= 15


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (grpc.StatusCode.ABORTED, errors.VERSION_CONFLICT),
        (grpc.StatusCode.FAILED_PRECONDITION, errors.COMMAND_REJECTED),
        (grpc.StatusCode.INVALID_ARGUMENT, errors.COMMAND_INVALID),
    ],
)
async def test_what_the_domain_says_is_passed_on_once(
    aggregates: Make, context: MakeContext, status: grpc.StatusCode, code: Code
):
    node = Node(status, status, details="the order is closed")
    async with listening(node) as endpoint, aggregates() as nodes:
        refusal = refused(await nodes.submit([endpoint], COMMAND, context()))
    assert (refusal.code, refusal.detail) == (code, "the order is closed")
    assert len(node.commands) == 1


@pytest.mark.parametrize(
    "status",
    [
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.CANCELLED,
    ],
)
async def test_a_failing_node_is_not_asked_again_nor_quoted(
    aggregates: Make, context: MakeContext, status: grpc.StatusCode
):
    node = Node(status, details="boom at /srv/node.py")
    async with listening(node) as endpoint, aggregates() as nodes:
        refusal = refused(await nodes.submit([endpoint], COMMAND, context()))
    assert refusal.code is errors.UPSTREAM_FAILED
    assert "boom" not in repr(refusal)
    assert len(node.commands) == 1


async def test_an_unavailable_node_gets_the_same_command_again(
    aggregates: Make, context: MakeContext
):
    node = Node(grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNAVAILABLE)
    async with listening(node) as endpoint, aggregates() as nodes:
        assert await nodes.submit([endpoint], COMMAND, context()) == ANSWER
    assert node.commands == [COMMAND] * 3


async def test_a_node_that_stays_unavailable_is_left_alone_after_three_times(
    aggregates: Make, context: MakeContext
):
    node = Node(*[grpc.StatusCode.UNAVAILABLE] * 10, details="draining")
    async with listening(node) as endpoint, aggregates() as nodes:
        refusal = refused(await nodes.submit([endpoint], COMMAND, context()))
    assert refusal.code is errors.NO_ENDPOINT
    assert refusal.retry_after_s == 1
    assert "draining" not in repr(refusal)
    assert len(node.commands) == 3


async def test_another_endpoint_takes_what_one_cannot(aggregates: Make, context: MakeContext):
    draining, fine = Node(*[grpc.StatusCode.UNAVAILABLE] * 50), Node()
    async with listening(draining) as one, listening(fine) as other, aggregates() as nodes:
        for _ in range(10):
            assert await nodes.submit([one, other], COMMAND, context()) == ANSWER
    assert len(fine.commands) == 10
    assert 0 < len(draining.commands) <= 10


async def test_an_endpoint_that_does_not_listen_is_passed_over(
    aggregates: Make, context: MakeContext, free_port: int
):
    nobody = Endpoint(f"127.0.0.1:{free_port}", Transport.GRPC)
    async with listening(Node()) as endpoint, aggregates() as nodes:
        for _ in range(10):
            assert await nodes.submit([nobody, endpoint], COMMAND, context()) == ANSWER


async def test_where_nothing_listens_the_client_may_come_again(
    aggregates: Make, context: MakeContext, free_port: int
):
    nobody = Endpoint(f"127.0.0.1:{free_port}", Transport.GRPC)
    async with aggregates(reconnect_wait_s=0.2) as nodes:
        refusal = refused(await nodes.submit([nobody], COMMAND, context()))
    assert refusal.code is errors.NO_ENDPOINT
    assert refusal.retry_after_s == 1


async def test_a_node_that_is_killed_while_it_decides_may_decide_after_its_restart(
    aggregates: Make, context: MakeContext, free_port: int
):
    async def start(mode: str) -> asyncio.subprocess.Process:
        process = await asyncio.create_subprocess_exec(
            sys.executable, str(PROCESS), str(free_port), mode, stdout=asyncio.subprocess.PIPE
        )
        assert await said(process) == "up"
        return process

    async def said(process: asyncio.subprocess.Process) -> str:
        assert process.stdout is not None
        async with asyncio.timeout(20):
            return (await process.stdout.readline()).decode().strip()

    endpoint = Endpoint(f"127.0.0.1:{free_port}", Transport.GRPC)
    process = await start("hang")
    try:
        async with aggregates(reconnect_wait_s=25) as nodes, asyncio.TaskGroup() as group:
            answer = group.create_task(nodes.submit([endpoint], COMMAND, context(30)))
            assert await said(process) == "c-1"
            process.kill()
            await process.wait()
            process = await start("answer")
            assert await said(process) == "c-1"
            assert await answer == ANSWER
    finally:
        process.kill()
        await process.wait()


async def test_a_node_that_comes_back_on_its_port_is_found_again(
    aggregates: Make, context: MakeContext, free_port: int
):
    async with aggregates(reconnect_wait_s=25) as nodes:
        async with listening(Node(), free_port) as endpoint:
            assert await nodes.submit([endpoint], COMMAND, context()) == ANSWER
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(nodes.submit([endpoint], COMMAND, context(30)))
            async with aggregates(attempts=1, reconnect_wait_s=0) as probe:
                refused(await probe.submit([endpoint], COMMAND, context()))
            assert not waiting.done()
            async with listening(Node(), free_port):
                assert await waiting == ANSWER


async def test_cancelling_the_caller_cancels_the_node(aggregates: Make, context: MakeContext):
    node = HangingNode()
    async with listening(node) as endpoint, aggregates() as nodes:
        call = asyncio.create_task(nodes.submit([endpoint], COMMAND, context()))
        async with asyncio.timeout(10):
            await node.arrived.wait()
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            await node.cancelled.wait()


async def test_the_deadline_ends_the_call_here_and_at_the_node(
    aggregates: Make, context: MakeContext
):
    node = HangingNode()
    async with listening(node) as endpoint, aggregates() as nodes:
        refusal = refused(await nodes.submit([endpoint], COMMAND, context(deadline_s=0.3)))
        assert refusal.code is errors.DEADLINE
        async with asyncio.timeout(10):
            await node.cancelled.wait()
    assert len(node.commands) == 1
    assert node.remaining_s is not None
    assert node.remaining_s <= 0.3


async def test_the_gateways_own_timeout_holds_when_the_client_would_wait_longer(
    aggregates: Make, context: MakeContext
):
    node = HangingNode()
    async with listening(node) as endpoint, aggregates(total_timeout_s=0.3) as nodes:
        refusal = refused(await nodes.submit([endpoint], COMMAND, context(deadline_s=60)))
    assert refusal.code is errors.DEADLINE


async def test_an_answer_that_is_too_large_is_a_failure(aggregates: Make, context: MakeContext):
    node = Node()
    node.answer = SubmitCommandResponse(command_id="x" * 5000)
    async with listening(node) as endpoint, aggregates(max_answer_bytes=4000) as nodes:
        refusal = refused(await nodes.submit([endpoint], COMMAND, context()))
    assert refusal.code is errors.UPSTREAM_FAILED
    assert len(node.commands) == 1


async def test_an_answer_that_is_no_message_is_a_failure_told_to_operators(
    aggregates: Make, context: MakeContext, caplog: pytest.LogCaptureFixture
):
    async def nonsense(request: bytes, _: object) -> bytes:
        return b"\xff\xff"

    handler = grpc.method_handlers_generic_handler(
        "aggregate.gateway.v1.CommandService",
        {"SubmitCommand": grpc.unary_unary_rpc_method_handler(nonsense)},
    )
    server = grpc.aio.server(handlers=[handler])
    endpoint = Endpoint(f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}", Transport.GRPC)
    await server.start()
    try:
        with caplog.at_level(logging.WARNING):
            async with aggregates() as nodes:
                refusal = refused(await nodes.submit([endpoint], COMMAND, context()))
    finally:
        await server.stop(None)
    assert refusal.code is errors.UPSTREAM_FAILED
    assert endpoint.address in caplog.text


async def test_an_endpoint_may_speak_tls(
    aggregates: Make, context: MakeContext, certificate: tuple[Path, Path]
):
    pem, key = (path.read_bytes() for path in certificate)
    credentials = grpc.ssl_server_credentials([(key, pem)])
    async with listening(Node(), credentials=credentials) as endpoint:
        async with aggregates(ca_file=certificate[0]) as nodes:
            assert await nodes.submit([endpoint], COMMAND, context()) == ANSWER
        async with aggregates(reconnect_wait_s=0.2) as distrustful:
            refusal = refused(await distrustful.submit([endpoint], COMMAND, context()))
    assert refusal.code is errors.NO_ENDPOINT


async def test_a_proxy_in_the_environment_is_none_of_our_business(
    aggregates: Make, context: MakeContext, free_port: int, monkeypatch: pytest.MonkeyPatch
):
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port}")
    for name in ("no_proxy", "NO_PROXY", "no_grpc_proxy"):
        monkeypatch.delenv(name, raising=False)
    async with listening(Node()) as endpoint, aggregates(reconnect_wait_s=0.2) as nodes:
        assert await nodes.submit([endpoint], COMMAND, context()) == ANSWER
