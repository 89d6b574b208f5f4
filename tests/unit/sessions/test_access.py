"""Access tokens: what verifies, and everything an attacker may send instead (RFC 8725)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Callable
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tidegate.kernel.ids import PrincipalId, SessionId
from tidegate.sessions import access, keys
from tidegate.sessions.access import AccessClaims, Void
from tidegate.sessions.keys import KeyState, SigningKey, SigningKeyView
from tidegate.sessions.settings import Settings
from tidegate.store.changes import Entry
from tidegate.store.keyring import Wrapping

NOW_S = 1_700_000_000.0
CLAIMS = AccessClaims(
    principal_id=PrincipalId("01890000-0000-7000-8000-000000000001"),
    session_id=SessionId("01890000-0000-7000-8000-000000000002"),
    session_epoch=3,
    expires_at_s=NOW_S + 600,
    authenticated_at_s=NOW_S - 5,
    amr=("pwd",),
    acr="1",
    scope="",
)

Forge = Callable[..., str]


@pytest.fixture
def token(signing_key: SigningKey, settings: Settings) -> str:
    return access.issue(CLAIMS, signing_key, settings, NOW_S).reveal_text()


@pytest.fixture
def forge(token: str, signing_key: SigningKey) -> Forge:
    """Signs with the real key what the gateway would not: changed claims, changed headers."""

    def sign(
        claims: dict[str, Any] | None = None,
        drop: str | None = None,
        headers: dict[str, Any] | None = None,
    ) -> str:
        payload = jwt.decode(token, options={"verify_signature": False}) | (claims or {})
        if drop is not None:
            del payload[drop]
        head = {"alg": "ES256", "typ": access.TYPE, "kid": signing_key.kid} | (headers or {})
        signed = f"{b64(json.dumps(head))}.{b64(json.dumps(payload))}"
        der = signing_key.private.sign(signed.encode(), ec.ECDSA(SHA256()))
        r, s = decode_dss_signature(der)
        return f"{signed}.{b64(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"

    return sign


def b64(raw: bytes | str) -> str:
    raw = raw.encode() if isinstance(raw, str) else raw
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def test_what_was_issued_verifies_and_says_the_same(
    token: str, view: SigningKeyView, settings: Settings
) -> None:
    assert access.verify(token, view, settings, NOW_S) == CLAIMS


def test_the_claims_are_those_of_the_access_token_profile(token: str, settings: Settings) -> None:
    payload = jwt.decode(token, options={"verify_signature": False})
    assert set(payload) == {
        *("iss", "sub", "aud", "exp", "iat", "nbf", "jti", "sid", "sep"),
        *("auth_time", "amr", "acr", "scope", "client_id"),
    }
    assert payload["iss"] == settings.issuer
    assert payload["aud"] == settings.audience
    assert jwt.get_unverified_header(token)["typ"] == "at+jwt"


def test_no_two_tokens_share_an_id(signing_key: SigningKey, settings: Settings) -> None:
    issued = [access.issue(CLAIMS, signing_key, settings, NOW_S).reveal_text() for _ in range(3)]
    ids = {jwt.decode(one, options={"verify_signature": False})["jti"] for one in issued}
    assert len(ids) == 3


@pytest.mark.parametrize("state", list(KeyState))
def test_keys_of_every_state_verify(
    state: KeyState, wrapping: Wrapping, settings: Settings
) -> None:
    key = keys.generate(state)
    view = SigningKeyView(wrapping)
    view.apply([Entry(keys.ENTRY_KEY, {"keys": [keys.encode(key, wrapping, 0)]}, 1)])
    token = access.issue(CLAIMS, key, settings, NOW_S).reveal_text()
    assert access.verify(token, view, settings, NOW_S) == CLAIMS


@pytest.mark.parametrize("alg", ["none", "None", "NONE", ""])
def test_an_unsigned_token_is_void(
    alg: str, token: str, view: SigningKeyView, signing_key: SigningKey, settings: Settings
) -> None:
    head = b64(json.dumps({"alg": alg, "typ": access.TYPE, "kid": signing_key.kid}))
    payload = token.split(".")[1]
    for signature in ("", token.split(".")[2]):
        found = access.verify(f"{head}.{payload}.{signature}", view, settings, NOW_S)
        assert isinstance(found, Void)


@pytest.mark.parametrize("encoding", ["pem", "der", "point", "x"])
def test_a_mac_made_with_the_public_key_is_void(
    encoding: str, token: str, view: SigningKeyView, signing_key: SigningKey, settings: Settings
) -> None:
    public = signing_key.public
    key = {
        "pem": public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        "der": public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        "point": public.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint),
        "x": signing_key.jwk["x"].encode(),
    }[encoding]
    head = b64(json.dumps({"alg": "HS256", "typ": access.TYPE, "kid": signing_key.kid}))
    signed = f"{head}.{token.split('.')[1]}"
    mac = b64(hmac.digest(key, signed.encode(), hashlib.sha256))
    assert isinstance(access.verify(f"{signed}.{mac}", view, settings, NOW_S), Void)


@pytest.mark.parametrize("alg", ["RS256", "PS256", "ES384", "ES512", "ES256K", "EdDSA", "es256"])
def test_another_algorithm_is_void(
    alg: str, token: str, view: SigningKeyView, signing_key: SigningKey, settings: Settings
) -> None:
    head = b64(json.dumps({"alg": alg, "typ": access.TYPE, "kid": signing_key.kid}))
    _, payload, signature = token.split(".")
    assert isinstance(access.verify(f"{head}.{payload}.{signature}", view, settings, NOW_S), Void)


def test_another_key_under_a_known_id_is_void(
    view: SigningKeyView, signing_key: SigningKey, settings: Settings
) -> None:
    theirs = ec.generate_private_key(ec.SECP256R1())
    forged = SigningKey(signing_key.kid, KeyState.ACTIVE, theirs, signing_key.jwk)
    token = access.issue(CLAIMS, forged, settings, NOW_S).reveal_text()
    assert isinstance(access.verify(token, view, settings, NOW_S), Void)


@pytest.mark.parametrize("signature", [bytes(64), b"\xff" * 64, bytes(63), bytes(65), b""])
def test_a_signature_of_zeros_or_of_another_length_is_void(
    signature: bytes, token: str, view: SigningKeyView, settings: Settings
) -> None:
    head, payload, _ = token.split(".")
    found = access.verify(f"{head}.{payload}.{b64(signature)}", view, settings, NOW_S)
    assert isinstance(found, Void)


def test_what_the_tests_forge_would_verify_unchanged(
    forge: Forge, view: SigningKeyView, settings: Settings
) -> None:
    assert access.verify(forge(), view, settings, NOW_S) == CLAIMS


@pytest.mark.parametrize(
    "headers",
    [
        {"typ": "JWT"},
        {"typ": "application/at+jwt"},
        {"typ": "AT+JWT"},
        {"typ": None},
        {"kid": "unknown"},
        {"kid": ""},
        {"kid": "../../etc/passwd"},
        {"jku": "https://evil.example/jwks.json"},
        {"x5u": "https://evil.example/cert.pem"},
        {"x5c": ["MIIB"]},
        {"jwk": {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}},
        {"crit": ["exp"]},
        {"b64": False, "crit": ["b64"]},
        {"cty": "JWT"},
        {"zip": "DEF"},
    ],
)
def test_any_other_header_is_void(
    headers: dict[str, Any], forge: Forge, view: SigningKeyView, settings: Settings
) -> None:
    assert isinstance(access.verify(forge(headers=headers), view, settings, NOW_S), Void)


@pytest.mark.parametrize("kid", [None, 7, ["a"], {"a": 1}, True])
def test_a_key_id_that_is_no_text_is_void(
    kid: object, token: str, view: SigningKeyView, settings: Settings
) -> None:
    head = b64(json.dumps({"alg": "ES256", "typ": access.TYPE, "kid": kid}))
    _, payload, signature = token.split(".")
    assert isinstance(access.verify(f"{head}.{payload}.{signature}", view, settings, NOW_S), Void)


def test_a_key_in_the_header_is_not_used(
    view: SigningKeyView, settings: Settings, token: str
) -> None:
    theirs = keys.generate(KeyState.ACTIVE)
    payload = jwt.decode(token, options={"verify_signature": False})
    head = {"typ": access.TYPE, "kid": theirs.kid, "jwk": dict(theirs.jwk)}
    forged = jwt.encode(payload, theirs.private, "ES256", headers=head)
    assert isinstance(access.verify(forged, view, settings, NOW_S), Void)


@pytest.mark.parametrize(
    "claims",
    [
        {"aud": "another"},
        {"aud": "tidegate "},
        {"aud": ["tidegate"]},
        {"aud": ["tidegate", "another"]},
        {"aud": []},
        {"aud": None},
        {"iss": "https://evil.example"},
        {"iss": "https://gateway.example.org/"},
        {"iss": ["https://gateway.example.org"]},
        {"iss": None},
    ],
)
def test_another_audience_or_issuer_is_void(
    claims: dict[str, Any], forge: Forge, view: SigningKeyView, settings: Settings
) -> None:
    assert isinstance(access.verify(forge(claims), view, settings, NOW_S), Void)


_CLAIM_NAMES = (
    *("iss", "sub", "aud", "exp", "iat", "nbf", "jti", "sid", "auth_time"),
    *("amr", "acr", "scope", "client_id", "sep"),
)


@pytest.mark.parametrize("name", _CLAIM_NAMES)
def test_a_missing_claim_is_void(
    name: str, forge: Forge, view: SigningKeyView, settings: Settings
) -> None:
    assert isinstance(access.verify(forge(drop=name), view, settings, NOW_S), Void)


@pytest.mark.parametrize("name", _CLAIM_NAMES)
@pytest.mark.parametrize("wrong", [None, True, 1.5, {"a": 1}, [1]], ids=repr)
def test_a_claim_of_a_wrong_type_is_void(
    name: str, wrong: object, forge: Forge, view: SigningKeyView, settings: Settings
) -> None:
    assert isinstance(access.verify(forge({name: wrong}), view, settings, NOW_S), Void)


@pytest.mark.parametrize("name", ["exp", "iat", "nbf", "auth_time", "sep"])
def test_a_number_written_as_text_is_void(
    name: str, forge: Forge, view: SigningKeyView, settings: Settings
) -> None:
    value = str(int(NOW_S) + 100)
    assert isinstance(access.verify(forge({name: value}), view, settings, NOW_S), Void)


def test_a_token_is_void_from_its_expiry_on(
    token: str, view: SigningKeyView, settings: Settings
) -> None:
    expires_s = CLAIMS.expires_at_s
    assert access.verify(token, view, settings, expires_s - 0.001) == CLAIMS
    assert access.verify(token, view, settings, expires_s) == Void("expired")
    assert access.verify(token, view, settings, expires_s + 1e9) == Void("expired")


def test_a_token_from_the_future_is_void_beyond_the_allowed_skew(
    forge: Forge, view: SigningKeyView, settings: Settings
) -> None:
    at_most = forge({"nbf": int(NOW_S) + 60})
    assert isinstance(access.verify(at_most, view, settings, NOW_S), AccessClaims)
    beyond = forge({"nbf": int(NOW_S) + 61})
    assert access.verify(beyond, view, settings, NOW_S) == Void("not_yet")


def test_a_huge_expiry_is_just_late(forge: Forge, view: SigningKeyView, settings: Settings) -> None:
    assert isinstance(access.verify(forge({"exp": 10**30}), view, settings, NOW_S), AccessClaims)


def test_a_token_over_4096_characters_is_not_even_read(
    forge: Forge, view: SigningKeyView, settings: Settings
) -> None:
    assert access.verify(forge({"extra": "x" * 4096}), view, settings, NOW_S) == Void("too_long")


def _nested(head: str) -> str:
    return f"{b64(head)}.e30.AAAA"


@pytest.mark.parametrize(
    "garbage",
    [
        *("", ".", "..", "...", "a.b.c", "a.b.c.d", " ", "null", "e30.e30.e30"),
        "é.ü.ö",
        "\u202e.\ud800.\x00",
        "\x00" * 100,
        "=" * 50,
        _nested("[" * 2900),
        _nested('{"a":' * 500 + "1" + "}" * 500),
        _nested("[]"),
        _nested("1" * 2900),
        _nested('{"alg":"ES256","alg":"none","typ":"at+jwt","kid":"x"}'),
        f"{b64(bytes(range(200, 256)))}.e30.AAAA",
    ],
    ids=ascii,
)
def test_garbage_is_void(garbage: str, view: SigningKeyView, settings: Settings) -> None:
    assert isinstance(access.verify(garbage, view, settings, NOW_S), Void)


@given(text=st.text(max_size=200) | st.binary(max_size=200).map(lambda raw: raw.decode("latin-1")))
@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_text_at_all_makes_verification_fail_otherwise(
    text: str, view: SigningKeyView, settings: Settings
) -> None:
    assert isinstance(access.verify(text, view, settings, NOW_S), Void)


@given(data=st.data())
@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_token_with_one_character_changed_is_void(
    data: st.DataObject, token: str, view: SigningKeyView, settings: Settings
) -> None:
    place = data.draw(st.integers(0, len(token) - 1))
    # The last character of a part holds bits that no byte uses; another may mean the same.
    ends = {index - 1 for index, char in enumerate(token + ".") if char == "."}
    other = data.draw(st.sampled_from("ABCDEFGHIJKLMNOPQRSTUVWXYZabcxyz0189-_.=+/ "))
    changed = token[:place] + other + token[place + 1 :]
    if other == token[place] or place in ends:
        return
    assert isinstance(access.verify(changed, view, settings, NOW_S), Void)
