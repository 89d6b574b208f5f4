"""The decision against a naive reference, and the rules that it must never break."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.authz import engine
from tidegate.authz.engine import COMMAND_SUBMIT, QUERY_READ, Assigned, Decision, Reason
from tidegate.authz.model import Assignment, Right, Role
from tidegate.kernel.ids import PrincipalId, TenantId

NOW_S = 1000.0
ADA = PrincipalId("ada")
EVE = PrincipalId("eve")
ACME = TenantId("acme")
GLOBEX = TenantId("globex")
SCOPES: tuple[TenantId | None, ...] = (None, ACME, GLOBEX)
ACTIONS = (
    *(COMMAND_SUBMIT, QUERY_READ, "stream.read", "iam.user.read", "iam.user.write"),
    *("audit.read", "routing.read", "rebalance.write", "runner.admin"),
)


@dataclass(frozen=True)
class Granted:
    """Assignments and roles as plain lists: what the engine and the reference both read."""

    given: tuple[Assignment, ...]
    roles: Mapping[str, Role]

    def assigned(self, principal_id: PrincipalId, tenant_id: TenantId | None) -> Assigned:
        """What is read of a principal that acts in the tenant."""
        mine = [a for a in self.given if a.principal_id == principal_id]
        return Assigned(
            tuple(a for a in mine if a.tenant_id is not None and a.tenant_id == tenant_id),
            tuple(a for a in mine if a.tenant_id is None),
        )

    def role(self, role_id: str) -> Role | None:
        return self.roles.get(role_id)


def authorize(
    granted: Granted,
    principal_id: PrincipalId,
    tenant_id: TenantId | None,
    action: str,
    resource: Mapping[str, str],
    now_s: float,
) -> Decision:
    assigned = granted.assigned(principal_id, tenant_id)
    return engine.authorize(granted, assigned, tenant_id, action, resource, now_s)


def is_member(
    granted: Granted, principal_id: PrincipalId, tenant_id: TenantId, action: str, now_s: float
) -> bool:
    assigned = granted.assigned(principal_id, tenant_id)
    return engine.is_member(assigned, tenant_id, action, now_s)


def right(action: str, **resource: str) -> Right:
    return Right(action, MappingProxyType(resource))


def granted(
    *rights: Right,
    tenant: TenantId | None = ACME,
    role_of: TenantId | None = None,
    expires_at_s: float | None = None,
) -> Granted:
    """Ada has one role with these rights in `tenant`."""
    role = Role("role", "Role", role_of, rights)
    return Granted((Assignment(ADA, tenant, "role", expires_at_s, 7),), {"role": role})


rights_st = st.builds(
    Right,
    st.sampled_from([*ACTIONS, "*", "iam.*", "command.*", "iam.user.*", "com*", "iam."]),
    st.dictionaries(
        st.sampled_from(["aggregate_type", "view_type"]),
        st.sampled_from(["order", "invoice", "*"]),
        max_size=2,
    ),
)
roles_st = st.fixed_dictionaries(
    {
        name: st.builds(
            Role, st.just(name), st.just(name), st.sampled_from(SCOPES),
            st.lists(rights_st, max_size=3).map(tuple),
        )
        for name in ("r1", "r2", "r3")
    }
)  # fmt: skip
assignments_st = st.lists(
    st.builds(
        Assignment,
        st.sampled_from([ADA, EVE]),
        st.sampled_from(SCOPES),
        st.sampled_from(["r1", "r2", "r3", "gone"]),
        st.sampled_from([None, NOW_S - 1, NOW_S, NOW_S + 1]),
        st.integers(1, 99),
    ),
    max_size=6,
).map(tuple)
resources_st = st.dictionaries(
    st.sampled_from(["aggregate_type", "view_type"]), st.sampled_from(["order", "invoice"])
)


def allowed_by_reference(
    granted: Granted,
    principal: PrincipalId,
    tenant: TenantId | None,
    action: str,
    resource: Mapping[str, str],
) -> bool:
    for given_ in granted.given:
        role = granted.roles.get(given_.role_id)
        expired = given_.expires_at_s is not None and given_.expires_at_s <= NOW_S
        if given_.principal_id != principal or expired or role is None:
            continue
        administers = given_.tenant_id is None and action.partition(".")[0] in {
            *("iam", "audit", "routing", "rebalance", "runner"),
        }
        if given_.tenant_id != tenant and not administers:
            continue
        if role.tenant_id is not None and role.tenant_id != given_.tenant_id:
            continue
        for candidate in role.rights:
            pattern = candidate.action
            fits = pattern in ("*", action) or (
                pattern.endswith(".*") and action.startswith(pattern.removesuffix("*"))
            )
            if fits and all(
                value in ("*", resource.get(name)) for name, value in candidate.resource.items()
            ):
                return True
    return False


@given(
    granted=st.builds(Granted, assignments_st, roles_st),
    tenant=st.sampled_from(SCOPES),
    action=st.sampled_from(ACTIONS),
    resource=resources_st,
)
def test_the_engine_decides_like_the_reference(
    granted: Granted, tenant: TenantId | None, action: str, resource: dict[str, str]
) -> None:
    decision = authorize(granted, ADA, tenant, action, resource, NOW_S)
    assert decision.allowed is allowed_by_reference(granted, ADA, tenant, action, resource)
    assert (decision.because is not None) is decision.allowed


@given(
    granted=st.builds(Granted, assignments_st, roles_st),
    tenant=st.sampled_from(SCOPES),
    action=st.sampled_from(ACTIONS),
    resource=resources_st,
)
def test_a_yes_names_a_right_that_really_gives_it(
    granted: Granted, tenant: TenantId | None, action: str, resource: dict[str, str]
) -> None:
    because = authorize(granted, ADA, tenant, action, resource, NOW_S).because
    if because is None:
        return
    (used, *_) = [a for a in granted.given if a.id == because.assignment_id]
    assert used.principal_id == ADA
    assert because.right in granted.roles[because.role_id].rights
    assert because.right.covers(action, resource)


@given(
    granted=st.builds(Granted, assignments_st, roles_st),
    action=st.sampled_from([COMMAND_SUBMIT, QUERY_READ, "stream.read"]),
)
def test_the_platform_scope_never_reaches_commands_and_queries(
    granted: Granted, action: str
) -> None:
    platform_only = replace(granted, given=tuple(replace(a, tenant_id=None) for a in granted.given))
    for tenant in (ACME, GLOBEX):
        decision = authorize(platform_only, ADA, tenant, action, {}, NOW_S)
        assert not decision.allowed
        assert not is_member(platform_only, ADA, tenant, action, NOW_S)


@given(
    granted=st.builds(Granted, assignments_st, roles_st),
    tenant=st.sampled_from(SCOPES),
    action=st.sampled_from(ACTIONS),
)
def test_who_may_do_something_in_a_tenant_counts_as_its_member(
    granted: Granted, tenant: TenantId | None, action: str
) -> None:
    decision = authorize(granted, ADA, tenant, action, {}, NOW_S)
    if tenant is not None and decision.allowed:
        assert is_member(granted, ADA, tenant, action, NOW_S)
    if tenant is not None and decision.reason is Reason.NO_RIGHT:
        assert is_member(granted, ADA, tenant, action, NOW_S)
    if tenant is not None and decision.reason is Reason.NOT_A_MEMBER:
        assert not is_member(granted, ADA, tenant, action, NOW_S)


def test_without_an_assignment_nothing_is_allowed() -> None:
    nothing = Granted((), {})
    for action in ACTIONS:
        decision = authorize(nothing, ADA, ACME, action, {}, NOW_S)
        assert not decision.allowed
        assert decision.reason is Reason.NOT_A_MEMBER


def test_a_yes_says_by_which_assignment_role_and_right() -> None:
    wanted = right(COMMAND_SUBMIT, aggregate_type="order")
    access = granted(right(QUERY_READ), wanted)
    decision = authorize(access, ADA, ACME, COMMAND_SUBMIT, {"aggregate_type": "order"}, NOW_S)
    assert decision == Decision(
        allowed=True,
        reason=Reason.ALLOWED,
        because=engine.Because("acme.ada.role", "role", wanted, 7),
    )


@pytest.mark.parametrize(
    ("resource", "allowed"),
    [
        ({"aggregate_type": "order"}, True),
        ({"aggregate_type": "order", "region": "eu"}, True),
        ({"aggregate_type": "invoice"}, False),
        ({"aggregate_type": "*"}, False),
        ({"aggregate_type": ""}, False),
        ({}, False),
        ({"view_type": "order"}, False),
    ],
)
def test_a_right_on_one_kind_of_resource_reaches_no_other(
    resource: dict[str, str], allowed: bool
) -> None:
    access = granted(right(COMMAND_SUBMIT, aggregate_type="order"))
    assert authorize(access, ADA, ACME, COMMAND_SUBMIT, resource, NOW_S).allowed is allowed


@pytest.mark.parametrize(
    ("pattern", "action", "covers"),
    [
        ("*", "anything.at.all", True),
        ("iam.*", "iam.user.read", True),
        ("iam.user.*", "iam.user.read", True),
        ("iam.user.read", "iam.user.read", True),
        ("iam.*", "iam", False),
        ("iam.*", "iamx.user", False),
        ("iam*", "iam.user.read", False),
        ("iam.", "iam.user.read", False),
        ("*.read", "iam.read", False),
        ("", "", True),
        ("", "iam.user.read", False),
        ("IAM.*", "iam.user.read", False),
        ("iam.user.read", "iam.user.readx", False),
    ],
)
def test_action_patterns(pattern: str, action: str, covers: bool) -> None:
    assert right(pattern).covers(action, {}) is covers


def test_a_role_of_one_tenant_gives_nothing_in_another() -> None:
    """Even where an assignment in the other tenant names it."""
    access = granted(right("*"), tenant=GLOBEX, role_of=ACME)
    for tenant in SCOPES:
        assert not authorize(access, ADA, tenant, COMMAND_SUBMIT, {}, NOW_S).allowed
        assert not authorize(access, ADA, tenant, "iam.user.read", {}, NOW_S).allowed


def test_a_role_of_a_tenant_gives_nothing_in_the_platforms_scope() -> None:
    access = granted(right("*"), tenant=None, role_of=ACME)
    for tenant in SCOPES:
        assert not authorize(access, ADA, tenant, "iam.user.read", {}, NOW_S).allowed


def test_an_assignment_in_one_tenant_gives_nothing_elsewhere() -> None:
    access = granted(right("*"), tenant=ACME)
    assert authorize(access, ADA, ACME, "iam.user.read", {}, NOW_S).allowed
    assert not authorize(access, ADA, GLOBEX, "iam.user.read", {}, NOW_S).allowed
    assert not authorize(access, ADA, None, "iam.user.read", {}, NOW_S).allowed
    assert not authorize(access, EVE, ACME, "iam.user.read", {}, NOW_S).allowed


def test_an_assignment_ends_at_its_end_date() -> None:
    access = granted(right("*"), expires_at_s=NOW_S)
    assert authorize(access, ADA, ACME, COMMAND_SUBMIT, {}, NOW_S - 0.001).allowed
    for now_s in (NOW_S, NOW_S + 1):
        decision = authorize(access, ADA, ACME, COMMAND_SUBMIT, {}, now_s)
        assert decision.reason is Reason.NOT_A_MEMBER
        assert not is_member(access, ADA, ACME, COMMAND_SUBMIT, now_s)


def test_a_role_that_is_gone_gives_nothing_but_membership() -> None:
    access = replace(granted(right("*")), roles={})
    assert authorize(access, ADA, ACME, COMMAND_SUBMIT, {}, NOW_S).reason is Reason.NO_RIGHT
