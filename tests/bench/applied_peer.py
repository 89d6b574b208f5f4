"""The other replica of `commit_to_applied`, as a process: it notes when it has applied what.

It follows bucket `iam` with the views of a replica. "ready" on standard output once it is there.
Then standard input names the last revision, and ends; when that is applied, it prints
`[[revision, time in ns], …]`, by the clock that all processes of a machine share.
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

import orjson
import uvloop

from tidegate import config
from tidegate.app import Views, read_keys
from tidegate.config import Settings
from tidegate.kernel.clock import Clock, SystemClock
from tidegate.kernel.lifecycle import start
from tidegate.principals.view import Principals
from tidegate.store.connection import connect
from tidegate.store.follower import Follower
from tidegate.store.views import Progress

_PATIENCE_S = 30


class _Noting(Progress):
    """Progress that remembers when each revision was reached."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self.noted: list[tuple[int, int]] = []

    def reached(self, revision: int) -> None:
        self.noted.append((revision, time.monotonic_ns()))
        super().reached(revision)


async def follow(settings: Settings) -> None:
    clock = SystemClock()
    progress = _Noting(clock)
    views = Views.empty(read_keys(settings), clock)
    async with connect(settings.nats, "bench peer") as connection, asyncio.TaskGroup() as group:
        principals = Principals(connection, progress, lambda: "", settings.principals)
        follower = Follower(
            connection, "iam", views.of_iam(), progress, clock, on_demand=principals.views
        )
        following = await start(group, "feed", follower.run)
        print("ready", flush=True)
        last = int(await asyncio.to_thread(sys.stdin.read) or 0)
        if not await progress.wait_for(last, _PATIENCE_S):
            raise RuntimeError(f"revision {last} did not come")
        sys.stdout.buffer.write(orjson.dumps(progress.noted))
        following.cancel()


if __name__ == "__main__":
    uvloop.run(follow(config.load(Path(sys.argv[1]))))
