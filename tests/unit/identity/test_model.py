"""Users at rest: what is readable, what is found again, what survives."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.identity import model
from tidegate.identity.accounts import Keys
from tidegate.identity.model import StoredUser, User, UserStatus, normalize_email
from tidegate.kernel.ids import PrincipalId, new_id
from tidegate.kernel.secret import Secret
from tidegate.store.changes import Entry
from tidegate.store.keyring import DataKey, KeyRing, Peppers, Undecryptable

USER = User(
    id=PrincipalId(new_id()),
    email="ada.lovelace@example.org",
    email_verified=True,
    display_name="Ada Lovelace-Byron",
    status=UserStatus.ACTIVE,
    session_epoch=4,
    created_at_s=1_700_000_000.0,
)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Ada@Example.ORG", "ada@example.org"),
        ("  ada@example.org\n", "ada@example.org"),
        ("e\u0301a@example.org", "\u00e9a@example.org"),
        ("É@example.org", "e\u0301@example.org"),
        ("ada@bücher.example", "ada@xn--bcher-kva.example"),
        ("ada@BÜCHER.example", "ADA@xn--bcher-kva.example"),
        ("ada@example.org", "ada@ｅxample.org"),  # noqa: RUF001
    ],
)
def test_spellings_of_one_address_are_equal(one: str, other: str) -> None:
    assert normalize_email(one) == normalize_email(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("ada@example.org", "ada@example.com"),
        ("a.da@example.org", "ada@example.org"),
        ("ada+x@example.org", "ada@example.org"),
        ("ada@straße.example", "ada@strasse.example"),
        ("ada@example.org", "аda@example.org"),  # noqa: RUF001
    ],
)
def test_different_addresses_stay_different(one: str, other: str) -> None:
    assert normalize_email(one) != normalize_email(other)


@given(text=st.text(max_size=60))
def test_whatever_somebody_types_has_a_normal_form_of_its_own(text: str) -> None:
    once = normalize_email(text)
    assert normalize_email(text) == once


def test_an_address_is_a_key_only_as_a_keyed_hash(keys: Keys) -> None:
    key = model.email_key(keys.peppers, USER.email)
    kind, pepper_id, mac = key.split(".")
    assert (kind, pepper_id) == ("email", "p2")
    assert len(bytes.fromhex(mac)) == 32
    assert "ada" not in key


def test_the_hash_of_an_address_needs_the_pepper(keys: Keys) -> None:
    other = Peppers(KeyRing("p2", {"p2": Secret(b"z" * 32)}))
    assert model.email_key(keys.peppers, USER.email) != model.email_key(other, USER.email)
    assert model.email_key(keys.peppers, USER.email, "p1").startswith("email.p1.")


def test_spellings_of_one_address_share_a_key(keys: Keys) -> None:
    typed = model.email_key(keys.peppers, " ADA.Lovelace@EXAMPLE.org ")
    assert typed == model.email_key(keys.peppers, USER.email)


def test_a_user_is_read_back_as_it_was_written() -> None:
    data_key = DataKey.fresh()
    assert model.decode_user(USER.id, model.encode_user(USER, data_key), data_key) == USER


def test_nothing_personal_is_readable_in_a_stored_user() -> None:
    stored = json.dumps(model.encode_user(USER, DataKey.fresh())).lower()
    for text in (USER.email, USER.display_name, "lovelace", "example.org"):
        assert text.lower() not in stored
        for place in range(3):
            encoded = base64.b64encode(text.encode()[place:]).decode()[2:-4].lower()
            # A shorter one turns up in random base64 by chance.
            assert len(encoded) < 8 or encoded not in stored


def test_without_its_data_key_a_user_is_noise() -> None:
    value = model.encode_user(USER, DataKey.fresh())
    with pytest.raises(Undecryptable):
        model.decode_user(USER.id, value, DataKey.fresh())


def test_the_profile_of_one_user_is_noise_under_another() -> None:
    data_key = DataKey.fresh()
    value = model.encode_user(USER, data_key)
    with pytest.raises(Undecryptable):
        model.decode_user(PrincipalId(new_id()), value, data_key)


def test_sealed_fields_cannot_change_places() -> None:
    data_key = DataKey.fresh()
    value = dict(model.encode_user(USER, data_key))
    value["email"], value["display_name"] = value["display_name"], value["email"]
    with pytest.raises(Undecryptable):
        model.decode_user(USER.id, value, data_key)


def test_what_a_newer_version_wrote_survives_a_change() -> None:
    data_key = DataKey.fresh()
    value = {**model.encode_user(USER, data_key), "locale": "de"}
    stored = StoredUser(USER, data_key, Entry(model.user_key(USER.id), value, 12))
    change = stored.put(USER.verified())
    assert change.value["locale"] == "de"
    assert (change.key, change.expected) == (model.user_key(USER.id), 12)


def test_ending_all_sessions_moves_the_epoch_and_nothing_else() -> None:
    value = model.encode_user(USER, DataKey.fresh())
    change = model.end_all_sessions(Entry(model.user_key(USER.id), value, 12))
    assert change.value == {**value, "session_epoch": 5}
    assert change.expected == 12


def test_users_are_spread_over_their_buckets() -> None:
    keys = [model.user_key(PrincipalId(new_id())).split(".") for _ in range(500)]
    assert all(kind == "user" and 0 <= int(bucket) < 4096 for kind, bucket, _ in keys)
    assert len({bucket for _, bucket, _ in keys}) > 300


def test_a_data_key_is_wrapped_for_its_user(keys: Keys) -> None:
    data_key = DataKey.fresh()
    value = model.encode_data_key(USER.id, data_key, keys.wrapping)
    assert data_key.key.reveal().hex() not in json.dumps(value)
    assert model.decode_data_key(USER.id, value, keys.wrapping).key == data_key.key
    with pytest.raises(Undecryptable):
        model.decode_data_key(PrincipalId(new_id()), value, keys.wrapping)


def test_the_key_of_a_one_time_token_does_not_hold_it() -> None:
    token = Secret("one-time-token-one-time-token")
    key = model.one_time_key("verify_email", token)
    assert key.startswith("one_time.verify_email.")
    assert "one-time-token" not in key
    assert key != model.one_time_key("reset", token)
