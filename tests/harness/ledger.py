"""Commits under faults, and whether what is stored agrees with what was answered.

The promise: an acknowledged commit is there, once and whole; a refused one is not there; one of
unknown outcome is there whole or not at all; and nothing is there that nobody asked for.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial

import orjson
from nats.aio.msg import Msg

from tidegate.store import reading
from tidegate.store.changes import (
    CommitResult,
    Committed,
    Conflict,
    Event,
    Guard,
    Put,
    Unknown,
)
from tidegate.store.commit import Committer
from tidegate.store.connection import Connection, StoreError
from tidegate.store.reading import Stored

BATCH_ENTRIES = 3
_ENTRIES = "$KV.iam."
_EVENTS = "tg.iam.event._.b."
_EVENT_TTL_S = 3600
_DOOMED_EVERY = 7
_DEADLINE_S = 90
_PAUSE_S = 0.02
_READ_AT_ONCE = 1000


@dataclass(frozen=True, slots=True)
class Asked:
    """A commit of new keys, and what was answered. A doomed one expects what is not so."""

    name: str
    keys: tuple[str, ...]
    has_event: bool
    doomed: bool
    result: CommitResult


class Ledger:
    """What was asked for and answered. Its name keeps the keys apart from another's."""

    def __init__(self, name: str = "one") -> None:
        self._name = name
        self.asked: list[Asked] = []
        # Of each chain, the numbers that it may have come to.
        self._chains: dict[str, set[int]] = {}
        self._committed: Counter[str] = Counter()
        self._changed = asyncio.Event()
        self._stopping = False
        self._ours = tuple(f"{_ENTRIES}{kind}.{name}-" for kind in "kbc")

    @asynccontextmanager
    async def writing(
        self, connections: Sequence[Connection], commit_deadline_s: float = 5
    ) -> AsyncIterator[None]:
        """Write without pause for the length of the block, and end with the answers known.

        Over each connection go single entries, batches with an event, and a chain: one entry
        that is rewritten over and over.
        """
        async with asyncio.TaskGroup() as group:
            for place, connection in enumerate(connections):
                committer = Committer(connection, "iam", commit_deadline_s)
                writers: dict[str, Callable[[str, Committer], Coroutine[None, None, None]]] = {
                    f"{self._name}-single-{place}": self._singles,
                    f"{self._name}-batch-{place}": self._batches,
                    f"{self._name}-chain-{place}": partial(self._chain, connection),
                }
                for name, write in writers.items():
                    self._committed[name] = 0
                    group.create_task(write(name, committer))
            yield
            self._stopping = True

    async def wait_committed(self, more: int) -> None:
        """Wait until each writer has committed so many times more."""
        goal = {name: count + more for name, count in self._committed.items()}
        async with asyncio.timeout(_DEADLINE_S):
            while any(self._committed[name] < count for name, count in goal.items()):
                self._changed.clear()
                await self._changed.wait()

    def answers(self) -> Counter[str]:
        """How often each kind of answer was given."""
        return Counter(type(asked.result).__name__ for asked in self.asked)

    async def verify(self, connection: Connection) -> dict[str, object]:
        """Compare with the stream. Returns the value of each key that is stored."""
        entries: dict[str, Stored] = {}
        events: dict[str, list[Stored]] = defaultdict(list)
        for message in await _stored(connection):
            if message.subject.startswith(self._ours):
                entries[message.subject.removeprefix(_ENTRIES)] = message
            elif message.subject.startswith(f"{_EVENTS}{self._name}-"):
                events[orjson.loads(message.payload)["commit"]].append(message)
        for asked in self.asked:
            check(asked, [entries.get(key) for key in asked.keys], events[asked.name])
        values = {key: orjson.loads(message.payload) for key, message in entries.items()}
        for name, numbers in self._chains.items():
            assert values.get(f"c.{name}", {"n": 0})["n"] in numbers, name
        known = {key for asked in self.asked for key in asked.keys}
        known |= {f"c.{name}" for name in self._chains}
        assert set(entries) <= known, "something is there that nobody asked for"
        return values

    def _note(self, writer: str, result: CommitResult) -> None:
        if isinstance(result, Committed):
            self._committed[writer] += 1
            self._changed.set()

    async def _singles(self, writer: str, committer: Committer) -> None:
        for number in itertools.count(1):
            if self._stopping:
                return
            name = f"{writer}-{number}"
            key = f"k.{name}"
            result = await committer.commit([Put(key, {"commit": name}, 0)], [])
            self.asked.append(Asked(name, (key,), has_event=False, doomed=False, result=result))
            self._note(writer, result)
            await _pause_after(result)

    async def _batches(self, writer: str, committer: Committer) -> None:
        existing: str | None = None
        for number in itertools.count(1):
            if self._stopping:
                return
            name = f"{writer}-{number}"
            keys = tuple(f"b.{name}-{place}" for place in range(BATCH_ENTRIES))
            puts = [Put(key, {"commit": name}, 0) for key in keys]
            value = orjson.dumps({"commit": name})
            event = Event("event", ("_", "b", name, "made", "me"), value, _EVENT_TTL_S)
            # Now and then one that must not be written: it says that what is there is not.
            doomed = existing is not None and number % _DOOMED_EVERY == 0
            guards = [Guard(existing, 0)] if doomed and existing is not None else []
            result = await committer.commit([*puts, *guards], [event])
            self.asked.append(Asked(name, keys, has_event=True, doomed=doomed, result=result))
            self._note(writer, result)
            if isinstance(result, Committed):
                existing = keys[0]
            await _pause_after(result)

    async def _chain(self, connection: Connection, writer: str, committer: Committer) -> None:
        """Alone with its entry: it can have a conflict only after an answer was lost."""
        key, number, revision, certain = f"c.{writer}", 0, 0, True
        while not self._stopping:
            self._chains[writer] = {number, number + 1}
            result = await committer.commit([Put(key, {"n": number + 1}, revision)], [])
            match result:
                case Committed():
                    assert result.revision > revision
                    number, revision, certain = number + 1, result.revision, True
                    self._chains[writer] = {number}
                case Conflict() | Unknown():
                    assert isinstance(result, Unknown) or not certain, "a conflict with nobody"
                    certain = False
                    with suppress(StoreError):
                        entry = await reading.read_leader(connection, "iam", key)
                        found = int(entry.value["n"]) if entry.value is not None else 0
                        assert found in {number, number + 1}, "written twice"
                        number, revision = found, entry.revision
            self._note(writer, result)
            await _pause_after(result)


async def _pause_after(result: CommitResult) -> None:
    """Where a caller would answer 503, and its client come back later."""
    await asyncio.sleep(0 if isinstance(result, Committed | Conflict) else _PAUSE_S)


def check(asked: Asked, entries: Sequence[Stored | None], events: Sequence[Stored]) -> None:
    """Compare one commit with what is stored of it. Raises AssertionError."""
    told = f"{asked.name} was answered {asked.result}"
    there = [entry for entry in entries if entry is not None]
    expected_events = 1 if asked.has_event else 0
    if isinstance(asked.result, Committed):
        assert not asked.doomed, f"{told}, though it expects what is not so"
        assert len(there) == len(entries), f"{told}, and entries are missing"
        assert len(events) == expected_events, f"{told}, with {len(events)} events"
    elif isinstance(asked.result, Unknown) and not asked.doomed and there:
        assert len(there) == len(entries), f"{told}, and a part of it is there"
        assert len(events) == expected_events, f"{told}, with {len(events)} events"
    else:
        assert not there, f"{told}, and entries are there"
        assert not events, f"{told}, and an event is there"
    sequences = [message.sequence for message in (*there, *events)]
    if sequences:
        # One batch is one run of sequences: with a repeat of it there would be a hole.
        assert sequences == list(range(sequences[0], sequences[0] + len(sequences))), told
        assert {asked.name} == {orjson.loads(entry.payload)["commit"] for entry in there}, told
    if isinstance(asked.result, Committed):
        assert sequences[-1] == asked.result.revision, told


async def _stored(connection: Connection) -> list[Stored]:
    """Every message of the stream, in order, from a copy that has all of them."""
    info = await connection.api("STREAM.INFO.KV_iam")
    last = info["state"]["last_seq"]
    found: list[Stored] = []
    async with asyncio.timeout(_DEADLINE_S):
        while not found or found[-1].sequence < last:
            request = {
                "seq": found[-1].sequence + 1 if found else 1,
                "next_by_subj": ">",
                "batch": _READ_AT_ONCE,
            }
            answers: list[Msg] = []
            with suppress(StoreError):
                answers = await connection.collect(
                    "$JS.API.DIRECT.GET.KV_iam", orjson.dumps(request)
                )
            for answer in answers[:-1]:
                headers = answer.headers or {}
                sequence = int(headers["Nats-Sequence"])
                found.append(Stored(headers["Nats-Subject"], answer.data, headers, sequence))
            if len(answers) < _READ_AT_ONCE:
                await asyncio.sleep(_PAUSE_S)  # A copy that is behind, or no answer.
    return found
