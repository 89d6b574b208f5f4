"""Pure decisions about accounts, and finding them by address.

Each decision returns the changes it wants; `flows` composes them into commits.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from email_validator import EmailNotValidError, validate_email

from tidegate.identity import model
from tidegate.identity.model import StoredUser, User, UserStatus
from tidegate.kernel import errors
from tidegate.kernel.errors import Refusal
from tidegate.kernel.ids import PrincipalId
from tidegate.kernel.secret import Secret
from tidegate.store.bucket import Read
from tidegate.store.changes import Change, Delete, Entry, Put
from tidegate.store.keyring import DataKey, Peppers, Wrapping

VERIFY_EMAIL = "verify_email"
_DECOY_TTL_S = 60


@dataclass(frozen=True, slots=True)
class Keys:
    """The server keys that accounts are stored with."""

    wrapping: Wrapping
    peppers: Peppers


@dataclass(frozen=True, slots=True)
class NewAccount:
    """What a sign-up asks for."""

    email: str
    display_name: str
    email_verified: bool = False


def check_address(email: str) -> Refusal | None:
    """Why `email` is no address that mail can go to, if it is none."""
    try:
        validate_email(email, check_deliverability=False)
    except EmailNotValidError as exc:
        return errors.invalid("/email", str(exc))
    return None


def create(
    user_id: PrincipalId, account: NewAccount, keys: Keys, now_s: float
) -> tuple[User, list[Change]]:
    """A new user with its data key and address, each of which must not exist yet.

    It has no password before its address is verified; see `Verification`.
    """
    data_key = DataKey.fresh()
    user = User(
        id=user_id,
        email=account.email,
        email_verified=account.email_verified,
        display_name=account.display_name,
        status=UserStatus.ACTIVE,
        session_epoch=0,
        created_at_s=now_s,
    )
    return user, [
        Put(model.email_key(keys.peppers, account.email), {"v": 1, "user": user_id}, 0),
        Put(
            model.data_key_key(user_id), model.encode_data_key(user_id, data_key, keys.wrapping), 0
        ),
        Put(model.user_key(user_id), model.encode_user(user, data_key), 0),
    ]


def set_password(
    user_id: PrincipalId, password_hash: str, entry: Entry | None, now_s: float
) -> Put:
    """Replaces the credential of `entry` (None: there must be none yet)."""
    value = {
        **((entry.value if entry else None) or {}),
        "v": 1,
        "hash": password_hash,
        "changed_at": now_s,
    }
    return Put(model.credential_key(user_id), value, entry.revision if entry else 0)


@dataclass(frozen=True, slots=True)
class Verification:
    """What a verification token stands for.

    It carries the password hash of the sign-up that it was mailed for, and only redeeming it
    makes that the account's password. So nobody can wait, with a password of their own, in an
    account that the owner of the address will one day confirm by the mail of their own sign-up.
    (Whoever confirms by the mail of somebody else's later sign-up takes that one's password;
    that mail says so.)
    """

    user_id: PrincipalId
    password_hash: str

    def put(self, token: Secret, now_s: float, ttl_s: int) -> Put:
        """Stores it under `token`, for one use within `ttl_s`."""
        value = {"v": 1, "user": self.user_id, "hash": self.password_hash, "exp": now_s + ttl_s}
        return Put(model.one_time_key(VERIFY_EMAIL, token), value, 0, ttl_s=ttl_s)

    @classmethod
    def redeem(cls, entry: Entry, now_s: float) -> tuple[Verification, Delete] | None:
        """What the token stands for and the change that uses it up; None when it is void."""
        if entry.value is None or float(entry.value["exp"]) <= now_s:
            return None
        verification = cls(PrincipalId(entry.value["user"]), entry.value["hash"])
        return verification, Delete(entry.key, entry.revision)


def decoys(count: int, now_s: float) -> list[Change]:
    """Entries that mean nothing and soon expire.

    They make the commit of a sign-up that found an account as large as that of one that made
    one: revisions count messages, and anybody who gets one can count along.
    """
    value = {"v": 1, "exp": now_s + _DECOY_TTL_S}
    keys = (f"one_time.decoy.{secrets.token_hex(32)}" for _ in range(count))
    return [Put(key, value, 0, ttl_s=_DECOY_TTL_S) for key in keys]


async def find_by_email(read: Read, address: str, keys: Keys) -> PrincipalId | None:
    """The user with this address. Looks under every pepper that may have been used."""
    for pepper_id in keys.peppers.key_ids:
        entry = await read(model.email_key(keys.peppers, address, pepper_id))
        if entry.value is not None:
            return PrincipalId(entry.value["user"])
    return None


async def load(read: Read, user_id: PrincipalId, keys: Keys) -> StoredUser | None:
    """The user, decrypted; None when there is none."""
    entry = await read(model.user_key(user_id))
    key_entry = await read(model.data_key_key(user_id))
    if entry.value is None or key_entry.value is None:
        return None
    data_key = model.decode_data_key(user_id, key_entry.value, keys.wrapping)
    return StoredUser(model.decode_user(user_id, entry.value, data_key), data_key, entry)


def password_hash(credential: Mapping[str, Any] | None) -> str | None:
    return None if credential is None else credential.get("hash")
