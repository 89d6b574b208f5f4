"""Catches all mail and shows it over HTTP: `python -m tidegate.devstack.mail_sink`.

Keeps the last mails in memory and sends nothing on. A mail that cannot be understood is kept all
the same, as text.
"""

import argparse
import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email import message_from_bytes, policy
from email.message import EmailMessage
from html import escape
from uuid import uuid4

import orjson
from aiohttp import web
from aiosmtpd.smtp import SMTP, Envelope, Session

from tidegate.devstack.program import Address, address, run

_KEPT_MAILS = 1000
_MAX_MAIL_BYTES = 1024 * 1024
_STOP_GRACE_S = 1.0
# The page shows what strangers wrote, so it may load and run nothing.
_PAGE_HEADERS = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"}
_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>Mail</title>
<style>
  body {{ font-family: system-ui; margin: 2em auto; max-width: 50em }}
  article {{ border-top: 1px solid #ccc }}
  pre {{ white-space: pre-wrap }}
</style>
<h1>Mail ({count})</h1>
{articles}
</html>
"""
_ARTICLE = """<article>
<h2>{subject}</h2>
<p>To {to}, {received_at}</p>
<pre>{text}</pre>
</article>
"""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Mail:
    id: str
    recipients: tuple[str, ...]
    subject: str
    text: str
    received_at: str

    @property
    def to(self) -> str:
        return ", ".join(self.recipients)

    def is_to(self, recipient: str) -> bool:
        return recipient.casefold() in (known.casefold() for known in self.recipients)


class Mails:
    """The mails kept, oldest first; as aiosmtpd's handler, also how they come in."""

    def __init__(self) -> None:
        self._mails: deque[Mail] = deque(maxlen=_KEPT_MAILS)

    async def handle_DATA(  # noqa: N802 - named by aiosmtpd
        self, _server: SMTP, _session: Session, envelope: Envelope
    ) -> str:
        subject, text = read(envelope.original_content or b"")
        received_at = datetime.now(UTC).isoformat(timespec="microseconds")
        mail = Mail(uuid4().hex, tuple(envelope.rcpt_tos), subject, text, received_at)
        self._mails.append(mail)
        _log.info("mail to %r: %r", mail.to, mail.subject)
        return "250 OK"

    def application(self) -> web.Application:
        application = web.Application()
        application.router.add_get("/messages", self._list)
        application.router.add_delete("/messages", self._clear)
        application.router.add_get("/", self._page)
        return application

    async def _list(self, request: web.Request) -> web.Response:
        recipient = request.query.get("to")
        messages = [
            {
                "id": mail.id,
                "to": mail.to,
                "subject": mail.subject,
                "text": mail.text,
                "received_at": mail.received_at,
            }
            for mail in self._mails
            if recipient is None or mail.is_to(recipient)
        ]
        return web.Response(body=orjson.dumps(messages), content_type="application/json")

    async def _clear(self, _: web.Request) -> web.Response:
        self._mails.clear()
        return web.Response(status=204)

    async def _page(self, _: web.Request) -> web.Response:
        articles = "".join(
            _ARTICLE.format(
                subject=escape(mail.subject),
                to=escape(mail.to),
                received_at=escape(mail.received_at),
                text=escape(mail.text),
            )
            for mail in reversed(self._mails)
        )
        page = _PAGE.format(count=len(self._mails), articles=articles)
        return web.Response(text=page, content_type="text/html", headers=_PAGE_HEADERS)


def read(content: bytes) -> tuple[str, str]:
    """Return the subject and the text of a mail; of a broken one, what can be made out."""
    message = message_from_bytes(content, _class=EmailMessage, policy=policy.default)
    try:
        subject = str(message["subject"] or "")
        body = message.get_body(("plain", "html"))
        text = body.get_content() if body is not None else ""
    except (LookupError, ValueError) as error:
        # An unknown character set, for one.
        _log.warning("not a proper mail: %r", error)
        return "", content.decode(errors="replace")
    return subject, text.replace("\r\n", "\n")


@asynccontextmanager
async def _receiving(mails: Mails, at: Address) -> AsyncIterator[None]:
    loop = asyncio.get_running_loop()

    def connection() -> SMTP:
        return SMTP(
            mails,
            # Given, for looking it up may take a while.
            hostname="localhost",
            enable_SMTPUTF8=True,
            data_size_limit=_MAX_MAIL_BYTES,
            loop=loop,
        )

    server = await loop.create_server(connection, at.host, at.port)
    try:
        yield
    finally:
        server.close()


@asynccontextmanager
async def _showing(mails: Mails, at: Address) -> AsyncIterator[None]:
    runner = web.AppRunner(mails.application(), access_log=None, shutdown_timeout=_STOP_GRACE_S)
    await runner.setup()
    try:
        await web.TCPSite(runner, at.host, at.port).start()
        yield
    finally:
        await runner.cleanup()


async def serve(smtp: Address, http: Address) -> None:
    mails = Mails()
    async with _receiving(mails, smtp), _showing(mails, http):
        _log.info("mail sink listens on %s (SMTP) and http://%s", smtp, http)
        await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser(prog="mail_sink", description="Catches all mail.")
    parser.add_argument("--smtp", required=True, type=address, metavar="HOST:PORT")
    parser.add_argument("--http", required=True, type=address, metavar="HOST:PORT")
    arguments = parser.parse_args()
    # It tells of each connection and each line.
    logging.getLogger("mail.log").setLevel(logging.WARNING)
    run(serve(arguments.smtp, arguments.http))


if __name__ == "__main__":
    main()
