"""Admission: each refusal in its order, and never a word more than the caller may know."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from tidegate.authz.engine import COMMAND_SUBMIT, QUERY_READ
from tidegate.authz.view import AccessView
from tidegate.gateway.admission import Admission, Admitted, Call, Principal, parse_tenant
from tidegate.identity.model import user_key
from tidegate.identity.view import UserView
from tidegate.kernel import errors
from tidegate.kernel.errors import Code, Refusal
from tidegate.kernel.ids import PrincipalId, SessionId, TenantId, new_id
from tidegate.kernel.secret import Secret
from tidegate.routing.model import ServiceKind
from tidegate.routing.view import RoutingView
from tidegate.sessions import access, keys
from tidegate.sessions.access import AccessClaims
from tidegate.sessions.keys import KeyState, SigningKey, SigningKeyView
from tidegate.sessions.settings import Settings
from tidegate.sessions.view import RevocationView
from tidegate.store.changes import Entry, Value
from tidegate.store.keyring import KeyRing, Wrapping

ADA = PrincipalId(new_id())
SESSION = SessionId(new_id())
ACME = TenantId("acme")
SETTINGS = Settings()
SHARD: Value = {"v": 1, "endpoints": [{"address": "10.0.0.7:50051", "transport": "grpc"}]}


@dataclass
class SetClock:
    now: float = 1_700_000_000.0

    def now_s(self) -> float:
        return self.now

    def monotonic_s(self) -> float:
        return self.now

    def boottime_s(self) -> float:
        return self.now


@dataclass
class Replica:
    """The views of one replica, fed by hand, and the admission that reads them."""

    clock: SetClock = field(default_factory=SetClock)
    revision: int = 0

    def __post_init__(self) -> None:
        wrapping = Wrapping(KeyRing("w", {"w": Secret(b"w" * 32)}))
        self.key: SigningKey = keys.generate(KeyState.ACTIVE)
        self.users, self.access = UserView(), AccessView()
        self.revocations = RevocationView(self.clock)
        self.signing_keys, self.routing = SigningKeyView(wrapping), RoutingView()
        self.admission = Admission(
            self.users,
            self.access,
            self.revocations,
            self.signing_keys,
            self.routing,
            SETTINGS,
            self.clock,
        )
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
        self.revision += 1
        entry = Entry(key, value, self.revision)
        views = (self.users, self.access, self.revocations, self.signing_keys, self.routing)
        for view in views:
            if entry.kind in view.kinds:
                view.apply([entry])

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

    def admit(self, **changed: Any) -> Admitted | Refusal:
        return self.admission.admit(self.call(**changed))


@pytest.fixture
def replica() -> Replica:
    return Replica()


def code(outcome: object) -> Code | None:
    return outcome.code if isinstance(outcome, Refusal) else None


def test_a_members_command_is_admitted_with_the_reason_and_the_place(replica: Replica) -> None:
    admitted = replica.admit()
    assert isinstance(admitted, Admitted)
    assert admitted.principal == Principal(ADA, "user", SESSION)
    assert admitted.tenant_id == ACME
    assert admitted.because.assignment_id == f"acme.{ADA}.clerk"
    assert admitted.target.shard == "s1"
    assert [e.address for e in admitted.target.endpoints] == ["10.0.0.7:50051"]


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ([], "TOKEN_MISSING"),
        ([""], "TOKEN_MISSING"),
        (["Bearer"], "TOKEN_MISSING"),
        (["Bearer "], "TOKEN_MISSING"),
        (["Bearer    "], "TOKEN_MISSING"),
        (["Basic YTpi"], "TOKEN_MISSING"),
        (["garbage"], "TOKEN_MISSING"),
        (["Bearer garbage"], "TOKEN_INVALID"),
        (["Bearer a b c"], "TOKEN_INVALID"),
        (["Bearer \xff\xfe.\xff.\xff"], "TOKEN_INVALID"),
    ],
)
def test_without_a_usable_token_nothing_else_is_looked_at(
    values: Sequence[str], word: str, replica: Replica
) -> None:
    refusal = replica.admit(authorization=values, tenant=[])
    assert isinstance(refusal, Refusal)
    assert refusal.code.word == word


def test_two_tokens_are_as_good_as_none(replica: Replica) -> None:
    assert code(replica.admit(authorization=replica.bearer() * 2)) is errors.TOKEN_MISSING


@pytest.mark.parametrize("scheme", ["bearer", "BEARER", "Bearer "])
def test_the_scheme_is_read_as_the_standard_says(scheme: str, replica: Replica) -> None:
    token = replica.bearer()[0].partition(" ")[2]
    assert isinstance(replica.admit(authorization=[f"{scheme} {token}"]), Admitted)


def test_a_token_is_void_as_soon_as_what_it_stands_for_is(replica: Replica) -> None:
    kept = replica.bearer()
    for key, value in (
        (user_key(ADA), {"status": "disabled", "session_epoch": 1}),
        (user_key(ADA), {"status": "active", "session_epoch": 2}),
        (user_key(ADA), None),
    ):
        replica.put(key, value)
        assert code(replica.admit(authorization=kept)) is errors.TOKEN_INVALID
    replica.put(user_key(ADA), {"status": "active", "session_epoch": 1})
    assert isinstance(replica.admit(authorization=kept), Admitted)
    replica.put(f"revocation.{ADA}.{SESSION}", {"exp": replica.clock.now + 700})
    assert code(replica.admit(authorization=kept)) is errors.TOKEN_INVALID


def test_every_void_token_is_refused_with_the_same_words(replica: Replica) -> None:
    refusals = [
        replica.admit(authorization=["Bearer garbage"]),
        replica.admit(authorization=replica.bearer(session_epoch=0)),
        replica.admit(authorization=replica.bearer(principal_id=new_id())),
        replica.admit(authorization=replica.bearer(expires_at_s=replica.clock.now)),
    ]
    assert code(refusals[0]) is errors.TOKEN_INVALID
    assert all(refusal == refusals[0] for refusal in refusals)


def test_a_token_expires(replica: Replica) -> None:
    kept = replica.bearer()
    replica.clock.now += 600
    assert code(replica.admit(authorization=kept)) is errors.TOKEN_INVALID


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ([], "TENANT_REQUIRED"),
        ([""], "TENANT_REQUIRED"),
        (["acme", "acme"], "TENANT_INVALID"),
        (["acme", "globex"], "TENANT_INVALID"),
        (["", "acme"], "TENANT_INVALID"),
        (["acme,globex"], "TENANT_INVALID"),
        (["acme, globex"], "TENANT_INVALID"),
        (["ACME"], "TENANT_INVALID"),
        (["acme "], "TENANT_INVALID"),
        (["acme\n"], "TENANT_INVALID"),
        (["-acme"], "TENANT_INVALID"),
        (["a.b"], "TENANT_INVALID"),
        (["*"], "TENANT_INVALID"),
        ([">"], "TENANT_INVALID"),
        (["_"], "TENANT_INVALID"),
        (["аcme"], "TENANT_INVALID"),  # noqa: RUF001
        (["a" * 64], "TENANT_INVALID"),
    ],
)
def test_a_tenant_is_named_once_and_well(
    values: Sequence[str], word: str, replica: Replica
) -> None:
    for outcome in (parse_tenant(values), replica.admit(tenant=values)):
        assert isinstance(outcome, Refusal)
        assert outcome.code.word == word


def test_a_tenant_id_may_be_up_to_63_long() -> None:
    assert parse_tenant(["a" * 63]) == "a" * 63
    assert parse_tenant(["0"]) == "0"


def test_an_unknown_and_a_foreign_tenant_look_the_same(replica: Replica) -> None:
    foreign, unknown = replica.admit(tenant=["globex"]), replica.admit(tenant=["nowhere"])
    assert code(foreign) is errors.TENANT_FORBIDDEN
    assert foreign == unknown


def test_an_assignment_in_a_tenant_that_is_gone_gives_nothing(replica: Replica) -> None:
    stranger = replica.admit(tenant=["nowhere"])
    replica.put("tenant.acme", None)
    assert replica.admit() == stranger


def test_an_expired_membership_is_none(replica: Replica) -> None:
    replica.put(f"assignment.acme.{ADA}.clerk", {"exp": replica.clock.now})
    assert replica.admit() == replica.admit(tenant=["nowhere"])


def test_only_members_are_told_that_a_tenant_is_suspended(replica: Replica) -> None:
    for tenant in ("acme", "globex"):
        replica.put(f"tenant.{tenant}", {"name": tenant, "status": "suspended"})
    assert code(replica.admit()) is errors.TENANT_SUSPENDED
    assert replica.admit(tenant=["globex"]) == replica.admit(tenant=["nowhere"])


def test_suspension_is_told_before_a_missing_right(replica: Replica) -> None:
    replica.put("tenant.acme", {"name": "acme", "status": "suspended"})
    assert code(replica.admit(action=QUERY_READ)) is errors.TENANT_SUSPENDED


@pytest.mark.parametrize(
    "changed",
    [
        {"action": QUERY_READ},
        {"resource": {"aggregate_type": "invoice"}},
        {"resource": {}},
        {"action": "iam.user.read"},
    ],
)
def test_a_role_allows_its_actions_and_nothing_else(
    changed: dict[str, Any], replica: Replica
) -> None:
    assert code(replica.admit(**changed)) is errors.FORBIDDEN


def test_a_change_of_rights_holds_for_the_next_request(replica: Replica) -> None:
    assert isinstance(replica.admit(), Admitted)
    replica.put("role.clerk", {"name": "Clerk", "tenant": None, "rights": []})
    assert code(replica.admit()) is errors.FORBIDDEN
    replica.put(f"assignment.acme.{ADA}.clerk", None)
    assert code(replica.admit()) is errors.TENANT_FORBIDDEN


def test_a_platform_admin_does_not_act_in_tenants(replica: Replica) -> None:
    rights = [{"action": "*", "resource": {}}]
    replica.put("role.platform-admin", {"name": "Admin", "tenant": None, "rights": rights})
    replica.put(f"assignment._.{ADA}.platform-admin", {"exp": None})
    assert replica.admit(tenant=["globex"]) == replica.admit(tenant=["nowhere"])
    allowed = replica.admission.authorize(
        Principal(ADA, "user", SESSION), TenantId("globex"), "iam.user.read", {}
    )
    assert not isinstance(allowed, Refusal)


def test_only_who_may_is_told_that_a_tenant_has_no_place(replica: Replica) -> None:
    replica.put("aggregate_placement.acme", None)
    assert code(replica.admit()) is errors.TENANT_NOT_PLACED
    assert code(replica.admit(action=QUERY_READ)) is errors.FORBIDDEN
    assert code(replica.admit(tenant=["globex"])) is errors.TENANT_FORBIDDEN


def test_no_refusal_shows_where_anything_is(replica: Replica) -> None:
    outcomes = [
        replica.admit(tenant=["globex"]),
        replica.admit(action=QUERY_READ),
        replica.admit(service_kind=ServiceKind.PROJECTION),
        replica.admit(authorization=["Bearer garbage"]),
    ]
    for outcome in outcomes:
        assert isinstance(outcome, Refusal)
        for secret in ("10.0.0.7", "s1", "clerk", str(ADA)):
            assert secret not in f"{outcome.detail} {dict(outcome.details)}"


def test_before_the_views_are_loaded_nobody_passes() -> None:
    empty = Replica()
    kept = empty.bearer()
    for view in (empty.users, empty.access, empty.routing):
        view.load([])
    assert code(empty.admit(authorization=kept)) is errors.TOKEN_INVALID
