"""Follows a stream from its first message on, in order, through restarts of the server.

Invariant: the messages handed on are the stream's, each once and in order, up to `position`. The
server-side consumer is trusted only as long as nothing is missing and it is not silent; then it
is left behind and another one made after `position`. (The client library's ordered consumer was
seen to stall for 10 to 20 s after a server restart.)
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy, Header, StreamInfo
from nats.js.errors import NotFoundError

_HEARTBEAT_S = 0.5
_SILENCE_S = 1.5
_RETRY_S = 0.2
_ABANDONED_S = 5.0
_TIMEOUT_S = 1.0
_log = logging.getLogger(__name__)


class ConsumerBrokenError(Exception):
    """This consumer missed something or fell silent."""


class Follower:
    """Hands each message to `on_message`, and calls `on_reset` when the stream is another one."""

    def __init__(
        self,
        client: Client,
        stream: str,
        on_message: Callable[[int, Msg], None],
        on_reset: Callable[[], None],
    ) -> None:
        self._client = client
        self._js = client.jetstream(timeout=_TIMEOUT_S)
        self._stream = stream
        self._on_message = on_message
        self._on_reset = on_reset
        self._created: object = None
        # What was stored when following began; None until that is known.
        self._target: int | None = None
        self._moved = asyncio.Event()
        self.position = 0

    @property
    def caught_up(self) -> bool:
        """Whether everything that was there at the start has been handed on."""
        return self._target is not None and self.position >= self._target

    async def wait_for(self, position: int) -> None:
        """Return once everything up to `position` was handed on; the caller bounds the wait."""
        while self.position < position:
            await self._moved.wait()

    async def run(self) -> None:
        """Follow until cancelled. Raises only what `on_message` raises."""
        while True:
            if self._client.is_connected:
                try:
                    await self._follow()
                except NotFoundError:
                    # No stream yet: nothing has happened.
                    self._target = self._target or 0
                except (NatsError, TimeoutError, ConsumerBrokenError) as error:
                    _log.info("following %s anew: %r", self._stream, error)
            await asyncio.sleep(_RETRY_S)

    async def _follow(self) -> None:
        """One consumer's life, which ends by an exception."""
        self._recognise(await self._js.stream_info(self._stream))
        deliveries = _Deliveries(self._client, self._advance)
        inbox = self._client.new_inbox()
        subscription = await self._client.subscribe(inbox, cb=deliveries.take)
        try:
            await self._js.add_consumer(
                self._stream,
                ConsumerConfig(
                    deliver_subject=inbox,
                    deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
                    opt_start_seq=self.position + 1,
                    ack_policy=AckPolicy.NONE,
                    idle_heartbeat=_HEARTBEAT_S,
                    flow_control=True,
                    inactive_threshold=_ABANDONED_S,
                    mem_storage=True,
                    num_replicas=1,
                ),
            )
            await deliveries.wait_broken()
        finally:
            # The server drops a consumer that nobody listens to.
            await subscription.unsubscribe()

    def _recognise(self, info: StreamInfo) -> None:
        if self._created not in {None, info.created}:
            _log.warning("%s is another stream than before: starting over", self._stream)
            self.position = 0
            self._on_reset()
        self._created = info.created
        if self._target is None:
            self._target = info.state.last_seq

    def _advance(self, sequence: int, message: Msg) -> None:
        self._on_message(sequence, message)
        self.position = sequence
        self._moved.set()
        self._moved = asyncio.Event()


class _Deliveries:
    """What one consumer sends, for as long as nothing is missing."""

    def __init__(self, client: Client, on_message: Callable[[int, Msg], None]) -> None:
        self._client = client
        self._on_message = on_message
        self._clock = asyncio.get_running_loop().time
        self._count = 0
        self._heard_at_s = self._clock()
        self._failure: Exception | None = None
        self._failed = asyncio.Event()

    async def wait_broken(self) -> None:
        """Wait for a reason to give this consumer up, and raise it."""
        while self._failure is None:
            left_s = self._heard_at_s + _SILENCE_S - self._clock()
            if left_s <= 0:
                raise ConsumerBrokenError("silence")
            with suppress(TimeoutError):
                async with asyncio.timeout(left_s):
                    await self._failed.wait()
        raise self._failure

    async def take(self, message: Msg) -> None:
        self._heard_at_s = self._clock()
        if self._failure is not None:
            return
        try:
            if message.headers and message.headers.get(Header.STATUS) == "100":
                await self._control(message.reply, message.headers)
            else:
                self._deliver(message)
        except Exception as error:  # noqa: BLE001 - wait_broken raises it where it is seen
            self._failure = error
            self._failed.set()

    def _deliver(self, message: Msg) -> None:
        sequence = message.metadata.sequence
        if sequence.consumer != self._count + 1:
            raise ConsumerBrokenError(f"delivery {sequence.consumer} came after {self._count}")
        self._count += 1
        self._on_message(sequence.stream, message)

    async def _control(self, reply: str, headers: Mapping[str, str]) -> None:
        answer_to = reply or headers.get(Header.CONSUMER_STALLED)
        if answer_to:
            # Flow control: the server sends no more until it is answered.
            await self._client.publish(answer_to)
        elif int(headers[Header.LAST_CONSUMER]) != self._count:
            raise ConsumerBrokenError("a delivery is missing")
