"""Decisions that change tenants and assignments. They read, decide, and return the commit."""

from __future__ import annotations

from dataclasses import dataclass

from tidegate.authz import model
from tidegate.authz.model import Assignment, Tenant, TenantStatus
from tidegate.kernel import errors
from tidegate.kernel.errors import Refusal
from tidegate.kernel.ids import PrincipalId, TenantId
from tidegate.store.bucket import Decision, Read
from tidegate.store.changes import Delete, Put
from tidegate.store.events import Origin, Record


@dataclass(frozen=True, slots=True)
class Actor:
    """Who asks, and from where."""

    id: str
    origin: Origin


async def create_tenant(
    read: Read, tenant_id: TenantId, name: str, actor: Actor, now_s: float
) -> Decision[Tenant] | Refusal:
    entry = await read(model.tenant_key(tenant_id))
    if entry.value is not None:
        return Refusal(errors.ALREADY_EXISTS, f"There is a tenant {tenant_id}.")
    value = {"v": 1, "name": name, "status": TenantStatus.ACTIVE.value, "created_at": now_s}
    record = Record(
        "tenant.created", tenant_id, actor.id, tenant_id, actor.origin, changed={"name": name}
    )
    return Decision(
        [Put(entry.key, value, entry.revision)],
        [record.event(now_s)],
        Tenant(tenant_id, name, TenantStatus.ACTIVE, 0),
    )


async def assign(
    read: Read, assignment: Assignment, actor: Actor, now_s: float
) -> Decision[Assignment] | Refusal:
    """Gives a role. The tenant and the role must exist and belong together."""
    tenant_id = assignment.tenant_id
    if tenant_id is not None and (await read(model.tenant_key(tenant_id))).value is None:
        return errors.invalid("/tenant_id", "There is no such tenant.")
    role_entry = await read(model.role_key(assignment.role_id))
    if role_entry.value is None or role_entry.value["tenant"] not in (None, tenant_id):
        return errors.invalid("/role_id", "There is no such role in this tenant.")
    entry = await read(model.assignment_key(assignment.id))
    if entry.value is not None:
        return Refusal(errors.ALREADY_EXISTS, "The principal has this role here already.")
    value = {"v": 1, "exp": assignment.expires_at_s, "created_at": now_s}
    record = Record(
        "assignment.created",
        assignment.id,
        actor.id,
        tenant_id,
        actor.origin,
        changed={
            "principal_id": assignment.principal_id,
            "role_id": assignment.role_id,
            "expires_at": assignment.expires_at_s,
        },
    )
    return Decision([Put(entry.key, value, entry.revision)], [record.event(now_s)], assignment)


async def unassign(
    read: Read, assignment_id: str, actor: Actor, now_s: float
) -> Decision[None] | Refusal:
    """Takes a role away."""
    entry = await read(model.assignment_key(assignment_id))
    if entry.value is None:
        return Refusal(errors.NOT_FOUND, "There is no such assignment.")
    assignment = model.decode_assignment(entry)
    record = Record(
        "assignment.deleted", assignment_id, actor.id, assignment.tenant_id, actor.origin
    )
    return Decision([Delete(entry.key, entry.revision)], [record.event(now_s)], None)


def platform_admin(principal_id: PrincipalId) -> Assignment:
    """The assignment that makes a platform admin."""
    return Assignment(principal_id, None, "platform-admin", None, 0)
