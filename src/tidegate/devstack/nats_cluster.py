"""A NATS cluster on one machine: several servers with one JetStream, whose streams have copies.

Owns the servers' directories and ports. Invariants: a cluster that is started takes streams
with a copy on each node; addresses and passwords stay the same over restarts of any node.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from tidegate.devstack.nats_config import Membership, credentials
from tidegate.devstack.nats_server import NatsServer, NatsServerError
from tidegate.devstack.ports import CLUSTER_SIZE, free_ports

_NAME = "tidegate"
_START_DEADLINE_S = 30.0
_ELECTION_DEADLINE_S = 30.0
_POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class ClusterPorts:
    """Where clients, and where the other nodes, find each node."""

    clients: tuple[int, ...]
    routes: tuple[int, ...]

    @classmethod
    def any_free(cls, size: int) -> Self:
        """Raises PortUnavailableError."""
        free = free_ports(2 * size)
        return cls(free[:size], free[size:])


class NatsCluster:
    """`size` servers; each can be killed, stopped and restarted by itself.

    `route_port(a, b)` is where node `a` is to look for node `b`, by their places, if not at the
    port where `b` listens: tests put something between them.
    """

    def __init__(
        self,
        store_dir: Path,
        size: int = CLUSTER_SIZE,
        *,
        binary: Path | None = None,
        ports: ClusterPorts | None = None,
        route_port: Callable[[int, int], int] | None = None,
    ) -> None:
        self.ports = ports = ports or ClusterPorts.any_free(size)
        self.store_dir = store_dir
        self._credentials = store_dir / "credentials.json"
        places = range(size)
        find = route_port or (lambda _, other: ports.routes[other])
        self._memberships = [
            Membership(
                node=f"node-{place + 1}",
                cluster=_NAME,
                route_port=ports.routes[place],
                others=tuple(find(place, other) for other in places if other != place),
                credentials=self._credentials,
            )
            for place in places
        ]
        self.servers: Sequence[NatsServer] = [
            NatsServer(
                store_dir / membership.node,
                binary=binary,
                port=ports.clients[place],
                membership=membership,
            )
            for place, membership in enumerate(self._memberships)
        ]

    @property
    def urls(self) -> tuple[str, ...]:
        """Where the gateway connects, credentials included."""
        return tuple(server.url for server in self.servers)

    @property
    def nodes_urls(self) -> tuple[str, ...]:
        """Where the platform's nodes connect, credentials included."""
        return tuple(server.nodes_url for server in self.servers)

    async def start(self) -> None:
        """Return once the nodes have found each other and streams can be made."""
        self.store_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        credentials(self._credentials)  # Once, before the nodes all look for them.
        try:
            async with asyncio.TaskGroup() as starting:
                for server in self.servers:
                    starting.create_task(server.start())
            await self.wait_complete()
        except BaseExceptionGroup as group:
            await self.stop()
            raise group.exceptions[0] from group
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """End all servers; does nothing when that is so already."""
        async with asyncio.TaskGroup() as stopping:
            for server in self.servers:
                stopping.create_task(server.stop())

    async def leader_of(self, stream: str, account: str = "GATEWAY") -> NatsServer:
        """The node that leads the stream, as soon as most of the nodes agree about it.

        Raises NatsServerError when they do not come to an agreement.
        """
        question = f"jsz?acc={account}&streams=true"
        try:
            async with asyncio.timeout(_ELECTION_DEADLINE_S):
                while True:
                    answers = await self._ask_all(question)
                    leader = self._agreed([_leader_in(answer, stream) for answer in answers])
                    if leader is not None:
                        return leader
                    await asyncio.sleep(_POLL_S)
        except TimeoutError as error:
            raise NatsServerError(f"the stream {stream} has no leader") from error

    async def wait_complete(self) -> None:
        """Wait until JetStream has a leader that counts every node as a current one.

        Raises NatsServerError when that takes too long.
        """
        try:
            async with asyncio.timeout(_START_DEADLINE_S):
                while True:
                    if any(map(self._is_complete, await self._ask_all("jsz"))):
                        return
                    await asyncio.sleep(_POLL_S)
        except TimeoutError as error:
            raise NatsServerError(
                f"the NATS cluster in {self.store_dir} was not complete within "
                f"{_START_DEADLINE_S:.0f} s"
            ) from error

    def _is_complete(self, answer: dict[str, Any]) -> bool:
        # Only its leader tells of the others.
        others = answer.get("meta_cluster", {}).get("replicas") or []
        current = sum(bool(other.get("current")) for other in others)
        return current == len(others) == len(self.servers) - 1

    def _agreed(self, named: Sequence[str]) -> NatsServer | None:
        """The node that most of all nodes name, silent ones counted too."""
        if not named:
            return None
        name, votes = Counter(named).most_common(1)[0]
        if not name or votes <= len(self.servers) // 2:
            return None
        names = [membership.node for membership in self._memberships]
        return self.servers[names.index(name)]

    async def _ask_all(self, question: str) -> list[dict[str, Any]]:
        """What the nodes answer, of those that do."""
        answers = await asyncio.gather(*(server.ask(question) for server in self.servers))
        return [answer for answer in answers if answer is not None]


def _leader_in(answer: dict[str, Any], stream: str) -> str:
    """Who leads the stream, in the eyes of the node that answered; empty when nobody does."""
    for account in answer.get("account_details") or []:
        for detail in account.get("stream_detail") or []:
            if detail["name"] == stream:
                return str((detail.get("cluster") or {}).get("leader", ""))
    return ""
