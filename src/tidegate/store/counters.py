"""Counters that all replicas share: short ones for limits, daily ones for quotas.

A counter is one subject of a counter stream (ADR-49 of NATS): `tg.limit.<rule>.<who>.<window>` in
`LIMITS`, `tg.quota.…` in `QUOTA`. Adding is one message, which the server adds up and answers with
the new total: no read, no compare-and-set, no conflict at any rate.

Invariants
- The window is part of the name, so a counter is never set back; the stream's age limit takes
  away the old ones.
- No personal data is in a name: addresses and accounts come as keyed hashes.
- An addition is never repeated here. When its answer is lost it may have been counted, and
  whoever asked decides which error is the lesser one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import orjson

from tidegate.store.connection import Connection, StoreError, checked

LIMITS = "LIMITS"
QUOTA = "QUOTA"

_PREFIX = {LIMITS: "tg.limit", QUOTA: "tg.quota"}
_TOKEN = re.compile(r"[A-Za-z0-9_-]{1,128}")
_NOT_FOUND = "404"


@dataclass(frozen=True, slots=True)
class Window:
    """A span of time in which is counted: the `number`-th of `length_s` since the epoch."""

    number: int
    length_s: int

    @classmethod
    def at(cls, now_s: float, length_s: int) -> Window:
        return cls(int(now_s // length_s), length_s)

    @property
    def ends_s(self) -> float:
        """When the next one begins, in Unix seconds."""
        return float((self.number + 1) * self.length_s)


@dataclass(frozen=True, slots=True)
class Counter:
    """What is counted: by which rule, for whom, in which window."""

    rule: str
    who: str
    window: Window

    def subject(self, prefix: str) -> str:
        """Raises ValueError for what cannot be part of a subject."""
        for token in (self.rule, self.who):
            if not _TOKEN.fullmatch(token):
                raise ValueError("a counter's name is made of A-Z, a-z, 0-9, _ and -")
        return f"{prefix}.{self.rule}.{self.who}.{self.window.length_s}-{self.window.number}"


class Counters:
    """The counters of one stream, `LIMITS` or `QUOTA`."""

    def __init__(self, connection: Connection, stream: str) -> None:
        self._connection = connection
        self._stream = stream
        self._prefix = _PREFIX[stream]

    async def add(self, counter: Counter, by: int = 1) -> int:
        """Adds, and gives the new total over all replicas. A negative `by` takes back.

        Raises Disconnected (not counted), AnswerLost (perhaps counted) or StoreError.
        """
        answer = await self._connection.request(
            counter.subject(self._prefix), b"", {"Nats-Incr": f"{by:+d}"}
        )
        return int(checked(answer.data)["val"])

    async def total(self, counter: Counter) -> int:
        """The total as any copy of the stream has it, perhaps not the newest; raises StoreError."""
        subject = counter.subject(self._prefix)
        answer = await self._connection.request(f"$JS.API.DIRECT.GET.{self._stream}.{subject}")
        status = (answer.headers or {}).get("Status")
        if status == _NOT_FOUND:
            return 0
        if status is not None:
            raise StoreError(f"reading a counter of {self._stream}: {status}")
        return int(orjson.loads(answer.data)["val"])
