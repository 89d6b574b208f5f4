"""The whole platform on one machine: NATS, gateway replicas, demo nodes, mail sink.

Invariants
- A stack that is started answers everywhere; a start that fails or is interrupted leaves
  nothing behind.
- Parts end in the order in which none loses what it still needs: replicas, what is behind them
  (nodes and mail sink), NATS.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import aiohttp

from tidegate import config
from tidegate.devstack import recipes
from tidegate.devstack.api import Api
from tidegate.devstack.managed_program import ManagedProgram
from tidegate.devstack.nats_cluster import ClusterPorts, NatsCluster
from tidegate.devstack.nats_server import NatsServer
from tidegate.devstack.ports import HOST, Ports
from tidegate.devstack.provisioning import TENANTS, provision
from tidegate.devstack.ready_file import Admin, Mail, Nats, Node, Replica, Running
from tidegate.devstack.replica_config import replica_config
from tidegate.devstack.secrets_dir import SecretsDir
from tidegate.devstack.supervision import Part, keep_running
from tidegate.kernel import errors
from tidegate.kernel.errors import Refusal
from tidegate.store import schema
from tidegate.store.connection import connect

ADMIN_EMAIL = "admin@example.org"
_SINGLE_FOLDER, _CLUSTER_FOLDER = "nats", "nats-cluster"


class StackError(Exception):
    """The stack cannot be set up."""


class Stack:
    """The parts of one stack, and where they are."""

    def __init__(self, data_dir: Path, ports: Ports) -> None:
        self._data_dir = data_dir
        self._ports = ports
        self._nats = _nats(data_dir, ports)
        self._servers = _servers(self._nats)
        self._nats_urls: tuple[str, ...] = ()
        self._admin = Admin(ADMIN_EMAIL, "")
        self._parts: dict[str, Part] = {}
        self._pids: dict[str, int] = {}

    @property
    def logs_dir(self) -> Path:
        return self._data_dir / "logs"

    @property
    def running(self) -> Running:
        """Where everything is; a part that is being restarted is told of as it was."""
        return Running(
            replicas=tuple(
                Replica(
                    recipes.replica_url(self._ports, place),
                    None,
                    self._pids[recipes.replica_name(place)],
                )
                for place in range(len(self._ports.http))
            ),
            nats=Nats(self._nats_urls, tuple(self._pids[name] for name in self._nats_parts)),
            mail=Mail(f"http://{HOST}:{self._ports.mail_http}"),
            nodes=tuple(
                Node(kind, address, self._pids[recipes.node_name(kind)])
                for kind, address in recipes.node_addresses(self._ports).items()
            ),
            admin=self._admin,
            tenants=tuple(TENANTS),
        )

    @asynccontextmanager
    async def started(self, tell: Callable[[str], None]) -> AsyncIterator[None]:
        """Start every part and stop it at the end of the block; `tell` hears the steps."""
        async with AsyncExitStack() as unwinding:
            self.logs_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            unwinding.push_async_callback(self._nats.stop)
            tell("starting NATS")
            await self._nats.start()
            self._nats_urls = tuple(server.url for server in self._servers)
            self._prepare_files()
            tell("migrating")
            await self._migrate()
            behind, replicas = self._behind_the_gateway(), self._replicas()
            for layer in (behind, replicas):
                unwinding.push_async_callback(_stop_all, layer)
            tell("starting nodes and replicas")
            programs = [*behind, *replicas]
            async with asyncio.TaskGroup() as starting:
                for program in programs:
                    starting.create_task(program.start())
                starting.create_task(self._bootstrap())
            self._parts = {
                **self._nats_parts,
                **{program.name: program for program in programs},
            }
            self._pids = {name: part.pid for name, part in self._parts.items()}
            tell("creating tenants")
            await self._provision()
            yield

    async def supervise(
        self, tell: Callable[[str], None], changed: Callable[[Running], None]
    ) -> None:
        """Restart whatever ends, until cancelled. `changed` hears of each new process."""

        def restarted(name: str) -> None:
            self._pids[name] = self._parts[name].pid
            changed(self.running)

        async with asyncio.TaskGroup() as supervising:
            for name, part in self._parts.items():
                supervising.create_task(keep_running(name, part, tell, restarted))

    @property
    def _nats_parts(self) -> dict[str, NatsServer]:
        if len(self._servers) == 1:
            return {"NATS": self._servers[0]}
        return {f"NATS {place}": server for place, server in enumerate(self._servers, start=1)}

    def _prepare_files(self) -> None:
        nats_password = self._nats_urls[0].rpartition("@")[0].rpartition(":")[2]
        secrets = SecretsDir.prepare(self._data_dir / "secrets", nats_password)
        self._admin = Admin(ADMIN_EMAIL, secrets.admin_password.read_text())
        self._config_path(0).parent.mkdir(mode=0o700, exist_ok=True)
        for place in range(len(self._ports.http)):
            text = replica_config(self._ports, place, self._nats_urls, secrets)
            self._config_path(place).write_text(text)

    async def _migrate(self) -> None:
        settings = config.load(self._config_path(0)).nats
        migrations = schema.load_migrations(schema.migrations_folder())
        async with connect(settings, "tidegate dev") as connection:
            await schema.migrate(connection, settings, migrations)

    async def _bootstrap(self) -> None:
        # A second of importing, while the replicas do the same; in a thread, so that Ctrl-C is
        # heard meanwhile.
        await asyncio.to_thread(importlib.import_module, "tidegate.app")
        from tidegate.app import bootstrap_admin  # noqa: PLC0415

        settings = config.load(self._config_path(0))
        done = await bootstrap_admin(settings, self._admin.email, self._admin.password)
        if isinstance(done, Refusal) and done.code is not errors.ALREADY_EXISTS:
            raise StackError(f"making the platform admin was refused: {done.detail}")

    async def _provision(self) -> None:
        running = self.running
        async with aiohttp.ClientSession() as http:
            apis = [Api(http, replica.http) for replica in running.replicas]
            await provision(apis, running.admin, running.nodes)

    def _behind_the_gateway(self) -> list[ManagedProgram]:
        nats_urls = [server.nodes_url for server in self._servers]
        nodes = [
            recipes.node(kind, address, nats_urls, self.logs_dir)
            for kind, address in recipes.node_addresses(self._ports).items()
        ]
        sink = recipes.mail_sink(self._ports, self.logs_dir)
        return [ManagedProgram(recipe) for recipe in (*nodes, sink)]

    def _replicas(self) -> list[ManagedProgram]:
        return [
            ManagedProgram(
                recipes.replica(self._ports, place, self._config_path(place), self.logs_dir)
            )
            for place in range(len(self._ports.http))
        ]

    def _config_path(self, place: int) -> Path:
        return self._data_dir / "config" / f"gateway-{place + 1}.toml"


def _nats(data_dir: Path, ports: Ports) -> NatsServer | NatsCluster:
    """One server, or a cluster when there are ports for one. Raises StackError."""
    cluster = len(ports.nats) > 1
    mine, other = _SINGLE_FOLDER, _CLUSTER_FOLDER
    if cluster:
        mine, other = other, mine
    # A cluster finds nothing in what a single server wrote, and the other way round: it would
    # look as if everything were lost.
    if (data_dir / other).exists():
        raise StackError(
            f"{data_dir} holds the data of a stack that was started "
            f"{'without' if cluster else 'with'} --cluster"
        )
    if cluster:
        return NatsCluster(data_dir / mine, ports=ClusterPorts(ports.nats, ports.nats_routes))
    return NatsServer(data_dir / mine, port=ports.nats[0])


def _servers(nats: NatsServer | NatsCluster) -> tuple[NatsServer, ...]:
    return tuple(nats.servers) if isinstance(nats, NatsCluster) else (nats,)


async def _stop_all(programs: Iterable[ManagedProgram]) -> None:
    async with asyncio.TaskGroup() as stopping:
        for program in programs:
            stopping.create_task(program.stop())
