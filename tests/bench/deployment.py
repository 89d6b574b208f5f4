"""What is measured: NATS with the product's state in it, and replicas in or beside this process.

Invariant: everything that was started has ended when the block ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

from tidegate import config
from tidegate.app import State, Views, read_keys
from tidegate.config import Settings
from tidegate.devstack import nats_server, recipes
from tidegate.devstack.managed_program import ManagedProgram, Recipe
from tidegate.devstack.nats_cluster import NatsCluster
from tidegate.devstack.nats_server import NatsServer
from tidegate.devstack.ports import Ports
from tidegate.devstack.replica_config import replica_config
from tidegate.devstack.secrets_dir import SecretsDir
from tidegate.kernel import errors
from tidegate.kernel.clock import SystemClock
from tidegate.kernel.errors import Refusal
from tidegate.kernel.lifecycle import start
from tidegate.sessions import keys as signing_keys
from tidegate.store import schema
from tidegate.store.barrier import Effect
from tidegate.store.bucket import Decision, Read
from tidegate.store.connection import connect

_REPLICAS = 2
# A server with a million users takes longer to start, and to write down what it will start from,
# than one of a developer is given.
_NATS_PATIENCE_S = 120.0


@dataclass(frozen=True, slots=True)
class Deployment:
    """Running NATS, and how to run replicas on it."""

    folder: Path
    ports: Ports
    nats_pids: tuple[int, ...]

    def settings(self, place: int = 0) -> Settings:
        return config.load(self.config_path(place))

    def config_path(self, place: int) -> Path:
        return self.folder / f"replica-{place + 1}.toml"

    def recipe(self, place: int) -> Recipe:
        return recipes.replica(self.ports, place, self.config_path(place), self.folder)

    def url(self, place: int) -> str:
        return recipes.replica_url(self.ports, place)

    @asynccontextmanager
    async def replica(self, place: int) -> AsyncIterator[ManagedProgram]:
        """A replica as a process of its own, which answers."""
        program = ManagedProgram(self.recipe(place))
        await program.start()
        try:
            yield program
        finally:
            await program.stop()


@asynccontextmanager
async def deployment(folder: Path, *, cluster: bool = False) -> AsyncIterator[Deployment]:
    """NATS on what `folder` holds, with all streams; a new folder starts empty."""
    nats = NatsCluster(folder / "nats") if cluster else NatsServer(folder / "nats")
    with (
        patch.object(nats_server, "_START_DEADLINE_S", _NATS_PATIENCE_S),
        patch.object(nats_server, "_STOP_GRACE_S", _NATS_PATIENCE_S),
    ):
        await nats.start()
        try:
            yield await _prepared(folder, nats, cluster=cluster)
        finally:
            await nats.stop()


async def _prepared(folder: Path, nats: NatsServer | NatsCluster, *, cluster: bool) -> Deployment:
    servers = nats.servers if isinstance(nats, NatsCluster) else [nats]
    urls = [server.url for server in servers]
    password = urls[0].rpartition("@")[0].rpartition(":")[2]
    secrets = SecretsDir.prepare(folder / "secrets", password)
    made = Deployment(
        folder,
        Ports.any_free(_REPLICAS, cluster=cluster),
        tuple(server.pid for server in servers),
    )
    for place in range(_REPLICAS):
        made.config_path(place).write_text(replica_config(made.ports, place, urls, secrets))
    await _migrate(made.settings())
    return made


async def _migrate(settings: Settings) -> None:
    migrations = schema.load_migrations(schema.migrations_folder())
    async with connect(settings.nats, "bench") as connection:
        await schema.migrate(connection, settings.nats, migrations)


@asynccontextmanager
async def replica_in_process(settings: Settings) -> AsyncIterator[State]:
    """The state of a replica that lives in this process: feeds, lease, barrier; no listener."""
    keys, clock = read_keys(settings), SystemClock()

    async def first_key(read: Read) -> Decision[str] | Refusal:
        return await signing_keys.create_first(read, keys.wrapping, clock.now_s())

    async with connect(settings.nats, "bench") as connection, asyncio.TaskGroup() as group:
        state = State.build(connection, Views.empty(keys, clock), settings, clock)
        services = [await start(group, name, run) for name, run in state.services().items()]
        leasing = await start(group, "lease", state.lease.run)
        try:
            made = await state.iam.execute(first_key, Effect.ADDITION)
            if isinstance(made, Refusal) and made.code is not errors.ALREADY_EXISTS:
                raise RuntimeError(f"no signing key: {made.detail}")
            yield state
        finally:
            leasing.cancel()
            await asyncio.wait({leasing})
            await state.lease.release()
            for service in services:
                service.cancel()
