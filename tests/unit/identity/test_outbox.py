"""The outbox: what becomes of each mail, whatever is in it."""

from __future__ import annotations

from email.message import EmailMessage

import aiosmtplib
import orjson
import pytest

from tidegate.identity import mail
from tidegate.identity.accounts import Keys
from tidegate.identity.outbox import Outbox
from tidegate.identity.settings import MailSettings
from tidegate.kernel.secret import Secret
from tidegate.store.connection import Connection

SENT = mail.verification("ada@example.org", "Ada", Secret("a-token"), None)


@pytest.fixture
def outbox(keys: Keys) -> Outbox:
    unused: Connection = None  # type: ignore[assignment]  # delivery needs none
    return Outbox(unused, keys.wrapping, MailSettings(security="none"))


@pytest.mark.parametrize(
    "payload",
    [
        *(b"", b"{", b"[]", b"1", b"null", b'"x"', b"{}", b'{"id": "x"}', b"\xff" * 9),
        *(b'{"id": "x", "mail": "text"}', b'{"id": "x", "mail": {"k": "w1", "n": 1, "c": 2}}'),
    ],
)
async def test_a_mail_that_cannot_be_read_is_dropped(payload: bytes, outbox: Outbox) -> None:
    assert await outbox._deliver(payload, 1) == b"+TERM"


async def test_a_mail_is_acknowledged_once_the_server_has_taken_it(
    outbox: Outbox, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[EmailMessage] = []

    async def send(message: EmailMessage, **_: object) -> None:
        taken.append(message)

    monkeypatch.setattr(aiosmtplib, "send", send)
    event = mail.outbox_event(SENT, keys.wrapping)
    assert await outbox._deliver(event.value, 1) == b"+ACK"
    (message,) = taken
    assert message["To"] == "ada@example.org"
    assert message["Message-ID"] == f"<{event.tokens[0]}@localhost>"
    assert "Your token: a-token" in message.get_content()


@pytest.mark.parametrize(
    "failure",
    [
        aiosmtplib.SMTPConnectError("refused"),
        aiosmtplib.SMTPRecipientsRefused([]),
        OSError("no route"),
        TimeoutError(),
        UnicodeEncodeError("ascii", "é", 0, 1, "ordinal not in range"),
        ValueError("no such header"),
    ],
    ids=lambda failure: type(failure).__name__,
)
async def test_a_mail_that_is_not_taken_is_tried_again_later(
    failure: Exception, outbox: Outbox, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def send(*_: object, **__: object) -> None:
        raise failure

    monkeypatch.setattr(aiosmtplib, "send", send)
    event = mail.outbox_event(SENT, keys.wrapping)
    delays_s = []
    for tries in (1, 2, 6, 7, 50):
        verb, _, options = (await outbox._deliver(event.value, tries)).partition(b" ")
        assert verb == b"-NAK"
        delays_s.append(orjson.loads(options)["delay"] / 1e9)
    assert delays_s == [1, 2, 300, 300, 300]


async def test_why_a_mail_was_not_taken_is_logged_without_its_address(
    outbox: Outbox,
    keys: Keys,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def send(*_: object, **__: object) -> None:
        raise aiosmtplib.SMTPRecipientRefused(550, "no such user", "ada@example.org")

    monkeypatch.setattr(aiosmtplib, "send", send)
    await outbox._deliver(mail.outbox_event(SENT, keys.wrapping).value, 1)
    assert "SMTPRecipientRefused" in caplog.text
    assert "ada@" not in caplog.text


@pytest.mark.parametrize(
    "address",
    ["jörg@example.org", "a@bücher.example", "x" * 64 + "@example.org", "o'hara+x@example.org"],
)
async def test_any_address_that_signs_up_can_be_written_to(
    address: str, outbox: Outbox, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def send(message: EmailMessage, **_: object) -> None:
        assert message["To"] == address
        assert bytes(message)

    monkeypatch.setattr(aiosmtplib, "send", send)
    asked = mail.verification(address, "Ada", Secret("a-token"), None)
    assert await outbox._deliver(mail.outbox_event(asked, keys.wrapping).value, 1) == b"+ACK"
