"""The real program as processes: `tidegate dev` on free ports, and what runs against it."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest

from tidegate.devstack import ready_file
from tidegate.devstack.api import Api, As
from tidegate.devstack.mailbox import Mailbox
from tidegate.devstack.provisioning import give_role, sign_in
from tidegate.devstack.ready_file import Running
from tidegate.devstack.signed_in_user import SignedInUser

_START_DEADLINE_S = 60
_DEADLINE_S = 30
_COMMAND_DEADLINE_S = 100
_TIDEGATE = [sys.executable, "-m", "tidegate.cli.main"]


def _wait_until(condition: Callable[[], bool], deadline_s: float = _DEADLINE_S) -> None:
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, "the condition did not come true in time"
        time.sleep(0.05)


@dataclass(frozen=True, slots=True)
class Finished:
    status: int
    out: str
    err: str


class Dev:
    """One `tidegate dev` process, with its files and its temporary files in one folder."""

    def __init__(self, folder: Path, *arguments: str, port_base: int = 0) -> None:
        self.folder = folder
        self.ready_path = folder / "ready.json"
        self.temporary = folder / "tmp"
        self.temporary.mkdir(parents=True, exist_ok=True)
        self._out_path = folder / "out.txt"
        argv = [*_TIDEGATE, "dev", "--port-base", str(port_base)]
        with self._out_path.open("w") as out:
            self.process = subprocess.Popen(
                [*argv, "--ready-file", str(self.ready_path), *arguments],
                cwd=folder,
                env={**os.environ, "TMPDIR": str(self.temporary)},
                stdout=out,
                stderr=out,
            )

    @property
    def out(self) -> str:
        return self._out_path.read_text()

    @property
    def running(self) -> Running:
        return ready_file.read(self.ready_path)

    def wait_ready(self) -> None:
        def ready() -> bool:
            assert self.process.poll() is None, self.out
            return self.ready_path.exists()

        _wait_until(ready, _START_DEADLINE_S)

    def wait_new_pid(self, pid_of: Callable[[Running], int], old: int) -> None:
        _wait_until(lambda: pid_of(self.running) != old)

    def children(self) -> set[int]:
        listed = subprocess.run(
            ["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True
        )
        pairs = (map(int, line.split()) for line in listed.stdout.splitlines())
        return {child for child, parent in pairs if parent == self.process.pid}

    def end(self) -> None:
        """For after the test; what it was about has been looked at."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            self.process.wait(_DEADLINE_S)


@pytest.fixture
def wait_until() -> Callable[..., None]:
    """Wait, with a deadline, until the condition holds."""
    return _wait_until


StartDev = Callable[..., Dev]


@pytest.fixture
def start_dev(tmp_path: Path) -> Iterator[StartDev]:
    started: list[Dev] = []

    def start(*arguments: str, port_base: int = 0) -> Dev:
        dev = Dev(tmp_path / f"dev-{len(started)}", *arguments, port_base=port_base)
        started.append(dev)
        return dev

    yield start
    for dev in started:
        dev.end()


@pytest.fixture(scope="session")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dev]:
    """One stack for all tests that leave it running, whatever they do to its parts."""
    folder = tmp_path_factory.mktemp("dev")
    dev = Dev(folder, "--data", str(folder / "data"))
    try:
        dev.wait_ready()
        yield dev
    finally:
        dev.end()


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


MakeMember = Callable[[Running, str], Awaitable[As]]


@pytest.fixture
def make_member(http: aiohttp.ClientSession) -> MakeMember:
    """A new user with a role in acme."""

    async def make(running: Running, email: str) -> As:
        apis = [Api(http, replica.http) for replica in running.replicas]
        user = await SignedInUser.make(apis, Mailbox(http, running.mail.http), email)
        as_admin = await sign_in(apis[0], running.admin.email, running.admin.password)
        await give_role(apis, as_admin, await user.principal_id(), "acme", "tenant-member")
        return user.caller("acme")

    return make


Tidegate = Callable[..., Awaitable[Finished]]


@pytest.fixture
def tidegate(tmp_path: Path) -> Tidegate:
    """Run one command of the program to its end."""

    async def run(*arguments: str) -> Finished:
        process = await asyncio.create_subprocess_exec(
            *_TIDEGATE,
            *arguments,
            cwd=tmp_path,
            env={**os.environ, "TMPDIR": str(tmp_path)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(_COMMAND_DEADLINE_S):
                out, err = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
        return Finished(process.returncode or 0, out.decode(), err.decode())

    return run
