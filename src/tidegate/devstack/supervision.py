"""Keeps the parts of a stack running: one that ends is started again, at the same address.

Bounded: a part that cannot be started ten times in a row ends the supervision with its error.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from typing import Protocol

from tidegate.devstack.managed_program import ProgramError
from tidegate.devstack.nats_server import NatsServerError

_ATTEMPTS = 10
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 5.0


class Part(Protocol):
    """Something with a process: a program, or a NATS server."""

    @property
    def pid(self) -> int: ...

    async def restart(self) -> None: ...

    async def wait(self) -> int: ...


def pause_s(failures: int) -> float:
    """How long to wait before a start, after so many that failed in a row."""
    return min(_FIRST_PAUSE_S * 2.0**failures, _LONGEST_PAUSE_S)


def ending(status: int) -> str:
    """How a process ended, in words."""
    if status >= 0:
        return f"exited with {status}"
    return f"was ended by {signal.Signals(-status).name}"


async def keep_running(
    name: str, part: Part, tell: Callable[[str], None], restarted: Callable[[str], None]
) -> None:
    """Restart the part whenever it ends. Raises its error when that keeps failing."""
    while True:
        tell(f"{name} {ending(await part.wait())}")
        await _restart(name, part, tell)
        restarted(name)
        tell(f"{name} runs again as process {part.pid}")


async def _restart(name: str, part: Part, tell: Callable[[str], None]) -> None:
    for failures in range(_ATTEMPTS):
        # The first one waits too: a part that ends as soon as it has started must not spin.
        await asyncio.sleep(pause_s(failures))
        try:
            await part.restart()
        except (ProgramError, NatsServerError, OSError) as error:
            if failures == _ATTEMPTS - 1:
                raise
            tell(f"{name} did not start again: {str(error).partition(';')[0]}")
        else:
            return
