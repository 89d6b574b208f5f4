"""Access tokens: signed claims (RFC 9068) that any replica verifies without asking.

Validation follows RFC 8725: one algorithm, `typ` checked, `iss` and `aud` exact, keys only
from our own set; headers that point to keys (`jku`, `x5u`, `jwk`, …) are refused, not followed.
Tenants and rights are not in the token: they are looked up, so that a change takes effect.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import jwt

from tidegate.kernel.ids import PrincipalId, SessionId, new_id
from tidegate.kernel.secret import Secret
from tidegate.sessions.keys import ALGORITHM, SigningKey, SigningKeyView
from tidegate.sessions.settings import Settings

TYPE = "at+jwt"
SKEW_S = 60
_MOST_BYTES = 4096
_HEADERS = frozenset({"alg", "typ", "kid"})
_CLAIMS: Mapping[str, type] = MappingProxyType(
    dict.fromkeys(("iss", "sub", "aud", "jti", "sid", "acr", "scope", "client_id"), str)
    | dict.fromkeys(("exp", "iat", "nbf", "auth_time", "sep"), int)
    | {"amr": list}
)


@dataclass(frozen=True, slots=True)
class AccessClaims:
    """What a valid access token says. `session_epoch` must still be the principal's own."""

    principal_id: PrincipalId
    session_id: SessionId
    session_epoch: int
    expires_at_s: float
    authenticated_at_s: float
    amr: tuple[str, ...]
    acr: str
    scope: str


@dataclass(frozen=True, slots=True)
class Void:
    """Why a token is not valid: one word for metrics, never shown to the client."""

    reason: str


def issue(claims: AccessClaims, key: SigningKey, settings: Settings, now_s: float) -> Secret:
    """Signs `claims`, valid from now until `claims.expires_at_s`."""
    payload = {
        "iss": settings.issuer,
        "sub": claims.principal_id,
        "aud": settings.audience,
        "exp": int(claims.expires_at_s),
        "iat": int(now_s),
        "nbf": int(now_s),
        "jti": new_id(),
        "sid": claims.session_id,
        "sep": claims.session_epoch,
        "auth_time": int(claims.authenticated_at_s),
        "amr": list(claims.amr),
        "acr": claims.acr,
        "scope": claims.scope,
        "client_id": settings.audience,
    }
    headers = {"kid": key.kid, "typ": TYPE}
    return Secret(jwt.encode(payload, key.private, algorithm=ALGORITHM, headers=headers))


def verify(
    token: str, keys: SigningKeyView, settings: Settings, now_s: float
) -> AccessClaims | Void:
    """What `token` says, or why it is void at `now_s`."""
    if len(token) > _MOST_BYTES:
        return Void("too_long")
    try:
        header = jwt.get_unverified_header(token)
    except (jwt.InvalidTokenError, UnicodeError):
        return Void("malformed")
    if set(header) != _HEADERS or header["typ"] != TYPE or header["alg"] != ALGORITHM:
        return Void("header")
    key = keys.verifying(header["kid"])
    if key is None:
        return Void("unknown_key")
    try:
        payload = jwt.decode(
            token,
            key.public,
            algorithms=[ALGORITHM],
            audience=settings.audience,
            issuer=settings.issuer,
            # Times are checked below, against the clock that was passed in.
            options={
                "require": list(_CLAIMS),
                "verify_exp": False,
                "verify_iat": False,
                "verify_nbf": False,
                "strict_aud": True,
            },
        )
    except jwt.InvalidTokenError as exc:
        return Void(type(exc).__name__)
    return _claims(payload, now_s)


def _claims(payload: dict[str, Any], now_s: float) -> AccessClaims | Void:
    # By exact type: in Python a boolean is an integer too.
    if any(type(payload[name]) is not kind for name, kind in _CLAIMS.items()):
        return Void("claims")
    if not all(isinstance(method, str) for method in payload["amr"]):
        return Void("claims")
    if payload["exp"] <= now_s:
        return Void("expired")
    if payload["nbf"] > now_s + SKEW_S:
        return Void("not_yet")
    return AccessClaims(
        principal_id=PrincipalId(payload["sub"]),
        session_id=SessionId(payload["sid"]),
        session_epoch=payload["sep"],
        expires_at_s=payload["exp"],
        authenticated_at_s=payload["auth_time"],
        amr=tuple(payload["amr"]),
        acr=payload["acr"],
        scope=payload["scope"],
    )
