"""Decisions about accounts: what a sign-up writes, and what a verification is good for."""

from __future__ import annotations

import json

import pytest

from tidegate.identity import accounts, model
from tidegate.identity.accounts import Keys, NewAccount, Verification
from tidegate.kernel.ids import PrincipalId, new_id
from tidegate.kernel.secret import Secret
from tidegate.store.changes import Delete, Entry, Put, Value

NOW_S = 1_700_000_000.0
USER_ID = PrincipalId(new_id())
TOKEN = Secret("a-token-of-256-bits")
VERIFICATION = Verification(USER_ID, "$argon2id$hash")


class Stored:
    """Entries as `read` finds them."""

    def __init__(self, *changes: object) -> None:
        self.values: dict[str, Value] = {c.key: c.value for c in changes if isinstance(c, Put)}

    async def read(self, key: str) -> Entry:
        value = self.values.get(key)
        return Entry(key, value, 0 if value is None else 5)


def test_a_new_account_must_be_new_in_every_part(keys: Keys) -> None:
    _, changes = accounts.create(USER_ID, NewAccount("ada@example.org", "Ada"), keys, NOW_S)
    kinds = [change.key.partition(".")[0] for change in changes]
    assert kinds == ["email", "user_key", "user"]
    assert all(change.expected == 0 for change in changes)


def test_a_new_account_has_no_password_yet(keys: Keys) -> None:
    user, changes = accounts.create(USER_ID, NewAccount("ada@example.org", "Ada"), keys, NOW_S)
    assert not user.email_verified
    assert "credential" not in json.dumps([change.key for change in changes])


async def test_an_account_is_found_by_every_spelling_of_its_address(keys: Keys) -> None:
    _, changes = accounts.create(USER_ID, NewAccount("ada@example.org", "Ada"), keys, NOW_S)
    stored = Stored(*changes)
    assert await accounts.find_by_email(stored.read, "ADA@example.ORG", keys) == USER_ID
    assert await accounts.find_by_email(stored.read, "eve@example.org", keys) is None


async def test_an_account_is_found_under_an_older_pepper_too(keys: Keys) -> None:
    stored = Stored()
    stored.values[model.email_key(keys.peppers, "ada@example.org", "p1")] = {"user": USER_ID}
    assert await accounts.find_by_email(stored.read, "ada@example.org", keys) == USER_ID


async def test_a_loaded_account_can_be_written_back(keys: Keys) -> None:
    user, changes = accounts.create(USER_ID, NewAccount("ada@example.org", "Ada"), keys, NOW_S)
    loaded = await accounts.load(Stored(*changes).read, USER_ID, keys)
    assert loaded is not None
    assert loaded.user == user
    assert loaded.put(user.verified()).expected == 5


@pytest.mark.parametrize("missing", ["user", "user_key"])
async def test_an_account_without_one_of_its_parts_is_none(missing: str, keys: Keys) -> None:
    _, changes = accounts.create(USER_ID, NewAccount("ada@example.org", "Ada"), keys, NOW_S)
    kept = [change for change in changes if change.key.partition(".")[0] != missing]
    assert await accounts.load(Stored(*kept).read, USER_ID, keys) is None


def test_a_password_replaces_the_one_it_was_decided_on() -> None:
    entry = Entry(model.credential_key(USER_ID), {"hash": "old", "later": 1}, 8)
    change = accounts.set_password(USER_ID, "new", entry, NOW_S)
    assert change.expected == 8
    assert change.value == {"v": 1, "hash": "new", "later": 1, "changed_at": NOW_S}
    assert accounts.set_password(USER_ID, "new", None, NOW_S).expected == 0


def test_an_account_without_a_credential_has_no_hash() -> None:
    assert accounts.password_hash(None) is None
    assert accounts.password_hash({}) is None
    assert accounts.password_hash({"hash": "h"}) == "h"


def test_a_verification_is_used_up_by_the_change_that_comes_with_it() -> None:
    put = VERIFICATION.put(TOKEN, NOW_S, 600)
    redeemed = Verification.redeem(Entry(put.key, put.value, 3), NOW_S + 1)
    assert redeemed == (VERIFICATION, Delete(put.key, 3))


@pytest.mark.parametrize("late_s", [600, 601, 10**9])
def test_an_expired_verification_is_void_even_while_it_is_still_stored(late_s: int) -> None:
    put = VERIFICATION.put(TOKEN, NOW_S, 600)
    assert Verification.redeem(Entry(put.key, put.value, 3), NOW_S + late_s) is None


def test_an_unknown_verification_is_void() -> None:
    assert Verification.redeem(Entry("one_time.verify_email.x", None, 0), NOW_S) is None


def test_a_stored_verification_does_not_hold_its_token() -> None:
    put = VERIFICATION.put(TOKEN, NOW_S, 600)
    assert "a-token" not in put.key + json.dumps(put.value)
    assert put.expected == 0
    assert put.ttl_s == 600
