"""Principals in memory: those that call, not all that are stored.

A principal is read once for each tenant in which it acts: its standing, its assignments in that
tenant and in the platform's scope, all of one moment. Reading it for all tenants at once would
cost the server a walk over every tenant. Kept until the feed touches the principal; see
`store.on_demand` for when a load may be believed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tidegate.authz import model as authz
from tidegate.authz.engine import Assigned
from tidegate.authz.model import Assignment
from tidegate.identity import model as identity
from tidegate.identity.standing import Standing, standing
from tidegate.kernel import errors
from tidegate.kernel.errors import Refusal
from tidegate.kernel.ids import PrincipalId, TenantId
from tidegate.principals.settings import Settings
from tidegate.store.changes import Entry
from tidegate.store.connection import Connection, StoreError
from tidegate.store.events import PLATFORM
from tidegate.store.on_demand import OnDemand, Source
from tidegate.store.views import OnDemandView, Progress

_BUCKET = "iam"
_EVERY_TENANT = "*"
_NOT_LOADED = Refusal(errors.UNAVAILABLE, "The principal cannot be read just now.", retry_after_s=1)


@dataclass(frozen=True, slots=True)
class Known:
    """A principal as far as one tenant goes. Without a standing there is no such user."""

    standing: Standing | None
    assigned: Assigned


class Principals:
    """What is known of principals. `own_key` is an entry of this replica's own."""

    def __init__(
        self,
        connection: Connection,
        progress: Progress,
        own_key: Callable[[], str],
        settings: Settings,
    ) -> None:
        self._known = OnDemand(connection, _KNOWN, progress, own_key, settings.cached_max)
        self._assignments = OnDemand(
            connection, _ASSIGNMENTS, progress, own_key, settings.cached_max
        )

    @property
    def views(self) -> tuple[OnDemandView, ...]:
        """What must follow the change feed."""
        return (self._known, self._assignments)

    def known(self, principal_id: PrincipalId, tenant_id: TenantId | None) -> Known | None:
        """What is known already; None when it has to be loaded. Synchronous."""
        return self._known.get(principal_id, tenant_id or PLATFORM)

    async def find(
        self, principal_id: PrincipalId, tenant_id: TenantId | None = None
    ) -> Known | Refusal:
        """What is known, loaded when it has to be."""
        try:
            return await self._known.load(principal_id, tenant_id or PLATFORM)
        except StoreError:
            return _NOT_LOADED

    async def assignments_of(self, principal_id: PrincipalId) -> tuple[Assignment, ...] | Refusal:
        """The principal's assignments in every scope, by id."""
        try:
            return await self._assignments.load(principal_id, _EVERY_TENANT)
        except StoreError:
            return _NOT_LOADED


def _known_keys(principal: str, tenant: str) -> Sequence[str]:
    keys = [
        identity.user_key(PrincipalId(principal)),
        authz.assignments_key(PLATFORM, principal),
    ]
    return keys if tenant == PLATFORM else [*keys, authz.assignments_key(tenant, principal)]


def _make_known(_principal: str, _tenant: str, entries: Sequence[Entry]) -> Known:
    users = [standing(entry) for entry in entries if entry.kind == "user"]
    assignments = _make_assignments(_principal, _tenant, entries)
    return Known(
        users[0] if users else None,
        Assigned(
            tuple(each for each in assignments if each.tenant_id is not None),
            tuple(each for each in assignments if each.tenant_id is None),
        ),
    )


def _make_assignments(
    _principal: str, _tenant: str, entries: Sequence[Entry]
) -> tuple[Assignment, ...]:
    found = (authz.readable_assignment(entry) for entry in entries if entry.kind == "assignment")
    return tuple(sorted((each for each in found if each is not None), key=lambda a: a.id))


def _concerned(entry: Entry) -> str:
    """The principal that a change of this entry concerns."""
    tokens = entry.key.split(".")
    return tokens[2] if len(tokens) > 2 else ""


_KNOWN = Source(
    name="principals",
    bucket=_BUCKET,
    kinds=frozenset({"user", "assignment"}),
    keys=_known_keys,
    build=_make_known,
    owner=_concerned,
)
_ASSIGNMENTS = Source(
    name="assignments",
    bucket=_BUCKET,
    kinds=frozenset({"assignment"}),
    keys=lambda principal, tenant: [authz.assignments_key(tenant, principal)],
    build=_make_assignments,
    owner=_concerned,
)
