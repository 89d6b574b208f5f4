"""Signing keys: how they are stored, and the view that signs and verifies with them.

All keys of one algorithm are one entry, so that every step of a rotation is one
compare-and-set. The private part is encrypted at rest. States: `next → active → retired`;
exactly one key is active, all of them verify.

    signing_keys.es256   {"keys": [{"kid", "state", "public", "private", …}]}
"""

from __future__ import annotations

import base64
import hashlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)

from tidegate.kernel import errors
from tidegate.kernel.errors import Refusal
from tidegate.kernel.secret import Secret
from tidegate.observability import metrics
from tidegate.store.bucket import Decision, Read
from tidegate.store.changes import Entry, Put
from tidegate.store.events import Origin, Record
from tidegate.store.keyring import KeyRingError, Undecryptable, Wrapping

log = logging.getLogger(__name__)

ENTRY_KEY = "signing_keys.es256"
ALGORITHM = "ES256"


class KeyState(StrEnum):
    NEXT = "next"
    ACTIVE = "active"
    RETIRED = "retired"


@dataclass(frozen=True, slots=True)
class SigningKey:
    """One key pair; `jwk` is the public half as RFC 7517 has it."""

    kid: str
    state: KeyState
    private: ec.EllipticCurvePrivateKey
    jwk: Mapping[str, str]

    @property
    def public(self) -> ec.EllipticCurvePublicKey:
        return self.private.public_key()


def generate(state: KeyState) -> SigningKey:
    """A fresh P-256 key; its id is its JWK thumbprint (RFC 7638)."""
    return _key(state, ec.generate_private_key(ec.SECP256R1()))


def encode(key: SigningKey, wrapping: Wrapping, now_s: float) -> dict[str, Any]:
    der = key.private.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    return {
        "kid": key.kid,
        "state": key.state.value,
        "created_at": now_s,
        "public": dict(key.jwk),
        "private": wrapping.wrap(Secret(der), f"{ENTRY_KEY}/{key.kid}"),
    }


def decode(stored: Mapping[str, Any], wrapping: Wrapping) -> SigningKey:
    """Raises Undecryptable, KeyRingError, KeyError, ValueError or TypeError."""
    der = wrapping.unwrap(stored["private"], f"{ENTRY_KEY}/{stored['kid']}").reveal()
    private = load_der_private_key(der, password=None)
    if not isinstance(private, ec.EllipticCurvePrivateKey):
        raise TypeError("a stored signing key is not an elliptic-curve key")
    return _key(KeyState(stored["state"]), private)


async def create_first(read: Read, wrapping: Wrapping, now_s: float) -> Decision[str] | Refusal:
    """Makes the first active key; ALREADY_EXISTS where there is one."""
    entry = await read(ENTRY_KEY)
    if entry.value is not None:
        return Refusal(errors.ALREADY_EXISTS, "There is a signing key.")
    key = generate(KeyState.ACTIVE)
    value = {"v": 1, "keys": [encode(key, wrapping, now_s)]}
    record = Record("signing_key.created", key.kid, "system", None, Origin("", "", ""))
    changes = [Put(ENTRY_KEY, value, entry.revision)]
    return Decision(changes, [record.event(now_s)], outcome=key.kid)


class SigningKeyView:
    """The keys of every replica: the active one signs, all of them verify."""

    kinds = frozenset({"signing_keys"})

    def __init__(self, wrapping: Wrapping) -> None:
        self._wrapping = wrapping
        self._by_kid: dict[str, SigningKey] = {}

    @property
    def active(self) -> SigningKey | None:
        return next((k for k in self._by_kid.values() if k.state is KeyState.ACTIVE), None)

    def verifying(self, kid: str) -> SigningKey | None:
        return self._by_kid.get(kid)

    def jwks(self) -> dict[str, list[dict[str, str]]]:
        """The public keys as a JWK set."""
        return {"keys": [dict(key.jwk) for key in self._by_kid.values()]}

    def load(self, entries: Iterable[Entry]) -> None:
        self._by_kid = {}
        self.apply(list(entries))

    def apply(self, changes: Sequence[Entry]) -> None:
        for entry in changes:
            if entry.key == ENTRY_KEY and entry.value is not None:
                self._replace(entry.value)

    def _replace(self, value: Mapping[str, Any]) -> None:
        try:
            keys = _decode_set(value, self._wrapping)
        except (Undecryptable, KeyRingError, KeyError, ValueError, TypeError, AttributeError):
            # The last good set stays: losing it would end every session at once.
            metrics.VIEW_REJECTED.labels(view="iam").inc()
            log.exception("the signing keys cannot be read; is the wrapping key the right one?")
            return
        self._by_kid = {key.kid: key for key in keys}


def _decode_set(value: Mapping[str, Any], wrapping: Wrapping) -> list[SigningKey]:
    keys = [decode(stored, wrapping) for stored in value["keys"]]
    if not keys:
        raise ValueError("a set of signing keys without a key")
    return keys


def _key(state: KeyState, private: ec.EllipticCurvePrivateKey) -> SigningKey:
    numbers = private.public_key().public_numbers()
    x, y = _b64(numbers.x.to_bytes(32, "big")), _b64(numbers.y.to_bytes(32, "big"))
    thumbprint = f'{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}'
    kid = _b64(hashlib.sha256(thumbprint.encode()).digest())
    jwk = {"kty": "EC", "crv": "P-256", "x": x, "y": y, "kid": kid, "use": "sig", "alg": ALGORITHM}
    return SigningKey(kid, state, private, jwk)


def _b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
