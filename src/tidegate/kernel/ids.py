"""Identifiers: time-ordered ids for things, slugs for what people name.

Both are safe as one token of a NATS subject and as one segment of a path.
"""

from __future__ import annotations

import re
import secrets
import time
import uuid
from typing import NewType

PrincipalId = NewType("PrincipalId", str)
TenantId = NewType("TenantId", str)
SessionId = NewType("SessionId", str)

_SLUG = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


def uuid7(now_ms: int, entropy: int) -> str:
    """A UUID version 7 (RFC 9562 §5.7) of `now_ms` (Unix milliseconds) and 74 bits of `entropy`."""
    value = (now_ms & (1 << 48) - 1) << 80 | 0x7 << 76 | 0b10 << 62
    value |= (entropy >> 62 & 0xFFF) << 64 | entropy & (1 << 62) - 1
    return str(uuid.UUID(int=value))


def new_id() -> str:
    """A fresh UUIDv7: ids made later sort later, to the millisecond."""
    return uuid7(time.time_ns() // 1_000_000, secrets.randbits(74))


def is_slug(text: str) -> bool:
    """Whether `text` is a slug: 1 to 63 of `a-z 0-9 -`, not starting with `-`."""
    return _SLUG.fullmatch(text) is not None


def is_uuid7(text: str) -> bool:
    """Whether `text` is a UUIDv7 in its canonical, lower-case form."""
    return _UUID.fullmatch(text) is not None
