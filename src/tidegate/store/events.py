"""The envelope of what happened: who did what to what, from where.

Every commit that a person or a program caused carries one record. It is the audit log and the
integration feed at once, so it never holds a secret or a hash; names of changed fields, not
their values, unless a value is itself about rights.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import orjson

from tidegate.kernel.clock import rfc3339
from tidegate.store.changes import Event

EVENT_TTL_S = 7 * 24 * 3600
PLATFORM = "_"
_UNSAFE = re.compile(r"[^A-Za-z0-9_-]")


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a request came from."""

    request_id: str
    address: str
    user_agent: str


@dataclass(frozen=True, slots=True)
class Record:
    """One thing that happened.

    `action` is `<target kind>.<what, past tense>`; `tenant` is None for the platform's scope;
    `changed` maps the names of changed fields to their new values where those may be shown.
    """

    action: str
    target: str
    actor: str
    tenant: str | None
    origin: Origin
    result: str = "ok"
    changed: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}))

    def event(self, now_s: float) -> Event:
        """The event as `tg.<bucket>.event.<tenant>.<kind>.<target>.<what>.<actor>.<commit>`."""
        kind, _, what = self.action.partition(".")
        tokens = (self.tenant or PLATFORM, kind, self.target, what, self.actor)
        value = {
            "v": 1,
            "at": rfc3339(now_s),
            "action": self.action,
            "target": self.target,
            "actor": self.actor,
            "tenant": self.tenant,
            "result": self.result,
            "changed": dict(self.changed),
            "request": {
                "id": self.origin.request_id,
                "address": self.origin.address,
                "user_agent": self.origin.user_agent,
            },
        }
        safe = tuple(_UNSAFE.sub("_", token) or PLATFORM for token in tokens)
        return Event("event", safe, orjson.dumps(value), EVENT_TTL_S)
