"""The routing tables: per service kind, which shard a tenant is on and which endpoints that has.

Invariants
- Everything here is immutable. One `Routing` holds the tables of all kinds as they were at one
  moment; a request that keeps to one never sees parts of two.
- Every placement of a table that a view built names a shard of the same table, and every such
  shard has an endpoint.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

from tidegate.kernel import errors
from tidegate.kernel.errors import Refusal
from tidegate.routing.snapshot_map import SnapshotMap

_RETRY_AFTER_S = 1


class ServiceKind(StrEnum):
    """What kind of node a request goes to."""

    AGGREGATE = "aggregate"
    PROJECTION = "projection"
    RUNNER = "runner"


class Transport(StrEnum):
    """How an endpoint is spoken to; the `s` forms are over TLS."""

    GRPC = "grpc"
    GRPCS = "grpcs"
    HTTP = "http"
    HTTPS = "https"


TRANSPORTS: Mapping[ServiceKind, frozenset[Transport]] = MappingProxyType(
    {
        ServiceKind.AGGREGATE: frozenset({Transport.GRPC, Transport.GRPCS}),
        ServiceKind.PROJECTION: frozenset({Transport.HTTP, Transport.HTTPS}),
        ServiceKind.RUNNER: frozenset({Transport.HTTP, Transport.HTTPS}),
    }
)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One address of a shard, `host:port`, and how to choose it among the others."""

    address: str
    transport: Transport
    region: str = ""
    weight: int = 1
    labels: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}), hash=False)


@dataclass(frozen=True, slots=True)
class Placement:
    """Where one tenant is. The epoch grows by one with each move."""

    shard: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Shard:
    """A shard's endpoints, and how many placements name it.

    `deleted`: its entry is gone, and it stays only for the placements that still name it. It
    takes no new ones.
    """

    endpoints: tuple[Endpoint, ...]
    tenants: int = 0
    deleted: bool = False


@dataclass(frozen=True, slots=True)
class Resolved:
    """Where a tenant's request goes, and by which table."""

    kind: ServiceKind
    tenant: str
    shard: str
    epoch: int
    endpoints: tuple[Endpoint, ...]
    revision: int


@dataclass(frozen=True, slots=True)
class RoutingTable:
    """The placements and shards of one service kind.

    `revision` is that of the newest entry the table has taken in, or refused.
    """

    kind: ServiceKind
    revision: int = 0
    placements: SnapshotMap[Placement] = field(default_factory=SnapshotMap)
    shards: SnapshotMap[Shard] = field(default_factory=SnapshotMap)

    def resolve(self, tenant: str) -> Resolved | Refusal:
        placement = self.placements.get(tenant)
        if placement is None:
            return Refusal(
                errors.TENANT_NOT_PLACED, f"Tenant {tenant} has no {self.kind} placement."
            )
        shard = self.shards.get(placement.shard)
        if shard is None or not shard.endpoints:
            return Refusal(
                errors.NO_ENDPOINT,
                f"The {self.kind} shard of tenant {tenant} has no endpoint.",
                retry_after_s=_RETRY_AFTER_S,
            )
        return Resolved(
            self.kind, tenant, placement.shard, placement.epoch, shard.endpoints, self.revision
        )


def _empty_tables() -> Mapping[ServiceKind, RoutingTable]:
    return MappingProxyType({kind: RoutingTable(kind) for kind in ServiceKind})


@dataclass(frozen=True, slots=True)
class Routing:
    """The tables of all service kinds at one moment: what one request uses throughout."""

    tables: Mapping[ServiceKind, RoutingTable] = field(default_factory=_empty_tables)

    def table(self, kind: ServiceKind) -> RoutingTable:
        return self.tables[kind]

    def resolve(self, kind: ServiceKind, tenant: str) -> Resolved | Refusal:
        return self.tables[kind].resolve(tenant)
