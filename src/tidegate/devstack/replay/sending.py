"""All commands, in lanes.

Invariants: the commands of one aggregate are sent one after the other, in the file's order,
because they share a lane; and however long the file is, only so many commands are in memory.
"""

from __future__ import annotations

import asyncio
import time
from asyncio import Queue
from collections.abc import Awaitable, Callable, Iterable
from zlib import crc32

from tidegate.devstack.replay.rows import Command
from tidegate.devstack.replay.tally import Result

_LANE_DEPTH = 64


async def send_all(
    commands: Iterable[Command],
    send: Callable[[Command], Awaitable[Result]],
    on_result: Callable[[Result], None],
    concurrency: int,
    rate: float | None = None,
) -> None:
    """Send everything, so many at a time, and at most `rate` a second."""
    lanes: list[Queue[Command | None]] = [Queue(_LANE_DEPTH) for _ in range(concurrency)]

    async def drain(lane: Queue[Command | None]) -> None:
        while (command := await lane.get()) is not None:
            on_result(await send(command))

    async with asyncio.TaskGroup() as draining:
        for lane in lanes:
            draining.create_task(drain(lane))
        started = time.monotonic()
        for place, command in enumerate(commands):
            if rate is not None:
                await asyncio.sleep(started + place / rate - time.monotonic())
            await lanes[crc32(command.aggregate_id.encode()) % concurrency].put(command)
        for lane in lanes:
            await lane.put(None)
