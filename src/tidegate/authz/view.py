"""Who may do what, in memory: tenants, roles, and assignments by principal and scope."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

from tidegate.authz import model
from tidegate.authz.model import Assignment, Role, Tenant
from tidegate.kernel.ids import PrincipalId, TenantId
from tidegate.observability import metrics
from tidegate.store.changes import Entry
from tidegate.store.events import PLATFORM

log = logging.getLogger(__name__)

_Scope = tuple[PrincipalId, TenantId | None]


class AccessView:
    """The authorization model of every tenant.

    An entry that cannot be read counts as absent: a right that cannot be understood is not given.
    """

    kinds = frozenset({"tenant", "role", "assignment"})

    def __init__(self) -> None:
        self._tenants: dict[TenantId, Tenant] = {}
        self._roles: dict[str, Role] = {}
        self._assignments: dict[_Scope, tuple[Assignment, ...]] = {}
        self._scopes: dict[PrincipalId, frozenset[TenantId | None]] = {}

    def tenant(self, tenant_id: TenantId) -> Tenant | None:
        return self._tenants.get(tenant_id)

    def tenants(self) -> list[Tenant]:
        """All tenants, by id."""
        return [self._tenants[tenant_id] for tenant_id in sorted(self._tenants)]

    def role(self, role_id: str) -> Role | None:
        return self._roles.get(role_id)

    def roles(self) -> list[Role]:
        """All roles, by id."""
        return [self._roles[role_id] for role_id in sorted(self._roles)]

    def assignments(
        self, principal_id: PrincipalId, tenant_id: TenantId | None
    ) -> tuple[Assignment, ...]:
        """The principal's assignments in exactly this scope (None: the platform's)."""
        return self._assignments.get((principal_id, tenant_id), ())

    def assignments_of(self, principal_id: PrincipalId) -> list[Assignment]:
        """The principal's assignments in every scope, by id."""
        scopes = self._scopes.get(principal_id, frozenset())
        found = [a for scope in scopes for a in self._assignments[principal_id, scope]]
        return sorted(found, key=lambda assignment: assignment.id)

    def load(self, entries: Iterable[Entry]) -> None:
        self._tenants, self._roles, self._assignments, self._scopes = {}, {}, {}, {}
        self.apply(list(entries))

    def apply(self, changes: Sequence[Entry]) -> None:
        for entry in changes:
            try:
                self._apply(entry)
            except (KeyError, TypeError, ValueError, AttributeError):
                metrics.VIEW_REJECTED.labels(view="iam").inc()
                log.exception("%s cannot be read and counts as absent", entry.key)
                self._apply(Entry(entry.key, None, entry.revision))

    def _apply(self, entry: Entry) -> None:
        present = entry.value is not None
        match entry.kind:
            case "tenant":
                tenant_id = TenantId(entry.key.partition(".")[2])
                self._tenants.pop(tenant_id, None)
                if present:
                    self._tenants[tenant_id] = model.decode_tenant(entry)
            case "role":
                role_id = entry.key.partition(".")[2]
                self._roles.pop(role_id, None)
                if present:
                    self._roles[role_id] = model.decode_role(entry)
            case "assignment":
                self._apply_assignment(entry)

    def _apply_assignment(self, entry: Entry) -> None:
        assignment_id = entry.key.partition(".")[2]
        if not model.is_assignment_id(assignment_id):
            return
        tenant, principal, _ = assignment_id.split(".")
        principal_id = PrincipalId(principal)
        scope = None if tenant == PLATFORM else TenantId(tenant)
        made = () if entry.value is None else (model.decode_assignment(entry),)
        others = (a for a in self.assignments(principal_id, scope) if a.id != assignment_id)
        kept = (*others, *made)
        scopes = self._scopes.get(principal_id, frozenset())
        if kept:
            self._assignments[principal_id, scope] = kept
            self._scopes[principal_id] = scopes | {scope}
            return
        self._assignments.pop((principal_id, scope), None)
        self._scopes[principal_id] = scopes - {scope}
        if not self._scopes[principal_id]:
            del self._scopes[principal_id]
