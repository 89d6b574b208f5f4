"""Decisions that change tenants and assignments. They read, decide, and return the commit."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tidegate.authz import model
from tidegate.authz.model import Assignment, Tenant, TenantStatus
from tidegate.kernel import errors
from tidegate.kernel.errors import Refusal
from tidegate.kernel.ids import PrincipalId, TenantId
from tidegate.store.bucket import Decision, Read
from tidegate.store.changes import Change, Delete, Put
from tidegate.store.events import PLATFORM, Origin, Record

PLATFORM_ADMIN = "platform-admin"
ADMINS_KEY = "platform_admins.current"

_LAST_ADMIN = Refusal(errors.LAST_ADMIN, "Make another platform admin first.")


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


async def set_tenant_status(
    read: Read, tenant_id: TenantId, status: TenantStatus, actor: Actor, now_s: float
) -> Decision[Tenant] | Refusal:
    """Suspends a tenant or resumes it. One that is active already is left as it is.

    One that is suspended already is written anew, as every take-away is: a resumption that is
    still on its way finds another revision then, and comes to nothing.
    """
    entry = await read(model.tenant_key(tenant_id))
    tenant = model.readable_tenant(entry)
    if tenant is None or entry.value is None:
        return Refusal(errors.NOT_FOUND, "There is no such tenant.")
    if tenant.status is status and status is TenantStatus.ACTIVE:
        return Decision([], [], tenant)
    action = "tenant.suspended" if status is TenantStatus.SUSPENDED else "tenant.resumed"
    record = Record(action, tenant_id, actor.id, tenant_id, actor.origin)
    return Decision(
        [Put(entry.key, {**entry.value, "status": status.value}, entry.revision)],
        [record.event(now_s)],
        replace(tenant, status=status),
    )


async def assign(
    read: Read, assignment: Assignment, actor: Actor, now_s: float, *, active: bool = True
) -> Decision[Assignment] | Refusal:
    """Gives a role. The tenant and the role must exist and belong together.

    An admin whose account is not `active` is not counted on before it is.
    """
    tenant_id = assignment.tenant_id
    if not assignment.current(now_s):
        return errors.invalid("/expires_at", "It is not in the future.")
    if tenant_id is not None and (await read(model.tenant_key(tenant_id))).value is None:
        return errors.invalid("/tenant_id", "There is no such tenant.")
    role = model.readable_role(await read(model.role_key(assignment.role_id)))
    if role is None or role.tenant_id not in (None, tenant_id):
        return errors.invalid("/role_id", "There is no such role in this tenant.")
    entry = await read(model.assignment_key(assignment.id))
    present = model.readable_assignment(entry)
    if present is not None and present.current(now_s):
        return Refusal(errors.ALREADY_EXISTS, "The principal has this role here already.")
    value = {"v": 1, "exp": assignment.expires_at_s, "created_at": now_s}
    changes: list[Change] = [Put(entry.key, value, entry.revision)]
    if is_lasting_admin(assignment) and active:
        changes.append(await _admins(read, add=assignment.principal_id))
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
    return Decision(changes, [record.event(now_s)], assignment)


async def unassign(
    read: Read, assignment_id: str, actor: Actor, now_s: float
) -> Decision[bool] | Refusal:
    """Takes a role away, readable or not. The last platform admin stays.

    The outcome tells whether there was one. Where there was none that is written down, too: an
    assignment that is still on its way finds another revision then, and comes to nothing.
    """
    entry = await read(model.assignment_key(assignment_id))
    if entry.value is None:
        return Decision([Delete(entry.key, entry.revision)], [], outcome=False)
    scope, principal, role_id = assignment_id.split(".")
    tenant_id = None if scope == PLATFORM else TenantId(scope)
    changes: list[Change] = [Delete(entry.key, entry.revision)]
    if tenant_id is None and role_id == PLATFORM_ADMIN:
        admins = await _admins(read, remove=PrincipalId(principal))
        if not admins.value["principals"]:
            return _LAST_ADMIN
        changes.append(admins)
    record = Record("assignment.deleted", assignment_id, actor.id, tenant_id, actor.origin)
    return Decision(changes, [record.event(now_s)], outcome=True)


def platform_admin(principal_id: PrincipalId) -> Assignment:
    """The assignment that makes a platform admin."""
    return Assignment(principal_id, None, PLATFORM_ADMIN, None, 0)


def is_lasting_admin(assignment: Assignment) -> bool:
    """Whether this makes a platform admin for good: one with an end date is not counted on."""
    return (
        assignment.tenant_id is None
        and assignment.role_id == PLATFORM_ADMIN
        and assignment.expires_at_s is None
    )


def first_admins(principal_id: PrincipalId) -> Put:
    """The entry that names the platform admins; it must not exist yet."""
    return Put(ADMINS_KEY, {"v": 1, "principals": [principal_id]}, 0)


async def without_admin(read: Read, principal_id: PrincipalId) -> Put | Refusal | None:
    """The change that stops counting on a platform admin; None for who was not counted on."""
    entry = await read(ADMINS_KEY)
    if entry.value is None or principal_id not in entry.value["principals"]:
        return None
    change = await _admins(read, remove=principal_id)
    return change if change.value["principals"] else _LAST_ADMIN


async def with_admin(read: Read, principal_id: PrincipalId) -> Put | None:
    """The change that counts on a platform admin again; None for who is none for good."""
    key = model.assignment_key(platform_admin(principal_id).id)
    assignment = model.readable_assignment(await read(key))
    if assignment is None or not is_lasting_admin(assignment):
        return None
    return await _admins(read, add=principal_id)


async def _admins(
    read: Read, *, add: PrincipalId | None = None, remove: PrincipalId | None = None
) -> Put:
    """The change of who the platform admins are.

    One entry names them all, so that two admins who remove each other at the same moment
    conflict, and one of them stays.
    """
    entry = await read(ADMINS_KEY)
    named = set(entry.value["principals"]) if entry.value is not None else set()
    named = (named | ({add} if add else set())) - ({remove} if remove else set())
    return Put(ADMINS_KEY, {"v": 1, "principals": sorted(named)}, entry.revision)
