"""The HTTP listener: uvicorn as a service of ours, which ends when we say so."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import uvicorn

from tidegate.edge.http.asgi import Application
from tidegate.edge.http.settings import Settings
from tidegate.kernel.lifecycle import Ready

_LINGER_S = 1.0
_LINGER_POLL_S = 0.02


class _Server(uvicorn.Server):
    """Says when it listens, and leaves the process's signals alone."""

    def __init__(self, config: uvicorn.Config, ready: Ready) -> None:
        super().__init__(config)
        self._ready = ready
        self.servers = []

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Takes no new connections, and lets the open ones bring what is on its way.

        An open connection that looks idle may have a request in the wire: closed now, it would
        be reset. While draining every answer closes its connection, so most end by themselves.
        """
        await self._stop_accepting(sockets or [])
        waited_s = 0.0
        while self.server_state.connections and waited_s < _LINGER_S:
            await asyncio.sleep(_LINGER_POLL_S)
            waited_s += _LINGER_POLL_S
        await super().shutdown()

    async def _stop_accepting(self, sockets: list[socket.socket]) -> None:
        """Closes the listening sockets, and serves who is in their queue.

        The kernel has answered those already: closing on them would reset them.
        """
        kept = [listening.dup() for listening in sockets]
        for server in self.servers:
            server.close()
        waiting: list[socket.socket] = []
        for listening in kept:
            listening.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    waiting.append(listening.accept()[0])
            listening.close()
        for listening in sockets:
            listening.close()
        loop = asyncio.get_running_loop()
        for connection in waiting:
            with contextlib.suppress(OSError):
                await loop.connect_accepted_socket(self._protocol, connection)

    def _protocol(self) -> asyncio.Protocol:
        made: asyncio.Protocol = self.config.http_protocol_class(  # type: ignore[call-arg]
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        return made

    def abort(self) -> None:
        """Ends everything at once, answered or not."""
        for listening in self.servers:
            listening.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        for task in list(self.server_state.tasks):
            task.cancel()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class HttpListener:
    """Serves `application` until `stop()`, then finishes what is in flight."""

    def __init__(
        self, application: Application, settings: Settings, finish_within_s: float
    ) -> None:
        self._application = application
        self._settings = settings
        self._finish_within_s = finish_within_s
        self._server: _Server | None = None

    async def run(self, ready: Ready) -> None:
        """Raises OSError when the address cannot be had."""
        settings = self._settings
        family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
        with socket.create_server((settings.host, settings.port), family=family, backlog=2048) as s:
            # Connections inherit it. asyncio sets it only on sockets that name their protocol,
            # which this one does not, and an answer would then wait 40 ms for its second half.
            s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            config = uvicorn.Config(
                self._application,
                loop="none",
                http="httptools",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=settings.idle_timeout_s,
                timeout_graceful_shutdown=max(1, round(self._finish_within_s)),
            )
            self._server = _Server(config, ready)
            try:
                await self._server.serve(sockets=[s])
            except asyncio.CancelledError:
                # uvicorn cleans up only when it ends by itself; the event loop must not go on
                # watching a socket whose number another one will get.
                self._server.abort()
                raise

    def stop(self) -> None:
        """Stops accepting; `run` returns once what is in flight is finished."""
        if self._server is not None:
            self._server.should_exit = True
