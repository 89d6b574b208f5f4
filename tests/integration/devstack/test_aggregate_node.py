import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import grpc
import nats
import pytest
from grpc import StatusCode
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tidegate.devstack.child import Child
from tidegate.devstack.nats_server import NatsServer
from tidegate.wire.aggregate.gateway.v1.command_pb2 import (
    SubmitCommandRequest,
    SubmitCommandResponse,
)

Eventually = Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]


class Program(Protocol):
    child: Child

    async def restart(self) -> None: ...


class Node(Protocol):
    program: Program
    address: str
    channel: grpc.aio.Channel

    async def submit(self, command_id: str, **options: Any) -> SubmitCommandResponse: ...
    async def send(
        self, request: SubmitCommandRequest, **options: Any
    ) -> SubmitCommandResponse: ...


async def refusal(call: Awaitable[SubmitCommandResponse]) -> tuple[StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call
    return refused.value.code(), refused.value.details() or ""


async def stored_events(nats_server: NatsServer) -> int:
    connection = await nats.connect(nats_server.nodes_url)
    try:
        return (await connection.jetstream().stream_info("DEMO_EVENTS")).state.messages
    finally:
        await connection.close()


async def test_a_command_becomes_one_event(aggregate: Node) -> None:
    payload: dict[str, Any] = {"lines": [{"sku": "a", "count": 2}], "note": None, "paid": True}
    answer = await aggregate.submit("c-1", payload=payload)
    assert answer.command_id == "c-1"
    assert answer.version == 1
    assert not answer.duplicate
    [event] = answer.events
    assert event.event_type == "order.place"
    assert event.version == 1
    assert event.event_id
    assert event.time.seconds > 0
    sent = SubmitCommandRequest()
    sent.payload.update(payload)
    assert event.payload == sent.payload


async def test_the_event_remembers_what_caused_it(aggregate: Node, nats_server: NatsServer) -> None:
    await aggregate.submit(
        "c-1",
        metadata={"source": "web\r\nNats-Rollup: all", "shop": "Zürich"},
        headers={
            "x-principal-id": "u-7",
            "x-principal-kind": "user",
            "x-correlation-id": "corr-1",
        },
    )
    connection = await nats.connect(nats_server.nodes_url)
    stored = await connection.jetstream().get_msg("DEMO_EVENTS", 1)
    await connection.close()
    assert stored.headers is not None
    assert json.loads(stored.headers["Demo-Cause"]) == {
        "command_id": "c-1",
        "principal_id": "u-7",
        "principal_kind": "user",
        "correlation_id": "corr-1",
        "notes": {"source": "web\r\nNats-Rollup: all", "shop": "Zürich"},
    }
    assert "Nats-Rollup" not in stored.headers


async def test_versions_count_an_aggregates_events(aggregate: Node) -> None:
    versions = [
        (await aggregate.submit(f"c-{number}", expected_version=number)).version
        for number in range(3)
    ]
    assert versions == [1, 2, 3]
    assert (await aggregate.submit("c-0", aggregate_id="o-2")).version == 1


async def test_another_version_than_expected_is_aborted_with_the_actual_one(
    aggregate: Node, nats_server: NatsServer
) -> None:
    await aggregate.submit("c-1")
    await aggregate.submit("c-2")
    code, details = await refusal(aggregate.submit("c-3", expected_version=1))
    assert code is StatusCode.ABORTED
    assert "version 2" in details
    code, _ = await refusal(aggregate.submit("c-4", aggregate_id="new", expected_version=1))
    assert code is StatusCode.ABORTED
    assert await stored_events(nats_server) == 2


async def test_a_repeated_command_gets_its_first_answer(
    aggregate: Node, nats_server: NatsServer
) -> None:
    first = await aggregate.submit("c-1", payload={"a": 1.5}, expected_version=0)
    await aggregate.submit("c-2")
    again = await aggregate.submit("c-1", payload={"a": 1.5}, expected_version=0)
    assert again.duplicate
    assert list(again.events) == list(first.events)
    assert again.version == first.version
    assert await stored_events(nats_server) == 2


async def test_a_command_id_used_for_another_command_gets_the_first_answer(
    aggregate: Node,
) -> None:
    first = await aggregate.submit("c-1", command_type="order.place")
    other = await aggregate.submit("c-1", command_type="order.cancel", payload={"b": 2})
    assert other.duplicate
    assert list(other.events) == list(first.events)


async def test_commands_sent_twice_at_once_happen_once(
    aggregate: Node, nats_server: NatsServer
) -> None:
    answers = await asyncio.gather(*(aggregate.submit("c-1") for _ in range(20)))
    assert [answer.duplicate for answer in answers].count(False) == 1
    assert len({answer.events[0].event_id for answer in answers}) == 1
    assert await stored_events(nats_server) == 1


async def test_a_killed_node_still_knows_its_commands(aggregate: Node) -> None:
    # More than one read of the log takes at a time.
    first = [await aggregate.submit(f"c-{number}") for number in range(300)]
    aggregate.program.child.kill()
    await aggregate.program.restart()
    again = [await aggregate.submit(f"c-{number}") for number in range(300)]
    assert all(answer.duplicate for answer in again)
    assert [list(answer.events) for answer in again] == [list(answer.events) for answer in first]
    assert (await aggregate.submit("c-new", expected_version=300)).version == 301


async def test_a_command_that_can_never_be_valid_is_refused(
    aggregate: Node, nats_server: NatsServer
) -> None:
    code, details = await refusal(aggregate.submit("c-1", tenant=None))
    assert code is StatusCode.INVALID_ARGUMENT
    assert "x-tenant-id" in details
    code, details = await refusal(aggregate.submit("two words"))
    assert code is StatusCode.INVALID_ARGUMENT
    assert "command_id" in details
    assert await stored_events(nats_server) == 0


async def test_a_large_command_is_stored_or_refused_for_good(aggregate: Node) -> None:
    outcomes: list[StatusCode | None] = []
    for options in (
        {"metadata": {"note": "\0" * 10_000}},
        {"metadata": {"note": "\0" * 10_300}},
        {"payload": {"text": "x" * 520_000}},
        {"payload": {"text": "x" * 524_288}},
    ):
        try:
            await aggregate.submit(f"c-{len(outcomes)}", **options)
            outcomes.append(None)
        except grpc.aio.AioRpcError as error:
            outcomes.append(error.code())
    invalid = StatusCode.INVALID_ARGUMENT
    assert outcomes == [None, invalid, None, invalid]
    assert (await aggregate.submit("c-last")).version == 3


async def test_names_that_mean_something_to_nats_are_only_names(aggregate: Node) -> None:
    names = ["a.b", "a", "*", ">", "a b", "a%2Eb", "ä/b", "\t"]
    for name in names:
        assert (await aggregate.submit("c-1", aggregate_id=name)).version == 1
    for name in names:
        assert (await aggregate.submit("c-2", aggregate_id=name, expected_version=1)).version == 2


async def test_tenants_do_not_share_aggregates(aggregate: Node) -> None:
    await aggregate.submit("c-1", tenant="acme")
    answer = await aggregate.submit("c-1", tenant="globex", expected_version=0)
    assert not answer.duplicate
    assert answer.version == 1


async def test_of_two_nodes_only_one_wins_a_version(
    start_aggregate: Callable[[], Awaitable[Node]],
) -> None:
    first, second = await start_aggregate(), await start_aggregate()
    for version in range(20):
        outcomes = await asyncio.gather(
            first.submit(f"a-{version}", expected_version=version),
            second.submit(f"b-{version}", expected_version=version),
            return_exceptions=True,
        )
        won = [answer for answer in outcomes if isinstance(answer, SubmitCommandResponse)]
        lost = [error for error in outcomes if isinstance(error, grpc.aio.AioRpcError)]
        assert [answer.version for answer in won] == [version + 1]
        assert [error.code() for error in lost] == [StatusCode.ABORTED]


async def test_a_node_does_not_refuse_for_having_missed_anothers_event(
    start_aggregate: Callable[[], Awaitable[Node]],
) -> None:
    first, second = await start_aggregate(), await start_aggregate()
    await first.submit("c-1")
    await second.submit("c-2")
    assert (await first.submit("c-3", expected_version=2)).version == 3
    assert (await second.submit("c-1")).duplicate


async def test_without_nats_a_command_is_unavailable_and_may_be_repeated(
    aggregate: Node, nats_server: NatsServer
) -> None:
    await aggregate.submit("c-1")
    nats_server.kill()
    await nats_server.wait()
    code, _ = await refusal(aggregate.submit("c-2"))
    assert code is StatusCode.UNAVAILABLE
    code, _ = await refusal(aggregate.submit("c-3", aggregate_id="new", expected_version=7))
    assert code is StatusCode.UNAVAILABLE
    await nats_server.restart()
    answer = await submit_until_decided(aggregate, "c-2")
    assert answer.version == 2
    assert await stored_events(nats_server) == 2


async def submit_until_decided(node: Node, command_id: str) -> SubmitCommandResponse:
    async with asyncio.timeout(20):
        while True:
            try:
                return await node.submit(command_id)
            except grpc.aio.AioRpcError as error:
                assert error.code() is StatusCode.UNAVAILABLE  # noqa: PT017
            await asyncio.sleep(0.05)


async def test_a_node_whose_log_was_replaced_starts_from_the_new_one(
    aggregate: Node, nats_server: NatsServer
) -> None:
    for number in range(3):
        await aggregate.submit(f"c-{number}")
    connection = await nats.connect(nats_server.nodes_url)
    await connection.jetstream().delete_stream("DEMO_EVENTS")
    await connection.jetstream().add_stream(
        name="DEMO_EVENTS", subjects=["demo.event.>"], allow_direct=True
    )
    await connection.close()
    known = await submit_until_decided(aggregate, "c-1")
    assert not known.duplicate
    assert known.version == 1
    assert (await submit_until_decided(aggregate, "c-new")).version == 2


async def test_health_follows_the_connection_to_nats(
    aggregate: Node, nats_server: NatsServer, eventually: Eventually
) -> None:
    stub = health_pb2_grpc.HealthStub(aggregate.channel)
    wanted = health_pb2.HealthCheckResponse.SERVING

    async def as_wanted() -> bool:
        answers = [
            await stub.Check(health_pb2.HealthCheckRequest(service=service))
            for service in ("", "aggregate.gateway.v1.CommandService")
        ]
        return all(answer.status == wanted for answer in answers)

    await eventually(as_wanted)
    nats_server.kill()
    wanted = health_pb2.HealthCheckResponse.NOT_SERVING
    await eventually(as_wanted)
    await nats_server.restart()
    wanted = health_pb2.HealthCheckResponse.SERVING
    await eventually(as_wanted)


async def test_sigterm_ends_it_cleanly_and_answers_what_it_had_accepted(aggregate: Node) -> None:
    submitted = [asyncio.create_task(aggregate.submit(f"c-{n}")) for n in range(20)]
    await asyncio.wait(submitted, return_when=asyncio.FIRST_COMPLETED)
    assert await aggregate.program.child.stop(grace_s=10) == 0
    for task in submitted:
        task.cancel()
    outcomes = await asyncio.gather(*submitted, return_exceptions=True)
    assert any(isinstance(outcome, SubmitCommandResponse) for outcome in outcomes)


async def test_a_second_node_cannot_take_the_same_address(
    aggregate: Node,
    nats_server: NatsServer,
    start_program: Callable[..., Awaitable[Program]],
) -> None:
    second = await start_program(
        "tidegate.devstack.nodes.aggregate",
        "--nats",
        nats_server.nodes_url,
        "--listen",
        aggregate.address,
    )
    assert await second.child.wait() == 1
