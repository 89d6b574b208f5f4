"""`/admin`: what platform admins do. Every answer to a change carries its revision.

Each route needs one right, in the platform's scope; a body names the tenant where there is one.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Self

from fastapi import APIRouter, Depends, Path, Query, Response
from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field

from tidegate.authz import model
from tidegate.authz.commands import Actor
from tidegate.authz.model import Assignment, Tenant
from tidegate.authz.view import AccessView
from tidegate.edge.http.control import Caller, Refused, StrictRoute, accepted, origin
from tidegate.flows.administration import Tenancy, Users
from tidegate.gateway.admission import Principal
from tidegate.kernel import errors
from tidegate.kernel.clock import rfc3339
from tidegate.kernel.errors import Refusal
from tidegate.kernel.ids import PrincipalId, TenantId
from tidegate.principals.view import Principals

_SLUG = r"^[a-z0-9][a-z0-9-]{0,62}$"
_UUID7 = r"^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$"


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


def _in_utc(moment: datetime) -> datetime:
    """In the form in which it is told again: the last hours of year 9999 may have none."""
    try:
        return moment.astimezone(UTC)
    except OverflowError as exc:
        raise ValueError("there is no such time in UTC") from exc


class TenantBody(_Body):
    id: str = Field(pattern=_SLUG, examples=["acme"])
    name: str = Field(min_length=1, max_length=200, examples=["Acme Corporation"])


class TenantAnswer(BaseModel):
    id: str
    name: str
    status: str

    @classmethod
    def of(cls, tenant: Tenant) -> Self:
        return cls(id=tenant.id, name=tenant.name, status=tenant.status.value)


class TenantPage(BaseModel):
    items: list[TenantAnswer]
    next_cursor: str | None


class RightAnswer(BaseModel):
    action: str
    resource: dict[str, str]


class RoleAnswer(BaseModel):
    id: str
    name: str
    tenant_id: str | None
    rights: list[RightAnswer]


class RolePage(BaseModel):
    items: list[RoleAnswer]
    next_cursor: str | None


class AssignmentBody(_Body):
    principal_id: str = Field(pattern=_UUID7)
    tenant_id: str | None = Field(pattern=_SLUG, description="null: the platform's scope")
    role_id: str = Field(min_length=1, max_length=64, examples=["tenant-member"])
    expires_at: Annotated[AwareDatetime, AfterValidator(_in_utc)] | None = None


class AssignmentAnswer(BaseModel):
    id: str
    principal_id: str
    tenant_id: str | None
    role_id: str
    expires_at: str | None

    @classmethod
    def of(cls, assignment: Assignment) -> Self:
        expires_at_s = assignment.expires_at_s
        return cls(
            id=assignment.id,
            principal_id=assignment.principal_id,
            tenant_id=assignment.tenant_id,
            role_id=assignment.role_id,
            expires_at=None if expires_at_s is None else rfc3339(expires_at_s),
        )


class AssignmentPage(BaseModel):
    items: list[AssignmentAnswer]
    next_cursor: str | None


def _seconds(moment: datetime | None) -> float | None:
    return None if moment is None else moment.timestamp()


@dataclass(frozen=True, slots=True)
class AdminRoutes:
    """The routes and what serves them."""

    tenancy: Tenancy
    users: Users
    access: AccessView
    principals: Principals
    caller: Caller

    def router(self) -> APIRouter:
        router = APIRouter(prefix="/admin/iam", tags=["admin"], route_class=StrictRoute)
        self._tenant_routes(router)
        self._role_routes(router)
        self._user_routes(router)
        self._assignment_routes(router)
        return router

    def _tenant_routes(self, router: APIRouter) -> None:
        @router.post("/tenants", status_code=201)
        async def create_tenant(
            body: TenantBody,
            principal: Annotated[Principal, Depends(self.caller)],
            response: Response,
        ) -> TenantAnswer:
            """Creates a tenant."""
            await self.caller.must(principal, "iam.tenant.write")
            actor = Actor(principal.id, origin())
            made = await self.tenancy.create_tenant(TenantId(body.id), body.name, actor)
            return TenantAnswer.of(accepted(made, response))

        @router.get("/tenants")
        async def list_tenants(
            principal: Annotated[Principal, Depends(self.caller)],
            cursor: Annotated[str, Query(max_length=64)] = "",
            limit: Annotated[int, Query(ge=1, le=500)] = 100,
        ) -> TenantPage:
            """Tenants by id; `next_cursor` asks for the next page."""
            await self.caller.must(principal, "iam.tenant.read")
            after = [tenant for tenant in self.access.tenants() if tenant.id > cursor]
            items = [TenantAnswer.of(tenant) for tenant in after[:limit]]
            return TenantPage(items=items, next_cursor=items[-1].id if len(after) > limit else None)

        @router.post("/tenants/{tenant_id}/suspend")
        async def suspend_tenant(
            tenant_id: Annotated[str, Path(pattern=_SLUG)],
            principal: Annotated[Principal, Depends(self.caller)],
            response: Response,
        ) -> TenantAnswer:
            """Refuses every request in the tenant, from when this is answered."""
            await self.caller.must(principal, "iam.tenant.write")
            actor = Actor(principal.id, origin())
            done = await self.tenancy.suspend_tenant(TenantId(tenant_id), actor)
            return TenantAnswer.of(accepted(done, response))

        @router.post("/tenants/{tenant_id}/resume")
        async def resume_tenant(
            tenant_id: Annotated[str, Path(pattern=_SLUG)],
            principal: Annotated[Principal, Depends(self.caller)],
            response: Response,
        ) -> TenantAnswer:
            """Ends a suspension."""
            await self.caller.must(principal, "iam.tenant.write")
            actor = Actor(principal.id, origin())
            done = await self.tenancy.resume_tenant(TenantId(tenant_id), actor)
            return TenantAnswer.of(accepted(done, response))

    def _role_routes(self, router: APIRouter) -> None:
        @router.get("/roles")
        async def list_roles(
            principal: Annotated[Principal, Depends(self.caller)],
            cursor: Annotated[str, Query(max_length=64)] = "",
            limit: Annotated[int, Query(ge=1, le=500)] = 100,
        ) -> RolePage:
            """Roles by id, with their rights."""
            await self.caller.must(principal, "iam.role.read")
            after = [role for role in self.access.roles() if role.id > cursor]
            items = [
                RoleAnswer(
                    id=role.id,
                    name=role.name,
                    tenant_id=role.tenant_id,
                    rights=[
                        RightAnswer(action=right.action, resource=dict(right.resource))
                        for right in role.rights
                    ],
                )
                for role in after[:limit]
            ]
            return RolePage(items=items, next_cursor=items[-1].id if len(after) > limit else None)

    def _user_routes(self, router: APIRouter) -> None:
        @router.post("/users/{user_id}/disable", status_code=204)
        async def disable_user(
            user_id: Annotated[str, Path(pattern=_UUID7)],
            principal: Annotated[Principal, Depends(self.caller)],
            response: Response,
        ) -> None:
            """Takes every access away and ends all sessions, from when this is answered."""
            await self.caller.must(principal, "iam.user.write")
            actor = Actor(principal.id, origin())
            accepted(await self.users.disable(PrincipalId(user_id), actor), response)

        @router.post("/users/{user_id}/enable", status_code=204)
        async def enable_user(
            user_id: Annotated[str, Path(pattern=_UUID7)],
            principal: Annotated[Principal, Depends(self.caller)],
            response: Response,
        ) -> None:
            """Lets the user sign in again."""
            await self.caller.must(principal, "iam.user.write")
            actor = Actor(principal.id, origin())
            accepted(await self.users.enable(PrincipalId(user_id), actor), response)

        @router.delete("/users/{user_id}/sessions", status_code=204)
        async def end_sessions(
            user_id: Annotated[str, Path(pattern=_UUID7)],
            principal: Annotated[Principal, Depends(self.caller)],
            response: Response,
        ) -> None:
            """Ends all sessions of the user with their access tokens."""
            await self.caller.must(principal, "iam.user.write")
            actor = Actor(principal.id, origin())
            accepted(await self.users.end_sessions(PrincipalId(user_id), actor), response)

    def _assignment_routes(self, router: APIRouter) -> None:
        @router.post("/assignments", status_code=201)
        async def assign(
            body: AssignmentBody,
            principal: Annotated[Principal, Depends(self.caller)],
            response: Response,
        ) -> AssignmentAnswer:
            """Gives a principal a role in a tenant, or in the platform's scope."""
            await self.caller.must(principal, "iam.assignment.write")
            if not model.is_role_id(body.role_id):
                raise Refused(errors.invalid("/role_id", "There is no such role in this tenant."))
            assignment = Assignment(
                PrincipalId(body.principal_id),
                None if body.tenant_id is None else TenantId(body.tenant_id),
                body.role_id,
                _seconds(body.expires_at),
                0,
            )
            done = await self.tenancy.assign(assignment, Actor(principal.id, origin()))
            return AssignmentAnswer.of(accepted(done, response))

        @router.get("/assignments")
        async def list_assignments(
            principal: Annotated[Principal, Depends(self.caller)],
            principal_id: Annotated[str, Query(pattern=_UUID7)],
        ) -> AssignmentPage:
            """The assignments of one principal."""
            await self.caller.must(principal, "iam.assignment.read")
            found = await self.principals.assignments_of(PrincipalId(principal_id))
            if isinstance(found, Refusal):
                raise Refused(found)
            items = [AssignmentAnswer.of(assignment) for assignment in found]
            return AssignmentPage(items=items, next_cursor=None)

        @router.delete("/assignments/{assignment_id}", status_code=204)
        async def unassign(
            assignment_id: str,
            principal: Annotated[Principal, Depends(self.caller)],
            response: Response,
        ) -> None:
            """Takes a role away."""
            await self.caller.must(principal, "iam.assignment.write")
            if not model.is_assignment_id(assignment_id):
                raise Refused(Refusal(errors.NOT_FOUND, "There is no such assignment."))
            done: Any = await self.tenancy.unassign(assignment_id, Actor(principal.id, origin()))
            accepted(done, response)
