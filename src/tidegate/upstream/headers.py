"""Which of an upstream's response headers a client gets to see."""

from __future__ import annotations

from collections.abc import Iterable

Headers = tuple[tuple[bytes, bytes], ...]

# RFC 9110 §7.6.1; what else `Connection` names goes too.
_HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authentication-info",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
# The gateway's own to say: framing, identity, correlation, and where clients connect to.
_OURS = frozenset(
    {
        b"alt-svc",
        b"content-length",
        b"date",
        b"server",
        b"traceparent",
        b"tracestate",
        b"x-correlation-id",
    }
)
# A cookie or a cross-origin grant would hold for everything on the gateway's origin.
_NOT_THEIRS = frozenset({b"set-cookie", b"set-cookie2", b"strict-transport-security"})
_NOT_THEIRS_PREFIXES = (b"x-tidegate-", b"access-control-")


def passed_on(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """`headers` with lower-case names, without what ends at this hop or is not the upstream's."""
    lowered = [(name.lower(), value) for name, value in headers]
    named = {
        word.strip().lower()
        for name, value in lowered
        if name == b"connection"
        for word in value.split(b",")
    }
    dropped = _HOP_BY_HOP | _OURS | _NOT_THEIRS | named
    return tuple(
        (name, value)
        for name, value in lowered
        if name not in dropped and not name.startswith(_NOT_THEIRS_PREFIXES)
    )
