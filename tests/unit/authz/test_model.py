"""Ids that may become part of keys."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.authz import model
from tidegate.authz.model import Assignment
from tidegate.kernel.ids import PrincipalId, TenantId
from tidegate.store.changes import Entry

ID = "01a20166-5a41-7791-93f3-8a50a86b30e8"


@pytest.mark.parametrize("role", ["tenant-member", ID])
@pytest.mark.parametrize("tenant", [None, "acme"])
def test_an_assignments_id_yields_the_assignment(tenant: str | None, role: str) -> None:
    made = Assignment(PrincipalId(ID), TenantId(tenant) if tenant else None, role, 1.5, 4)
    assert model.is_assignment_id(made.id)
    key = model.assignment_key(made.id)
    assert model.decode_assignment(Entry(key, {"exp": 1.5}, 4)) == made


@pytest.mark.parametrize(
    "text",
    [
        *("", ".", "..", "...", "_", "acme", f"acme.{ID}", f"acme.{ID}.role.more"),
        *(f"*.{ID}.role", "acme.*.role", f"acme.{ID}.*", f"acme.{ID}.>", f">.{ID}.role"),
        *(f"ACME.{ID}.role", f"acme.{ID.upper()}.role", f"acme.{ID}.Role", f"__.{ID}.role"),
        *(f"acme.{ID}.", f".{ID}.role", f"acme.{ID}.role\n", f"acme.{ID}.ro le", f"-a.{ID}.role"),
        f"{'a' * 64}.{ID}.role",
        "acme.00000000-0000-4000-8000-000000000000.role",
    ],
)
def test_what_is_no_assignment_id_never_becomes_a_key(text: str) -> None:
    assert not model.is_assignment_id(text)


@given(text=st.text(max_size=120))
def test_an_assignment_id_has_no_wildcards_and_no_spaces(text: str) -> None:
    if model.is_assignment_id(text):
        assert not set(text) & set("*> \t\r\n/\x00")
