"""One of the stack's programs, at a fixed address: started and found answering in one step.

Invariant: a program that is started answers; one that failed to start has left no process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp

from tidegate.devstack.child import Child

_START_DEADLINE_S = 30.0
_PROBE_TIMEOUT_S = 2.0
_POLL_S = 0.02
_LOG_TAIL_LINES = 15


class ProgramError(Exception):
    """A program could not be started, or failed; the message shows the end of its log."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to run a program, and how to see that it answers.

    A probe is an `http://` address that must answer 200, or a `tcp://` one that must accept.
    """

    name: str
    argv: Sequence[str | Path]
    log: Path
    probes: Sequence[str]
    stop_grace_s: float


class ManagedProgram:
    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self._child: Child | None = None

    @property
    def name(self) -> str:
        return self._recipe.name

    @property
    def pid(self) -> int:
        return self._running().pid

    async def start(self) -> None:
        """Return once the program answers. Raises ProgramError."""
        child = await Child.spawn(*self._recipe.argv, log=self._recipe.log)
        self._child = child
        try:
            async with asyncio.timeout(_START_DEADLINE_S):
                await self._wait_answering(child)
        except TimeoutError as error:
            await self._discard()
            raise self._error(f"did not answer within {_START_DEADLINE_S:.0f} s") from error
        except BaseException:
            await self._discard()
            raise

    async def restart(self) -> None:
        """Stop if running, then start again at the same address. Raises ProgramError."""
        await self.stop()
        await self.start()

    async def wait(self) -> int:
        """Wait for the end of the process and return its exit status."""
        return await self._running().wait()

    async def stop(self) -> None:
        """End the program; does nothing when that is so already."""
        if self._child is not None:
            await self._child.stop(self._recipe.stop_grace_s)
            self._child = None

    def _running(self) -> Child:
        if self._child is None:
            raise ProgramError(f"{self.name} is not running")
        return self._child

    async def _discard(self) -> None:
        if self._child is not None:
            self._child.kill()
            await self._child.wait()
            self._child = None

    async def _wait_answering(self, child: Child) -> None:
        timeout = aiohttp.ClientTimeout(total=_PROBE_TIMEOUT_S)
        async with aiohttp.ClientSession(timeout=timeout) as http:
            for probe in self._recipe.probes:
                while not await _answers(http, probe):
                    if child.returncode is not None:
                        raise self._error(f"exited with {child.returncode} while starting")
                    await asyncio.sleep(_POLL_S)

    def _error(self, what: str) -> ProgramError:
        return ProgramError(f"{self.name} {what}; {_log_tail(self._recipe.log)}")


def _log_tail(log: Path) -> str:
    """The end of a log, for an error message: its folder may be gone when that is read."""
    lines = log.read_text(errors="replace").splitlines()[-_LOG_TAIL_LINES:]
    return "its log ends with:\n" + "\n".join(f"  {line}" for line in lines)


async def _answers(http: aiohttp.ClientSession, probe: str) -> bool:
    try:
        address = urlsplit(probe)
        if address.scheme == "tcp":
            _, writer = await asyncio.open_connection(address.hostname, address.port)
            writer.close()
            await writer.wait_closed()
            return True
        async with http.get(probe) as answer:
            return answer.status == 200
    except (OSError, aiohttp.ClientError, TimeoutError):
        return False
