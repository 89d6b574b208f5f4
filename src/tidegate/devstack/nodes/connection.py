"""A node's connection to NATS: it tries for ever, and it never buffers.

A write that cannot be sent now fails now: a buffered one would be sent after the reconnect,
although its caller was told that it failed. What trying again cannot mend (the server turns the
node away) fails the node itself, for whoever runs it to see.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit

import nats
from nats.aio.client import Client

from tidegate.devstack.program import FatalError

_START_DEADLINE_S = 10.0
_CLOSE_DEADLINE_S = 0.5
# What tells our own cancellation from another.
_TURNED_AWAY = "turned away by NATS"
_log = logging.getLogger(__name__)

OnChange = Callable[[bool], Awaitable[None]]


class NatsLostError(FatalError):
    """No NATS server lets the node in."""


@asynccontextmanager
async def connected(
    urls: Sequence[str], name: str, on_change: OnChange | None = None
) -> AsyncIterator[Client]:
    """Connect as `name` to any of the servers of one cluster.

    `on_change` hears whether the connection is there when that changes.
    """
    watch = _Watch(urls, on_change)
    try:
        async with asyncio.timeout(_START_DEADLINE_S):
            client = await nats.connect(
                list(urls),
                name=name,
                connect_timeout=2,
                reconnect_time_wait=0.1,
                max_reconnect_attempts=-1,
                pending_size=0,
                ping_interval=5,
                max_outstanding_pings=2,
                error_cb=watch.failed,
                disconnected_cb=watch.disconnected,
                reconnected_cb=watch.reconnected,
                closed_cb=watch.closed,
            )
    except TimeoutError as error:
        raise NatsLostError(f"no NATS server at {watch.address}: {watch.last_error}") from error
    try:
        yield client
    except asyncio.CancelledError as cancelled:
        if cancelled.args != (_TURNED_AWAY,):
            raise
        raise NatsLostError(
            f"NATS at {watch.address} turned the node away: {client.last_error}"
        ) from None
    finally:
        watch.ended = True
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_DEADLINE_S):
                await client.close()


class _Watch:
    """Logs what happens to the connection, a line per event and not per attempt."""

    def __init__(self, urls: Sequence[str], on_change: OnChange | None) -> None:
        # Without the passwords.
        self.address = ", ".join(urlsplit(url).netloc.rpartition("@")[2] for url in urls)
        self.last_error = ""
        self.ended = False
        self._on_change = on_change
        self._serving = asyncio.current_task()

    async def failed(self, error: Exception) -> None:
        if repr(error) != self.last_error:
            self.last_error = repr(error)
            _log.warning("NATS at %s: %s", self.address, self.last_error)

    async def disconnected(self) -> None:
        await self._changed(up=False)

    async def reconnected(self) -> None:
        await self._changed(up=True)

    async def closed(self) -> None:
        # The client has given up for good, and a node without NATS is of no use.
        if not self.ended and self._serving is not None:
            self._serving.cancel(_TURNED_AWAY)

    async def _changed(self, *, up: bool) -> None:
        if self.ended:
            return
        self.last_error = ""
        _log.warning("NATS at %s is %s", self.address, "back" if up else "away")
        if self._on_change is not None:
            await self._on_change(up)
