"""What the devstack's programs have in common: an address to listen on, logs, and ending well.

A program is a coroutine that serves until it is cancelled and cleans up behind itself. SIGTERM
and SIGINT cancel it once; its clean end is exit status 0.
"""

import argparse
import asyncio
import gc
import logging
import signal
import sys
from collections.abc import Coroutine
from dataclasses import dataclass

import uvloop

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Address:
    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


class FatalError(Exception):
    """Ends a program with its message and exit status 1."""


def address(text: str) -> Address:
    """Parse `HOST:PORT`, as the type of a command-line argument."""
    host, colon, port = text.rpartition(":")
    if not (host and colon and port.isascii() and port.isdecimal() and int(port) < 65536):
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT")
    return Address(host, int(port))


def run(program: Coroutine[None, None, None]) -> None:
    """Run the program until it fails or is told to end."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        uvloop.run(until_signalled(program))
    except (FatalError, OSError) as error:
        _log.critical("%s", error)
        sys.exit(1)
    finally:
        # The interpreter would search everything for garbage once more before it ends.
        gc.freeze()


async def until_signalled(program: Coroutine[None, None, None]) -> None:
    """Run the program; being told to end cancels it, which is then no error."""
    serving = asyncio.ensure_future(program)
    told_to_end = False

    def end(number: signal.Signals) -> None:
        nonlocal told_to_end
        if not told_to_end:
            # Once: a second signal would cancel the cleaning up.
            told_to_end = True
            _log.info("stopping on %s", number.name)
            serving.cancel()

    numbers = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        # Its terminal was closed; under nohup that is no reason to end.
        numbers.append(signal.SIGHUP)
    for number in numbers:
        asyncio.get_running_loop().add_signal_handler(number, end, number)
    try:
        await serving
    except asyncio.CancelledError:
        if not told_to_end:
            raise
