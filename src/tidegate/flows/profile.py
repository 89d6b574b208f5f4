"""What a user may know about itself."""

from __future__ import annotations

from dataclasses import dataclass

from tidegate.identity import accounts
from tidegate.identity.accounts import Keys
from tidegate.identity.model import User
from tidegate.kernel import errors
from tidegate.kernel.clock import Clock
from tidegate.kernel.errors import Refusal
from tidegate.kernel.ids import PrincipalId, TenantId
from tidegate.principals.view import Principals
from tidegate.store.bucket import UNAVAILABLE, Bucket
from tidegate.store.connection import AnswerLost, Disconnected


@dataclass(frozen=True, slots=True)
class Membership:
    """A tenant and the caller's roles in it."""

    tenant_id: TenantId
    role_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Profile:
    """The user and where it is a member."""

    user: User
    memberships: tuple[Membership, ...]


@dataclass(frozen=True, slots=True)
class Profiles:
    """Reads profiles."""

    iam: Bucket
    keys: Keys
    principals: Principals
    clock: Clock

    async def of(self, principal_id: PrincipalId) -> Profile | Refusal:
        try:
            stored = await accounts.load(self.iam.read, principal_id, self.keys)
        except (Disconnected, AnswerLost):
            return UNAVAILABLE
        if stored is None:
            return Refusal(errors.NOT_FOUND, "There is no such user.")
        roles: dict[TenantId, list[str]] = {}
        assignments = await self.principals.assignments_of(principal_id)
        if isinstance(assignments, Refusal):
            return assignments
        for assignment in assignments:
            if assignment.tenant_id is not None and assignment.current(self.clock.now_s()):
                roles.setdefault(assignment.tenant_id, []).append(assignment.role_id)
        memberships = tuple(
            Membership(tenant_id, tuple(sorted(roles[tenant_id]))) for tenant_id in sorted(roles)
        )
        return Profile(stored.user, memberships)
