"""Admission: each refusal in its order, and never a word more than the caller may know."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from harness.admission import ADA, SESSION, Replica, code

from tidegate.authz.engine import QUERY_READ, Because
from tidegate.gateway.admission import Admitted, Principal, parse_tenant
from tidegate.identity.model import user_key
from tidegate.kernel import errors
from tidegate.kernel.errors import Code, Refusal
from tidegate.kernel.ids import TenantId, new_id
from tidegate.routing.model import ServiceKind

ACME = TenantId("acme")


async def test_a_members_command_is_admitted_with_the_reason_and_the_place(
    replica: Replica,
) -> None:
    admitted = await replica.admit()
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
async def test_without_a_usable_token_nothing_else_is_looked_at(
    values: Sequence[str], word: str, replica: Replica
) -> None:
    refusal = await replica.admit(authorization=values, tenant=[])
    assert isinstance(refusal, Refusal)
    assert refusal.code.word == word


async def test_two_tokens_are_as_good_as_none(replica: Replica) -> None:
    assert code(await replica.admit(authorization=replica.bearer() * 2)) is errors.TOKEN_MISSING


@pytest.mark.parametrize("scheme", ["bearer", "BEARER", "Bearer "])
async def test_the_scheme_is_read_as_the_standard_says(scheme: str, replica: Replica) -> None:
    token = replica.bearer()[0].partition(" ")[2]
    assert isinstance(await replica.admit(authorization=[f"{scheme} {token}"]), Admitted)


async def test_a_token_is_void_as_soon_as_what_it_stands_for_is(replica: Replica) -> None:
    kept = replica.bearer()
    for key, value in (
        (user_key(ADA), {"status": "disabled", "session_epoch": 1}),
        (user_key(ADA), {"status": "active", "session_epoch": 2}),
        (user_key(ADA), None),
    ):
        replica.put(key, value)
        assert code(await replica.admit(authorization=kept)) is errors.TOKEN_INVALID
    replica.put(user_key(ADA), {"status": "active", "session_epoch": 1})
    assert isinstance(await replica.admit(authorization=kept), Admitted)
    replica.put(f"revocation.{ADA}.{SESSION}", {"exp": replica.clock.now + 700})
    assert code(await replica.admit(authorization=kept)) is errors.TOKEN_INVALID


async def test_every_void_token_is_refused_with_the_same_words(replica: Replica) -> None:
    refusals = [
        await replica.admit(authorization=["Bearer garbage"]),
        await replica.admit(authorization=replica.bearer(session_epoch=0)),
        await replica.admit(authorization=replica.bearer(principal_id=new_id())),
        await replica.admit(authorization=replica.bearer(expires_at_s=replica.clock.now)),
    ]
    assert code(refusals[0]) is errors.TOKEN_INVALID
    assert all(refusal == refusals[0] for refusal in refusals)


async def test_a_token_expires(replica: Replica) -> None:
    kept = replica.bearer()
    replica.clock.now += 600
    assert code(await replica.admit(authorization=kept)) is errors.TOKEN_INVALID


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
async def test_a_tenant_is_named_once_and_well(
    values: Sequence[str], word: str, replica: Replica
) -> None:
    for outcome in (parse_tenant(values), await replica.admit(tenant=values)):
        assert isinstance(outcome, Refusal)
        assert outcome.code.word == word


def test_a_tenant_id_may_be_up_to_63_long() -> None:
    assert parse_tenant(["a" * 63]) == "a" * 63
    assert parse_tenant(["0"]) == "0"


async def test_an_unknown_and_a_foreign_tenant_look_the_same(replica: Replica) -> None:
    foreign, unknown = (
        await replica.admit(tenant=["globex"]),
        await replica.admit(tenant=["nowhere"]),
    )
    assert code(foreign) is errors.TENANT_FORBIDDEN
    assert foreign == unknown


async def test_an_assignment_in_a_tenant_that_is_gone_gives_nothing(replica: Replica) -> None:
    stranger = await replica.admit(tenant=["nowhere"])
    replica.put("tenant.acme", None)
    assert await replica.admit() == stranger


async def test_an_expired_membership_is_none(replica: Replica) -> None:
    replica.put(f"assignment.acme.{ADA}.clerk", {"exp": replica.clock.now})
    assert await replica.admit() == await replica.admit(tenant=["nowhere"])


async def test_only_members_are_told_that_a_tenant_is_suspended(replica: Replica) -> None:
    for tenant in ("acme", "globex"):
        replica.put(f"tenant.{tenant}", {"name": tenant, "status": "suspended"})
    assert code(await replica.admit()) is errors.TENANT_SUSPENDED
    assert await replica.admit(tenant=["globex"]) == await replica.admit(tenant=["nowhere"])


async def test_suspension_is_told_before_a_missing_right(replica: Replica) -> None:
    replica.put("tenant.acme", {"name": "acme", "status": "suspended"})
    assert code(await replica.admit(action=QUERY_READ)) is errors.TENANT_SUSPENDED


@pytest.mark.parametrize(
    "changed",
    [
        {"action": QUERY_READ},
        {"resource": {"aggregate_type": "invoice"}},
        {"resource": {}},
        {"action": "iam.user.read"},
    ],
)
async def test_a_role_allows_its_actions_and_nothing_else(
    changed: dict[str, Any], replica: Replica
) -> None:
    assert code(await replica.admit(**changed)) is errors.FORBIDDEN


async def test_a_change_of_rights_holds_for_the_next_request(replica: Replica) -> None:
    assert isinstance(await replica.admit(), Admitted)
    replica.put("role.clerk", {"name": "Clerk", "tenant": None, "rights": []})
    assert code(await replica.admit()) is errors.FORBIDDEN
    replica.put(f"assignment.acme.{ADA}.clerk", None)
    assert code(await replica.admit()) is errors.TENANT_FORBIDDEN


async def test_a_platform_admin_does_not_act_in_tenants(replica: Replica) -> None:
    rights = [{"action": "*", "resource": {}}]
    replica.put("role.platform-admin", {"name": "Admin", "tenant": None, "rights": rights})
    replica.put(f"assignment._.{ADA}.platform-admin", {"exp": None})
    assert await replica.admit(tenant=["globex"]) == await replica.admit(tenant=["nowhere"])
    globex, admin = TenantId("globex"), Principal(ADA, "user", SESSION)
    allowed = await replica.admission.after_loading(
        lambda: replica.admission.authorize(admin, globex, "iam.user.read", {})
    )
    assert isinstance(allowed, Because)


async def test_only_who_may_is_told_that_a_tenant_has_no_place(replica: Replica) -> None:
    replica.put("aggregate_placement.acme", None)
    assert code(await replica.admit()) is errors.TENANT_NOT_PLACED
    assert code(await replica.admit(action=QUERY_READ)) is errors.FORBIDDEN
    assert code(await replica.admit(tenant=["globex"])) is errors.TENANT_FORBIDDEN


async def test_no_refusal_shows_where_anything_is(replica: Replica) -> None:
    outcomes = [
        await replica.admit(tenant=["globex"]),
        await replica.admit(action=QUERY_READ),
        await replica.admit(service_kind=ServiceKind.PROJECTION),
        await replica.admit(authorization=["Bearer garbage"]),
    ]
    for outcome in outcomes:
        assert isinstance(outcome, Refusal)
        for secret in ("10.0.0.7", "s1", "clerk", str(ADA)):
            assert secret not in f"{outcome.detail} {dict(outcome.details)}"


@pytest.mark.parametrize(
    ("view", "expected"),
    [
        ("signing_keys", errors.TOKEN_INVALID),
        ("access", errors.TENANT_FORBIDDEN),
        ("routing", errors.TENANT_NOT_PLACED),
    ],
)
async def test_before_a_view_is_loaded_nobody_passes(
    view: str, expected: Code, replica: Replica
) -> None:
    assert isinstance(await replica.admit(), Admitted)
    getattr(replica, view).load([])
    assert code(await replica.admit()) is expected
