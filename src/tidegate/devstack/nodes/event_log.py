"""The stored events: appended by compare-and-set, read in order.

Owns the stream DEMO_EVENTS and every NATS error on the way to it: callers see a value, or
`LogUnavailableError`, after which an append may or may not have happened.
"""

import asyncio
import itertools
from collections.abc import Iterator
from contextlib import contextmanager

import orjson
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js.api import DiscardPolicy, Header, StorageType, StreamConfig
from nats.js.errors import NotFoundError

from tidegate.devstack.nodes.events import (
    ALL_SUBJECTS,
    CAUSE_HEADER,
    STREAM,
    AggregateKey,
    Cause,
    StoredEvent,
)
from tidegate.wire.aggregate.gateway.v1.command_pb2 import Event

_TIMEOUT_S = 2.0
_READ_BATCH = 256
# Well within what NATS takes (1 MiB, of headers 64 KiB), which answers more with disconnecting.
_MAX_EVENT_BYTES = 512 * 1024
_MAX_CAUSE_BYTES = 60 * 1024
# Another event was stored on the subject first; the second one: is being stored right now.
_CONFLICT_CODES = {10071, 10164}
# All sent; nothing to send.
_END_OF_BATCH = {"204", "404"}


class LogUnavailableError(Exception):
    """The log did not answer in time, or not with an answer."""


class EventTooLargeError(Exception):
    """The event cannot be stored, now or later."""


class EventLog:
    def __init__(self, client: Client) -> None:
        self._client = client
        self._js = client.jetstream(timeout=_TIMEOUT_S)
        # One inbox for all acknowledgements, which costs half of a request each.
        self._inbox = client.new_inbox()
        self._appends = itertools.count()
        self._awaited: dict[str, asyncio.Future[Msg]] = {}

    async def open(self, replicas: int) -> None:
        """Make the stream, with so many copies, where it is missing.

        To be called before the first append.
        """
        with self._translated():
            await self._client.subscribe(f"{self._inbox}.*", cb=self._acknowledged)
            try:
                await self._js.stream_info(STREAM)
            except NotFoundError:
                await self._js.add_stream(
                    StreamConfig(
                        name=STREAM,
                        subjects=[ALL_SUBJECTS],
                        storage=StorageType.FILE,
                        num_replicas=replicas,
                        discard=DiscardPolicy.NEW,
                        allow_direct=True,
                        deny_delete=True,
                        deny_purge=True,
                    )
                )

    def disconnected(self) -> None:
        """Give up what awaits its acknowledgement, which will not come any more."""
        for awaited in self._awaited.values():
            if not awaited.done():
                awaited.set_exception(LogUnavailableError("NATS went away"))

    async def append(
        self, key: AggregateKey, event: Event, cause: Cause, after_sequence: int
    ) -> StoredEvent | None:
        """Store the event if the aggregate's last one is still at `after_sequence`.

        None: another event came first, and nothing is stored. The caller bounds the wait; when it
        gives up, the event may be stored or not.
        """
        data, encoded_cause = event.SerializeToString(), cause.encode()
        if len(data) > _MAX_EVENT_BYTES or len(encoded_cause) > _MAX_CAUSE_BYTES:
            raise EventTooLargeError("the command's payload or metadata is too large")
        headers = {
            Header.EXPECTED_STREAM: STREAM,
            Header.EXPECTED_LAST_SUBJECT_SEQUENCE: str(after_sequence),
            CAUSE_HEADER: encoded_cause,
        }
        token = str(next(self._appends))
        acknowledged = asyncio.get_running_loop().create_future()
        self._awaited[token] = acknowledged
        try:
            with self._translated():
                await self._client.publish(
                    key.subject(), data, reply=f"{self._inbox}.{token}", headers=headers
                )
                sequence = _stored_at(await acknowledged)
        finally:
            del self._awaited[token]
        return None if sequence is None else StoredEvent(sequence, event, cause)

    async def read(self, key: AggregateKey, after_sequence: int) -> list[StoredEvent]:
        """Return the aggregate's next events after that sequence; none at the end."""
        # One request, many answers, which nats-py has no call for (ADR-31).
        request = orjson.dumps(
            {"seq": after_sequence + 1, "next_by_subj": key.subject(), "batch": _READ_BATCH}
        )
        events: list[StoredEvent] = []
        with self._translated():
            inbox = self._client.new_inbox()
            answers = await self._client.subscribe(inbox)
            try:
                await self._client.publish(f"$JS.API.DIRECT.GET.{STREAM}", request, reply=inbox)
                while True:
                    answer = await answers.next_msg(timeout=_TIMEOUT_S)
                    headers = answer.headers or {}
                    status = headers.get(Header.STATUS)
                    if status in _END_OF_BATCH:
                        return events
                    if status is not None:
                        raise LogUnavailableError(f"direct get answered {status}")
                    sequence = int(headers["Nats-Sequence"])
                    events.append(StoredEvent.decode(sequence, answer.data, headers))
            finally:
                await answers.unsubscribe()

    async def get(self, sequence: int) -> StoredEvent | None:
        """Return the event stored there, if one is."""
        with self._translated():
            try:
                message = await self._js.get_msg(STREAM, sequence, direct=True)
            except NotFoundError:
                return None
        return StoredEvent.decode(sequence, message.data or b"", message.headers)

    async def _acknowledged(self, answer: Msg) -> None:
        awaited = self._awaited.get(answer.subject.rpartition(".")[2])
        if awaited is not None and not awaited.done():
            awaited.set_result(answer)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        # Asked first: nats-py keeps a little memory for each request that it cannot send.
        if not self._client.is_connected:
            raise LogUnavailableError("NATS is away")
        try:
            yield
        except (NatsError, TimeoutError) as error:
            raise LogUnavailableError(f"NATS: {error!r}") from error


def _stored_at(answer: Msg) -> int | None:
    """Read an acknowledgement; None says that another event came first."""
    if not answer.data:
        raise LogUnavailableError("no stream takes the event")
    acknowledgement = orjson.loads(answer.data)
    error = acknowledgement.get("error")
    if error is None:
        return int(acknowledgement["seq"])
    if error["err_code"] in _CONFLICT_CODES:
        return None
    raise LogUnavailableError(f"not stored: {error['description']}")
