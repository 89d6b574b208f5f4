"""A NATS cluster whose servers reach each other through proxies, so that one can be cut off.

Its clients still reach every server: a leader that is cut off goes on answering them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from harness.proxy import FaultProxy
from tidegate.devstack.nats_cluster import ClusterPorts, NatsCluster
from tidegate.devstack.nats_server import NatsServer
from tidegate.devstack.ports import CLUSTER_SIZE


class PartitionedCluster:
    """A cluster, and the proxy from each server to each other one."""

    def __init__(self, cluster: NatsCluster, routes: dict[tuple[int, int], FaultProxy]) -> None:
        self.leader_of = cluster.leader_of
        self.servers = cluster.servers
        self._routes = routes
        self._cluster = cluster

    @property
    def urls(self) -> tuple[str, ...]:
        return self._cluster.urls

    def isolate(self, server: NatsServer) -> None:
        """Cut every route between this server and the others."""
        place = self.servers.index(server)
        for ends, proxy in self._routes.items():
            if place in ends:
                proxy.cut()

    def heal(self) -> None:
        for proxy in self._routes.values():
            proxy.heal()


@asynccontextmanager
async def partitioned_cluster(store_dir: Path) -> AsyncIterator[PartitionedCluster]:
    """Run one for the length of the block."""
    ports = ClusterPorts.any_free(CLUSTER_SIZE)
    places = range(CLUSTER_SIZE)
    async with AsyncExitStack() as stack:
        routes = {
            (one, other): await stack.enter_async_context(
                FaultProxy(ports.routes[other], client_protocol=False)
            )
            for one in places
            for other in places
            if one != other
        }
        cluster = NatsCluster(
            store_dir, ports=ports, route_port=lambda one, other: routes[one, other].port
        )
        stack.push_async_callback(cluster.stop)
        await cluster.start()
        yield PartitionedCluster(cluster, routes)
