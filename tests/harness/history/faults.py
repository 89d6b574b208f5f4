"""The nemesis: breaks something, waits, mends it, and breaks the next thing.

Owns which faults there are, and that each is in the log from before it was made until after it was
taken away. It never makes a fault that hides another: a party is hit by one at a time, and of the
NATS servers only one at a time, so that a cluster keeps its majority.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass

from harness.history.deployment import Deployment, Lines, Replica
from harness.history.record import Fault, Log, now_s
from harness.proxy import TO_CLIENT, TO_SERVER
from tidegate.devstack.nats_server import NatsServer

_SLOW_S = 0.2
_Making = AbstractAsyncContextManager[None]

# What is done to all connections of one replica to NATS; healing undoes each.
_ON_LINES: dict[str, Callable[[Lines], None]] = {
    "cut": Lines.cut,
    "cut to NATS": lambda lines: lines.cut(TO_SERVER),
    "cut from NATS": lambda lines: lines.cut(TO_CLIENT),
    "slow": lambda lines: lines.delay(_SLOW_S),
    "slow from NATS": lambda lines: lines.delay(_SLOW_S, TO_CLIENT),
    "feed held": Lines.hold_feed,
    "reads late": lambda lines: lines.reads_late(_SLOW_S),
    "reset": Lines.reset,
    "refused": Lines.shut,
}
# What is done to what one NATS server has to the others.
_ON_ROUTES: dict[str, Callable[[Lines], None]] = {
    "routes cut": Lines.cut,
    "routes slow": lambda lines: lines.delay(_SLOW_S),
    "routes reset": Lines.reset,
}
REPLICA_KINDS = (*_ON_LINES, "replica paused", "replica killed", "replica late")
NATS_KINDS = ("NATS paused", "NATS killed")
ROUTE_KINDS = tuple(_ON_ROUTES)


@dataclass(frozen=True, slots=True)
class Plan:
    """Which faults, for how long each, and how long nothing in between."""

    kinds: Sequence[str]
    hold_s: Sequence[float]
    rest_s: float

    @classmethod
    def everything(cls, *, cluster: bool, lease_s: float) -> Plan:
        """All faults: over in no time, well inside the lease, and beyond it."""
        kinds = (*REPLICA_KINDS, *NATS_KINDS, *(ROUTE_KINDS if cluster else ()))
        return cls(kinds, (0.2, 0.5 * lease_s, 1.6 * lease_s), 2.0)


class Nemesis:
    """Makes faults according to a plan. `afflicted` names who is hit just now."""

    def __init__(self, deployment: Deployment, plan: Plan, log: Log, rng: random.Random) -> None:
        self.afflicted: set[str] = set()
        self._deployment = deployment
        self._plan = plan
        self._log = log
        self._rng = rng

    async def run(self, group: asyncio.TaskGroup) -> None:
        """Goes on until cancelled; what is broken then is mended before it ends.

        Replicas that it starts fail `group` when they end by themselves.
        """
        while True:
            await asyncio.sleep(self._rng.uniform(0.5, 1.5) * self._plan.rest_s)
            kind = self._rng.choice(self._plan.kinds)
            target, fault = self._choose(kind, group)
            started_s = now_s()
            try:
                async with fault:
                    await asyncio.sleep(self._rng.choice(self._plan.hold_s))
            finally:
                self._log.faults.append(Fault(kind, target, started_s, now_s()))

    def _choose(self, kind: str, group: asyncio.TaskGroup) -> tuple[str, _Making]:
        """Whom a fault of this kind is to hit, and the making of it."""
        deployment, rng = self._deployment, self._rng
        if kind in _ON_ROUTES:
            place = rng.randrange(len(deployment.routes))
            return f"n{place + 1}", _on(deployment.routes[place], _ON_ROUTES[kind])
        if kind in NATS_KINDS:
            place = rng.randrange(len(deployment.nats))
            do = _paused if kind == "NATS paused" else _killed
            return f"n{place + 1}", do(deployment.nats[place])
        if kind == "replica late":
            spare = deployment.spare
            return spare.name, _late(spare, group, killed=rng.random() < 0.5)
        replica = rng.choice(deployment.replicas)
        if kind == "replica paused":
            return replica.name, self._afflicting(replica, _replica_paused(replica))
        if kind == "replica killed":
            return replica.name, _replica_killed(replica, group)
        return replica.name, self._afflicting(replica, _on(replica.lines, _ON_LINES[kind]))

    @asynccontextmanager
    async def _afflicting(self, replica: Replica, fault: _Making) -> AsyncIterator[None]:
        self.afflicted.add(replica.name)
        try:
            async with fault:
                yield
        finally:
            self.afflicted.discard(replica.name)


@asynccontextmanager
async def _on(lines: Lines, do: Callable[[Lines], None]) -> AsyncIterator[None]:
    do(lines)
    try:
        yield
    finally:
        lines.heal()


@asynccontextmanager
async def _replica_paused(replica: Replica) -> AsyncIterator[None]:
    replica.pause()
    try:
        yield
    finally:
        replica.resume()


@asynccontextmanager
async def _replica_killed(replica: Replica, group: asyncio.TaskGroup) -> AsyncIterator[None]:
    await replica.kill()
    yield
    await replica.start(group)


@asynccontextmanager
async def _late(spare: Replica, group: asyncio.TaskGroup, *, killed: bool) -> AsyncIterator[None]:
    """One more replica, which starts amid all that goes on, and ends again."""
    await spare.start(group)
    try:
        yield
    finally:
        await (spare.kill() if killed else spare.stop())


@asynccontextmanager
async def _paused(server: NatsServer) -> AsyncIterator[None]:
    os.kill(server.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(server.pid, signal.SIGCONT)


@asynccontextmanager
async def _killed(server: NatsServer) -> AsyncIterator[None]:
    server.kill()
    await server.wait()
    try:
        yield
    finally:
        await server.restart()
