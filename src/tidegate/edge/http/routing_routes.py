"""`/admin/routing`: the tables as this replica has them, and atomic changes to them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, Query, Response
from pydantic import BaseModel, Field

from tidegate.authz.commands import Actor
from tidegate.edge.http.control import Caller, Refused, StrictRoute, accepted, origin
from tidegate.flows.administration import RoutingAdministration
from tidegate.gateway.admission import Principal, parse_tenant
from tidegate.kernel.errors import Refusal
from tidegate.routing.change_set import parse_change_set
from tidegate.routing.model import ServiceKind
from tidegate.routing.view import RoutingView
from tidegate.store.views import Progress

_EXAMPLE = {
    "aggregate_shards": {"s1": ["grpc://10.0.0.7:50051"]},
    "aggregate_placement": {"acme": "s1"},
}


class TableAnswer(BaseModel):
    revision: int
    age_s: float
    tenants: int
    shards: int


class RejectedAnswer(BaseModel):
    key: str
    reason: str


class EndpointAnswer(BaseModel):
    kind: str
    shard: str
    address: str


class RoutingAnswer(BaseModel):
    kinds: dict[str, TableAnswer]
    rejected: list[RejectedAnswer]
    endpoints: list[EndpointAnswer]


class ResolveAnswer(BaseModel):
    kind: str
    tenant: str
    shard: str
    epoch: int
    endpoints: list[str]
    revision: int
    because: str


class AppliedAnswer(BaseModel):
    keys: list[str] = Field(description="The keys that were written or deleted.")


@dataclass(frozen=True, slots=True)
class RoutingRoutes:
    """The routes and what serves them."""

    administration: RoutingAdministration
    view: RoutingView
    progress: Progress
    caller: Caller

    def router(self) -> APIRouter:
        router = APIRouter(prefix="/admin/routing", tags=["routing"], route_class=StrictRoute)

        @router.get("")
        async def show(
            principal: Annotated[Principal, Depends(self.caller)],
        ) -> RoutingAnswer:
            """This replica's tables, and the entries that it refused."""
            await self.caller.must(principal, "routing.read")
            return self._show()

        @router.get("/resolve")
        async def resolve(
            principal: Annotated[Principal, Depends(self.caller)],
            tenant: Annotated[str, Query(max_length=63)],
            kind: ServiceKind,
        ) -> ResolveAnswer:
            """Where a tenant's requests go, and why."""
            await self.caller.must(principal, "routing.read")
            tenant_id = parse_tenant([tenant])
            if isinstance(tenant_id, Refusal):
                raise Refused(tenant_id)
            found = self.view.routing.resolve(kind, tenant_id)
            if isinstance(found, Refusal):
                raise Refused(found)
            return ResolveAnswer(
                kind=found.kind.value,
                tenant=found.tenant,
                shard=found.shard,
                epoch=found.epoch,
                endpoints=[f"{e.transport}://{e.address}" for e in found.endpoints],
                revision=found.revision,
                because=f"{found.kind}_placement.{found.tenant} names shard {found.shard}",
            )

        @router.post("/apply")
        async def apply(
            document: Annotated[dict[str, Any], Body(examples=[_EXAMPLE])],
            principal: Annotated[Principal, Depends(self.caller)],
            response: Response,
        ) -> AppliedAnswer:
            """Applies a whole change set, or nothing of it. `null` deletes."""
            await self.caller.must(principal, "routing.write")
            change_set = parse_change_set(document)
            if isinstance(change_set, Refusal):
                raise Refused(change_set)
            actor = Actor(principal.id, origin())
            applied = accepted(await self.administration.apply(change_set, actor), response)
            return AppliedAnswer(keys=list(applied.keys))

        return router

    def _show(self) -> RoutingAnswer:
        tables: Mapping[ServiceKind, Any] = self.view.routing.tables
        age_s = round(self.progress.age_s, 3)
        return RoutingAnswer(
            kinds={
                kind.value: TableAnswer(
                    revision=table.revision,
                    age_s=age_s,
                    tenants=len(table.placements),
                    shards=len(table.shards),
                )
                for kind, table in tables.items()
            },
            rejected=[
                RejectedAnswer(key=key, reason=reason)
                for key, reason in sorted(self.view.rejected.items())
            ],
            endpoints=[
                EndpointAnswer(kind=kind.value, shard=name, address=f"{e.transport}://{e.address}")
                for kind, table in tables.items()
                for name, shard in table.shards.items()
                for e in shard.endpoints
            ],
        )
