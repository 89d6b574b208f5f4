"""Admission: may this request pass, and where does it go? Synchronous, over memory, no I/O.

The order is fixed: lease, authenticate, tenant, authorize, place. A refusal never tells more than
its caller may know: a tenant that does not exist and one that the caller is no member of look the
same, and whether a tenant is suspended or placed is told to members only.

What is not in memory is not waited for here: the answer is `NeedsLoad`, and `after_loading` has it
read and asks again. The lease is asked each time, as late as the decision itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from tidegate.authz import engine
from tidegate.authz.engine import Because
from tidegate.authz.model import TenantStatus
from tidegate.authz.view import AccessView
from tidegate.kernel import errors
from tidegate.kernel.clock import Clock
from tidegate.kernel.errors import Refusal
from tidegate.kernel.ids import PrincipalId, SessionId, TenantId, is_slug
from tidegate.observability import metrics
from tidegate.principals.view import Known, Principals
from tidegate.routing.model import Resolved, ServiceKind
from tidegate.routing.view import RoutingView
from tidegate.sessions import access
from tidegate.sessions.access import Void
from tidegate.sessions.keys import SigningKeyView
from tidegate.sessions.settings import Settings
from tidegate.sessions.view import RevocationView
from tidegate.store.bucket import UNAVAILABLE
from tidegate.store.lease import FENCED, Lease

T = TypeVar("T")

_TOKEN_INVALID = Refusal(errors.TOKEN_INVALID, "The access token is not valid.")
_TOKEN_MISSING = Refusal(errors.TOKEN_MISSING, "Send `Authorization: Bearer <access token>`.")
_NOT_A_MEMBER = Refusal(errors.TENANT_FORBIDDEN, "You are not a member of this tenant.")
_SUSPENDED = Refusal(errors.TENANT_SUSPENDED, "This tenant is suspended.")
# A load that the feed voids at once, again and again, is of a principal under constant change.
_MOST_LOADS = 3


@dataclass(frozen=True, slots=True)
class Principal:
    """Who a valid token stands for."""

    id: PrincipalId
    kind: str
    session_id: SessionId


@dataclass(frozen=True, slots=True)
class Call:
    """A request as admission sees it: header values as they came, and what it wants to do."""

    authorization: Sequence[str]
    tenant: Sequence[str]
    action: str
    resource: Mapping[str, str]
    service_kind: ServiceKind


@dataclass(frozen=True, slots=True)
class Admitted:
    """It may pass: for whom, in which tenant, why, and where to."""

    principal: Principal
    tenant_id: TenantId
    because: Because
    target: Resolved


@dataclass(frozen=True, slots=True)
class NeedsLoad:
    """Not decided: this principal has to be read first, as far as this tenant goes."""

    principal_id: PrincipalId
    tenant_id: TenantId | None


class Admission:
    """Decides from what this replica has in memory, while its lease holds."""

    def __init__(
        self,
        lease: Lease,
        principals: Principals,
        access_view: AccessView,
        revocations: RevocationView,
        signing_keys: SigningKeyView,
        routing: RoutingView,
        settings: Settings,
        clock: Clock,
    ) -> None:
        self._lease = lease
        self._principals = principals
        self._access = access_view
        self._revocations = revocations
        self._signing_keys = signing_keys
        self._routing = routing
        self._settings = settings
        self._clock = clock

    def admit(self, call: Call) -> Admitted | Refusal | NeedsLoad:
        """Whether `call` may pass, and where to."""
        tenant_id = parse_tenant(call.tenant)
        scope = None if isinstance(tenant_id, Refusal) else tenant_id
        principal = self.authenticate(call.authorization, scope)
        if not isinstance(principal, Principal):
            return principal
        if isinstance(tenant_id, Refusal):
            return tenant_id
        because = self.authorize(principal, tenant_id, call.action, call.resource)
        if not isinstance(because, Because):
            return because
        target = self._routing.routing.resolve(call.service_kind, tenant_id)
        if isinstance(target, Refusal):
            metrics.ROUTING_MISSES.labels(
                kind=call.service_kind.value, reason=target.code.word
            ).inc()
            return target
        return Admitted(principal, tenant_id, because, target)

    async def after_loading(self, decide: Callable[[], T | Refusal | NeedsLoad]) -> T | Refusal:
        """What `decide` decides, with what it needs read before."""
        for _ in range(_MOST_LOADS):
            decided = decide()
            if not isinstance(decided, NeedsLoad):
                return decided
            known = await self._principals.find(decided.principal_id, decided.tenant_id)
            if isinstance(known, Refusal):
                return known
        return UNAVAILABLE

    def authenticate(
        self, authorization: Sequence[str], tenant_id: TenantId | None = None
    ) -> Principal | Refusal | NeedsLoad:
        """Who the bearer token stands for, if it still stands for anybody.

        `tenant_id` is where it is going to act, which is read together with who it is.
        """
        if not self._lease.holds():
            return self._unauthenticated("fenced", FENCED)
        if not authorization:
            return self._unauthenticated("missing", _TOKEN_MISSING)
        scheme, _, token = authorization[0].partition(" ")
        if len(authorization) > 1 or scheme.lower() != "bearer" or not token.strip():
            return self._unauthenticated("scheme", _TOKEN_MISSING)
        now_s = self._clock.now_s()
        claims = access.verify(token.strip(), self._signing_keys, self._settings, now_s)
        if isinstance(claims, Void):
            return self._unauthenticated(claims.reason, _TOKEN_INVALID)
        known = self._principals.known(claims.principal_id, tenant_id)
        if known is None:
            return NeedsLoad(claims.principal_id, tenant_id)
        if known.standing is None or not known.standing.active:
            return self._unauthenticated("principal", _TOKEN_INVALID)
        if known.standing.session_epoch != claims.session_epoch:
            return self._unauthenticated("epoch", _TOKEN_INVALID)
        if self._revocations.revoked(claims.principal_id, claims.session_id):
            return self._unauthenticated("revoked", _TOKEN_INVALID)
        return Principal(claims.principal_id, "user", claims.session_id)

    def authorize(
        self,
        principal: Principal,
        tenant_id: TenantId | None,
        action: str,
        resource: Mapping[str, str],
    ) -> Because | Refusal | NeedsLoad:
        """Why the principal may do this in the tenant (None: the platform's scope), or not."""
        if not self._lease.holds():
            return self._denied("fenced", FENCED)
        known = self._principals.known(principal.id, tenant_id)
        if known is None:
            return NeedsLoad(principal.id, tenant_id)
        return self._authorize(known, tenant_id, action, resource)

    def _authorize(
        self,
        known: Known,
        tenant_id: TenantId | None,
        action: str,
        resource: Mapping[str, str],
    ) -> Because | Refusal:
        now_s = self._clock.now_s()
        if tenant_id is not None:
            tenant = self._access.tenant(tenant_id)
            member = engine.is_member(known.assigned, tenant_id, action, now_s)
            if tenant is None or not member:
                return self._denied("not_a_member", _NOT_A_MEMBER)
            if tenant.status is not TenantStatus.ACTIVE:
                return self._denied("suspended", _SUSPENDED)
        decision = engine.authorize(
            self._access, known.assigned, tenant_id, action, resource, now_s
        )
        if decision.because is None:
            refusal = Refusal(
                errors.FORBIDDEN,
                f"This needs the right to {action}.",
                details={"action": action, "resource": dict(resource)},
            )
            return self._denied(decision.reason.value, refusal)
        return decision.because

    @staticmethod
    def _unauthenticated(reason: str, refusal: Refusal) -> Refusal:
        metrics.AUTH_FAILURES.labels(reason=reason).inc()
        return refusal

    @staticmethod
    def _denied(reason: str, refusal: Refusal) -> Refusal:
        metrics.AUTHZ_DENIALS.labels(reason=reason).inc()
        return refusal


def parse_tenant(values: Sequence[str]) -> TenantId | Refusal:
    """The tenant that the `x-tenant-id` headers name."""
    if not values or values == [""]:
        return Refusal(errors.TENANT_REQUIRED, "Send the x-tenant-id header.")
    if len(values) > 1:
        return Refusal(errors.TENANT_INVALID, "Send the x-tenant-id header once.")
    if not is_slug(values[0]):
        return Refusal(
            errors.TENANT_INVALID,
            "A tenant id is 1 to 63 of a-z, 0-9 and -, and does not start with -.",
        )
    return TenantId(values[0])
