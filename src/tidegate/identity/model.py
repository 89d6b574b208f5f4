"""Users as they are stored, and the keys they are stored under.

Invariants
- One address, one user: the address is a key (as a keyed hash), created with "must not exist".
- Personal fields are encrypted with the user's own key, itself an entry: without it, they are
  noise, also in old copies.
- What changes at different times stands under different keys (profile, credential).

    user.<0…4095>.<id>        status, epoch, sealed profile     followed by every replica
    user_key.<id>             the user's data key, wrapped
    credential.<id>           password hash
    email.<pepper id>.<mac>   which user has this address
    one_time.<use>.<digest>   a token that works once           expires
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from email_validator import EmailNotValidError, validate_email

from tidegate.kernel.ids import PrincipalId
from tidegate.kernel.secret import Secret
from tidegate.store.changes import Entry, Put, Value
from tidegate.store.keyring import DataKey, Peppers, Wrapping, digest

USER_BUCKETS = 4096


class UserStatus(StrEnum):
    ACTIVE = "active"
    DISABLED = "disabled"


def user_key(user_id: PrincipalId) -> str:
    """The key of a user. Users are spread over fixed buckets so that they can be listed."""
    return f"user.{int(user_id[-3:], 16) % USER_BUCKETS}.{user_id}"


def data_key_key(user_id: PrincipalId) -> str:
    return f"user_key.{user_id}"


def credential_key(user_id: PrincipalId) -> str:
    return f"credential.{user_id}"


def normalize_email(address: str) -> str:
    """The form in which two spellings of one address are equal.

    Case is folded in the local part too: no provider of note tells "A@x" from "a@x", and
    people do not either. The domain is taken as it stands in DNS, where an international name
    has one spelling only.
    """
    folded = unicodedata.normalize("NFC", address.strip()).casefold()
    try:
        checked = validate_email(address.strip(), check_deliverability=False)
    except EmailNotValidError:
        return folded
    return f"{folded.rpartition('@')[0]}@{checked.ascii_domain}"


def email_key(peppers: Peppers, address: str, pepper_id: str | None = None) -> str:
    """The key under which an address is taken."""
    used = pepper_id or peppers.current
    mac = peppers.mac("email", normalize_email(address).encode(), used)
    return f"email.{used}.{mac.hex()}"


def one_time_key(use: str, token: Secret) -> str:
    """The key of a one-time token: from the token itself, so that no search is needed."""
    return f"one_time.{use}.{digest(token)}"


@dataclass(frozen=True, slots=True)
class User:
    """A person's account. `session_epoch` grows to end all its sessions at once."""

    id: PrincipalId
    email: str
    email_verified: bool
    display_name: str
    status: UserStatus
    session_epoch: int
    created_at_s: float

    def verified(self) -> User:
        return replace(self, email_verified=True)


@dataclass(frozen=True, slots=True)
class StoredUser:
    """A user with what is needed to write it back: the data key and the entry it came from."""

    user: User
    data_key: DataKey
    entry: Entry

    def put(self, user: User) -> Put:
        """The change that replaces the stored user by `user`."""
        value = encode_user(user, self.data_key, self.entry.value)
        return Put(self.entry.key, value, self.entry.revision)


def encode_user(user: User, data_key: DataKey, previous: Value | None = None) -> Value:
    """The stored value; fields of `previous` that this version does not know are kept."""
    key = user_key(user.id)
    return {
        **(previous or {}),
        "v": 1,
        "status": user.status.value,
        "session_epoch": user.session_epoch,
        "email_verified": user.email_verified,
        "email": data_key.seal(user.email, f"{key}/email"),
        "display_name": data_key.seal(user.display_name, f"{key}/display_name"),
        "created_at": user.created_at_s,
    }


def decode_user(user_id: PrincipalId, value: Mapping[str, Any], data_key: DataKey) -> User:
    key = user_key(user_id)
    return User(
        id=user_id,
        email=data_key.unseal(value["email"], f"{key}/email"),
        email_verified=value["email_verified"],
        display_name=data_key.unseal(value["display_name"], f"{key}/display_name"),
        status=UserStatus(value["status"]),
        session_epoch=value["session_epoch"],
        created_at_s=value["created_at"],
    )


def end_all_sessions(entry: Entry) -> Put:
    """Starts the next session epoch of the user of `entry`: one change ends them all."""
    value = dict(entry.value or {})
    value["session_epoch"] = value["session_epoch"] + 1
    return Put(entry.key, value, entry.revision)


def encode_data_key(user_id: PrincipalId, data_key: DataKey, wrapping: Wrapping) -> Value:
    return {"v": 1, "wrapped": wrapping.wrap(data_key.key, data_key_key(user_id))}


def decode_data_key(user_id: PrincipalId, value: Mapping[str, Any], wrapping: Wrapping) -> DataKey:
    return DataKey(wrapping.unwrap(value["wrapped"], data_key_key(user_id)))
