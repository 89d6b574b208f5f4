"""How a commit is written into messages. Pure; no I/O.

Invariants
- Every message carries the commit's *marker*, `Tidegate-Commit: <commit id>:<place>:<size>`.
  By its id the outcome of a commit can be found out later; by its place and size a follower
  knows how far the commit reaches.
- Events come after the changes. Followers read events, so the arrival of a commit's last
  event tells them that the whole commit is there, even where they skip some of its entries.
- A commit can be sent twice and is written once: every message expects something that writing
  it makes untrue. A change expects the revision that it replaces, an event that its subject,
  which ends in the commit id, was never used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self, assert_never

import orjson

from tidegate.store.changes import MAX_MESSAGES, Change, Delete, Event, Guard, Put

COMMIT_HEADER = "Tidegate-Commit"
# As long as this a follower may be away and still learn of what went.
TOMBSTONE_TTL_S = 3600

_EXPECTED = "Nats-Expected-Last-Subject-Sequence"
_EXPECTED_SUBJECT = "Nats-Expected-Last-Subject-Sequence-Subject"


@dataclass(frozen=True, slots=True)
class Marker:
    """Which commit a stored message belongs to: its id, the message's place, the size."""

    commit_id: str
    place: int
    size: int

    @classmethod
    def parse(cls, header: str | None) -> Self | None:
        """None for what some other tool wrote: no such header, or one that no commit can have."""
        if header is None:
            return None
        try:
            commit_id, place_text, size_text = header.split(":")
            place, size = int(place_text), int(size_text)
        except ValueError:
            return None
        return cls(commit_id, place, size) if 1 <= place <= size <= MAX_MESSAGES else None

    def __str__(self) -> str:
        return f"{self.commit_id}:{self.place}:{self.size}"

    def end(self, sequence: int) -> int:
        """The last sequence of the commit whose message at this place has `sequence`."""
        return sequence - self.place + self.size


@dataclass(frozen=True, slots=True)
class Message:
    """What is published for one change or event."""

    subject: str
    payload: bytes
    headers: dict[str, str]

    @property
    def looks_at(self) -> tuple[str, ...]:
        """The subjects whose last revision decides whether it is written."""
        guarded = self.headers.get(_EXPECTED_SUBJECT)
        return (self.subject,) if guarded is None else (self.subject, guarded)


def encode(
    bucket: str, changes: Sequence[Change], events: Sequence[Event], commit_id: str
) -> list[Message]:
    """The messages of a commit, in the order in which they are written."""
    # A guard is no message of its own: it rides on an event, in place of what that expects.
    guards = [change for change in changes if isinstance(change, Guard)]
    written = [change for change in changes if not isinstance(change, Guard)]
    size = len(written) + len(events)
    messages = [
        _change(bucket, change, Marker(commit_id, place, size))
        for place, change in enumerate(written, start=1)
    ]
    for place, event in enumerate(events, start=len(written) + 1):
        guard = guards.pop() if guards else None
        messages.append(_event(bucket, event, guard, Marker(commit_id, place, size)))
    return messages


def _change(bucket: str, change: Put | Delete, marker: Marker) -> Message:
    subject = f"$KV.{bucket}.{change.key}"
    headers = {COMMIT_HEADER: str(marker), _EXPECTED: str(change.expected)}
    match change:
        case Put(value=value, ttl_s=ttl_s):
            if ttl_s is not None:
                # Later than its `exp`, by as long as a follower may be away: one that missed
                # a rewrite with an earlier `exp` must find it, and not keep what was before.
                headers["Nats-TTL"] = f"{ttl_s + TOMBSTONE_TTL_S}s"
            return Message(subject, orjson.dumps(value), headers)
        case Delete():
            headers["KV-Operation"] = "DEL"
            headers["Nats-TTL"] = f"{TOMBSTONE_TTL_S}s"
            return Message(subject, b"", headers)
        case _:
            assert_never(change)


def _event(bucket: str, event: Event, guard: Guard | None, marker: Marker) -> Message:
    subject = ".".join(("tg", bucket, event.topic, *event.tokens, marker.commit_id))
    headers = {COMMIT_HEADER: str(marker), "Nats-TTL": f"{event.ttl_s}s"}
    if guard is None:
        headers[_EXPECTED] = "0"
    else:
        headers[_EXPECTED] = str(guard.expected)
        headers[_EXPECTED_SUBJECT] = f"$KV.{bucket}.{guard.key}"
    return Message(subject, event.value, headers)


def check(changes: Sequence[Change], events: Sequence[Event]) -> None:
    """Raises ValueError for a commit that can never be written, or not safely twice."""
    size = len(changes) + len(events)
    if not 1 <= size <= MAX_MESSAGES:
        raise ValueError(f"a commit has 1 to {MAX_MESSAGES} messages, not {size}")
    keys = [change.key for change in changes]
    if len(set(keys)) != len(keys):
        raise ValueError("a commit changes each key once")
    if len({(event.topic, event.tokens) for event in events}) != len(events):
        raise ValueError("two events of a commit have the same subject")
    guards = sum(isinstance(change, Guard) for change in changes)
    if guards > len(events):
        raise ValueError("each guard of a commit needs an event to ride on")
    if guards == size - guards:
        raise ValueError("a commit of guards needs one event more, which tells it from its repeat")
