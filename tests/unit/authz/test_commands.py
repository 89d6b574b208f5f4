"""Tenants change their status; the platform admins that are counted on change with their users."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
import pytest
from harness.memory import MemoryStream, SetClock

from tidegate.authz import commands, model
from tidegate.authz.commands import ADMINS_KEY, Actor
from tidegate.authz.model import Tenant, TenantStatus
from tidegate.kernel import errors
from tidegate.kernel.errors import Refusal
from tidegate.kernel.ids import PrincipalId, TenantId
from tidegate.store.bucket import Decision
from tidegate.store.changes import Entry, Put
from tidegate.store.events import Origin
from tidegate.store.views import Progress

ACME = TenantId("acme")
KEY = model.tenant_key(ACME)
ADA = PrincipalId("01a20166-5a41-7791-93f3-8a50a86b30e8")
EVE = PrincipalId("01a20166-5a42-7791-93f3-8a50a86b30e9")
ACTOR = Actor(ADA, Origin("req", "192.0.2.1", "agent"))
NOW_S = 1_700_000_000.0
ACTIVE, SUSPENDED = TenantStatus.ACTIVE, TenantStatus.SUSPENDED
ADMIN_KEY = model.assignment_key(commands.platform_admin(EVE).id)


class Entries:
    """What commands read: entries with the revisions 1, 2, …"""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._stream = MemoryStream(Progress(SetClock()))
        for key, value in values.items():
            self._stream.put(key, value)

    async def read(self, key: str) -> Entry:
        return self._stream.entry(key)


def tenant(status: TenantStatus, **more: Any) -> dict[str, Any]:
    return {"v": 1, "name": "Acme", "status": status.value, "created_at": 7.0, **more}


# --- the status of a tenant ---


@pytest.mark.parametrize(
    ("before", "after", "action"),
    [(ACTIVE, SUSPENDED, "tenant.suspended"), (SUSPENDED, ACTIVE, "tenant.resumed")],
)
async def test_a_tenant_is_suspended_and_resumed_with_a_record_of_it(
    before: TenantStatus, after: TenantStatus, action: str
) -> None:
    entries = Entries({"tenant.globex": tenant(before), KEY: tenant(before, more=[1])})
    decided = await commands.set_tenant_status(entries.read, ACME, after, ACTOR, NOW_S)
    assert isinstance(decided, Decision)
    assert decided.changes == [Put(KEY, tenant(after, more=[1]), 2)]
    assert decided.outcome == Tenant(ACME, "Acme", after, 2)
    (event,) = decided.events
    record = orjson.loads(event.value)
    assert (record["action"], record["target"], record["tenant"]) == (action, "acme", "acme")
    assert (record["actor"], record["request"]["id"]) == (ADA, "req")


async def test_a_tenant_that_is_active_already_is_left_as_it_is() -> None:
    entries = Entries({KEY: tenant(ACTIVE)})
    decided = await commands.set_tenant_status(entries.read, ACME, ACTIVE, ACTOR, NOW_S)
    assert decided == Decision([], [], Tenant(ACME, "Acme", ACTIVE, 1))


async def test_one_that_is_suspended_already_is_written_anew_against_a_late_resumption() -> None:
    entries = Entries({KEY: tenant(SUSPENDED)})
    decided = await commands.set_tenant_status(entries.read, ACME, SUSPENDED, ACTOR, NOW_S)
    assert isinstance(decided, Decision)
    assert [(change.key, change.expected) for change in decided.changes] == [(KEY, 1)]


@pytest.mark.parametrize("status", [ACTIVE, SUSPENDED])
@pytest.mark.parametrize("value", [None, {}, {"name": "Acme"}, {"name": "A", "status": "gone"}])
async def test_what_is_no_tenant_has_no_status(value: Any, status: TenantStatus) -> None:
    entries = Entries({KEY: value, "tenant.globex": tenant(ACTIVE)})
    decided = await commands.set_tenant_status(entries.read, ACME, status, ACTOR, NOW_S)
    assert isinstance(decided, Refusal)
    assert decided.code is errors.NOT_FOUND


# --- who is counted on ---


def named(*principals: str) -> dict[str, Any]:
    return {"v": 1, "principals": sorted(principals)}


@pytest.mark.parametrize("admins", [None, named(ADA)])
async def test_who_is_not_counted_on_changes_nothing_by_going(admins: Any) -> None:
    assert await commands.without_admin(Entries({ADMINS_KEY: admins}).read, EVE) is None


async def test_one_of_several_is_counted_on_no_more() -> None:
    change = await commands.without_admin(Entries({ADMINS_KEY: named(ADA, EVE)}).read, EVE)
    assert change == Put(ADMINS_KEY, named(ADA), 1)


async def test_the_last_one_stays() -> None:
    refusal = await commands.without_admin(Entries({ADMINS_KEY: named(ADA)}).read, ADA)
    assert isinstance(refusal, Refusal)
    assert refusal.code is errors.LAST_ADMIN


@pytest.mark.parametrize("before", [named(ADA), named(ADA, EVE)])
async def test_an_admin_for_good_is_counted_on_again(before: Any) -> None:
    entries = Entries({ADMINS_KEY: before, ADMIN_KEY: {"exp": None}})
    assert await commands.with_admin(entries.read, EVE) == Put(ADMINS_KEY, named(ADA, EVE), 1)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (ADMIN_KEY, None),
        (ADMIN_KEY, {"exp": NOW_S + 1}),
        (ADMIN_KEY, {}),
        (f"assignment.acme.{EVE}.platform-admin", {"exp": None}),
        (f"assignment._.{EVE}.tenant-admin", {"exp": None}),
        (f"assignment._.{ADA}.platform-admin", {"exp": None}),
    ],
)
async def test_nobody_else_is_counted_on(key: str, value: Any) -> None:
    entries = Entries({ADMINS_KEY: named(ADA), key: value})
    assert await commands.with_admin(entries.read, EVE) is None
