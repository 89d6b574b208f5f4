"""A replica starts and stops: cleanly, more than once, and without failing what is in flight."""

from __future__ import annotations

import asyncio
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tidegate.app import App
from tidegate.edge.http.server import _Server
from tidegate.store.keyring import KeyRingError, new_ring_text
from tidegate.store.schema import SchemaError

if TYPE_CHECKING:
    from tests.integration.app.conftest import World
    from tests.integration.conftest import Eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_health_answers_200(world: World) -> None:
    for path in ("/health", "/health/live"):
        answer = await world.call("GET", path)
        assert (answer.status, answer.json) == (200, {"status": "ok"})


async def test_a_serving_replica_is_ready(world: World) -> None:
    """Soon: the world's loop stands still between modules, and its feeds with it."""
    for replica in (0, 1):
        for path in ("/ready", "/startup"):
            async with asyncio.timeout(20):
                while (answer := await world.call("GET", path, replica=replica)).status != 200:
                    await asyncio.sleep(0.05)
            assert answer.json == {"status": "ready", "reasons": []}


async def test_the_version_is_told(world: World) -> None:
    answer = await world.call("GET", "/version")
    assert set(answer.json) == {"version", "git_revision", "build_time"}


def open_sockets() -> set[str]:
    found = set()
    for fd in Path("/proc/self/fd").iterdir():
        try:
            target = fd.readlink().name
        except OSError:
            continue  # The descriptor that listed them.
        if target.startswith("socket:"):
            found.add(target)
    return found


def password_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("password")}


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts sockets in /proc")
async def test_it_starts_and_stops_twice_in_one_process_and_leaves_nothing(
    own_world: World,
) -> None:
    world = own_world
    await world.stop_replicas()
    await world.http.close()
    # The world that others share has threads too.
    others = password_threads()

    async def once() -> tuple[set[asyncio.Task[object]], set[str]]:
        ready = asyncio.Event()
        app = App(world.settings[0])
        run = asyncio.create_task(app.run(ready.set))
        async with asyncio.timeout(20):
            await ready.wait()
            reader, writer = await asyncio.open_connection("127.0.0.1", world.settings[0].http.port)
            writer.write(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
            app.stop()
            await run
            writer.close()
            await writer.wait_closed()
        assert password_threads() == others
        return asyncio.all_tasks(), open_sockets()

    assert await once() == await once()


async def test_a_replica_that_is_cancelled_leaves_its_port_to_the_next(own_world: World) -> None:
    world = own_world
    (run,) = world.runs
    world.runs.clear()
    run.cancel()
    async with asyncio.timeout(20):
        await asyncio.wait({run})
    assert run.cancelled()
    await world.start_replica(0)
    assert (await world.call("GET", "/health")).status == 200


async def test_what_is_in_flight_is_finished_while_the_replica_drains(
    own_world: World, eventually: Eventually
) -> None:
    world = own_world
    user = await world.user(acme="tenant-member")
    world.aggregate.gate.clear()
    async with asyncio.TaskGroup() as group:
        before = len(world.aggregate.calls)
        running = [group.create_task(world.submit(user, "acme")) for _ in range(5)]

        async def all_arrived() -> bool:
            return len(world.aggregate.calls) == before + 5

        async def accepts_no_more() -> bool:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", world.settings[0].http.port)
            except OSError:
                return True
            writer.close()
            return False

        await eventually(all_arrived)
        world.apps[0].stop()
        await eventually(accepts_no_more)
        assert not any(task.done() for task in running)
        assert not world.runs[0].done()
        world.aggregate.gate.set()
    assert [task.result().status for task in running] == [200] * 5
    assert all(task.result().headers["connection"] == "close" for task in running)
    async with asyncio.timeout(20):
        await world.runs[0]


async def test_a_connection_that_the_kernel_has_taken_is_served_not_reset(
    own_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Connections that come while the event loop is busy with stopping wait in the kernel."""
    world = own_world
    address = ("127.0.0.1", world.settings[0].http.port)
    late: list[socket.socket] = []
    stop_accepting = _Server._stop_accepting

    async def with_latecomers(server: _Server, sockets: list[socket.socket]) -> None:
        for _ in range(4):
            connection = socket.create_connection(address, timeout=20)
            connection.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
            late.append(connection)
        await stop_accepting(server, sockets)

    monkeypatch.setattr(_Server, "_stop_accepting", with_latecomers)
    world.apps[0].stop()
    async with asyncio.timeout(20):
        await world.runs[0]
    for connection in late:
        with connection:
            assert connection.recv(4096).startswith(b"HTTP/1.1 200")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, timeout=20)
    assert len(late) == 4


async def test_a_draining_replica_says_so_and_still_serves(
    own_world: World, eventually: Eventually
) -> None:
    world = own_world
    user = await world.user(acme="tenant-member")
    await world.stop_replicas()
    slow = world.settings[0].model_copy(
        update={"stop": world.settings[0].stop.model_copy(update={"drain_delay_s": 3600})}
    )
    app, ready = App(slow), asyncio.Event()
    run = asyncio.create_task(app.run(ready.set))
    async with asyncio.timeout(20):
        await ready.wait()
    app.stop()

    async def says_so() -> bool:
        return (await world.call("GET", "/ready")).status == 503

    await eventually(says_so)
    answer = await world.call("GET", "/ready")
    assert answer.json == {"status": "not_ready", "reasons": ["draining"]}
    for served in (await world.submit(user, "acme"), await world.call("GET", "/health")):
        assert served.status == 200
        assert served.headers["connection"] == "close"
    run.cancel()
    await asyncio.wait({run})


async def test_a_port_that_is_taken_ends_the_start_with_everything_undone(world: World) -> None:
    before = asyncio.all_tasks()
    with pytest.raises(BaseExceptionGroup) as raised:
        await App(world.settings[0]).run(lambda: None)
    assert raised.group_contains(OSError)
    assert asyncio.all_tasks() == before
    assert len(await world.leases()) == 2


async def test_state_that_was_never_migrated_is_refused(own_world: World, tmp_path: Path) -> None:
    world = own_world
    await world.stop_replicas()
    fresh = type(world.nats)(tmp_path / "other-nats")
    await fresh.start()
    try:
        nats = world.settings[0].nats.model_copy(update={"servers": (fresh.url,)})
        settings = world.settings[0].model_copy(update={"nats": nats})
        with pytest.raises(SchemaError, match="tidegate migrate"):
            await App(settings).run(lambda: None)
    finally:
        await fresh.stop()


async def test_a_replica_that_cannot_read_the_signing_keys_does_not_start(
    own_world: World, tmp_path: Path
) -> None:
    """It would look ready and refuse every token."""
    settings = own_world.settings[0]
    other_ring = tmp_path / "other-keys"
    other_ring.write_text(new_ring_text("k1"))
    nats = settings.nats.model_copy(update={"wrapping_keys_file": other_ring})
    app = App(settings.model_copy(update={"nats": nats}))
    await own_world.stop_replicas()
    own_world.runs.clear()
    ready = asyncio.Event()
    with pytest.RaisesGroup(pytest.RaisesExc(KeyRingError, match="wrapping_keys_file")):
        await app.run(ready.set)
    assert not ready.is_set()
