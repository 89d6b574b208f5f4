"""The access view: edits in any order come to what a fresh load of the result comes to."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate.authz import engine
from tidegate.authz.engine import Assigned
from tidegate.authz.model import Assignment
from tidegate.authz.view import AccessView
from tidegate.kernel.ids import PrincipalId, TenantId
from tidegate.store.changes import Entry

ADA = PrincipalId("01a20166-5a41-7791-93f3-8a50a86b30e8")
ACME = TenantId("acme")
TENANTS = ("acme", "globex")
ROLES = ("member", "admin")

TENANT: dict[str, Any] = {"name": "Acme", "status": "active"}
ROLE: dict[str, Any] = {
    "name": "Member",
    "tenant": None,
    "rights": [{"action": "command.submit", "resource": {"aggregate_type": "order"}}],
}
ASSIGNED = Assigned((Assignment(ADA, ACME, "member", None, 1),), ())

MALFORMED_TENANTS: list[Any] = [
    {},
    {"name": "Acme"},
    {"name": 7, "status": "active"},
    {"name": "Acme", "status": "gone"},
    {"name": "Acme", "status": ["active"]},
]
MALFORMED_ROLES: list[Any] = [
    {},
    {**ROLE, "name": None},
    {**ROLE, "tenant": 7},
    {**ROLE, "rights": None},
    {**ROLE, "rights": ["command.submit"]},
    {**ROLE, "rights": [{"action": "command.submit"}]},
    {**ROLE, "rights": [{"action": 7, "resource": {}}]},
    {**ROLE, "rights": [{"action": "a", "resource": None}]},
    {**ROLE, "rights": [{"action": "a", "resource": {"aggregate_type": 7}}]},
    {**ROLE, "rights": [{"action": "a", "resource": {}}, {}]},
]
MALFORMED = {"tenant": MALFORMED_TENANTS, "role": MALFORMED_ROLES}
GOOD = {"tenant": TENANT, "role": ROLE}
KEYS = (*(f"tenant.{tenant}" for tenant in TENANTS), *(f"role.{role}" for role in ROLES))


@st.composite
def edits(draw: st.DrawFn) -> list[Entry]:
    made = []
    for revision in range(1, draw(st.integers(1, 25)) + 1):
        key = draw(st.sampled_from(KEYS))
        kind = key.partition(".")[0]
        value = draw(st.sampled_from([None, GOOD[kind], GOOD[kind], *MALFORMED[kind]]))
        made.append(Entry(key, value, revision))
    return made


def state(view: AccessView) -> object:
    return (
        view.tenants(),
        view.roles(),
        [view.tenant(TenantId(tenant)) for tenant in TENANTS],
        [view.role(role) for role in ROLES],
    )


@settings(max_examples=60)
@given(made=edits(), cuts=st.lists(st.integers(0, 25), max_size=4))
def test_edits_come_to_what_loading_the_result_comes_to(made: list[Entry], cuts: list[int]) -> None:
    edited = AccessView()
    places = [0, *sorted(min(cut, len(made)) for cut in cuts), len(made)]
    for start, end in itertools.pairwise(places):
        edited.apply(made[start:end])
    newest = {entry.key: entry for entry in made}
    loaded = AccessView()
    loaded.load(entry for entry in newest.values() if entry.value is not None)
    assert state(edited) == state(loaded)


@settings(max_examples=60)
@given(made=edits())
def test_what_is_removed_again_leaves_nothing_behind(made: list[Entry]) -> None:
    view = AccessView()
    view.apply(made)
    view.apply([Entry(key, None, 99) for key in KEYS])
    assert not any((view._tenants, view._roles))


def test_loading_forgets_what_was_there() -> None:
    view = AccessView()
    view.apply([Entry("tenant.acme", TENANT, 1), Entry("role.admin", ROLE, 1)])
    view.load([Entry("role.member", ROLE, 2)])
    assert view.tenant(ACME) is None
    assert view.role("admin") is None
    assert view.role("member") is not None


@pytest.mark.parametrize(
    ("kind", "value"), [(kind, value) for kind, values in MALFORMED.items() for value in values]
)
def test_an_entry_that_cannot_be_read_counts_as_absent(kind: str, value: Any) -> None:
    view = AccessView()
    key = {"tenant": "tenant.acme", "role": "role.member"}[kind]
    good = [Entry("tenant.acme", TENANT, 1), Entry("role.member", ROLE, 1)]
    view.apply(good)
    assert _may(view)
    view.apply([Entry(key, value, 2), Entry("tenant.globex", TENANT, 3)])
    assert not _may(view)
    assert view.tenant(TenantId("globex")) is not None
    view.apply(good)
    assert _may(view)


def _may(view: AccessView) -> bool:
    decision = engine.authorize(
        view, ASSIGNED, ACME, "command.submit", {"aggregate_type": "order"}, 1000.0
    )
    return view.tenant(ACME) is not None and decision.allowed
