"""What admission does about what it does not know, and about what it may not know any more."""

from __future__ import annotations

from typing import Any

import pytest
from harness.admission import ADA, SESSION, Replica, code

from tidegate.authz.engine import QUERY_READ, Because
from tidegate.gateway.admission import Admitted, NeedsLoad, Principal
from tidegate.identity.model import user_key
from tidegate.kernel import errors
from tidegate.kernel.errors import Refusal
from tidegate.kernel.ids import TenantId, new_id
from tidegate.store import reading
from tidegate.store.bucket import UNAVAILABLE
from tidegate.store.connection import Disconnected

ACME, GLOBEX = TenantId("acme"), TenantId("globex")
CALLER = Principal(ADA, "user", SESSION)


# --- what has to be read first ---


async def test_a_principal_is_read_first_as_far_as_the_tenant_goes_then_decided(
    replica: Replica,
) -> None:
    admission, call = replica.admission, replica.call()
    assert admission.admit(call) == NeedsLoad(ADA, ACME)
    await replica.principals.find(ADA, ACME)
    assert isinstance(admission.admit(call), Admitted)
    assert admission.admit(replica.call(tenant=["globex"])) == NeedsLoad(ADA, GLOBEX)
    assert admission.authenticate(call.authorization) == NeedsLoad(ADA, None)
    assert admission.authorize(CALLER, None, "iam.user.read", {}) == NeedsLoad(ADA, None)


@pytest.mark.parametrize(
    "key", [user_key(ADA), f"assignment.acme.{ADA}.clerk", f"assignment._.{ADA}.platform-admin"]
)
async def test_what_the_feed_touches_is_read_anew(key: str, replica: Replica) -> None:
    await replica.admit()
    replica.put(key, replica.stream.entry(key).value or {"exp": None})
    assert replica.admission.admit(replica.call()) == NeedsLoad(ADA, ACME)
    assert isinstance(await replica.admit(), Admitted)


async def test_a_change_of_somebody_else_has_nobody_read_anew(replica: Replica) -> None:
    await replica.admit()
    other = new_id()
    replica.put(f"assignment.acme.{other}.clerk", {"exp": None})
    replica.put("role.other", {"name": "Other", "tenant": None, "rights": []})
    assert isinstance(replica.admission.admit(replica.call()), Admitted)


@pytest.mark.parametrize("authorization", [[], ["Basic YTpi"], ["Bearer garbage"]])
def test_nobody_has_anything_read_without_a_genuine_token(
    authorization: list[str], replica: Replica
) -> None:
    outcome = replica.admission.admit(replica.call(authorization=authorization))
    assert isinstance(outcome, Refusal)


async def test_without_a_usable_tenant_it_is_still_told_first_whether_the_token_is_void(
    replica: Replica,
) -> None:
    kept = replica.bearer()
    call = replica.call(authorization=kept, tenant=["not a tenant"])
    assert replica.admission.admit(call) == NeedsLoad(ADA, None)
    outcome = await replica.admit(authorization=kept, tenant=["not a tenant"])
    assert code(outcome) is errors.TENANT_INVALID
    replica.put(user_key(ADA), {"status": "disabled", "session_epoch": 1})
    outcome = await replica.admit(authorization=kept, tenant=["not a tenant"])
    assert code(outcome) is errors.TOKEN_INVALID


async def test_a_genuine_token_of_nobody_is_void(replica: Replica) -> None:
    stranger = replica.bearer(principal_id=new_id())
    assert code(await replica.admit(authorization=stranger)) is errors.TOKEN_INVALID


async def test_what_is_touched_as_soon_as_it_is_read_is_given_up_after_three_times(
    replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads = 0
    find = replica.principals.find

    async def find_and_touch(*asked: Any) -> Any:
        nonlocal loads
        loads += 1
        found = await find(*asked)
        replica.put(user_key(ADA), {"status": "active", "session_epoch": 1})
        return found

    monkeypatch.setattr(replica.principals, "find", find_and_touch)
    assert await replica.admit() is UNAVAILABLE
    assert loads == 3


async def test_what_is_known_after_the_second_time_is_decided(
    replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    find, touches = replica.principals.find, [True, False]

    async def find_and_touch(*asked: Any) -> Any:
        found = await find(*asked)
        if touches.pop(0):
            replica.put(user_key(ADA), {"status": "active", "session_epoch": 2})
        return found

    monkeypatch.setattr(replica.principals, "find", find_and_touch)
    assert code(await replica.admit()) is errors.TOKEN_INVALID
    assert touches == []


async def test_who_cannot_be_read_now_is_told_to_come_again(
    replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = 0

    async def fail(*_: object) -> None:
        nonlocal tries
        tries += 1
        raise Disconnected("no JetStream answers")

    with monkeypatch.context() as outage:
        outage.setattr(reading, "snapshot", fail)
        refusal = await replica.admit()
    assert isinstance(refusal, Refusal)
    assert (refusal.code, refusal.retry_after_s) == (errors.UNAVAILABLE, 1)
    assert "JetStream" not in refusal.detail
    assert tries == 1
    assert isinstance(await replica.admit(), Admitted)


async def test_a_decision_that_needs_nothing_read_reads_nothing(
    replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    await replica.admit()

    async def fail(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(reading, "snapshot", fail)
    assert isinstance(await replica.admit(), Admitted)
    assert code(await replica.admit(action=QUERY_READ)) is errors.FORBIDDEN


# --- outside the lease ---


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"authorization": []},
        {"authorization": ["Bearer garbage"]},
        {"tenant": []},
        {"tenant": ["nowhere"]},
        {"action": "iam.user.read"},
    ],
    ids=str,
)
async def test_outside_its_lease_a_replica_decides_nothing(
    changed: dict[str, Any], known: bool, replica: Replica
) -> None:
    """Whatever comes, and before anything of it is looked at."""
    if known:
        await replica.admit()
    replica.lease.give(0)
    call = replica.call(**changed)
    for outcome in (
        replica.admission.admit(call),
        replica.admission.authenticate(call.authorization),
        replica.admission.authorize(CALLER, ACME, call.action, call.resource),
        replica.admission.authorize(CALLER, None, call.action, call.resource),
    ):
        assert isinstance(outcome, Refusal)
        assert (outcome.code, outcome.retry_after_s) == (errors.REPLICA_FENCED, 1)


async def test_a_lease_ends_to_the_moment_and_another_one_brings_everything_back(
    replica: Replica,
) -> None:
    assert isinstance(await replica.admit(), Admitted)
    replica.lease.give(10)
    replica.clock.now += 9.999
    assert isinstance(await replica.admit(), Admitted)
    replica.clock.now += 0.001
    assert code(await replica.admit()) is errors.REPLICA_FENCED
    replica.lease.give(10)
    assert isinstance(await replica.admit(), Admitted)


async def test_a_lease_that_ends_while_a_principal_is_read_lets_nobody_pass(
    replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def read_long(*asked: Any) -> reading.Snapshot:
        replica.lease.give(0)
        return await replica.stream.snapshot(*asked)

    monkeypatch.setattr(reading, "snapshot", read_long)
    assert code(await replica.admit()) is errors.REPLICA_FENCED


async def test_a_lease_that_ends_between_who_and_whether_lets_nobody_pass(
    replica: Replica,
) -> None:
    """The two are asked one after the other, with time between them."""
    await replica.principals.find(ADA)
    assert replica.admission.authenticate(replica.bearer()) == CALLER
    rights = [{"action": "*", "resource": {}}]
    replica.put("role.platform-admin", {"name": "Admin", "tenant": None, "rights": rights})
    replica.put(f"assignment._.{ADA}.platform-admin", {"exp": None})

    def decide() -> Because | Refusal | NeedsLoad:
        return replica.admission.authorize(CALLER, None, "iam.user.write", {})

    assert isinstance(await replica.admission.after_loading(decide), Because)
    replica.lease.give(0)
    assert code(await replica.admission.after_loading(decide)) is errors.REPLICA_FENCED
