"""The program as operators call it: what it prints, and how it exits."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio
from typer.testing import CliRunner

from tidegate.cli.main import cli
from tidegate.devstack.nats_server import NatsServer
from tidegate.store.keyring import new_ring_text

pytestmark = pytest.mark.asyncio(loop_scope="session")

PASSWORD = "a long enough passphrase"


@dataclass(frozen=True)
class Exit:
    status: int
    out: str
    err: str


NO_SETTINGS = {name: None for name in os.environ if name.startswith("TIDEGATE_")}


def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in NO_SETTINGS}


async def start(*arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tidegate.cli.main", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment(),
    )


async def ended(process: asyncio.subprocess.Process) -> Exit:
    try:
        async with asyncio.timeout(40):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode is not None
    return Exit(process.returncode, out.decode(), err.decode())


async def tidegate(*arguments: str) -> Exit:
    """One command, in this process: it runs an event loop of its own, so in a thread."""
    called = await asyncio.to_thread(CliRunner().invoke, cli, arguments, env=dict(NO_SETTINGS))
    return Exit(called.exit_code, called.stdout, called.stderr)


def told_in_one_line(exited: Exit) -> str:
    """The complaint; never a traceback."""
    (line,) = exited.err.strip().splitlines()
    assert line.startswith("tidegate: ")
    return line


@pytest_asyncio.fixture(loop_scope="session")
async def nats(tmp_path: Path) -> AsyncIterator[NatsServer]:
    server = NatsServer(tmp_path / "nats")
    await server.start()
    yield server
    await server.stop()


def written(folder: Path, nats_url: str, port: int) -> Path:
    for name in ("wrapping-keys", "peppers"):
        (folder / name).write_text(new_ring_text("k1"))
    path = folder / "tidegate.toml"
    path.write_text(
        f"""
        [nats]
        servers = ["{nats_url}"]
        replicas = 1
        request_timeout_s = 0.5
        wrapping_keys_file = "{folder}/wrapping-keys"
        peppers_file = "{folder}/peppers"
        [http]
        port = {port}
        [stop]
        drain_delay_s = 0
        """
    )
    return path


async def test_an_installation_from_nothing_to_a_replica_that_stops_on_sigterm(
    nats: NatsServer, tmp_path: Path
) -> None:
    port = _free_port()
    config = str(written(tmp_path, nats.url, port))
    refused = await ended(await start("serve", "--config", config))
    assert refused.status == 1
    assert "run `tidegate migrate`" in told_in_one_line(refused)
    early = await tidegate("admin", "bootstrap", "--email", "a@example.org", "--config", config)
    assert early.status == 1
    assert "tidegate migrate" in told_in_one_line(early)

    planned = await tidegate("migrate", "--dry-run", "--config", config)
    assert (planned.status, planned.out.count("to run:")) == (0, 2)
    migrated = await tidegate("migrate", "--config", config)
    assert (migrated.status, migrated.out.count("ran ")) == (0, 2)
    again = await tidegate("migrate", "up", "--config", config)
    assert (again.status, again.out) == (0, "nothing to do, the schema is 2\n")

    password_file = tmp_path / "password"
    password_file.write_text("short")
    bootstrap = ("admin", "bootstrap", "--email", "root@example.org", "--config", config)
    weak = await tidegate(*bootstrap, "--password-file", str(password_file))
    assert weak.status == 1
    assert "at least 15 characters" in told_in_one_line(weak)
    password_file.write_text(PASSWORD + "\n")
    made = await tidegate(*bootstrap, "--password-file", str(password_file))
    assert made.status == 0
    assert set(json.loads(made.out)) == {"id", "email"}
    twice = await tidegate(*bootstrap)
    assert twice.status == 1
    assert "before" in told_in_one_line(twice)

    process = await start("serve", "--config", config)
    try:
        await _signs_in(f"http://127.0.0.1:{port}")
        process.send_signal(signal.SIGTERM)
    except BaseException:
        process.kill()
        raise
    stopped = await ended(process)
    assert stopped.status == 0
    lines = [json.loads(line) for line in stopped.err.splitlines()]
    assert [line["message"] for line in lines if line["logger"] == "tidegate.app"] == [
        f"ready on http://127.0.0.1:{port}",
        "stopping",
    ]
    assert not [line for line in lines if line["level"] in {"warning", "error"}]


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


async def _signs_in(url: str) -> None:
    body = {"email": "root@example.org", "password": PASSWORD}
    async with asyncio.timeout(40), aiohttp.ClientSession() as http:
        while True:
            try:
                async with http.post(f"{url}/v1/auth/signin", json=body) as answer:
                    assert answer.status == 200
                    return
            except aiohttp.ClientConnectorError:
                await asyncio.sleep(0.05)


async def test_the_version_is_printed() -> None:
    printed = await tidegate("version")
    assert (printed.status, printed.out, printed.err) == (0, "0.1.0\n", "")


async def test_a_call_that_is_wrong_exits_with_2(tmp_path: Path) -> None:
    broken = tmp_path / "broken.toml"
    broken.write_text("[http]\nprot = 1\n")
    for arguments, word in (
        (("serve", "--config", str(broken)), "http.prot"),
        (("migrate", "--config", str(tmp_path / "missing.toml")), "there is no such file"),
        (("migrate", "down"), "'down'"),
        (
            ("admin", "bootstrap", "--email", "a@b.example", "--password-file", "/nowhere/x"),
            "/nowhere/x",
        ),
    ):
        exited = await tidegate(*arguments)
        assert (exited.status, exited.out) == (2, "")
        assert word in told_in_one_line(exited)
    for line in ("nonsense", "serve --nonsense", "admin bootstrap"):
        exited = await tidegate(*line.split())
        assert exited.status == 2
        assert "Traceback" not in exited.err


async def test_without_nats_the_program_says_where_it_looked(tmp_path: Path) -> None:
    config = written(tmp_path, "nats://user:hunter2@127.0.0.1:1", 1)
    for command in (("migrate",), ("migrate", "status")):
        exited = await tidegate(*command, "--config", str(config))
        assert exited.status == 1
        line = told_in_one_line(exited)
        assert "127.0.0.1:1" in line
        assert "hunter2" not in line


async def test_without_its_keys_a_replica_does_not_start(tmp_path: Path) -> None:
    config = written(tmp_path, "nats://127.0.0.1:1", 1)
    (tmp_path / "peppers").write_text("k1 bm90LTMyLWJ5dGVz\n")
    bootstrap = ("admin", "bootstrap", "--email", "a@example.org", "--config", str(config))
    exited = await tidegate(*bootstrap)
    assert exited.status == 1
    line = told_in_one_line(exited)
    assert "peppers, line 1" in line
    assert "bm90LTMyLWJ5dGVz" not in line
    config.write_text("")
    exited = await tidegate(*bootstrap)
    assert exited.status == 2
    assert "nats.wrapping_keys_file" in told_in_one_line(exited)
