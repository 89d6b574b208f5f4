"""What we write to people: every template, in one place, and how a mail enters the outbox.

A mail is an event of the commit that caused it. Its body is encrypted, for it may hold a
one-time token, and it expires with the token.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import orjson

from tidegate.kernel.ids import new_id
from tidegate.kernel.secret import Secret
from tidegate.store.changes import Event
from tidegate.store.keyring import Wrapping

MAIL_TTL_S = 24 * 3600


@dataclass(frozen=True, slots=True)
class Mail:
    """One mail to one person. `text` may hold a one-time token."""

    to: str
    subject: str
    text: Secret


# To whom, their name, the token, and the page that takes it.
Asking = Callable[[str, str, Secret, str | None], Mail]


def outbox_event(mail: Mail, wrapping: Wrapping) -> Event:
    """The event that has `mail` sent once its commit is made."""
    mail_id = new_id()
    plain = Secret(
        orjson.dumps({"to": mail.to, "subject": mail.subject, "text": mail.text.reveal_text()})
    )
    value = {"v": 1, "id": mail_id, "mail": wrapping.wrap(plain, f"mail.{mail_id}")}
    return Event("mail", (mail_id,), orjson.dumps(value), MAIL_TTL_S)


def open_mail(payload: bytes, wrapping: Wrapping) -> tuple[str, Mail]:
    """The id and the mail of an outbox event. Raises Undecryptable or KeyRingError."""
    value = orjson.loads(payload)
    mail_id = str(value["id"])
    plain = orjson.loads(wrapping.unwrap(value["mail"], f"mail.{mail_id}").reveal())
    return mail_id, Mail(plain["to"], plain["subject"], Secret(plain["text"]))


def _greeting(name: str) -> str:
    return f"Hello {name}," if name else "Hello,"


def verification(to: str, name: str, token: Secret, url: str | None) -> Mail:
    """Asks to confirm an address."""
    secret = token.reveal_text()
    how = f"Open this page:\n\n  {url.replace('{token}', secret)}\n" if url else ""
    text = (
        f"{_greeting(name)}\n\n"
        "please confirm that this address is yours.\n"
        f"{how}\n"
        f"Your token: {secret}\n\n"
        "It works once. If you did not sign up, ignore this mail.\n"
    )
    return Mail(to, "Confirm your address", Secret(text))


def verification_again(to: str, name: str, token: Secret, url: str | None) -> Mail:
    """Asks to confirm an address for which another sign-up is waiting already."""
    secret = token.reveal_text()
    how = f"Open this page:\n\n  {url.replace('{token}', secret)}\n\n" if url else ""
    text = (
        f"{_greeting(name)}\n\n"
        "somebody signed up with this address once more, perhaps with another password. This\n"
        "mail confirms that last sign-up, and its password. If it was not you just now, do not\n"
        "use it: use the mail of your own sign-up, or sign up again.\n\n"
        f"{how}"
        f"Your token: {secret}\n\n"
        "It works once.\n"
    )
    return Mail(to, "Confirm your address (another sign-up)", Secret(text))


def already_registered(to: str, name: str) -> Mail:
    """Tells the owner of an address that somebody tried to sign up with it."""
    text = (
        f"{_greeting(name)}\n\n"
        "somebody, perhaps you, tried to sign up with this address, which has an account.\n"
        "Sign in with that one.\n"
        "If it was not you, ignore this mail: nothing was changed.\n"
    )
    return Mail(to, "You have an account already", Secret(text))
