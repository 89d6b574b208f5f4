"""Server keys: rings of secrets with ids, and what is made with them.

Invariant: whatever is stored names the id of the key that it was made with, so that a ring can
get a new first key while values made with the older ones go on working.

Two rings come from secret files. *Wrapping keys* encrypt what must be read back (AES-256-GCM;
the associated data is the key of the entry, so that a ciphertext moved to another entry does
not decrypt). *Peppers* make keyed hashes and MACs; each purpose derives its own key from them
(HKDF, RFC 5869), so that a MAC made for one purpose means nothing in another.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from tidegate.kernel.secret import Secret

KEY_BYTES = 32
_NONCE_BYTES = 12
_KEY_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")


class KeyRingError(Exception):
    """A ring cannot be read, or a value names a key that is not in it."""


class Undecryptable(Exception):
    """A ciphertext is not what it claims to be."""


@dataclass(frozen=True, slots=True)
class KeyRing:
    """Keys by id. `current` is the id that new values are made with."""

    current: str
    keys: Mapping[str, Secret]

    def key(self, key_id: str) -> Secret:
        """Raises KeyRingError when there is no such key."""
        try:
            return self.keys[key_id]
        except KeyError:
            raise KeyRingError(f"no key {key_id!r} in the ring") from None


def parse_ring(text: str, source: str) -> KeyRing:
    """Reads a ring: one `<id> <base64 of 32 bytes>` a line, the first being the current one.

    Raises KeyRingError, which names `source` and the line but never shows the key.
    """
    keys: dict[str, Secret] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        where = f"{source}, line {number}"
        words = line.split()
        if len(words) != 2 or _KEY_ID.fullmatch(words[0]) is None:
            raise KeyRingError(f"{where}: expected '<id> <base64 of {KEY_BYTES} bytes>'")
        try:
            key = base64.b64decode(words[1], validate=True)
        except ValueError:
            raise KeyRingError(f"{where}: the key is not base64") from None
        if len(key) != KEY_BYTES:
            raise KeyRingError(f"{where}: the key has {len(key)} bytes, not {KEY_BYTES}")
        if words[0] in keys:
            raise KeyRingError(f"{where}: the id {words[0]} stands twice")
        keys[words[0]] = Secret(key)
    if not keys:
        raise KeyRingError(f"{source}: no key in it")
    return KeyRing(next(iter(keys)), keys)


def read_ring(path: Path) -> KeyRing:
    """Raises KeyRingError."""
    try:
        return parse_ring(path.read_text(), str(path))
    except OSError as exc:
        raise KeyRingError(f"{path}: {exc.strerror}") from exc
    except UnicodeDecodeError:
        # Not chained: the exception holds the bytes of the file.
        raise KeyRingError(f"{path}: not a text file") from None


def new_ring_text(key_id: str) -> str:
    """A ring file with one fresh key."""
    return f"{key_id} {base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode()}\n"


class Wrapping:
    """Encryption at rest with the wrapping keys, in the form `{"k", "n", "c"}` (JSON-safe)."""

    def __init__(self, ring: KeyRing) -> None:
        self._ring = ring
        self._ciphers = {key_id: AESGCM(key.reveal()) for key_id, key in ring.keys.items()}

    def wrap(self, plain: Secret, bound_to: str) -> dict[str, str]:
        """Encrypts for the entry or purpose `bound_to`."""
        return _seal(self._ciphers[self._ring.current], self._ring.current, plain, bound_to)

    def unwrap(self, wrapped: Mapping[str, Any], bound_to: str) -> Secret:
        """Raises KeyRingError for an unknown key and Undecryptable for anything altered."""
        key_id = str(wrapped.get("k", ""))
        self._ring.key(key_id)
        return _unseal(self._ciphers[key_id], wrapped, bound_to)


class DataKey:
    """One principal's own key: personal fields are encrypted with it, and die with it."""

    def __init__(self, key: Secret) -> None:
        self.key = key
        self._cipher = AESGCM(key.reveal())

    @classmethod
    def fresh(cls) -> DataKey:
        return cls(Secret(secrets.token_bytes(KEY_BYTES)))

    def seal(self, plain: str, bound_to: str) -> dict[str, str]:
        return _seal(self._cipher, "own", Secret(plain), bound_to)

    def unseal(self, sealed: Mapping[str, Any], bound_to: str) -> str:
        """Raises Undecryptable."""
        return _unseal(self._cipher, sealed, bound_to).reveal_text()


class Peppers:
    """Keyed hashes and MACs, one derived key for each purpose and ring key."""

    def __init__(self, ring: KeyRing) -> None:
        self._ring = ring
        self._derived: dict[tuple[str, str], bytes] = {}

    @property
    def current(self) -> str:
        return self._ring.current

    @property
    def key_ids(self) -> tuple[str, ...]:
        """All ids, the current one first."""
        return tuple(self._ring.keys)

    def mac(self, purpose: str, message: bytes, key_id: str | None = None) -> bytes:
        """HMAC-SHA-256 with the key of `purpose`. Raises KeyRingError for an unknown id."""
        return hmac.digest(self._key(purpose, key_id or self.current), message, "sha256")

    def verify(self, purpose: str, message: bytes, mac: bytes, key_id: str) -> bool:
        """Whether `mac` is `message`'s; False for an unknown key id too. Constant time."""
        if key_id not in self._ring.keys:
            return False
        return hmac.compare_digest(self.mac(purpose, message, key_id), mac)

    def _key(self, purpose: str, key_id: str) -> bytes:
        derived = self._derived.get((purpose, key_id))
        if derived is None:
            info = f"tidegate {purpose}".encode()
            hkdf = HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=info)
            derived = hkdf.derive(self._ring.key(key_id).reveal())
            self._derived[purpose, key_id] = derived
        return derived


def digest(secret: Secret) -> str:
    """SHA-256 as hex: how a random secret of 128 bits or more is stored."""
    return hashlib.sha256(secret.reveal()).hexdigest()


def _seal(cipher: AESGCM, key_id: str, plain: Secret, bound_to: str) -> dict[str, str]:
    nonce = secrets.token_bytes(_NONCE_BYTES)
    sealed = cipher.encrypt(nonce, plain.reveal(), bound_to.encode())
    return {
        "k": key_id,
        "n": base64.b64encode(nonce).decode(),
        "c": base64.b64encode(sealed).decode(),
    }


def _unseal(cipher: AESGCM, sealed: Mapping[str, Any], bound_to: str) -> Secret:
    try:
        nonce = base64.b64decode(sealed["n"], validate=True)
        ciphertext = base64.b64decode(sealed["c"], validate=True)
        return Secret(cipher.decrypt(nonce, ciphertext, bound_to.encode()))
    except (KeyError, TypeError, ValueError, InvalidTag) as exc:
        raise Undecryptable("a stored secret does not decrypt") from exc
