from collections.abc import AsyncIterator, Awaitable, Callable
from email.message import EmailMessage
from typing import Any, Protocol

import aiohttp
import aiosmtplib
import pytest

from tidegate.devstack.child import Child

Eventually = Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]


class Program(Protocol):
    child: Child


class Sink:
    def __init__(self, program: Program, http: aiohttp.ClientSession, smtp_port: int) -> None:
        self.program = program
        self.http = http
        self._smtp_port = smtp_port

    async def send(self, to: str, subject: str, text: str) -> None:
        message = EmailMessage()
        message["From"] = "gateway@example.com"
        message["To"] = to
        message["Subject"] = subject
        message.set_content(text)
        await aiosmtplib.send(message, hostname="127.0.0.1", port=self._smtp_port, start_tls=False)

    async def messages(self, **query: str) -> list[dict[str, Any]]:
        async with self.http.get("/messages", params=query) as answer:
            assert answer.status == 200
            mails: list[dict[str, Any]] = await answer.json()
            return mails


@pytest.fixture
async def sink(
    start_program: Callable[..., Awaitable[Program]],
    free_port: Callable[[], int],
    eventually: Eventually,
) -> AsyncIterator[Sink]:
    smtp_port, http_port = free_port(), free_port()
    program = await start_program(
        "tidegate.devstack.mail_sink",
        "--smtp",
        f"127.0.0.1:{smtp_port}",
        "--http",
        f"127.0.0.1:{http_port}",
    )
    async with aiohttp.ClientSession(f"http://127.0.0.1:{http_port}") as http:

        async def answers() -> bool:
            try:
                async with http.get("/messages") as answer:
                    return answer.status == 200
            except aiohttp.ClientError:
                return False

        await eventually(answers)
        yield Sink(program, http, smtp_port)


async def test_a_mail_is_kept_with_what_it_says(sink: Sink) -> None:
    await sink.send("ann@example.com", "Grüße", "Your token: abc\nBye")
    [mail] = await sink.messages()
    assert set(mail) == {"id", "to", "subject", "text", "received_at"}
    assert mail["to"] == "ann@example.com"
    assert mail["subject"] == "Grüße"
    assert mail["text"].splitlines() == ["Your token: abc", "Bye"]


async def test_mails_are_listed_in_order_and_by_recipient(sink: Sink) -> None:
    for number, to in enumerate(["ann@example.com", "bob@example.com", "ann@example.com"]):
        await sink.send(to, f"mail {number}", "text")
    assert [mail["subject"] for mail in await sink.messages()] == ["mail 0", "mail 1", "mail 2"]
    to_ann = await sink.messages(to="Ann@Example.com")
    assert [mail["subject"] for mail in to_ann] == ["mail 0", "mail 2"]
    assert await sink.messages(to="ann") == []


async def test_cleared_mails_are_gone(sink: Sink) -> None:
    await sink.send("ann@example.com", "hello", "text")
    async with sink.http.delete("/messages") as answer:
        assert answer.status == 204
    assert await sink.messages() == []


async def test_the_page_shows_mail_as_text_only(sink: Sink) -> None:
    await sink.send("ann@example.com", "<script>alert(1)</script>", "<b>bold</b> & {braces}")
    async with sink.http.get("/") as answer:
        assert answer.status == 200
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        page = await answer.text()
    assert "<script>" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "&lt;b&gt;bold&lt;/b&gt; &amp; {braces}" in page


async def test_too_large_a_mail_is_refused(sink: Sink) -> None:
    with pytest.raises(aiosmtplib.SMTPResponseException):
        await sink.send("ann@example.com", "large", "x" * 2_000_000)
    assert await sink.messages() == []


async def test_only_the_last_mails_are_kept(sink: Sink) -> None:
    client = aiosmtplib.SMTP(hostname="127.0.0.1", port=sink._smtp_port, start_tls=False)
    async with client:
        for number in range(1001):
            await client.sendmail("a@example.com", ["b@example.com"], f"Subject: {number}\r\n\r\n")
    mails = await sink.messages()
    assert len(mails) == 1000
    assert mails[0]["subject"] == "1"


async def test_sigterm_ends_it_cleanly(sink: Sink) -> None:
    await sink.send("ann@example.com", "hello", "text")
    assert await sink.program.child.stop(grace_s=10) == 0
