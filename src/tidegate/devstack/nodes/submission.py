"""Takes commands to events: decide, append, and decide again when another event came first.

Invariant: a command happens at most once and on the state it was decided on, however many node
processes there are. The stored sequence alone guarantees that; what is kept in memory here only
saves work, and may lag behind:

- an acceptance is proved by the append's compare-and-set, so even an empty state may be tried;
- a duplicate stays one, whatever comes later;
- a refusal is given only on state read after the command came in.
"""

import asyncio
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from uuid import uuid4

from google.protobuf.timestamp_pb2 import Timestamp

from tidegate.devstack.nodes.decision import (
    Accepted,
    AggregateState,
    Command,
    Duplicate,
    StaleStateError,
    VersionMismatch,
    decide,
)
from tidegate.devstack.nodes.event_log import EventLog
from tidegate.devstack.nodes.events import AggregateKey
from tidegate.wire.aggregate.gateway.v1.command_pb2 import Event

_ATTEMPTS = 5


class ContendedError(Exception):
    """Other events kept coming first; nothing was decided."""


@dataclass(frozen=True, slots=True)
class Recorded:
    event: Event
    duplicate: bool


@dataclass(slots=True)
class _Cached:
    state: AggregateState = field(default_factory=AggregateState)
    # Commands on one aggregate queue here instead of defeating each other's compare-and-set.
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Submission:
    def __init__(self, log: EventLog, cached_aggregates: int = 10_000) -> None:
        self._log = log
        self._cached_aggregates = cached_aggregates
        self._cache: OrderedDict[AggregateKey, _Cached] = OrderedDict()

    async def submit(self, key: AggregateKey, command: Command) -> Recorded | VersionMismatch:
        cached = self._cached(key)
        try:
            async with cached.lock:
                return await self._submit(key, cached.state, command)
        except (ContendedError, StaleStateError):
            # Perhaps the log was replaced by another one: forget, so that the next try reads it.
            self._cache.pop(key, None)
            raise

    async def _submit(
        self, key: AggregateKey, state: AggregateState, command: Command
    ) -> Recorded | VersionMismatch:
        current = False
        for _ in range(_ATTEMPTS):
            decision = decide(state, command)
            match decision:
                case Duplicate(sequence):
                    return Recorded(await self._first_event(command, sequence), duplicate=True)
                case VersionMismatch() if current:
                    return decision
                case Accepted():
                    event = _event(decision)
                    stored = await self._log.append(key, event, command.cause, state.last_sequence)
                    if stored is not None:
                        state.apply(stored)
                        return Recorded(event, duplicate=False)
            await self._catch_up(key, state)
            current = True
        raise ContendedError(f"other events came first {_ATTEMPTS} times")

    async def _first_event(self, command: Command, sequence: int) -> Event:
        stored = await self._log.get(sequence)
        if stored is None or stored.cause.command_id != command.cause.command_id:
            raise StaleStateError(f"the event at {sequence} is another one")
        return stored.event

    async def _catch_up(self, key: AggregateKey, state: AggregateState) -> None:
        while events := await self._log.read(key, state.last_sequence):
            for stored in events:
                state.apply(stored)

    def _cached(self, key: AggregateKey) -> _Cached:
        # Dropping one in use is harmless: its commands finish, and the log keeps the order.
        cached = self._cache.get(key)
        if cached is None:
            cached = self._cache[key] = _Cached()
        self._cache.move_to_end(key)
        if len(self._cache) > self._cached_aggregates:
            self._cache.popitem(last=False)
        return cached


def _event(decision: Accepted) -> Event:
    now_s, fraction_ns = divmod(time.time_ns(), 1_000_000_000)
    return Event(
        event_id=str(uuid4()),
        event_type=decision.event_type,
        version=decision.version,
        payload=decision.payload,
        time=Timestamp(seconds=now_s, nanos=fraction_ns),
    )
