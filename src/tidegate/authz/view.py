"""What rights are made of, in memory: tenants and roles."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

from tidegate.authz import model
from tidegate.authz.model import Role, Tenant
from tidegate.kernel.ids import TenantId
from tidegate.observability import metrics
from tidegate.store.changes import Entry

log = logging.getLogger(__name__)


class AccessView:
    """Tenants and roles, all of them.

    An entry that cannot be read counts as absent: a right that cannot be understood is not given.
    """

    kinds = frozenset({"tenant", "role"})

    def __init__(self) -> None:
        self._tenants: dict[TenantId, Tenant] = {}
        self._roles: dict[str, Role] = {}

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

    def load(self, entries: Iterable[Entry]) -> None:
        self._tenants, self._roles = {}, {}
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
