"""Commands keep coming while what they need is killed; what was acknowledged happened once."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import grpc
import nats
from grpc import StatusCode

from tidegate.devstack.child import Child
from tidegate.devstack.nats_server import NatsServer
from tidegate.devstack.nodes.events import StoredEvent
from tidegate.wire.aggregate.gateway.v1.command_pb2 import SubmitCommandResponse

_AGGREGATES = 7
_CLIENTS = 8
_COMMANDS_PER_PHASE = 150


class Program(Protocol):
    child: Child

    async def restart(self) -> None: ...


class Aggregate(Protocol):
    program: Program

    async def submit(self, command_id: str, **options: Any) -> SubmitCommandResponse: ...


class Projection(Protocol):
    async def query(
        self, view: str, body: object, tenant: str | None = "acme"
    ) -> tuple[int, dict[str, Any]]: ...


class Clients:
    """Submit numbered commands, each again until it is acknowledged."""

    def __init__(self, nodes: list[Aggregate]) -> None:
        self._nodes = nodes
        self._numbers = iter(range(1_000_000))
        self._acknowledgements = asyncio.Condition()
        self.answers: dict[str, SubmitCommandResponse] = {}
        self.enough = False

    async def run(self) -> None:
        async with asyncio.TaskGroup() as clients:
            for _ in range(_CLIENTS):
                clients.create_task(self._one())

    async def acknowledged(self, count: int) -> None:
        async with asyncio.timeout(60), self._acknowledgements:
            await self._acknowledgements.wait_for(lambda: len(self.answers) >= count)

    async def _one(self) -> None:
        while not self.enough:
            number = next(self._numbers)
            await self._submit(number)

    async def _submit(self, number: int) -> None:
        command_id, attempt = f"c-{number}", 0
        while True:
            # Another attempt goes to another node, as the gateway's may.
            node = self._nodes[(number + attempt) % len(self._nodes)]
            try:
                answer = await node.submit(command_id, aggregate_id=f"o-{number % _AGGREGATES}")
            except grpc.aio.AioRpcError as error:
                if error.code() is not StatusCode.UNAVAILABLE:
                    raise
                attempt += 1
                await asyncio.sleep(0.02)
                continue
            async with self._acknowledgements:
                self.answers[command_id] = answer
                self._acknowledgements.notify_all()
            return


async def stored(nats_server: NatsServer) -> list[StoredEvent]:
    connection = await nats.connect(nats_server.nodes_url)
    js = connection.jetstream()
    last = (await js.stream_info("DEMO_EVENTS")).state.last_seq
    messages = [await js.get_msg("DEMO_EVENTS", sequence) for sequence in range(1, last + 1)]
    await connection.close()
    return [
        StoredEvent.decode(message.seq or 0, message.data or b"", message.headers)
        for message in messages
    ]


async def test_every_acknowledged_command_happened_exactly_once(
    start_aggregate: Callable[[], Awaitable[Aggregate]],
    projection: Projection,
    nats_server: NatsServer,
) -> None:
    nodes = [await start_aggregate(), await start_aggregate()]
    clients = Clients(nodes)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(clients.run())
        await clients.acknowledged(_COMMANDS_PER_PHASE)
        nodes[0].program.child.kill()
        await nodes[0].program.restart()
        await clients.acknowledged(2 * _COMMANDS_PER_PHASE)
        nats_server.kill()
        await nats_server.restart()
        await clients.acknowledged(3 * _COMMANDS_PER_PHASE)
        nats_server.kill()
        nodes[1].program.child.kill()
        await nats_server.restart()
        await nodes[1].program.restart()
        await clients.acknowledged(4 * _COMMANDS_PER_PHASE)
        clients.enough = True

    events = await stored(nats_server)
    event_ids = {event.cause.command_id: event.event.event_id for event in events}
    assert len(event_ids) == len(events) == len(clients.answers)
    assert event_ids == {
        command_id: answer.events[0].event_id for command_id, answer in clients.answers.items()
    }

    _, counts = await projection.query(
        "counts", {"aggregate_type": "order", "min_position": events[-1].sequence}
    )
    expected = Counter(f"o-{int(command_id[2:]) % _AGGREGATES}" for command_id in clients.answers)
    assert {item["aggregate_id"]: item["count"] for item in counts["items"]} == expected
    for aggregate_id, count in expected.items():
        _, listed = await projection.query(
            "aggregate", {"aggregate_type": "order", "aggregate_id": aggregate_id}
        )
        assert listed["version"] == count
