"""Signing keys: at rest, and in the view that signs and verifies with them."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from typing import Any

import jwt
import pytest

from tidegate.kernel import errors
from tidegate.kernel.errors import Refusal
from tidegate.kernel.secret import Secret
from tidegate.sessions import keys
from tidegate.sessions.keys import ENTRY_KEY, KeyState, SigningKey, SigningKeyView
from tidegate.store.bucket import Decision
from tidegate.store.changes import Entry, Put
from tidegate.store.keyring import KeyRing, Undecryptable, Wrapping

NOW_S = 1_700_000_000.0


def entry(value: Mapping[str, Any] | None, revision: int = 2) -> Entry:
    return Entry(ENTRY_KEY, value, revision)


def test_a_key_is_read_back_as_it_was_written(signing_key: SigningKey, wrapping: Wrapping) -> None:
    read = keys.decode(keys.encode(signing_key, wrapping, NOW_S), wrapping)
    assert (read.kid, read.state, read.jwk) == (signing_key.kid, KeyState.ACTIVE, signing_key.jwk)
    assert read.private.private_numbers() == signing_key.private.private_numbers()


def test_the_private_part_is_not_readable_at_rest(
    signing_key: SigningKey, wrapping: Wrapping
) -> None:
    stored = json.dumps(keys.encode(signing_key, wrapping, NOW_S))
    private = signing_key.private.private_numbers().private_value.to_bytes(32, "big")
    assert private.hex() not in stored
    for place in range(3):
        assert base64.b64encode(private[place:])[4:-4].decode() not in stored


def test_a_private_part_moved_to_another_key_does_not_decrypt(wrapping: Wrapping) -> None:
    one, two = (keys.encode(keys.generate(KeyState.ACTIVE), wrapping, NOW_S) for _ in range(2))
    with pytest.raises(Undecryptable):
        keys.decode({**one, "private": two["private"]}, wrapping)


async def test_the_first_key_is_made_once(wrapping: Wrapping) -> None:
    async def absent(key: str) -> Entry:
        return Entry(key, None, 7)

    made = await keys.create_first(absent, wrapping, NOW_S)
    assert isinstance(made, Decision)
    (change,) = made.changes
    assert isinstance(change, Put)
    assert (change.key, change.expected) == (ENTRY_KEY, 7)
    assert len(made.events) == 1
    (stored,) = change.value["keys"]
    assert keys.decode(stored, wrapping).state is KeyState.ACTIVE

    async def present(key: str) -> Entry:
        return Entry(key, change.value, 8)

    again = await keys.create_first(present, wrapping, NOW_S)
    assert isinstance(again, Refusal)
    assert again.code is errors.ALREADY_EXISTS


def test_the_active_key_signs_and_all_keys_verify(wrapping: Wrapping) -> None:
    made = [keys.generate(state) for state in (KeyState.RETIRED, KeyState.ACTIVE, KeyState.NEXT)]
    view = SigningKeyView(wrapping)
    view.apply([entry({"keys": [keys.encode(key, wrapping, NOW_S) for key in made]})])
    assert view.active is not None
    assert view.active.kid == made[1].kid
    assert all(view.verifying(key.kid) is not None for key in made)
    assert view.verifying("unknown") is None


def test_there_is_no_active_key_before_the_first(wrapping: Wrapping) -> None:
    view = SigningKeyView(wrapping)
    assert view.active is None
    assert view.jwks() == {"keys": []}


def test_published_keys_have_no_private_member(
    view: SigningKeyView, signing_key: SigningKey
) -> None:
    (published,) = view.jwks()["keys"]
    assert set(published) == {"kty", "crv", "x", "y", "kid", "use", "alg"}
    assert jwt.PyJWK(published).key.public_numbers() == signing_key.public.public_numbers()


def test_the_id_of_a_key_is_its_thumbprint() -> None:
    made = keys.generate(KeyState.ACTIVE)
    required = {name: made.jwk[name] for name in ("crv", "kty", "x", "y")}
    text = json.dumps(required, separators=(",", ":"), sort_keys=True)
    thumbprint = hashlib.sha256(text.encode()).digest()
    assert made.kid == base64.urlsafe_b64encode(thumbprint).rstrip(b"=").decode()


def test_coordinates_keep_their_leading_zeros() -> None:
    for _ in range(300):
        jwk = keys.generate(KeyState.ACTIVE).jwk
        assert len(jwk["x"]) == len(jwk["y"]) == 43


def _with(value: Mapping[str, Any], **members: Any) -> dict[str, Any]:
    (stored,) = value["keys"]
    return {"keys": [{**stored, **members}]}


@pytest.mark.parametrize(
    "spoil",
    [
        lambda _: {},
        lambda _: {"keys": None},
        lambda _: {"keys": []},
        lambda _: {"keys": [None]},
        lambda _: {"keys": ["x"]},
        lambda _: {"keys": [{}]},
        lambda value: _with(value, state="broken"),
        lambda value: _with(value, kid="another"),
        lambda value: _with(value, private="text"),
        lambda value: _with(value, private={}),
        lambda value: _with(value, private={"k": "gone", "n": "", "c": ""}),
        lambda value: {"keys": [*value["keys"], {}]},
    ],
)
def test_a_set_that_cannot_be_read_leaves_the_last_good_one(
    spoil: Any, view: SigningKeyView, signing_key: SigningKey, wrapping: Wrapping
) -> None:
    value = {"keys": [keys.encode(signing_key, wrapping, NOW_S)]}
    view.apply([entry(spoil(value))])
    assert view.active is not None
    assert view.active.kid == signing_key.kid


def test_keys_wrapped_with_a_key_that_we_lack_leave_the_last_good_set(
    view: SigningKeyView, signing_key: SigningKey
) -> None:
    for key_id in ("w1", "w2"):
        other = Wrapping(KeyRing(key_id, {key_id: Secret(b"x" * 32)}))
        theirs = keys.encode(keys.generate(KeyState.ACTIVE), other, NOW_S)
        view.apply([entry({"keys": [theirs]})])
        assert view.active is not None
        assert view.active.kid == signing_key.kid


def test_deleting_the_entry_does_not_end_every_session(
    view: SigningKeyView, signing_key: SigningKey
) -> None:
    view.apply([entry(None)])
    assert view.verifying(signing_key.kid) is not None


def test_a_rotation_replaces_the_set_whole(
    view: SigningKeyView, signing_key: SigningKey, wrapping: Wrapping
) -> None:
    successor = keys.generate(KeyState.ACTIVE)
    view.apply([entry({"keys": [keys.encode(successor, wrapping, NOW_S)]})])
    assert view.verifying(signing_key.kid) is None
    assert view.active is not None
    assert view.active.kid == successor.kid
