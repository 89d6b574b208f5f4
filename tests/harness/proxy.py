"""A TCP proxy that does to a connection what networks do: cut it, slow it, reset it.

It stands on 127.0.0.1 in the test's own event loop. Invariants
- What passes, passes in order and unchanged. Nothing is lost except by `hold_feed` and with a
  connection that was reset.
- Everything held is bounded. When a lane is full the proxy stops reading, and the sender feels
  the back-pressure that it would feel in front of a stalled network.
- The end of a connection waits behind the bytes before it: through a cut cable nobody learns
  that the other side has gone.
"""

from __future__ import annotations

import asyncio
import enum
import socket
import struct
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from harness.nats_frames import Frames, is_feed, is_read

_HOST = "127.0.0.1"
_CHUNK_BYTES = 64 * 1024
_CHUNKS_HELD = 64
_MOST_CONNECTIONS = 256
# Linger for no time: closing sends a reset and throws away what was not sent yet.
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Direction(enum.Flag):
    TO_SERVER = enum.auto()
    TO_CLIENT = enum.auto()
    BOTH = TO_SERVER | TO_CLIENT


TO_SERVER, TO_CLIENT, BOTH = Direction.TO_SERVER, Direction.TO_CLIENT, Direction.BOTH


class _Ending(enum.Enum):
    CLOSED = enum.auto()
    RESET = enum.auto()


class _Way:
    """What becomes of the bytes of one direction, for all connections."""

    def __init__(self) -> None:
        self._cut = False
        self._delay_s = 0.0
        self._changed = asyncio.Event()

    def set(self, *, cut: bool | None = None, delay_s: float | None = None) -> None:
        self._cut = self._cut if cut is None else cut
        self._delay_s = self._delay_s if delay_s is None else delay_s
        self._changed.set()
        self._changed = asyncio.Event()

    async def wait_passable(self, arrived_s: float) -> None:
        """Wait until what arrived at `arrived_s` on the loop's clock may go on."""
        while True:
            changed, rest_s = self._changed, None
            if not self._cut:
                rest_s = arrived_s + self._delay_s - asyncio.get_running_loop().time()
                if rest_s <= 0:
                    return
            with suppress(TimeoutError):
                async with asyncio.timeout(rest_s):
                    await changed.wait()


class _Lane:
    """One direction of one connection."""

    def __init__(
        self, way: _Way, source: asyncio.StreamReader, target: asyncio.StreamWriter
    ) -> None:
        self._way = way
        self._source = source
        self._target = target
        self._held: asyncio.Queue[tuple[float, bytes | _Ending]] = asyncio.Queue(_CHUNKS_HELD)

    def passing(self, chunk: bytes) -> bytes:
        """What of the next chunk goes on now."""
        return chunk

    async def run(self) -> None:
        """Pass everything on, the end of the connection included."""
        async with asyncio.TaskGroup() as group:
            taking_in = group.create_task(self._take_in())
            await self._pass_on()
            taking_in.cancel()

    async def _take_in(self) -> None:
        clock = asyncio.get_running_loop().time
        ending = _Ending.CLOSED
        try:
            while chunk := await self._source.read(_CHUNK_BYTES):
                await self._held.put((clock(), chunk))
        except OSError:
            ending = _Ending.RESET
        await self._held.put((clock(), ending))

    async def _pass_on(self) -> None:
        # An error means that the target has gone; its own lane tells the other side.
        with suppress(OSError):
            while True:
                arrived_s, item = await self._held.get()
                await self._way.wait_passable(arrived_s)
                if item is _Ending.CLOSED:
                    self._target.write_eof()
                    return
                if item is _Ending.RESET:
                    _reset(self._target)
                    return
                self._target.write(self.passing(item))
                await self._target.drain()


@dataclass(slots=True)
class _Picking:
    """What is done to some messages and not to others."""

    feed_held: bool = False
    reads_late_s: float = 0.0


class _FeedLane(_Lane):
    """From a NATS server to its client: whole protocol frames, so that some can be picked out."""

    def __init__(
        self,
        way: _Way,
        source: asyncio.StreamReader,
        target: asyncio.StreamWriter,
        picking: _Picking,
    ) -> None:
        super().__init__(way, source, target)
        self._picking = picking
        self._frames = Frames()

    def passing(self, chunk: bytes) -> bytes:
        frames = self._frames.feed(chunk)
        if self._picking.feed_held:
            frames = [frame for frame in frames if not is_feed(frame)]
        late_s = self._picking.reads_late_s
        if late_s > 0:
            late = b"".join([frame for frame in frames if is_read(frame)])
            frames = [frame for frame in frames if not is_read(frame)]
            if late:
                asyncio.get_running_loop().call_later(late_s, self._pass_late, late)
        return b"".join(frames)

    def _pass_late(self, late: bytes) -> None:
        # Whole frames, which are written at once, may come between any others.
        if not self._target.is_closing():
            self._target.write(late)


class FaultProxy:
    """Listens on `port` and passes everything to `target_port`, less the faults that are set.

    With `client_protocol` off it may stand before anything, a cluster route for instance; only
    `hold_feed` and `reads_late` need to know where a NATS server's messages begin and end.
    """

    def __init__(self, target_port: int, *, client_protocol: bool = True) -> None:
        self.port = 0
        self.target_port = target_port
        self._client_protocol = client_protocol
        self._ways = {TO_SERVER: _Way(), TO_CLIENT: _Way()}
        self._picking = _Picking()
        self._refusing = False
        self._open: set[asyncio.StreamWriter] = set()
        self._serving: set[asyncio.Task[None]] = set()
        self._running = AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as entering:
            group = await entering.enter_async_context(asyncio.TaskGroup())
            entering.callback(self._end_all)

            def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                if self._refusing or len(self._serving) >= _MOST_CONNECTIONS:
                    _reset(writer)
                    return
                task = group.create_task(self._serve(reader, writer))
                self._serving.add(task)
                task.add_done_callback(self._serving.discard)

            server = await asyncio.start_server(accepted, _HOST, self.port)
            entering.callback(server.close)
            self.port = server.sockets[0].getsockname()[1]
            self._running = entering.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._running.__aexit__(kind, error, trace)

    def cut(self, direction: Direction = BOTH) -> None:
        """Hold back the bytes of `direction`. Connections stay; new ones stay mute."""
        for each in direction:
            self._ways[each].set(cut=True)

    def delay(self, seconds: float, direction: Direction = BOTH) -> None:
        """Let each byte of `direction` arrive so much later; throughput stays as it is."""
        for each in direction:
            self._ways[each].set(delay_s=seconds)

    def hold_feed(self) -> None:
        """Drop what JetStream consumers deliver to the client, heartbeats included.

        Everything else passes: acknowledgements of publishes, answers of the API and of direct
        gets, core messages.
        """
        if not self._client_protocol:
            raise ValueError("this proxy does not look into what it passes on")
        self._picking.feed_held = True

    def reads_late(self, seconds: float) -> None:
        """Let answers to direct gets come so much later, and be overtaken by everything else.

        So they come from a server that is slow, when another one delivers the feed.
        """
        if not self._client_protocol:
            raise ValueError("this proxy does not look into what it passes on")
        self._picking.reads_late_s = seconds

    def refuse(self, refusing: bool = True) -> None:
        """Reset new connections as soon as they are made; the ones there are stay."""
        self._refusing = refusing

    def reset(self) -> None:
        """End all connections with a reset, on both sides."""
        for writer in list(self._open):
            _reset(writer)

    def heal(self) -> None:
        """Take every fault away; what was held back is delivered, what was dropped is not."""
        self._refusing = False
        self._picking.feed_held, self._picking.reads_late_s = False, 0.0
        for way in self._ways.values():
            way.set(cut=False, delay_s=0.0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        now_s = asyncio.get_running_loop().time()
        async with AsyncExitStack() as closing:
            closing.push_async_callback(self._close, writer)
            self._open.add(writer)
            # A cut cable does not carry the opening of a connection either.
            await self._ways[TO_SERVER].wait_passable(now_s)
            try:
                server_reader, server_writer = await asyncio.open_connection(
                    _HOST, self.target_port
                )
            except OSError:
                return
            closing.push_async_callback(self._close, server_writer)
            self._open.add(server_writer)
            if writer.transport.is_closing():
                return  # `reset` came while the other half was being made.
            async with asyncio.TaskGroup() as lanes:
                lanes.create_task(_Lane(self._ways[TO_SERVER], reader, server_writer).run())
                lanes.create_task(self._lane_to_client(server_reader, writer).run())
            for ended in (writer, server_writer):
                with suppress(OSError):
                    ended.close()
                    await ended.wait_closed()

    def _lane_to_client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> _Lane:
        way = self._ways[TO_CLIENT]
        if self._client_protocol:
            return _FeedLane(way, reader, writer, self._picking)
        return _Lane(way, reader, writer)

    async def _close(self, writer: asyncio.StreamWriter) -> None:
        self._open.discard(writer)
        _reset(writer)
        with suppress(OSError):
            await writer.wait_closed()

    def _end_all(self) -> None:
        for task in self._serving:
            task.cancel()


def _reset(writer: asyncio.StreamWriter) -> None:
    raw: socket.socket = writer.get_extra_info("socket")
    # asyncio's transports do not bear to be aborted once they are closed.
    if raw.fileno() != -1:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        writer.transport.abort()
