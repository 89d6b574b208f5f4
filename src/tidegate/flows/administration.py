"""What admins change: tenants, assignments, users, routing; and how the first admin comes to be.

Each command says what it does to others' views: what takes something away has taken it away
everywhere when the call returns.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from tidegate.authz import commands as authz
from tidegate.authz import engine
from tidegate.authz import model as authz_model
from tidegate.authz.commands import Actor
from tidegate.authz.model import Assignment, Tenant, TenantStatus
from tidegate.authz.view import AccessView
from tidegate.identity import accounts, passwords
from tidegate.identity import model as identity_model
from tidegate.identity.accounts import Keys, NewAccount
from tidegate.identity.model import UserStatus
from tidegate.identity.passwords import Passwords
from tidegate.identity.settings import Settings
from tidegate.kernel import errors
from tidegate.kernel.clock import Clock
from tidegate.kernel.errors import Refusal
from tidegate.kernel.ids import PrincipalId, TenantId, new_id
from tidegate.principals.view import Principals
from tidegate.routing.change_set import ChangeSet
from tidegate.routing.commands import Applied, apply_change_set
from tidegate.routing.view import RoutingView
from tidegate.store.barrier import Effect
from tidegate.store.bucket import Bucket, Decision, Done, Read
from tidegate.store.changes import Put
from tidegate.store.events import Origin, Record

_NO_USER = Refusal(errors.NOT_FOUND, "There is no such user.")


@dataclass(frozen=True, slots=True)
class Tenancy:
    """Tenants and who belongs to them."""

    iam: Bucket
    access: AccessView
    principals: Principals
    clock: Clock

    async def create_tenant(
        self, tenant_id: TenantId, name: str, actor: Actor
    ) -> Done[Tenant] | Refusal:
        async def decide(read: Read) -> Decision[Tenant] | Refusal:
            return await authz.create_tenant(read, tenant_id, name, actor, self.clock.now_s())

        return await self.iam.execute(decide, Effect.ADDITION)

    async def suspend_tenant(self, tenant_id: TenantId, actor: Actor) -> Done[Tenant] | Refusal:
        return await self._set_status(tenant_id, TenantStatus.SUSPENDED, actor, Effect.TAKE_AWAY)

    async def resume_tenant(self, tenant_id: TenantId, actor: Actor) -> Done[Tenant] | Refusal:
        return await self._set_status(tenant_id, TenantStatus.ACTIVE, actor, Effect.ADDITION)

    async def _set_status(
        self, tenant_id: TenantId, status: TenantStatus, actor: Actor, effect: Effect
    ) -> Done[Tenant] | Refusal:
        async def decide(read: Read) -> Decision[Tenant] | Refusal:
            now_s = self.clock.now_s()
            return await authz.set_tenant_status(read, tenant_id, status, actor, now_s)

        return await self.iam.execute(decide, effect)

    async def assign(self, assignment: Assignment, actor: Actor) -> Done[Assignment] | Refusal:
        """Gives a role, unless it reaches further than the rights of the actor."""
        role = self.access.role(assignment.role_id)
        giver_id, tenant_id = PrincipalId(actor.id), assignment.tenant_id
        if role is None:
            return errors.invalid("/role_id", "There is no such role in this tenant.")
        giver = await self.principals.find(giver_id, tenant_id)
        if isinstance(giver, Refusal):
            return giver
        if not engine.may_give(self.access, giver.assigned, role, self.clock.now_s()):
            return Refusal(errors.FORBIDDEN, "The role reaches further than your own rights.")

        async def decide(read: Read) -> Decision[Assignment] | Refusal:
            principal = await read(identity_model.user_key(assignment.principal_id))
            if principal.value is None:
                return errors.invalid("/principal_id", "There is no such principal.")
            active = principal.value["status"] == UserStatus.ACTIVE
            decision = await authz.assign(
                read, assignment, actor, self.clock.now_s(), active=active
            )
            if isinstance(decision, Refusal) or not authz.is_lasting_admin(assignment):
                return decision
            # Written anew, so that it conflicts with a disabling: only who is active is counted on.
            same = Put(principal.key, principal.value, principal.revision)
            return replace(decision, changes=[*decision.changes, same])

        return await self.iam.execute(decide, Effect.ADDITION)

    async def unassign(self, assignment_id: str, actor: Actor) -> Done[None] | Refusal:
        async def decide(read: Read) -> Decision[bool] | Refusal:
            return await authz.unassign(read, assignment_id, actor, self.clock.now_s())

        done = await self.iam.execute(decide, Effect.TAKE_AWAY)
        if isinstance(done, Refusal):
            return done
        if not done.outcome:
            return Refusal(errors.NOT_FOUND, "There is no such assignment.")
        return Done(None, done.revision, done.unconfirmed)


@dataclass(frozen=True, slots=True)
class Users:
    """Other people's accounts."""

    iam: Bucket
    clock: Clock

    async def disable(self, user_id: PrincipalId, actor: Actor) -> Done[None] | Refusal:
        """Takes every access away and ends all sessions; a platform admin is not counted on."""

        async def decide(read: Read) -> Decision[None] | Refusal:
            entry = await read(identity_model.user_key(user_id))
            if entry.value is None:
                return _NO_USER
            # One that is disabled already is written anew: an enabling that is still on its way
            # finds another revision then, and comes to nothing.
            # From the leader: an old copy may not know that this is an admin.
            admins = await authz.without_admin(self.iam.read_leader, user_id)
            if isinstance(admins, Refusal):
                return admins
            ended = identity_model.end_all_sessions(entry)
            value = {**ended.value, "status": UserStatus.DISABLED.value}
            record = Record("user.disabled", user_id, actor.id, None, actor.origin)
            return self._change(replace(ended, value=value), admins, record)

        return await self.iam.execute(decide, Effect.TAKE_AWAY)

    async def enable(self, user_id: PrincipalId, actor: Actor) -> Done[None] | Refusal:
        """Lets the user sign in again; the sessions of before stay ended."""

        async def decide(read: Read) -> Decision[None] | Refusal:
            entry = await read(identity_model.user_key(user_id))
            if entry.value is None:
                return _NO_USER
            if entry.value["status"] == UserStatus.ACTIVE:
                return Decision([], [], None)
            admins = await authz.with_admin(self.iam.read_leader, user_id)
            value = {**entry.value, "status": UserStatus.ACTIVE.value}
            record = Record("user.enabled", user_id, actor.id, None, actor.origin)
            return self._change(Put(entry.key, value, entry.revision), admins, record)

        return await self.iam.execute(decide, Effect.ADDITION)

    async def end_sessions(self, user_id: PrincipalId, actor: Actor) -> Done[None] | Refusal:
        """Ends all sessions of the user."""

        async def decide(read: Read) -> Decision[None] | Refusal:
            entry = await read(identity_model.user_key(user_id))
            if entry.value is None:
                return _NO_USER
            record = Record("user.sessions_ended", user_id, actor.id, None, actor.origin)
            return self._change(identity_model.end_all_sessions(entry), None, record)

        return await self.iam.execute(decide, Effect.TAKE_AWAY)

    def _change(self, user: Put, admins: Put | None, record: Record) -> Decision[None]:
        changes = [user] if admins is None else [user, admins]
        return Decision(changes, [record.event(self.clock.now_s())], None)


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

        return await self.routing.execute(decide, Effect.ADDITION)


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

        return await self.iam.execute(decide, Effect.UNSEEN)
