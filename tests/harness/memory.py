"""State without a server: a stream, a bucket, a barrier and a lease, for tests to hold."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from tidegate.kernel.clock import Clock
from tidegate.store.barrier import Barrier, Effect, Held, NotHeld
from tidegate.store.bucket import Bucket
from tidegate.store.changes import (
    Change,
    CommitResult,
    Committed,
    Conflict,
    Entry,
    Event,
    Guard,
    Put,
    Value,
)
from tidegate.store.connection import Connection, StoreError
from tidegate.store.encoding import COMMIT_HEADER, Marker
from tidegate.store.lease import Lease
from tidegate.store.reading import NOTHING, Snapshot, Stored, decode
from tidegate.store.replicas import ReplicaView
from tidegate.store.settings import LeaseSettings
from tidegate.store.views import OnDemandView, Progress, View

_NOBODY: Any = None


@dataclass
class SetClock:
    """A clock that moves when it is told to."""

    now: float = 1_700_000_000.0

    def now_s(self) -> float:
        return self.now

    monotonic_s = boottime_s = now_s


class MemoryStream:
    """The newest message of each key, and the views that follow them."""

    def __init__(
        self, progress: Progress, views: Sequence[View | OnDemandView] = (), bucket: str = "iam"
    ) -> None:
        self.sequence = 0
        self.views = [*views]
        self._progress = progress
        self._prefix = f"$KV.{bucket}."
        self._messages: dict[str, Stored] = {}

    def put(self, key: str, value: Value | None) -> Entry:
        """Writes one entry, whatever was there; None deletes."""
        return self.write({key: b"" if value is None else orjson.dumps(value)})[0]

    def write(self, payloads: Mapping[str, bytes], events: int = 0) -> list[Entry]:
        """One commit. The views have it when this returns."""
        size = len(payloads) + events
        for place, (key, payload) in enumerate(payloads.items(), start=1):
            self.sequence += 1
            headers = {COMMIT_HEADER: str(Marker(f"c{self.sequence}", place, size))}
            subject = self._prefix + key
            self._messages[subject] = Stored(subject, payload, headers, self.sequence)
        self.sequence += events
        entries = [self._fed(key) for key in payloads]
        for view in self.views:
            mine = [entry for entry in entries if entry.kind in view.kinds]
            if mine:
                view.apply(mine)
        self._progress.reached(self.sequence)
        return entries

    def entry(self, key: str) -> Entry:
        stored = self._messages.get(self._prefix + key)
        if stored is None:
            return Entry(key, None, 0)
        return decode(key, stored.payload, stored.sequence, stored.headers)

    def _fed(self, key: str) -> Entry:
        try:
            return self.entry(key)
        except StoreError:
            return Entry(key, {}, self._messages[self._prefix + key].sequence)

    async def snapshot(self, _: Connection, __: str, subjects: Sequence[str]) -> Snapshot:
        """To take the place of `reading.snapshot`."""
        found = [
            stored
            for subject, stored in self._messages.items()
            if any(_matches(pattern, subject) for pattern in subjects)
        ]
        return Snapshot(tuple(found), self.sequence) if found else NOTHING


def _matches(pattern: str, subject: str) -> bool:
    wanted, tokens = pattern.split("."), subject.split(".")
    return len(wanted) == len(tokens) and all(
        each in ("*", token) for each, token in zip(wanted, tokens, strict=True)
    )


class GivenBarrier(Barrier):
    """Records what is to hold, and answers as it is told to."""

    def __init__(self, answer: Held | NotHeld | None = None) -> None:
        self.answer = answer or Held()
        self.asked: list[tuple[str, int, Effect]] = []

    async def hold(self, bucket: str, sequence: int, effect: Effect) -> Held | NotHeld:
        self.asked.append((bucket, sequence, effect))
        return self.answer


class MemoryBucket(Bucket):
    """A bucket of a `MemoryStream`; `commits` are those that were written."""

    def __init__(
        self, stream: MemoryStream, progress: Progress, barrier: Barrier | None = None
    ) -> None:
        super().__init__(_NOBODY, "iam", progress, commit_deadline_s=1, barrier=barrier)
        self.stream = stream
        self.commits: list[tuple[Sequence[Change], Sequence[Event]]] = []

    async def read(self, key: str) -> Entry:
        return self.stream.entry(key)

    async def read_leader(self, key: str) -> Entry:
        return self.stream.entry(key)

    async def commit(self, changes: Sequence[Change], events: Sequence[Event]) -> CommitResult:
        for change in changes:
            there = self.stream.entry(change.key)
            if change.expected != there.revision and (change.expected != 0 or there.value):
                return Conflict(change.key, there.revision)
        self.stream.write(
            {
                change.key: orjson.dumps(change.value) if isinstance(change, Put) else b""
                for change in changes
                if not isinstance(change, Guard)
            },
            len(events),
        )
        self.commits.append((changes, events))
        return Committed(self.stream.sequence)


class GivenLease(Lease):
    """A lease that is given and taken by the test; it holds until then."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(_NOBODY, ReplicaView(clock), {}, LeaseSettings(), clock)
        self.give(math.inf)

    def give(self, for_s: float) -> None:
        self._until_s = self._clock.boottime_s() + for_s
