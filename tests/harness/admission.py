"""Admission of one replica whose state is fed by hand."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from harness.memory import GivenLease, MemoryStream, SetClock
from tidegate.authz.engine import COMMAND_SUBMIT
from tidegate.authz.view import AccessView
from tidegate.gateway.admission import Admission, Admitted, Call
from tidegate.identity.model import user_key
from tidegate.kernel.errors import Code, Refusal
from tidegate.kernel.ids import PrincipalId, SessionId
from tidegate.kernel.secret import Secret
from tidegate.principals.settings import Settings as PrincipalSettings
from tidegate.principals.view import Principals
from tidegate.routing.model import ServiceKind
from tidegate.routing.view import RoutingView
from tidegate.sessions import access, keys
from tidegate.sessions.access import AccessClaims
from tidegate.sessions.keys import KeyState, SigningKey, SigningKeyView
from tidegate.sessions.settings import Settings
from tidegate.sessions.view import RevocationView
from tidegate.store.changes import Value
from tidegate.store.keyring import KeyRing, Wrapping
from tidegate.store.views import Progress

ADA = PrincipalId("01a20166-5a41-7791-93f3-8a50a86b30e8")
SESSION = SessionId("01a20166-5a43-7791-93f3-8a50a86b30ea")
SETTINGS = Settings()
SHARD: Value = {"v": 1, "endpoints": [{"address": "10.0.0.7:50051", "transport": "grpc"}]}


@dataclass
class Replica:
    """What one replica knows, fed by hand, and the admission that reads it."""

    clock: SetClock = field(default_factory=SetClock)

    def __post_init__(self) -> None:
        wrapping = Wrapping(KeyRing("w", {"w": Secret(b"w" * 32)}))
        self.key: SigningKey = keys.generate(KeyState.ACTIVE)
        progress = Progress(self.clock)
        self.lease = GivenLease(self.clock)
        nobody: Any = None
        self.principals = Principals(nobody, progress, lambda: self.lease.key, PrincipalSettings())
        self.access = AccessView()
        self.revocations = RevocationView(self.clock)
        self.signing_keys, self.routing = SigningKeyView(wrapping), RoutingView()
        views = (self.access, self.revocations, self.signing_keys, self.routing)
        self.stream = MemoryStream(progress, [*views, *self.principals.views])
        self.admission = Admission(
            self.lease,
            self.principals,
            self.access,
            self.revocations,
            self.signing_keys,
            self.routing,
            SETTINGS,
            self.clock,
        )
        self.put(self.lease.key, {})
        self.put(keys.ENTRY_KEY, {"keys": [keys.encode(self.key, wrapping, 0)]})
        self.put(user_key(ADA), {"status": "active", "session_epoch": 1})
        self.put("tenant.acme", {"name": "Acme", "status": "active"})
        self.put("tenant.globex", {"name": "Globex", "status": "active"})
        rights = [{"action": COMMAND_SUBMIT, "resource": {"aggregate_type": "order"}}]
        self.put("role.clerk", {"name": "Clerk", "tenant": None, "rights": rights})
        self.put(f"assignment.acme.{ADA}.clerk", {"exp": None})
        self.put("aggregate_shards.s1", SHARD)
        self.put("aggregate_placement.acme", {"v": 1, "shard": "s1", "epoch": 1})

    def put(self, key: str, value: Any) -> None:
        self.stream.put(key, value)

    def bearer(self, **changed: Any) -> list[str]:
        claims = AccessClaims(
            principal_id=ADA,
            session_id=SESSION,
            session_epoch=1,
            expires_at_s=self.clock.now + 600,
            authenticated_at_s=self.clock.now,
            amr=("pwd",),
            acr="1",
            scope="",
        )
        claims = replace(claims, **changed)
        token = access.issue(claims, self.key, SETTINGS, self.clock.now).reveal_text()
        return [f"Bearer {token}"]

    def call(self, **changed: Any) -> Call:
        call = Call(
            authorization=self.bearer(),
            tenant=["acme"],
            action=COMMAND_SUBMIT,
            resource={"aggregate_type": "order"},
            service_kind=ServiceKind.AGGREGATE,
        )
        return replace(call, **changed)

    async def admit(self, **changed: Any) -> Admitted | Refusal:
        """Decides, with what that needs loaded first."""
        call = self.call(**changed)
        return await self.admission.after_loading(lambda: self.admission.admit(call))


def code(outcome: object) -> Code | None:
    return outcome.code if isinstance(outcome, Refusal) else None
