"""Replicas without their HTTP: feeds, lease and barrier, several of them in one process.

Each has its own connection through its own proxy, so one can be cut off and the others not, and
its own clock for leases, which stands still unless it is told otherwise: how long a test takes
decides nothing. Feeds live by the machine's clock.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Protocol
from urllib.parse import urlsplit

from harness.following import Memory, State
from harness.lossy import LossyConnection
from harness.proxy import FaultProxy
from tidegate.kernel.clock import Clock, SystemClock
from tidegate.kernel.lifecycle import Run
from tidegate.store.barrier import Barrier, Confirmations
from tidegate.store.bucket import Bucket
from tidegate.store.connection import connect
from tidegate.store.follower import Follower
from tidegate.store.lease import Lease
from tidegate.store.replicas import ReplicaView
from tidegate.store.settings import LeaseSettings, Settings
from tidegate.store.views import Progress

TTL_S = 1.0
BUCKETS = ("iam", "routing")
_DEADLINE_S = 30
_REQUEST_TIMEOUT_S = 1.0
_COMMIT_DEADLINE_S = 5.0


class StandingClock:
    """A clock that moves only when it is told to."""

    def __init__(self) -> None:
        self.time_s = 1_000_000.0

    def advance(self, seconds: float) -> None:
        self.time_s += seconds

    def now_s(self) -> float:
        return self.time_s

    def monotonic_s(self) -> float:
        return self.time_s

    def boottime_s(self) -> float:
        return self.time_s


class StoreReplica:
    """What `app.State` is made of, less the domain: it follows kind `k` of both buckets."""

    def __init__(
        self,
        group: asyncio.TaskGroup,
        connection: LossyConnection,
        proxy: FaultProxy,
        settings: LeaseSettings,
        clock: Clock,
    ) -> None:
        self.connection = connection
        self.proxy = proxy
        self.clock = clock
        self.replicas = ReplicaView(clock)
        feed_clock = SystemClock()
        self.progress = {name: Progress(feed_clock) for name in BUCKETS}
        self.lease = Lease(connection, self.replicas, self.progress, settings, clock)
        self.barrier = Barrier(connection, self.lease, self.replicas, self.progress, clock)
        self.buckets = {
            name: Bucket(connection, name, self.progress[name], _COMMIT_DEADLINE_S, self.barrier)
            for name in BUCKETS
        }
        self._memory = {name: Memory(["k"], lambda _: None) for name in BUCKETS}
        feeds = {
            name: Follower(
                connection,
                name,
                [self._memory[name], *([self.replicas] if name == "iam" else [])],
                self.progress[name],
                feed_clock,
            )
            for name in BUCKETS
        }
        confirmations = Confirmations(connection, self.lease.confirms_on, self.progress)
        self._runs: dict[str, Run] = {
            "iam": feeds["iam"].run,
            "routing": feeds["routing"].run,
            "confirmations": confirmations.run,
            "lease": self.lease.run,
        }
        self._group = group
        self._tasks: dict[str, asyncio.Task[None]] = {}

    @property
    def iam(self) -> Bucket:
        return self.buckets["iam"]

    def state(self, bucket: str = "iam") -> State:
        return self._memory[bucket].state

    async def start(self, *names: str) -> None:
        """Start parts and wait until they are ready: feeds by bucket, confirmations, lease."""
        for name in names:
            ready = self.begin(name)
            async with asyncio.timeout(_DEADLINE_S):
                await ready.wait()

    def begin(self, name: str) -> asyncio.Event:
        """Start a part; the event says when it is ready."""
        ready = asyncio.Event()

        async def run() -> None:
            await self._runs[name](ready.set)

        self._tasks[name] = self._group.create_task(run(), name=name)
        return ready

    async def stop(self, *names: str) -> None:
        """Stop parts at once, as if their tasks had hung."""
        tasks = [self._tasks.pop(name) for name in names if name in self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def leave(self) -> None:
        """Stop in order: the lease is given back."""
        await self.stop("lease")
        await self.lease.release()
        await self.stop(*self._tasks)

    async def die(self) -> None:
        """Stop without a word: the lease entry stays."""
        await self.stop(*self._tasks)


class BeginReplica(Protocol):
    """Starts a replica and returns it once its lease holds; without `lease`, before it asks."""

    async def __call__(
        self,
        *,
        lease: bool = True,
        ttl_s: float = TTL_S,
        serve_beyond_s: float = 0.0,
        clock: Callable[[], Clock] = StandingClock,
    ) -> StoreReplica: ...


@asynccontextmanager
async def store_replicas(nats_url: str) -> AsyncIterator[BeginReplica]:
    """What starts replicas. They end with the block; when a part failed, so does the block."""
    async with AsyncExitStack() as stack, asyncio.TaskGroup() as group:
        began: list[StoreReplica] = []

        async def begin(
            *,
            lease: bool = True,
            ttl_s: float = TTL_S,
            serve_beyond_s: float = 0.0,
            clock: Callable[[], Clock] = StandingClock,
        ) -> StoreReplica:
            port = urlsplit(nats_url).port or 0
            proxy = await stack.enter_async_context(FaultProxy(port))
            settings = Settings(
                servers=(nats_url.replace(f":{port}", f":{proxy.port}"),),
                replicas=1,
                request_timeout_s=_REQUEST_TIMEOUT_S,
            )
            connection = await stack.enter_async_context(connect(settings, "test"))
            lease_settings = LeaseSettings(ttl_s=ttl_s, serve_beyond_s=serve_beyond_s)
            replica = StoreReplica(
                group, LossyConnection(connection), proxy, lease_settings, clock()
            )
            began.append(replica)
            await replica.start("iam", "routing", "confirmations", *(["lease"] if lease else []))
            return replica

        yield begin
        for replica in began:
            await replica.die()
