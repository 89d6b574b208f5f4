"""A connection that loses commits, or the answers to them, as a test says.

Each *sending* of a commit, all its messages together, meets one `Fate`. The fault is put between
our code and the client library, so that each schedule of sending, losing and repeating can be
had at will, and none has to be waited for.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from nats.aio.msg import Msg

from tidegate.store.connection import AnswerLost, Connection
from tidegate.store.encoding import COMMIT_HEADER, Marker


class Fate(enum.Enum):
    """What becomes of one sending of a commit."""

    PASSES = enum.auto()
    LOST = enum.auto()  # nothing of it arrives
    LAST_LOST = enum.auto()  # all but the message that would commit it arrives
    ANSWER_LOST = enum.auto()  # it arrives; what the server says to it does not
    LATE = enum.auto()  # it arrives when `deliver_late` says, and nobody waits for its answer


@dataclass(frozen=True, slots=True)
class _Sent:
    subject: str
    payload: bytes
    headers: Mapping[str, str]


class LossyConnection(Connection):
    """A second face of `connection`, with faults. Without orders everything passes."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection._client, connection.request_timeout_s)
        # Reconnects and disconnects are told to the connection that was opened.
        self._on_reconnect = connection._on_reconnect
        self._waiting = connection._waiting
        self.fates: deque[Fate] = deque()
        self.sent: list[str] = []  # the commit id of each sending
        # Called after each sending has met its fate, before our code learns of that.
        self.after_sending: Callable[[], Awaitable[None]] | None = None
        # Answers reads of many in the server's place, where it returns something.
        self.reading: Callable[[str, bytes], Awaitable[list[Msg] | None]] | None = None
        self._batches: dict[str, Fate] = {}
        self._late: list[list[_Sent]] = []

    async def request(
        self,
        subject: str,
        payload: bytes = b"",
        headers: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
    ) -> Msg:
        if headers is None or COMMIT_HEADER not in headers:
            return await super().request(subject, payload, headers, timeout_s)
        fate = self._fate_of(headers)
        self._batches.pop(headers.get("Nats-Batch-Id", ""), None)
        try:
            match fate:
                case Fate.PASSES:
                    return await super().request(subject, payload, headers, timeout_s)
                case Fate.ANSWER_LOST:
                    await super().request(subject, payload, headers, timeout_s)
                case Fate.LATE:
                    self._hold(_Sent(subject, payload, headers))
                case Fate.LOST | Fate.LAST_LOST:
                    pass
            raise AnswerLost("lost on purpose")
        finally:
            if self.after_sending is not None:
                await self.after_sending()

    async def publish(
        self,
        subject: str,
        payload: bytes = b"",
        headers: Mapping[str, str] | None = None,
        reply: str = "",
    ) -> None:
        if headers is not None and COMMIT_HEADER in headers:
            fate = self._fate_of(headers)
            if fate is Fate.LOST:
                return
            if fate is Fate.LATE:
                self._hold(_Sent(subject, payload, headers))
                return
        await super().publish(subject, payload, headers, reply)

    async def collect(self, subject: str, payload: bytes) -> list[Msg]:
        answers = await self.reading(subject, payload) if self.reading is not None else None
        return await self.collect_now(subject, payload) if answers is None else answers

    async def collect_now(self, subject: str, payload: bytes) -> list[Msg]:
        """What the server answers, whatever `reading` says."""
        return await super().collect(subject, payload)

    async def deliver_late(self) -> None:
        """Has all that was held back arrive now, oldest sending first."""
        while await self.deliver_next_late():
            pass

    async def deliver_next_late(self) -> bool:
        """Has the oldest sending that was held back arrive; False when there is none."""
        if not self._late:
            return False
        *before, last = self._late.pop(0)
        for message in before:
            await super().publish(message.subject, message.payload, message.headers)
        await super().request(last.subject, last.payload, last.headers)
        return True

    def _fate_of(self, headers: Mapping[str, str]) -> Fate:
        """Drawn for the first message of a sending; the others share it."""
        batch_id = headers.get("Nats-Batch-Id", "")
        if batch_id in self._batches:
            return self._batches[batch_id]
        fate = self.fates.popleft() if self.fates else Fate.PASSES
        marker = Marker.parse(headers[COMMIT_HEADER])
        assert marker is not None
        self.sent.append(marker.commit_id)
        if batch_id:
            self._batches[batch_id] = fate
        return fate

    def _hold(self, message: _Sent) -> None:
        batch_id = message.headers.get("Nats-Batch-Id")
        for sending in self._late:
            if batch_id is not None and sending[0].headers.get("Nats-Batch-Id") == batch_id:
                sending.append(message)
                return
        self._late.append([message])
