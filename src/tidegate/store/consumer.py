"""One ephemeral push consumer: deliveries in order, or an error.

Invariant: between opening and `FeedBroken`, every message that the consumer was asked for has
been handed on exactly once and in order. Whatever puts that in doubt (a skipped delivery, a
heartbeat that counts more than arrived, silence, a reconnect) breaks it for good; the owner
opens another. Flow control is answered; nothing is acknowledged.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from nats.aio.msg import Msg

from tidegate.kernel.clock import Clock
from tidegate.store.connection import Connection, StoreError
from tidegate.store.reading import Stored

HEARTBEAT_S = 1.0
SILENCE_S = 2.5
_ABANDONED_S = 10
_NS = 1_000_000_000


class FeedBroken(StoreError):
    """This consumer cannot be trusted any more; the message is one word or two that say why."""


@dataclass(frozen=True, slots=True)
class Delivered:
    """A message that a consumer delivers; `pending` more are to come after it."""

    stored: Stored
    pending: int


class Consumer:
    """Hands each delivery to `on_delivered`, and each proof of idleness to `on_idle`.

    `on_idle` gets the stream sequence up to which there is nothing left to deliver. Both are
    synchronous, so that what they do is done before the next message is looked at.
    """

    def __init__(
        self,
        connection: Connection,
        stream: str,
        clock: Clock,
        on_delivered: Callable[[Delivered], None],
        on_idle: Callable[[int], None],
        create_within_s: float | None = None,
    ) -> None:
        self._create_within_s = create_within_s
        self._connection = connection
        self._stream = stream
        self._clock = clock
        self._on_delivered = on_delivered
        self._on_idle = on_idle
        self._count = 0
        self._heard_s = clock.boottime_s()
        self._disturbed = asyncio.Event()
        self._reason: Exception | None = None
        self._finished = False

    @asynccontextmanager
    async def open(
        self, policy: Mapping[str, Any], subjects: list[str], heartbeat_s: float = HEARTBEAT_S
    ) -> AsyncIterator[None]:
        """Consumes for the length of the block.

        Raises the errors of `Connection.api`.
        """
        inbox = self._connection.new_inbox()
        name = f"follower-{secrets.token_hex(8)}"
        config = {
            "name": name,
            "deliver_subject": inbox,
            "ack_policy": "none",
            "flow_control": True,
            "idle_heartbeat": int(heartbeat_s * _NS),
            "inactive_threshold": _ABANDONED_S * _NS,
            "filter_subjects": subjects,
            "mem_storage": True,
            "num_replicas": 1,
            **policy,
        }
        with self._connection.reconnects(lambda: self.doubt("reconnect")):
            async with self._connection.subscription(inbox, self._receive):
                await self._connection.api(
                    f"CONSUMER.CREATE.{self._stream}.{name}",
                    {"stream_name": self._stream, "config": config},
                    self._create_within_s,
                )
                self._heard_s = self._clock.boottime_s()
                try:
                    yield
                finally:
                    await self._delete(name)

    async def until_finished(self) -> None:
        """Returns after `finish()`. Raises FeedBroken when the consumer breaks before.

        Raises what `on_delivered` or `on_idle` raised.
        """
        while not self._finished:
            if self._reason is not None:
                raise self._reason
            silent_s = self._clock.boottime_s() - self._heard_s
            if silent_s >= SILENCE_S:
                raise FeedBroken("silence")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SILENCE_S - silent_s):
                    await self._disturbed.wait()

    def finish(self) -> None:
        """Ends `until_finished`: all that was wanted has come."""
        self._finished = True
        self._disturbed.set()

    def doubt(self, reason: str) -> None:
        """Breaks it: somebody knows that it is not to be trusted."""
        self._break(FeedBroken(reason))

    def _break(self, reason: Exception) -> None:
        if self._reason is None:
            self._reason = reason
        self._disturbed.set()

    async def _receive(self, message: Msg) -> None:
        if self._reason is not None or self._finished:
            return
        now_s = self._clock.boottime_s()
        if now_s - self._heard_s >= SILENCE_S:
            # After a sleep, what waited in a buffer says how things were before it.
            self.doubt("silence")
            return
        self._heard_s = now_s
        headers = message.headers or {}
        try:
            if headers.get("Status") == "100":
                await self._control(message.reply, headers)
            else:
                self._delivered(message, headers)
        except Exception as exc:  # noqa: BLE001
            # Whatever it is: the client library would drop it, and the message with it.
            self._break(exc)

    def _delivered(self, message: Msg, headers: Mapping[str, str]) -> None:
        tokens = message.reply.split(".")
        # $JS.ACK.<stream>.<consumer>.<tries>.<stream seq>.<consumer seq>.<time>.<pending>, or
        # with <domain>.<account> before the stream and a random token at the end.
        at = 5 if len(tokens) == 9 else 7
        try:
            sequence, count, pending = int(tokens[at]), int(tokens[at + 1]), int(tokens[at + 3])
        except (ValueError, IndexError) as exc:
            raise FeedBroken("unreadable delivery") from exc
        if count != self._count + 1:
            raise FeedBroken("gap")
        self._count = count
        stored = Stored(message.subject, message.data, headers, sequence)
        self._on_delivered(Delivered(stored, pending))

    async def _control(self, reply: str, headers: Mapping[str, str]) -> None:
        stalled = headers.get("Nats-Consumer-Stalled")
        if reply or stalled:
            await self._connection.publish(reply or stalled or "")
            return
        try:
            count, sequence = int(headers["Nats-Last-Consumer"]), int(headers["Nats-Last-Stream"])
        except (ValueError, KeyError) as exc:
            raise FeedBroken("unreadable heartbeat") from exc
        if count != self._count:
            raise FeedBroken("gap")
        self._on_idle(sequence)

    async def _delete(self, name: str) -> None:
        if not self._connection.connected:
            return
        try:
            await self._connection.publish(f"$JS.API.CONSUMER.DELETE.{self._stream}.{name}")
        except StoreError:
            return  # It ends by itself: the server drops consumers that nobody listens to.
