"""A child process that never outlives its parent.

Owns spawning and ending one process. The invariant: when this process is gone, however it went
(`kill -9` included), so is the child. On Linux the kernel sees to it (`die_with_parent`), for as
long as the *thread* that spawned lives, so spawn from the main thread. Elsewhere a shell in the
child's process group holds the read end of a pipe as a leash, and kills the group at its end.
"""

import asyncio
import os
import shutil
import signal
import sys
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Self

from tidegate.devstack import die_with_parent

_LINUX = sys.platform.startswith("linux")

# The shell becomes the child, so the pid is the child's. `kill 0` reaches the group, which cannot
# be someone else's: the shell that sends it is a member.
_ON_LEASH = 'exec 3<&0; (read -r _ <&3; kill -KILL 0) & exec "$@" </dev/null 3<&-'


class Child:
    """A running process in a session of its own.

    Ctrl-C in a terminal therefore reaches only the parent, which stops its children in order.
    """

    def __init__(self, process: asyncio.subprocess.Process, leash: ExitStack) -> None:
        self._process = process
        self._leash = leash

    @classmethod
    async def spawn(
        cls, *argv: str | Path, log: Path | None = None, keep_fds: tuple[int, ...] = ()
    ) -> Self:
        """Start `argv`; its output is appended to `log`, or goes where this process's goes.

        `keep_fds` stay open in the child.
        """
        program = shutil.which(argv[0])
        if program is None:
            raise FileNotFoundError(f"no program {argv[0]}")
        argv = (program, *argv[1:])
        with ExitStack() as spawning, ExitStack() as leash:
            output = spawning.enter_context(log.open("ab")) if log else None
            stdin = asyncio.subprocess.DEVNULL
            if _LINUX:
                argv = (*die_with_parent.command(), *argv)
            else:
                # Not asyncio's PIPE: its wait() would wait for the leash-holding shell too.
                stdin, held = os.pipe()
                spawning.callback(os.close, stdin)
                leash.callback(os.close, held)
                argv = ("/bin/sh", "-c", _ON_LEASH, "sh", *argv)
            process = await asyncio.create_subprocess_exec(
                *argv,
                stdin=stdin,
                stdout=output,
                stderr=output,
                start_new_session=True,
                pass_fds=keep_fds,
            )
            return cls(process, leash.pop_all())

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit status, negative for a signal; None while it runs."""
        return self._process.returncode

    async def wait(self) -> int:
        """Wait for the end of the process and return its exit status."""
        status = await self._process.wait()
        self._leash.close()
        return status

    async def stop(self, grace_s: float) -> int:
        """Ask the process to end, insist after the grace, and return its exit status.

        A cancelled stop insists at once, so it leaves no process either.
        """
        self._send(signal.SIGTERM)
        try:
            async with asyncio.timeout(grace_s):
                return await self.wait()
        except TimeoutError:
            self.kill()
            return await self.wait()
        except asyncio.CancelledError:
            self.kill()
            raise

    def kill(self) -> None:
        """Send SIGKILL. The process is gone once `wait` returns."""
        self._send(signal.SIGKILL)

    def _send(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            self._process.send_signal(number)
