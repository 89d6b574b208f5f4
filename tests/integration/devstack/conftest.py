"""Nodes and the mail sink as real processes."""

import asyncio
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest

from tidegate.devstack.child import Child
from tidegate.devstack.nats_server import NatsServer
from tidegate.wire.aggregate.gateway.v1.command_pb2 import (
    SubmitCommandRequest,
    SubmitCommandResponse,
)
from tidegate.wire.aggregate.gateway.v1.command_pb2_grpc import CommandServiceStub

Eventually = Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]


@dataclass
class Program:
    """A program of the devstack that can die and come back at the same address."""

    argv: list[str]
    log: Path
    child: Child

    async def restart(self) -> None:
        await self.child.wait()
        self.child = await spawn(self.argv, self.log)


async def spawn(argv: list[str], log: Path) -> Child:
    return await Child.spawn(sys.executable, "-m", *argv, log=log)


@pytest.fixture
def free_port() -> Callable[[], int]:
    def find() -> int:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
            return port

    return find


StartProgram = Callable[..., Awaitable[Program]]


@pytest.fixture
async def start_program(tmp_path: Path) -> AsyncIterator[StartProgram]:
    """Start `python -m MODULE ARGUMENTS…`; what still runs after the test is killed."""
    programs: list[Program] = []

    async def start(*argv: str) -> Program:
        log = tmp_path / f"program-{len(programs)}.log"
        program = Program(list(argv), log, await spawn(list(argv), log))
        programs.append(program)
        return program

    yield start
    for program in programs:
        program.child.kill()
        await program.child.wait()


@dataclass
class AggregateNode:
    program: Program
    address: str
    channel: grpc.aio.Channel

    async def submit(
        self,
        command_id: str,
        *,
        aggregate_id: str = "o-1",
        tenant: str | None = "acme",
        command_type: str = "order.place",
        expected_version: int | None = None,
        payload: dict[str, Any] | None = None,
        metadata: dict[str, str] | None = None,
        headers: dict[str, str] | None = None,
    ) -> SubmitCommandResponse:
        request = SubmitCommandRequest(
            command_id=command_id,
            command_type=command_type,
            aggregate_type="order",
            aggregate_id=aggregate_id,
            expected_version=expected_version,
            metadata=metadata,
        )
        request.payload.update(payload or {})
        return await self.send(request, tenant=tenant, headers=headers)

    async def send(
        self,
        request: SubmitCommandRequest,
        *,
        tenant: str | None = "acme",
        headers: dict[str, str] | None = None,
    ) -> SubmitCommandResponse:
        sent = dict(headers or {})
        if tenant is not None:
            sent["x-tenant-id"] = tenant
        stub = CommandServiceStub(self.channel)  # type: ignore[no-untyped-call]
        answer: SubmitCommandResponse = await stub.SubmitCommand(
            request, metadata=tuple(sent.items()), timeout=10, wait_for_ready=True
        )
        return answer


StartAggregate = Callable[[], Awaitable[AggregateNode]]


@pytest.fixture
async def start_aggregate(
    nats_server: NatsServer, start_program: StartProgram, free_port: Callable[[], int]
) -> AsyncIterator[StartAggregate]:
    # A node that was killed is to be found again at once.
    options = [("grpc.initial_reconnect_backoff_ms", 50), ("grpc.max_reconnect_backoff_ms", 200)]
    async with AsyncExitStack() as channels:

        async def start() -> AggregateNode:
            address = f"127.0.0.1:{free_port()}"
            program = await start_program(
                "tidegate.devstack.nodes.aggregate",
                "--nats",
                nats_server.nodes_url,
                "--listen",
                address,
            )
            channel = grpc.aio.insecure_channel(address, options=options)
            await channels.enter_async_context(channel)
            async with asyncio.timeout(20):
                await channel.channel_ready()
            return AggregateNode(program, address, channel)

        yield start


@pytest.fixture
async def aggregate(start_aggregate: StartAggregate) -> AggregateNode:
    return await start_aggregate()


@dataclass
class ProjectionNode:
    program: Program
    http: aiohttp.ClientSession

    async def query(
        self, view: str, body: object, tenant: str | None = "acme"
    ) -> tuple[int, dict[str, Any]]:
        headers = {} if tenant is None else {"x-tenant-id": tenant}
        async with self.http.post(f"/v1/query/{view}", json=body, headers=headers) as answer:
            return answer.status, await answer.json()

    async def health(self) -> int:
        try:
            async with self.http.get("/health") as answer:
                return answer.status
        except aiohttp.ClientError:
            return 0


@pytest.fixture
async def projection(
    nats_server: NatsServer,
    start_program: StartProgram,
    free_port: Callable[[], int],
    eventually: Eventually,
) -> AsyncIterator[ProjectionNode]:
    address = f"127.0.0.1:{free_port()}"
    program = await start_program(
        "tidegate.devstack.nodes.projection",
        "--nats",
        nats_server.nodes_url,
        "--listen",
        address,
    )
    async with aiohttp.ClientSession(f"http://{address}") as http:
        node = ProjectionNode(program, http)

        async def healthy() -> bool:
            return await node.health() == 200

        await eventually(healthy)
        yield node
