"""What is read when it is first asked for, and kept while it is in use.

Things are kept by *owner* (a principal) and *part* (one tenant of it), because a change of an
owner's entries voids all its parts. Memory follows the owners in use, not those that are stored.

Invariants
- What is kept is never older than what this replica has applied. A load is accepted only if its
  answer is at least as new as the position applied when it began, and dropped if the feed
  touched its owner meanwhile:

    applied   1 ─────────── 2: takes a right away ──── confirmed
    load        asked ─ read at 1 ──────────────────────── answered: dropped

    applied   1 ── 2: takes a right away ── confirmed
    load                                     asked ─ a copy that is behind reads at 1: again

- A load is of one moment and shows no part of a commit: where the answer ends within one, again.
- One load at a time for each part; all loads, owners, and parts of an owner are bounded.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from tidegate.observability import metrics
from tidegate.store import reading
from tidegate.store.changes import Entry
from tidegate.store.connection import Connection, StoreError
from tidegate.store.reading import Snapshot
from tidegate.store.views import Progress

log = logging.getLogger(__name__)

T = TypeVar("T")

_MOST_LOADING = 1024
_MOST_LOADING_PER_OWNER = 8
_AT_ONCE = 64
_PARTS_PER_OWNER = 64
_DEADLINE_S = 2.0
_FIRST_PAUSE_S = 0.002
_LONGEST_PAUSE_S = 0.1


class NotLoaded(StoreError):
    """It could not be read in time, or too much is being read."""


@dataclass(frozen=True, slots=True)
class Source(Generic[T]):
    """Where one kind of thing comes from: the kinds of its entries, and how to make it of them.

    `keys(owner, part)` are the keys to read, wildcards allowed. `build` makes the thing of
    the entries that are there; it never fails. `owner` of an entry says whom a change of it
    concerns.
    """

    name: str
    bucket: str
    kinds: frozenset[str]
    keys: Callable[[str, str], Sequence[str]]
    build: Callable[[str, str, Sequence[Entry]], T]
    owner: Callable[[Entry], str]


class _Load(Generic[T]):
    """One load at work: whether the feed has touched its owner since it asked, and its end."""

    __slots__ = ("finished", "outcome", "touched")

    def __init__(self) -> None:
        self.touched = False
        self.finished = asyncio.Event()
        self.outcome: T | StoreError | None = None


class OnDemand(Generic[T]):
    """Things by owner and part. `own_key` is a key of the bucket that always has a message."""

    def __init__(
        self,
        connection: Connection,
        source: Source[T],
        progress: Progress,
        own_key: Callable[[], str],
        capacity: int,
    ) -> None:
        self.kinds = source.kinds
        self._connection = connection
        self._source = source
        self._progress = progress
        self._own_key = own_key
        self._capacity = capacity
        self._kept: OrderedDict[str, dict[str, T]] = OrderedDict()
        self._loads: dict[str, dict[str, _Load[T]]] = {}
        self._loading = 0
        self._newest = 0
        self._slots = asyncio.Semaphore(_AT_ONCE)

    def get(self, owner: str, part: str) -> T | None:
        """What is known, or None when that has to be loaded first. Synchronous."""
        parts = self._kept.get(owner)
        if parts is None:
            return None
        self._kept.move_to_end(owner)
        return parts.get(part)

    async def load(self, owner: str, part: str) -> T:
        """Reads it, or joins who is reading it. Raises StoreError.

        Who joins gets what is as new as the replica is when the load ends, for nothing that
        the feed brought meanwhile has touched it.
        """
        while True:
            found = self.get(owner, part)
            if found is not None:
                return found
            at_work = self._loads.get(owner, {}).get(part)
            if at_work is None:
                return await self._load(owner, part)
            await at_work.finished.wait()
            if isinstance(at_work.outcome, StoreError):
                raise NotLoaded(str(at_work.outcome)) from at_work.outcome
            # It is kept, unless the feed was faster or whoever was loading it was cancelled.

    def apply(self, changes: Sequence[Entry]) -> None:
        for entry in changes:
            owner = self._source.owner(entry)
            self._kept.pop(owner, None)
            for load in self._loads.get(owner, {}).values():
                load.touched = True
        self._tell()

    def clear(self) -> None:
        self._newest = 0
        self._kept.clear()
        for loads in self._loads.values():
            for load in loads.values():
                load.touched = True
        self._tell()

    async def _load(self, owner: str, part: str) -> T:
        if self._loading >= _MOST_LOADING:
            raise NotLoaded("too many loads at once")
        # One who asks for ever other parts must not keep the others from loading.
        if len(self._loads.get(owner, {})) >= _MOST_LOADING_PER_OWNER:
            raise NotLoaded("too many loads of one owner at once")
        load: _Load[T] = _Load()
        self._loads.setdefault(owner, {})[part] = load
        self._loading += 1
        try:
            async with asyncio.timeout(_DEADLINE_S):
                load.outcome = await self._read(owner, part, load)
        except TimeoutError as exc:
            load.outcome = NotLoaded("no copy of the stream was new enough in time")
            raise load.outcome from exc
        except StoreError as exc:
            load.outcome = exc
            raise
        else:
            return load.outcome
        finally:
            self._loading -= 1
            del self._loads[owner][part]
            if not self._loads[owner]:
                del self._loads[owner]
            load.finished.set()
            # Without an outcome it was cancelled.
            failed = load.outcome is None or isinstance(load.outcome, StoreError)
            self._count("failed" if failed else "loaded")

    async def _read(self, owner: str, part: str, load: _Load[T]) -> T:
        pause_s = _FIRST_PAUSE_S
        while True:
            async with self._slots:
                load.touched = False
                applied = self._progress.revision
                keys = [self._own_key(), *self._source.keys(owner, part)]
                subjects = [f"{self._prefix}{key}" for key in keys]
                found = await reading.snapshot(self._connection, self._source.bucket, subjects)
            if self._may_be_kept(found, applied, load):
                made = self._source.build(owner, part, self._entries(found, subjects[0]))
                self._newest = found.up_to
                self._keep(owner, part, made)
                return made
            self._count("again")
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)

    def _may_be_kept(self, found: Snapshot, applied: int, load: _Load[T]) -> bool:
        """The load rule."""
        # Nor older than what was shown before: it may have been newer than what is applied.
        if load.touched or found.up_to < max(applied, self._newest):
            return False
        ends = (each.marker.end(each.sequence) for each in found.messages if each.marker)
        return all(end <= found.up_to for end in ends)

    def _entries(self, found: Snapshot, own_subject: str) -> list[Entry]:
        entries = []
        for each in found.messages:
            if each.subject == own_subject:
                continue
            key = each.subject[len(self._prefix) :]
            try:
                entry = reading.decode(key, each.payload, each.sequence, each.headers)
            except StoreError:
                metrics.VIEW_REJECTED.labels(view=self._source.name).inc()
                log.exception("an entry of %s cannot be read", self._source.bucket)
                entry = Entry(key, {}, each.sequence)
            entries.append(entry)
        return [entry for entry in entries if entry.value is not None]

    def _keep(self, owner: str, part: str, made: T) -> None:
        parts = self._kept.setdefault(owner, {})
        if len(parts) >= _PARTS_PER_OWNER:
            del parts[next(iter(parts))]
        parts[part] = made
        self._kept.move_to_end(owner)
        if len(self._kept) > self._capacity:
            self._kept.popitem(last=False)
        self._tell()

    @property
    def _prefix(self) -> str:
        return f"$KV.{self._source.bucket}."

    def _count(self, result: str) -> None:
        metrics.ON_DEMAND_LOADS.labels(view=self._source.name, result=result).inc()

    def _tell(self) -> None:
        metrics.ON_DEMAND_ENTRIES.labels(view=self._source.name).set(len(self._kept))
