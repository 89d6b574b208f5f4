"""The vocabulary of state: entries, changes, events, and what a commit can come to.

An *entry* is one key of a bucket with its JSON value; its *revision* is the stream sequence
of the message that wrote it. Deleting writes a tombstone, which has a revision of its own, so
"absent" is an entry whose value is None; a key never written has revision 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Value = Mapping[str, Any]

# What the server takes as one atomic batch.
MAX_MESSAGES = 1000


@dataclass(frozen=True, slots=True)
class Entry:
    """What a key holds, or held until `revision` (value None)."""

    key: str
    value: Value | None
    revision: int

    @property
    def kind(self) -> str:
        return kind_of(self.key)


def kind_of(key: str) -> str:
    """A key's first token: which kind of thing it is."""
    return key.partition(".")[0]


@dataclass(frozen=True, slots=True)
class Put:
    """Writes `value`. `expected` is the revision being replaced, 0 for "must not exist".

    With `ttl_s` (whole seconds) the server removes the entry later; readers must check the
    `exp` in the value, for the server cleans up late.
    """

    key: str
    value: Value
    expected: int
    ttl_s: int | None = None


@dataclass(frozen=True, slots=True)
class Delete:
    """Leaves a tombstone in place of revision `expected`."""

    key: str
    expected: int


@dataclass(frozen=True, slots=True)
class Guard:
    """Writes nothing; the commit holds only while `key` is at revision `expected`."""

    key: str
    expected: int


Change = Put | Delete | Guard


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened, stored beside the entries it changed.

    Published as `tg.<bucket>.<topic>.<tokens…>.<commit id>`. Topic `event` is the audit and
    integration feed, which every follower reads; topic `mail` is the outbox.
    """

    topic: str
    tokens: tuple[str, ...]
    value: bytes
    ttl_s: int


@dataclass(frozen=True, slots=True)
class Committed:
    """Everything was written; `revision` is the sequence of the last message."""

    revision: int


@dataclass(frozen=True, slots=True)
class Conflict:
    """Nothing was written: `key` is at revision `actual`, not at the expected one.

    `key` is empty where the server's answer is all that is known: it names the revision only.
    """

    key: str
    actual: int


@dataclass(frozen=True, slots=True)
class Busy:
    """Nothing was written: the server had too much in flight for the whole deadline."""


@dataclass(frozen=True, slots=True)
class Unavailable:
    """Nothing was written: JetStream could not be reached."""


@dataclass(frozen=True, slots=True)
class Unknown:
    """The answer was lost and could not be found out; repeating the command is safe."""


CommitResult = Committed | Conflict | Busy | Unavailable | Unknown
