from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Protocol

import aiohttp
import grpc
import nats

from tidegate.devstack.child import Child
from tidegate.devstack.nats_server import NatsServer
from tidegate.wire.aggregate.gateway.v1.command_pb2 import SubmitCommandResponse

Eventually = Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]


class Program(Protocol):
    child: Child

    async def restart(self) -> None: ...


StartProgram = Callable[..., Awaitable[Program]]


class Projection(Protocol):
    program: Program
    http: aiohttp.ClientSession

    async def query(
        self, view: str, body: object, tenant: str | None = "acme"
    ) -> tuple[int, dict[str, Any]]: ...

    async def health(self) -> int: ...


class Aggregate(Protocol):
    async def submit(self, command_id: str, **options: Any) -> SubmitCommandResponse: ...


async def test_before_anything_happened_there_is_nothing(projection: Projection) -> None:
    assert await projection.query("counts", {"aggregate_type": "order"}) == (
        200,
        {"position": 0, "total": 0, "items": []},
    )
    unknown = {"aggregate_type": "order", "aggregate_id": "o-1"}
    assert await projection.query("aggregate", unknown) == (
        200,
        {"position": 0, "version": 0, "events": []},
    )


async def test_commands_are_counted_and_listed(
    projection: Projection, aggregate: Aggregate
) -> None:
    await aggregate.submit("c-1", aggregate_id="b", payload={"n": 1, "x": [0.5, None]})
    await aggregate.submit("c-2", aggregate_id="b", command_type="order.pay")
    last = await aggregate.submit("c-3", aggregate_id="a.1 ü")
    await aggregate.submit("c-4", aggregate_id="b", tenant="globex")

    status, counts = await projection.query(
        "counts", {"aggregate_type": "order", "min_position": 4}
    )
    assert status == 200
    assert counts == {
        "position": 4,
        "total": 3,
        "items": [
            {"aggregate_id": "a.1 ü", "event_type": "order.place", "count": 1},
            {"aggregate_id": "b", "event_type": "order.pay", "count": 1},
            {"aggregate_id": "b", "event_type": "order.place", "count": 1},
        ],
    }

    status, listed = await projection.query(
        "aggregate", {"aggregate_type": "order", "aggregate_id": "b"}
    )
    assert status == 200
    assert listed["version"] == 2
    assert [event["event_type"] for event in listed["events"]] == ["order.place", "order.pay"]
    assert [event["version"] for event in listed["events"]] == [1, 2]
    assert listed["events"][0]["payload"] == {"n": 1, "x": [0.5, None]}

    _, other = await projection.query(
        "aggregate", {"aggregate_type": "order", "aggregate_id": "a.1 ü"}
    )
    assert other["events"][0]["event_id"] == last.events[0].event_id
    assert other["events"][0]["time"] == last.events[0].time.ToJsonString()


async def test_a_malformed_query_is_refused(projection: Projection) -> None:
    order = {"aggregate_type": "order"}
    malformed: list[tuple[str, object]] = [
        ("counts", {}),
        ("counts", {"aggregate_type": 7}),
        ("counts", {"aggregate_type": ""}),
        ("counts", []),
        ("counts", "order"),
        ("counts", order | {"min_position": -1}),
        ("counts", order | {"min_position": "1"}),
        ("counts", order | {"min_position": True}),
        ("aggregate", order),
        ("aggregate", {"aggregate_id": "o-1"}),
    ]
    for view, body in malformed:
        status, answer = await projection.query(view, body)
        assert status == 400, (view, body)
        assert answer["error"]


async def test_what_is_no_query_is_refused(projection: Projection) -> None:
    counts = {"aggregate_type": "order"}
    status, answer = await projection.query("counts", counts, tenant=None)
    assert (status, answer["error"]) == (400, "x-tenant-id is missing")
    status, _ = await projection.query("counts", counts, tenant="")
    assert status == 400
    status, answer = await projection.query("no-such-view", counts)
    assert status == 404
    assert "no-such-view" in answer["error"]
    async with projection.http.post(
        "/v1/query/counts", data=b"{", headers={"x-tenant-id": "acme"}
    ) as response:
        assert response.status == 400


async def test_a_query_does_not_wait_for_ever_for_a_position(projection: Projection) -> None:
    status, answer = await projection.query(
        "counts", {"aggregate_type": "order", "min_position": 1}
    )
    assert status == 503
    assert answer["position"] == 0


async def test_echo_shows_the_headers_that_came(projection: Projection) -> None:
    headers = {"X-Tenant-Id": "acme", "X-Correlation-Id": "r-1"}
    async with projection.http.post("/v1/query/echo", headers=headers) as response:
        answer = await response.json()
    assert response.status == 200
    assert answer["position"] == 0
    assert answer["headers"]["x-tenant-id"] == "acme"
    assert answer["headers"]["x-correlation-id"] == "r-1"


async def test_a_restarted_node_knows_everything_again(
    projection: Projection, aggregate: Aggregate, eventually: Eventually
) -> None:
    for number in range(50):
        await aggregate.submit(f"c-{number}", aggregate_id=f"o-{number % 3}")
    query = {"aggregate_type": "order", "min_position": 50}
    before = await projection.query("counts", query)
    assert before[1]["total"] == 50

    projection.program.child.kill()
    await projection.program.restart()

    async def healthy() -> bool:
        return await projection.health() == 200

    await eventually(healthy)
    # Healthy means caught up: no waiting for a position.
    assert await projection.query("counts", {"aggregate_type": "order"}) == before


async def test_it_follows_again_after_a_crash_of_nats(
    projection: Projection, aggregate: Aggregate, nats_server: NatsServer, eventually: Eventually
) -> None:
    await aggregate.submit("c-1")
    nats_server.kill()
    await nats_server.restart()

    async def submitted() -> bool:
        try:
            await aggregate.submit("c-2")
        except grpc.aio.AioRpcError:
            return False
        return True

    async def followed() -> bool:
        status, _ = await projection.query("counts", {"aggregate_type": "order", "min_position": 2})
        return status == 200

    await eventually(submitted)
    await eventually(followed)
    _, counts = await projection.query("counts", {"aggregate_type": "order"})
    assert counts["total"] == 2


async def test_what_is_not_an_event_is_passed_over(
    projection: Projection, nats_server: NatsServer, aggregate: Aggregate
) -> None:
    connection = await nats.connect(nats_server.nodes_url)
    js = connection.jetstream()
    await js.publish("demo.event.acme.order.o-1", b"not an event")
    await js.publish("demo.event.acme", b"not even an aggregate")
    await connection.close()
    await aggregate.submit("c-1", aggregate_id="o-2")
    status, counts = await projection.query(
        "counts", {"aggregate_type": "order", "min_position": 3}
    )
    assert status == 200
    assert counts["total"] == 1


async def test_another_stream_of_the_same_name_starts_it_over(
    projection: Projection, nats_server: NatsServer, aggregate: Aggregate, eventually: Eventually
) -> None:
    await aggregate.submit("c-1")
    await aggregate.submit("c-2")
    await projection.query("counts", {"aggregate_type": "order", "min_position": 2})

    connection = await nats.connect(nats_server.nodes_url)
    await connection.jetstream().delete_stream("DEMO_EVENTS")
    await connection.jetstream().add_stream(name="DEMO_EVENTS", subjects=["demo.event.>"])
    await connection.close()

    async def started_over() -> bool:
        _, counts = await projection.query("counts", {"aggregate_type": "order"})
        return bool(counts["total"] == 0)

    await eventually(started_over)


async def test_sigterm_ends_it_cleanly(projection: Projection) -> None:
    assert await projection.program.child.stop(grace_s=10) == 0


async def test_a_taken_address_ends_it_with_a_clear_line(
    nats_server: NatsServer, projection: Projection, start_program: StartProgram, tmp_path: Path
) -> None:
    taken = str(projection.http._base_url.authority if projection.http._base_url else "")
    second = await start_program(
        "tidegate.devstack.nodes.projection", "--nats", nats_server.nodes_url, "--listen", taken
    )
    assert await second.child.wait() == 1
    lines = (tmp_path / "program-1.log").read_text().splitlines()
    assert "address already in use" in lines[-1]
    assert not any("Traceback" in line for line in lines)
