"""What is tested: NATS, replicas as processes, and between them everything that can be broken.

Invariants: each replica reaches each NATS server through a proxy of its own and no other way; a
replica that ends without having been told to ends the run.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from aiohttp import web

from harness.history import replica as replica_program
from harness.proxy import BOTH, Direction, FaultProxy
from tidegate import config
from tidegate.config import Settings
from tidegate.devstack.managed_program import ManagedProgram, Recipe
from tidegate.devstack.nats_cluster import ClusterPorts, NatsCluster
from tidegate.devstack.nats_server import NatsServer
from tidegate.devstack.ports import HOST, free_ports
from tidegate.devstack.replica_config import to_toml
from tidegate.devstack.secrets_dir import SecretsDir
from tidegate.store import schema
from tidegate.store.connection import connect

_STOP_GRACE_S = 5.0
_CLUSTER_SIZE = 3


class ReplicaDiedError(Exception):
    """A replica ended by itself."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What there is: so many replicas and one more that starts late, a server or a cluster."""

    replicas: int
    cluster: bool
    lease_s: float
    # What is taken out of every replica, see `harness.history.replica`.
    broken: str | None = None


class Lines:
    """All connections of one party, which are cut and healed together."""

    def __init__(self, proxies: Sequence[FaultProxy]) -> None:
        self._proxies = proxies

    def cut(self, direction: Direction = BOTH) -> None:
        for proxy in self._proxies:
            proxy.cut(direction)

    def delay(self, seconds: float, direction: Direction = BOTH) -> None:
        for proxy in self._proxies:
            proxy.delay(seconds, direction)

    def hold_feed(self) -> None:
        for proxy in self._proxies:
            proxy.hold_feed()

    def reads_late(self, seconds: float) -> None:
        for proxy in self._proxies:
            proxy.reads_late(seconds)

    def shut(self) -> None:
        """Ends all connections and lets nobody in again."""
        for proxy in self._proxies:
            proxy.refuse()
            proxy.reset()

    def reset(self) -> None:
        for proxy in self._proxies:
            proxy.reset()

    def heal(self) -> None:
        for proxy in self._proxies:
            proxy.heal()


class Replica:
    """One replica: its process, its connections to NATS, and whether it is meant to run."""

    def __init__(self, name: str, url: str, lines: Lines, recipe: Recipe) -> None:
        self.name = name
        self.url = url
        self.lines = lines
        # Cleared while nobody can be expected to answer.
        self.up = asyncio.Event()
        self._program = ManagedProgram(recipe)
        self._watching: asyncio.Task[None] | None = None

    async def start(self, group: asyncio.TaskGroup) -> None:
        """Returns once it is ready. Its unexpected end fails `group`."""
        await self._program.start()
        self._watching = group.create_task(self._watch())
        self.up.set()

    async def stop(self) -> None:
        self._expect_end()
        await self._program.stop()

    async def kill(self) -> None:
        """Ends it at once, as a crash would."""
        self._expect_end()
        self._signal(signal.SIGKILL)
        await self._program.wait()
        await self._program.stop()

    def pause(self) -> None:
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        os.kill(self._program.pid, number)

    def _expect_end(self) -> None:
        self.up.clear()
        if self._watching is not None:
            self._watching.cancel()
            self._watching = None

    async def _watch(self) -> None:
        status = await self._program.wait()
        raise ReplicaDiedError(f"replica {self.name} ended with status {status}")


@dataclass(frozen=True, slots=True)
class Deployment:
    """Everything that runs. `replicas` are to be started; `spare` is one more of them."""

    folder: Path
    shape: Shape
    settings: Settings
    upstream_url: str
    nats: Sequence[NatsServer]
    # What each server has to the others; none for a single server.
    routes: Sequence[Lines]
    replicas: Sequence[Replica]
    spare: Replica

    @classmethod
    @asynccontextmanager
    async def prepared(cls, folder: Path, shape: Shape) -> AsyncIterator[Deployment]:
        """Everything but the replicas runs, and they can be started."""
        async with AsyncExitStack() as stack:
            nats, routes = await stack.enter_async_context(_nats(folder / "nats", shape))
            upstream_url = await stack.enter_async_context(_upstream())
            secrets = SecretsDir.prepare(folder / "secrets", urlsplit(nats[0].url).password or "")
            ports = free_ports(shape.replicas + 1)
            made: list[tuple[Replica, Path]] = []
            for place, port in enumerate(ports):
                proxies = [
                    await stack.enter_async_context(FaultProxy(server.port)) for server in nats
                ]
                file = folder / f"replica-{place + 1}.toml"
                file.write_text(
                    _toml(shape, port, proxies, urlsplit(nats[0].url).username, secrets)
                )
                made.append((_replica(folder, place, port, proxies, file, shape), file))
            for replica, _ in made:
                stack.push_async_callback(replica.stop)
            settings = config.load(made[0][1])
            migrations = schema.load_migrations(schema.migrations_folder())
            async with connect(settings.nats, "history") as connection:
                await schema.migrate(connection, settings.nats, migrations)
            replicas = [replica for replica, _ in made]
            yield cls(
                folder, shape, settings, upstream_url, nats, routes, replicas[:-1], replicas[-1]
            )


@asynccontextmanager
async def _nats(
    folder: Path, shape: Shape
) -> AsyncIterator[tuple[Sequence[NatsServer], Sequence[Lines]]]:
    if not shape.cluster:
        server = NatsServer(folder)
        await server.start()
        try:
            yield [server], []
        finally:
            await server.stop()
        return
    async with AsyncExitStack() as stack:
        ports = ClusterPorts.any_free(_CLUSTER_SIZE)
        between: dict[tuple[int, int], FaultProxy] = {}
        for here, there in itertools.permutations(range(_CLUSTER_SIZE), 2):
            proxy = FaultProxy(ports.routes[there], client_protocol=False)
            between[here, there] = await stack.enter_async_context(proxy)
        cluster = NatsCluster(
            folder, _CLUSTER_SIZE, ports=ports, route_port=lambda a, b: between[a, b].port
        )
        stack.push_async_callback(cluster.stop)
        await cluster.start()
        routes = [
            Lines([proxy for pair, proxy in between.items() if place in pair])
            for place in range(_CLUSTER_SIZE)
        ]
        yield cluster.servers, routes


@asynccontextmanager
async def _upstream() -> AsyncIterator[str]:
    """A projection node that answers everything, so that what is admitted gets a 200."""

    async def answer(_: web.Request) -> web.Response:
        return web.Response(body=b"{}", content_type="application/json")

    application = web.Application()
    application.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, HOST, 0).start()
        yield f"http://{HOST}:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def _replica(
    folder: Path, place: int, port: int, proxies: Sequence[FaultProxy], file: Path, shape: Shape
) -> Replica:
    name, url = f"r{place + 1}", f"http://{HOST}:{port}"
    # By its path: the process then needs nothing of the tests on its import path.
    argv = [sys.executable, replica_program.__file__, "--config", str(file)]
    if shape.broken is not None:
        argv += ["--broken", shape.broken]
    recipe = Recipe(name, argv, folder / f"{name}.log", (f"{url}/ready",), _STOP_GRACE_S)
    return Replica(name, url, Lines(proxies), recipe)


def _toml(
    shape: Shape, port: int, proxies: Sequence[FaultProxy], user: str | None, secrets: SecretsDir
) -> str:
    return to_toml(
        {
            "nats": {
                "servers": [f"nats://{HOST}:{proxy.port}" for proxy in proxies],
                "user": user,
                "password_file": str(secrets.nats_password),
                "replicas": _CLUSTER_SIZE if shape.cluster else 1,
                "wrapping_keys_file": str(secrets.wrapping_keys),
                "peppers_file": str(secrets.peppers),
            },
            "nats.lease": {"ttl_s": shape.lease_s},
            "http": {"host": HOST, "port": port},
            # Cheap on purpose: who was disabled signs in again, hundreds of times.
            "identity.password": {"memory_kib": 8, "iterations": 1, "threads": 1},
            "sessions": {"issuer": "https://gateway.example.org", "access_ttl_s": 24 * 3600},
            "log": {"format": "text"},
            "stop": {"drain_delay_s": 0, "finish_within_s": 1},
        }
    )
