"""The outbox: sends what commits asked to be mailed, over SMTP, on any replica.

Invariants: a mail is never lost (it is acknowledged only when the SMTP server has taken it)
and is sent once in the normal case (a replica that dies between the two sends it again; the
Message-ID is then the same). A mail that cannot be read is dropped with a metric, for no
retry would ever read it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from email.message import EmailMessage
from email.utils import formatdate

import aiosmtplib
import orjson
from nats.aio.msg import Msg

from tidegate.identity import mail as mails
from tidegate.identity.mail import Mail
from tidegate.identity.settings import MailSettings
from tidegate.kernel.lifecycle import Ready
from tidegate.observability import metrics
from tidegate.store.connection import Connection, StoreError
from tidegate.store.keyring import KeyRingError, Undecryptable, Wrapping

log = logging.getLogger(__name__)

_CONSUMER = "mailer"
_NS = 1_000_000_000
_ACK_WAIT_S = 60
_POLL_S = 5.0
# JetStream's statuses for a pull that found nothing, or nothing in its time.
_NOTHING_TO_SEND = frozenset({"404", "408"})
_PAUSE_S = 1.0
_MOST_WAITING = 16
_RETRY_DELAY_S = (1, 2, 5, 15, 60, 300)


class Outbox:
    """The work-queue consumer of the MAIL stream."""

    def __init__(self, connection: Connection, wrapping: Wrapping, settings: MailSettings) -> None:
        self._connection = connection
        self._wrapping = wrapping
        self._settings = settings

    async def run(self, ready: Ready) -> None:
        """Sends mail until cancelled."""
        await self._create_consumer()
        # A queue of its own, not the request inbox: what a pull brings has the stream's subject,
        # by which the client library cannot tell whose request it answers.
        inbox = self._connection.new_inbox()
        answers: asyncio.Queue[Msg] = asyncio.Queue(_MOST_WAITING)
        async with self._connection.subscription(inbox, answers.put):
            ready()
            while True:
                try:
                    await self._send_next(inbox, answers)
                except (StoreError, TimeoutError) as exc:
                    log.warning("the outbox pauses: %s", exc)
                    metrics.MAILS.labels(result="paused").inc()
                    await asyncio.sleep(_PAUSE_S)
                    await self._restore_consumer()

    async def _restore_consumer(self) -> None:
        """Makes the consumer again should it be gone; does nothing where it is there."""
        with contextlib.suppress(StoreError):
            await self._create_consumer()

    async def _create_consumer(self) -> None:
        config = {
            "durable_name": _CONSUMER,
            "ack_policy": "explicit",
            "ack_wait": _ACK_WAIT_S * _NS,
            # Tried until it is sent or as old as the stream lets it get.
            "max_deliver": -1,
            "max_ack_pending": 100,
        }
        await self._connection.api(
            f"CONSUMER.CREATE.MAIL.{_CONSUMER}", {"stream_name": "MAIL", "config": config}
        )

    async def _send_next(self, inbox: str, answers: asyncio.Queue[Msg]) -> None:
        request = orjson.dumps({"batch": 1, "expires": int(_POLL_S * _NS)})
        subject = f"$JS.API.CONSUMER.MSG.NEXT.MAIL.{_CONSUMER}"
        await self._connection.publish(subject, request, reply=inbox)
        try:
            async with asyncio.timeout(_POLL_S + 1):
                message = await answers.get()
        except TimeoutError:
            return  # The request or its answer was lost.
        status = (message.headers or {}).get("Status")
        if status in _NOTHING_TO_SEND:
            return
        if status is not None:
            raise StoreError(f"the pull was answered with status {status}")
        tokens = message.reply.split(".")
        # The long form of the subject names a domain and an account too.
        tries = int(tokens[4] if len(tokens) == 9 else tokens[6])
        await self._connection.publish(message.reply, await self._deliver(message.data, tries))

    async def _deliver(self, payload: bytes, tries: int) -> bytes:
        """Sends one mail; returns the acknowledgement that its outcome calls for."""
        try:
            mail_id, mail = mails.open_mail(payload, self._wrapping)
        except (Undecryptable, KeyRingError, LookupError, TypeError, ValueError, AttributeError):
            log.exception("a mail in the outbox cannot be read; it is dropped")
            metrics.MAILS.labels(result="unreadable").inc()
            return b"+TERM"
        try:
            await self._smtp(mail_id, mail)
        except Exception as exc:  # noqa: BLE001
            # Whatever it is, it is about this one mail: it must not end the replica, for the
            # next one would get the same mail.
            metrics.MAILS.labels(result="failed").inc()
            # The exception's text may quote the address; its type says enough.
            log.warning("mail %s not sent (%s), try %d", mail_id, type(exc).__name__, tries)
            delay_s = _RETRY_DELAY_S[min(tries, len(_RETRY_DELAY_S)) - 1]
            return b"-NAK " + orjson.dumps({"delay": delay_s * _NS})
        metrics.MAILS.labels(result="sent").inc()
        return b"+ACK"

    async def _smtp(self, mail_id: str, mail: Mail) -> None:
        settings = self._settings
        message = EmailMessage()
        message["From"] = settings.sender
        message["To"] = mail.to
        message["Subject"] = mail.subject
        message["Date"] = formatdate()
        message["Message-ID"] = f"<{mail_id}@{settings.sender.rpartition('@')[2]}>"
        message.set_content(mail.text.reveal_text())
        password = settings.password_file.read_text().strip() if settings.password_file else None
        await aiosmtplib.send(
            message,
            hostname=settings.host,
            port=settings.port,
            username=settings.user,
            password=password,
            use_tls=settings.security == "tls",
            start_tls=settings.security == "starttls",
            timeout=settings.timeout_s,
        )
