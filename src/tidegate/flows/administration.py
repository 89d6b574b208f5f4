"""What admins change: tenants, assignments, routing; and how the first admin comes to be."""

from __future__ import annotations

from dataclasses import dataclass

from tidegate.authz import commands as authz
from tidegate.authz import engine
from tidegate.authz import model as authz_model
from tidegate.authz.commands import Actor
from tidegate.authz.model import Assignment, Tenant
from tidegate.authz.view import AccessView
from tidegate.identity import accounts, passwords
from tidegate.identity import model as identity_model
from tidegate.identity.accounts import Keys, NewAccount
from tidegate.identity.passwords import Passwords
from tidegate.identity.settings import Settings
from tidegate.kernel import errors
from tidegate.kernel.clock import Clock
from tidegate.kernel.errors import Refusal
from tidegate.kernel.ids import PrincipalId, TenantId, new_id
from tidegate.routing.change_set import ChangeSet
from tidegate.routing.commands import Applied, apply_change_set
from tidegate.routing.view import RoutingView
from tidegate.store.bucket import Bucket, Decision, Done, Read
from tidegate.store.changes import Put
from tidegate.store.events import Origin, Record


@dataclass(frozen=True, slots=True)
class Tenancy:
    """Tenants and who belongs to them."""

    iam: Bucket
    access: AccessView
    clock: Clock

    async def create_tenant(
        self, tenant_id: TenantId, name: str, actor: Actor
    ) -> Done[Tenant] | Refusal:
        async def decide(read: Read) -> Decision[Tenant] | Refusal:
            return await authz.create_tenant(read, tenant_id, name, actor, self.clock.now_s())

        return await self.iam.execute(decide)

    async def assign(self, assignment: Assignment, actor: Actor) -> Done[Assignment] | Refusal:
        """Gives a role, unless it reaches further than the rights of the actor."""
        role = self.access.role(assignment.role_id)
        giver_id, tenant_id = PrincipalId(actor.id), assignment.tenant_id
        if role is None:
            return errors.invalid("/role_id", "There is no such role in this tenant.")
        if not engine.may_give(self.access, giver_id, tenant_id, role, self.clock.now_s()):
            return Refusal(errors.FORBIDDEN, "The role reaches further than your own rights.")

        async def decide(read: Read) -> Decision[Assignment] | Refusal:
            principal = await read(identity_model.user_key(assignment.principal_id))
            if principal.value is None:
                return errors.invalid("/principal_id", "There is no such principal.")
            return await authz.assign(read, assignment, actor, self.clock.now_s())

        return await self.iam.execute(decide)

    async def unassign(self, assignment_id: str, actor: Actor) -> Done[None] | Refusal:
        async def decide(read: Read) -> Decision[None] | Refusal:
            return await authz.unassign(read, assignment_id, actor, self.clock.now_s())

        return await self.iam.execute(decide)


@dataclass(frozen=True, slots=True)
class RoutingAdministration:
    """Placements and shards."""

    routing: Bucket
    view: RoutingView
    clock: Clock

    async def apply(self, change_set: ChangeSet, actor: Actor) -> Done[Applied] | Refusal:
        """Applies a change set whole."""

        async def decide(read: Read) -> Decision[Applied] | Refusal:
            now_s = self.clock.now_s()
            return await apply_change_set(
                read, self.view.routing, change_set, actor.id, actor.origin, now_s
            )

        return await self.routing.execute(decide)


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """Makes the first platform admin, once in the life of an installation."""

    iam: Bucket
    passwords: Passwords
    keys: Keys
    settings: Settings
    clock: Clock

    async def first_admin(self, email: str, password: str) -> Done[PrincipalId] | Refusal:
        """ALREADY_EXISTS when an admin was bootstrapped before."""
        refusal = accounts.check_address(email) or passwords.check_policy(
            password, email, self.settings.password
        )
        if refusal is not None:
            return refusal
        hashed = await self.passwords.hash(passwords.normalize(password))
        if isinstance(hashed, Refusal):
            return hashed
        account = NewAccount(email, "Platform admin", email_verified=True)
        user_id = PrincipalId(new_id())

        async def decide(read: Read) -> Decision[PrincipalId] | Refusal:
            admins = await read(authz.ADMINS_KEY)
            if admins.value is not None:
                return Refusal(errors.ALREADY_EXISTS, "A platform admin was made before.")
            if await accounts.find_by_email(read, email, self.keys) is not None:
                return Refusal(errors.ALREADY_EXISTS, "There is an account with this address.")
            now_s = self.clock.now_s()
            _, changes = accounts.create(user_id, account, self.keys, now_s)
            password_set = accounts.set_password(user_id, hashed, None, now_s)
            assignment = authz.platform_admin(user_id)
            value = {"v": 1, "exp": None, "created_at": now_s}
            record = Record(
                "user.bootstrapped", user_id, "operator", None, Origin("", "", "tidegate admin")
            )
            given = Put(authz_model.assignment_key(assignment.id), value, 0)
            return Decision(
                [authz.first_admins(user_id), *changes, password_set, given],
                [record.event(now_s)],
                user_id,
            )

        return await self.iam.execute(decide, settle=False)
