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
from tidegate.kernel.ids import TenantId

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


class Roles(Protocol):
    """Where roles are looked up."""

    def role(self, role_id: str) -> Role | None: ...


@dataclass(frozen=True, slots=True)
class Assigned:
    """A principal's assignments as far as one tenant goes: there, and in the platform's scope."""

    in_tenant: tuple[Assignment, ...]
    in_platform: tuple[Assignment, ...]

    def reaching(self, tenant_id: TenantId | None, action: str) -> tuple[Assignment, ...]:
        """Those that can allow the action, in the order in which they are asked."""
        if tenant_id is None:
            return self.in_platform
        if action.startswith(_PLATFORM_SCOPE):
            return (*self.in_tenant, *self.in_platform)
        return self.in_tenant


def is_member(assigned: Assigned, tenant_id: TenantId, action: str, now_s: float) -> bool:
    """Whether the principal counts as a member of the tenant for this action."""
    return any(a.current(now_s) for a in assigned.reaching(tenant_id, action))


def may_give(roles: Roles, giver: Assigned, role: Role, now_s: float) -> bool:
    """Whether nothing in `role` reaches further than the giver's own rights.

    Rights of the platform's scope count in every tenant here: whoever may do everything on the
    platform may let others act in its tenants, though he may not himself.
    """
    held = [
        right
        for assignment in (*giver.in_tenant, *giver.in_platform)
        if assignment.current(now_s)
        for right in _rights(roles, assignment)
    ]
    return all(any(right.reaches(given) for right in held) for given in role.rights)


def _rights(roles: Roles, assignment: Assignment) -> tuple[Right, ...]:
    """The rights that an assignment gives; a tenant's own role counts in that tenant only."""
    role = roles.role(assignment.role_id)
    if role is None or role.tenant_id not in (None, assignment.tenant_id):
        return ()
    return role.rights


def authorize(
    roles: Roles,
    assigned: Assigned,
    tenant_id: TenantId | None,
    action: str,
    resource: Mapping[str, str],
    now_s: float,
) -> Decision:
    """Whether the principal may do `action` on `resource` in `tenant_id` (None: platform)."""
    member = False
    for assignment in assigned.reaching(tenant_id, action):
        if not assignment.current(now_s):
            continue
        member = True
        for right in _rights(roles, assignment):
            if right.covers(action, resource):
                because = Because(assignment.id, assignment.role_id, right, assignment.revision)
                return Decision(allowed=True, reason=Reason.ALLOWED, because=because)
    reason = Reason.NO_RIGHT if member else Reason.NOT_A_MEMBER
    return Decision(allowed=False, reason=reason)
