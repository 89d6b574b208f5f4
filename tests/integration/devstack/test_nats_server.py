import asyncio
import json
import os
import signal
import stat
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from urllib.parse import urlsplit

import nats
import pytest
from nats.js.errors import NotFoundError

from tidegate.devstack import child
from tidegate.devstack.nats_server import NatsServer, NatsServerError, StoreDirectoryInUseError

Eventually = Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]

PARENT = """
import asyncio, sys
from pathlib import Path
from tidegate.devstack import child
from tidegate.devstack.nats_server import NatsServer

async def main():
    child._LINUX = child._LINUX and sys.argv[2] == "signal"
    server = NatsServer(Path(sys.argv[1]))
    await server.start()
    print(server.url, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


async def answers(url: str) -> bool:
    """Whether a server lets this user in; by hand, as nats-py would keep trying."""
    address = urlsplit(url)
    login = json.dumps({"verbose": False, "user": address.username, "pass": address.password})
    try:
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        try:
            writer.write(f"CONNECT {login}\r\nPING\r\n".encode())
            greeting, answer = await reader.readline(), await reader.readline()
        finally:
            writer.close()
            await writer.wait_closed()
    except ConnectionError:
        return False
    return greeting.startswith(b"INFO") and answer == b"PONG\r\n"


async def test_it_answers_once_started(nats_server: NatsServer) -> None:
    connection = await nats.connect(nats_server.url)
    stream = await connection.jetstream().add_stream(name="S", subjects=["s.>"])
    assert stream.config.name == "S"
    await connection.close()


async def test_a_client_without_the_password_is_refused(nats_server: NatsServer) -> None:
    address = nats_server.url.rpartition("@")[2]
    assert not await answers(f"nats://{address}")
    assert not await answers(f"nats://gateway:wrong@{address}")


async def test_acknowledged_messages_survive_a_kill_and_the_same_url_works_again(
    nats_server: NatsServer,
) -> None:
    url = nats_server.url
    connection = await nats.connect(url, max_reconnect_attempts=-1, reconnect_time_wait=0.05)
    js = connection.jetstream()
    await js.add_stream(name="S", subjects=["s.>"])
    for number in range(50):
        await js.publish("s.a", str(number).encode())

    first_pid = nats_server.pid
    nats_server.kill()
    await nats_server.restart()

    assert nats_server.pid != first_pid
    assert nats_server.url == url
    fresh = await nats.connect(url)
    stored = [await fresh.jetstream().get_msg("S", sequence) for sequence in range(1, 51)]
    assert [message.data for message in stored] == [str(number).encode() for number in range(50)]
    await fresh.close()
    await connection.close()


async def test_a_second_server_on_the_same_directory_is_refused(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    second = NatsServer(tmp_path / "nats")
    with pytest.raises(StoreDirectoryInUseError, match=str(tmp_path / "nats")):
        await second.start()
    assert await answers(nats_server.url)


async def test_credentials_last_as_long_as_the_directory(tmp_path: Path) -> None:
    def password(url: str) -> str:
        return url.rpartition("@")[0]

    server = NatsServer(tmp_path / "nats")
    await server.start()
    first = password(server.url), password(server.nodes_url)
    await server.stop()

    server = NatsServer(tmp_path / "nats")
    await server.start()
    assert (password(server.url), password(server.nodes_url)) == first
    await server.stop()

    other = NatsServer(tmp_path / "other")
    await other.start()
    assert password(other.url) != first[0]
    await other.stop()


async def test_files_with_passwords_are_private(nats_server: NatsServer, tmp_path: Path) -> None:
    password = nats_server.url.rpartition("@")[0].rpartition(":")[2].encode()
    files = [path for path in (tmp_path / "nats").iterdir() if path.is_file()]
    holding = [path for path in files if password in path.read_bytes()]
    assert len(holding) == 2
    assert {stat.S_IMODE(path.stat().st_mode) for path in holding} == {0o600}


async def test_stop_leaves_no_process_and_may_be_repeated(tmp_path: Path) -> None:
    server = NatsServer(tmp_path / "nats")
    await server.start()
    url, pid = server.url, server.pid
    await server.stop()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert not await answers(url)
    await server.stop()


@pytest.mark.parametrize("leash", ["signal", "pipe"])
async def test_it_dies_with_a_killed_parent(
    leash: str, tmp_path: Path, eventually: Eventually
) -> None:
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PARENT, tmp_path, leash, stdout=asyncio.subprocess.PIPE
    )
    assert parent.stdout is not None
    url = (await parent.stdout.readline()).decode().strip()
    assert await answers(url)

    parent.kill()
    await parent.wait()

    async def gone() -> bool:
        return not await answers(url)

    await eventually(gone)
    # The dead server held the lock together with its parent.
    successor = NatsServer(tmp_path)
    await successor.start()
    await successor.stop()


async def test_a_server_on_the_pipe_leash_stops_like_any_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child, "_LINUX", False)
    server = NatsServer(tmp_path / "nats")
    await server.start()
    assert await answers(server.url)
    pid = server.pid
    await server.stop()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_accounts_do_not_see_each_other(nats_server: NatsServer) -> None:
    gateway = await nats.connect(nats_server.url)
    nodes = await nats.connect(nats_server.nodes_url)
    await gateway.jetstream().add_stream(name="S", subjects=["s.>"])
    with pytest.raises(NotFoundError):
        await nodes.jetstream().stream_info("S")

    heard = await nodes.subscribe("s.>")
    await gateway.jetstream().publish("s.a", b"secret")
    await nodes.flush()
    assert heard.pending_msgs == 0

    await gateway.close()
    await nodes.close()


async def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    first = NatsServer(tmp_path / "first")
    await first.start()
    port = int(first.url.rpartition(":")[2])

    second = NatsServer(tmp_path / "second", port=port)
    with pytest.raises(NatsServerError, match="address already in use"):
        await second.start()
    with pytest.raises(NatsServerError, match="not started"):
        _ = second.url
    await first.stop()

    # The failed start left nothing behind that would hinder the next one.
    await second.start()
    await second.stop()


async def test_a_missing_binary_is_an_error(tmp_path: Path) -> None:
    server = NatsServer(tmp_path / "nats", binary=tmp_path / "nats-server")
    with pytest.raises(FileNotFoundError):
        await server.start()


async def test_wait_tells_of_a_crash(nats_server: NatsServer) -> None:
    nats_server.kill()
    assert await nats_server.wait() == -signal.SIGKILL


async def test_a_child_that_ignores_sigterm_is_killed_after_the_grace(tmp_path: Path) -> None:
    ready = tmp_path / "log"
    stubborn = "trap '' TERM; echo ready; while :; do read -r _ </dev/zero; done"
    process = await child.Child.spawn("/bin/sh", "-c", stubborn, log=ready)
    async with asyncio.timeout(10):
        while b"ready" not in ready.read_bytes():
            await asyncio.sleep(0.01)
    assert await process.stop(grace_s=0.1) == -signal.SIGKILL
    process.kill()
