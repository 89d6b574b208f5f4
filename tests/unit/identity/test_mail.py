"""Mail: what is written, and that nobody can read it on its way."""

from __future__ import annotations

import base64

import orjson
import pytest

from tidegate.identity import mail
from tidegate.identity.accounts import Keys
from tidegate.identity.mail import Mail
from tidegate.kernel.secret import Secret
from tidegate.store.keyring import KeyRing, KeyRingError, Undecryptable, Wrapping

TOKEN = Secret("tok-en_0123456789")
SENT = mail.verification("ada@example.org", "Ada", TOKEN, None)


def test_a_verification_has_the_token_on_a_line_of_its_own() -> None:
    text = SENT.text.reveal_text()
    assert SENT.to == "ada@example.org"
    assert "\nYour token: tok-en_0123456789\n" in text
    assert text.startswith("Hello Ada,")


def test_a_verification_leads_to_the_page_when_there_is_one() -> None:
    sent = mail.verification("a@example.org", "Ada", TOKEN, "https://app.example/v?t={token}&x={y}")
    assert "https://app.example/v?t=tok-en_0123456789&x={y}\n" in sent.text.reveal_text()


def test_a_repeated_sign_up_tells_the_owner_and_holds_no_token() -> None:
    text = mail.already_registered("ada@example.org", "Ada").text.reveal_text()
    assert "tried to sign up" in text
    assert "token" not in text.lower()


def test_a_mail_does_not_show_its_text() -> None:
    assert "tok-en" not in repr(SENT)


def test_a_mail_comes_out_of_the_outbox_as_it_went_in(keys: Keys) -> None:
    event = mail.outbox_event(SENT, keys.wrapping)
    mail_id, opened = mail.open_mail(event.value, keys.wrapping)
    assert opened == SENT
    assert event.tokens == (mail_id,)
    assert event.topic == "mail"
    assert event.ttl_s == mail.MAIL_TTL_S


def test_nothing_of_a_mail_is_readable_in_the_outbox(keys: Keys) -> None:
    stored = mail.outbox_event(SENT, keys.wrapping).value
    assert set(orjson.loads(stored)) == {"v", "id", "mail"}
    for part in (SENT.to, SENT.subject, "tok-en_0123456789", "Hello"):
        assert part.encode() not in stored
        assert base64.b64encode(part.encode())[:-4] not in stored


def test_a_mail_moved_to_another_id_does_not_open(keys: Keys) -> None:
    value = orjson.loads(mail.outbox_event(SENT, keys.wrapping).value)
    value["id"] = "another"
    with pytest.raises(Undecryptable):
        mail.open_mail(orjson.dumps(value), keys.wrapping)


def test_a_mail_does_not_open_with_another_key(keys: Keys) -> None:
    stored = mail.outbox_event(SENT, keys.wrapping).value
    with pytest.raises(Undecryptable):
        mail.open_mail(stored, Wrapping(KeyRing("w1", {"w1": Secret(b"x" * 32)})))
    with pytest.raises(KeyRingError):
        mail.open_mail(stored, Wrapping(KeyRing("w9", {"w9": Secret(b"w" * 32)})))


def test_names_with_braces_are_names(keys: Keys) -> None:
    sent = mail.verification("a@example.org", "{token} {0}", TOKEN, "https://x.example/{token}")
    assert sent.text.reveal_text().startswith("Hello {token} {0},")
    assert isinstance(sent, Mail)
