"""Refresh tokens and the sessions they belong to: format, storage, rotation. Pure.

Invariants
- One refresh token, one use: a rotation replaces the session's record by compare-and-set, so
  of any number of uses, on any replicas, one succeeds.
- Nobody ends a session by guessing: a token carries a MAC over all of it, and one whose MAC
  does not hold changes nothing.
- A genuine token from an earlier counter is *reuse*: somebody has a copy, the session ends.
  Except the immediate predecessor within 10 s of the rotation while the successor is unused:
  that is a second tab or a double click, and is refused without consequences.

Token: `tgr_` + base64url(version, principal, session, counter, secret, key id, MAC).
Record: `session.<principal>.<session>`, one small entry with a TTL, whatever its age.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import struct
import uuid
from dataclasses import dataclass, replace
from typing import Any

from tidegate.kernel.ids import PrincipalId, SessionId
from tidegate.kernel.secret import Secret
from tidegate.sessions.settings import Settings
from tidegate.store.changes import Delete, Entry, Put, Value
from tidegate.store.keyring import Peppers, digest

PREFIX = "tgr_"
SECRET_BYTES = 32
RACE_WINDOW_S = 10.0
_VERSION = 1
_PURPOSE = "refresh token"
_HEAD = struct.Struct(">B16s16sI32s")
_MAC_BYTES = 32
_LONGEST = 300


def session_key(principal_id: PrincipalId, session_id: SessionId) -> str:
    return f"session.{principal_id}.{session_id}"


@dataclass(frozen=True, slots=True)
class RefreshToken:
    """What a genuine refresh token says."""

    principal_id: PrincipalId
    session_id: SessionId
    counter: int
    secret: Secret

    def encode(self, peppers: Peppers) -> Secret:
        """The token as the client gets it."""
        head = _HEAD.pack(
            _VERSION,
            uuid.UUID(self.principal_id).bytes,
            uuid.UUID(self.session_id).bytes,
            self.counter,
            self.secret.reveal(),
        )
        body = head + peppers.current.encode()
        mac = peppers.mac(_PURPOSE, body)
        return Secret(PREFIX + _unpadded(body + mac))


def _unpadded(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def parse(text: str, peppers: Peppers) -> RefreshToken | None:
    """The token, or None unless it is one of ours to the last bit."""
    if not text.startswith(PREFIX) or len(text) > _LONGEST:
        return None
    encoded = text[len(PREFIX) :]
    try:
        raw = base64.b64decode(encoded + "=" * (-len(encoded) % 4), b"-_", validate=True)
        if _unpadded(raw) != encoded:
            return None
        body, mac = raw[:-_MAC_BYTES], raw[-_MAC_BYTES:]
        version, principal, session, counter, secret = _HEAD.unpack(body[: _HEAD.size])
        key_id = body[_HEAD.size :].decode("ascii")
    except (binascii.Error, struct.error, UnicodeError, ValueError):
        return None
    if version != _VERSION or not peppers.verify(_PURPOSE, body, mac, key_id):
        return None
    return RefreshToken(
        PrincipalId(str(uuid.UUID(bytes=principal))),
        SessionId(str(uuid.UUID(bytes=session))),
        counter,
        Secret(secret),
    )


@dataclass(frozen=True, slots=True)
class Session:
    """One sign-in on one device. `session_epoch` is the principal's at sign-in."""

    principal_id: PrincipalId
    id: SessionId
    session_epoch: int
    counter: int
    secret_hash: str
    created_at_s: float
    rotated_at_s: float
    expires_at_s: float
    amr: tuple[str, ...]
    acr: str
    device_name: str
    address: str


def encode(session: Session, previous: Value | None = None) -> Value:
    return {
        **(previous or {}),
        "v": 1,
        "epoch": session.session_epoch,
        "counter": session.counter,
        "hash": session.secret_hash,
        "created_at": session.created_at_s,
        "rotated_at": session.rotated_at_s,
        "exp": session.expires_at_s,
        "amr": list(session.amr),
        "acr": session.acr,
        "device": session.device_name,
        "address": session.address,
    }


def decode(entry: Entry, now_s: float) -> Session | None:
    """The session of an entry; None when it has ended."""
    value: Any = entry.value
    if value is None or value["exp"] <= now_s:
        return None
    _, principal_id, session_id = entry.key.split(".")
    return Session(
        principal_id=PrincipalId(principal_id),
        id=SessionId(session_id),
        session_epoch=value["epoch"],
        counter=value["counter"],
        secret_hash=value["hash"],
        created_at_s=value["created_at"],
        rotated_at_s=value["rotated_at"],
        expires_at_s=value["exp"],
        amr=tuple(value["amr"]),
        acr=value["acr"],
        device_name=value["device"],
        address=value["address"],
    )


def put(session: Session, replaced: Entry | None, now_s: float) -> Put:
    """Writes `session` in place of `replaced` (None: it must not exist)."""
    return Put(
        session_key(session.principal_id, session.id),
        encode(session, replaced.value if replaced else None),
        replaced.revision if replaced else 0,
        ttl_s=max(1, int(session.expires_at_s - now_s) + 1),
    )


def expiry(created_at_s: float, now_s: float, settings: Settings) -> float:
    """When a session used now ends: idle for too long, or too old, whichever is first."""
    return min(now_s + settings.idle_ttl_s, created_at_s + settings.absolute_ttl_s)


@dataclass(frozen=True, slots=True)
class Rotated:
    """The token was the current one; this is the session with its successor."""

    session: Session
    token: RefreshToken


@dataclass(frozen=True, slots=True)
class Raced:
    """Another use of the same token came first, just now; nothing happens."""


@dataclass(frozen=True, slots=True)
class Reused:
    """An old token was shown: the session must end."""


@dataclass(frozen=True, slots=True)
class Ended:
    """There is no such session any more."""


@dataclass(frozen=True, slots=True)
class Stale:
    """The token is newer than what was read: read again."""


Rotation = Rotated | Raced | Reused | Ended | Stale


def rotate(
    session: Session | None,
    token: RefreshToken,
    next_secret: Secret,
    now_s: float,
    settings: Settings,
) -> Rotation:
    """What using `token` on `session` comes to."""
    if session is None:
        return Ended()
    if token.counter > session.counter:
        return Stale()
    if token.counter < session.counter:
        immediate = token.counter == session.counter - 1
        just_now = now_s - session.rotated_at_s <= RACE_WINDOW_S
        return Raced() if immediate and just_now else Reused()
    if not hmac.compare_digest(digest(token.secret), session.secret_hash):
        # Our MAC over another secret: only a copy of the peppers can make this.
        return Reused()
    successor = replace(
        session,
        counter=session.counter + 1,
        secret_hash=digest(next_secret),
        rotated_at_s=now_s,
        expires_at_s=expiry(session.created_at_s, now_s, settings),
    )
    token = RefreshToken(session.principal_id, session.id, successor.counter, next_secret)
    return Rotated(successor, token)


def revocation(
    principal_id: PrincipalId, session_id: SessionId, now_s: float, settings: Settings
) -> Put:
    """Voids the access tokens of a session for as long as any of them could live."""
    ttl_s = settings.access_ttl_s + 120
    key = f"revocation.{principal_id}.{session_id}"
    return Put(key, {"v": 1, "exp": now_s + ttl_s}, 0, ttl_s=ttl_s)


def end(entry: Entry, now_s: float, settings: Settings) -> list[Delete | Put]:
    """The changes that end the session of `entry`, its access tokens included."""
    _, principal_id, session_id = entry.key.split(".")
    return [
        Delete(entry.key, entry.revision),
        revocation(PrincipalId(principal_id), SessionId(session_id), now_s, settings),
    ]
