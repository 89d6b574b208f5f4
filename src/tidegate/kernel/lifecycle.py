"""Lifetimes of the long-lived parts.

A service is `async run(ready)`: it calls `ready()` once it does its job and then runs until
it is cancelled. It is ready or it has failed, nothing between; when one fails, the task group
that holds it ends the others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

Ready = Callable[[], None]
Run = Callable[[Ready], Awaitable[None]]


async def start(group: asyncio.TaskGroup, name: str, run: Run) -> asyncio.Task[None]:
    """Starts `run` in `group` and returns once it is ready.

    When it fails before that, `group` ends with its exception, or with RuntimeError when it
    returns without having been ready.
    """
    is_ready = asyncio.Event()

    async def body() -> None:
        await run(is_ready.set)
        if not is_ready.is_set():
            raise RuntimeError(f"{name} ended before it was ready")

    task = group.create_task(body(), name=name)
    waiting = asyncio.create_task(is_ready.wait())
    try:
        await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
    if not is_ready.is_set():
        await task
    return task
