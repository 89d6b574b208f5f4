"""The decision: may this principal do this, here, now? Pure and synchronous.

Deny by default. What allows is always one right of one role of one assignment, and the answer
names it. Assignments of the platform's scope reach into tenants for administration only, never
for commands and queries: who runs the platform does not thereby act in its tenants.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from tidegate.authz.model import Assignment, Right, Role
from tidegate.kernel.ids import PrincipalId, TenantId

COMMAND_SUBMIT = "command.submit"
QUERY_READ = "query.read"

_PLATFORM_SCOPE = ("iam.", "audit.", "routing.", "rebalance.", "runner.")


class Reason(StrEnum):
    ALLOWED = "allowed"
    NOT_A_MEMBER = "not_a_member"
    NO_RIGHT = "no_right"


@dataclass(frozen=True, slots=True)
class Because:
    """The path to a yes: this assignment gives this role, which has this right."""

    assignment_id: str
    role_id: str
    right: Right
    revision: int


@dataclass(frozen=True, slots=True)
class Decision:
    """Yes or no, and why."""

    allowed: bool
    reason: Reason
    because: Because | None = None


class Access(Protocol):
    """What the decision reads."""

    def assignments(
        self, principal_id: PrincipalId, tenant_id: TenantId | None
    ) -> tuple[Assignment, ...]:
        """The principal's assignments in exactly this scope."""

    def role(self, role_id: str) -> Role | None: ...


def is_member(
    access: Access, principal_id: PrincipalId, tenant_id: TenantId, action: str, now_s: float
) -> bool:
    """Whether the principal counts as a member of the tenant for this action."""
    if any(a.current(now_s) for a in access.assignments(principal_id, tenant_id)):
        return True
    return action.startswith(_PLATFORM_SCOPE) and any(
        a.current(now_s) for a in access.assignments(principal_id, None)
    )


def may_give(
    access: Access, giver_id: PrincipalId, tenant_id: TenantId | None, role: Role, now_s: float
) -> bool:
    """Whether nothing in `role` reaches further than the giver's own rights in this scope.

    Rights of the platform's scope count in every tenant here: whoever may do everything on the
    platform may let others act in its tenants, though he may not himself.
    """
    held = [
        right
        for scope in {tenant_id, None}
        for assignment in access.assignments(giver_id, scope)
        if assignment.current(now_s)
        for right in _rights(access, assignment, scope)
    ]
    return all(any(right.reaches(given) for right in held) for given in role.rights)


def _rights(access: Access, assignment: Assignment, scope: TenantId | None) -> tuple[Right, ...]:
    """The rights that an assignment gives; a tenant's own role counts in that tenant only."""
    role = access.role(assignment.role_id)
    return role.rights if role is not None and role.tenant_id in (None, scope) else ()


def authorize(
    access: Access,
    principal_id: PrincipalId,
    tenant_id: TenantId | None,
    action: str,
    resource: Mapping[str, str],
    now_s: float,
) -> Decision:
    """Whether the principal may do `action` on `resource` in `tenant_id` (None: platform)."""
    reach: tuple[TenantId | None, ...] = (tenant_id,)
    if tenant_id is not None and action.startswith(_PLATFORM_SCOPE):
        reach = (tenant_id, None)
    member = False
    for scope in reach:
        for assignment in access.assignments(principal_id, scope):
            if not assignment.current(now_s):
                continue
            member = True
            for right in _rights(access, assignment, scope):
                if right.covers(action, resource):
                    because = Because(assignment.id, assignment.role_id, right, assignment.revision)
                    return Decision(allowed=True, reason=Reason.ALLOWED, because=because)
    reason = Reason.NO_RIGHT if member else Reason.NOT_A_MEMBER
    return Decision(allowed=False, reason=reason)
