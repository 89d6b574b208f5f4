"""Sign-up and the proof of an address.

Invariant: the answer never tells whether an address has an account. What differs is the mail,
which only the owner of the address reads; the work (one hash, one commit of as many messages)
is the same.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from tidegate.identity import accounts, mail, passwords
from tidegate.identity.accounts import Keys, NewAccount, Verification
from tidegate.identity.model import User, credential_key, one_time_key
from tidegate.identity.passwords import Passwords
from tidegate.identity.settings import Settings
from tidegate.kernel import errors
from tidegate.kernel.clock import Clock
from tidegate.kernel.errors import Refusal
from tidegate.kernel.ids import PrincipalId, new_id
from tidegate.kernel.secret import Secret
from tidegate.store.barrier import Effect
from tidegate.store.bucket import Bucket, Decision, Done, Read
from tidegate.store.changes import Change, Event, Put
from tidegate.store.events import Origin, Record

ONE_TIME_BYTES = 32
# What a new account takes: its token, address, data key and user.
_CHANGES = 4
_VOID = Refusal(errors.TOKEN_VOID, "The token is unknown, used or expired.")


@dataclass(frozen=True, slots=True)
class SignUp:
    """New accounts and the verification of their addresses."""

    iam: Bucket
    passwords: Passwords
    keys: Keys
    settings: Settings
    clock: Clock

    async def sign_up(
        self, email: str, password: str, display_name: str, origin: Origin
    ) -> Done[None] | Refusal:
        """Makes an account and mails a token to its address; mails only when there is one."""
        refusal = passwords.check_policy(password, email, self.settings.password)
        if refusal is not None:
            return refusal
        hashed = await self.passwords.hash(passwords.normalize(password))
        if isinstance(hashed, Refusal):
            return hashed
        account = NewAccount(email, display_name)
        verification = Verification(PrincipalId(new_id()), hashed)

        async def decide(read: Read) -> Decision[None] | Refusal:
            owner_id = await accounts.find_by_email(read, email, self.keys)
            if owner_id is not None:
                return await self._known(read, owner_id, hashed, origin)
            now_s = self.clock.now_s()
            user_id = verification.user_id
            user, changes = accounts.create(user_id, account, self.keys, now_s)
            token, sent = self._ask(user, verification, mail.verification, now_s)
            record = Record("user.signed_up", user_id, user_id, None, origin)
            return Decision([token, *changes], [sent, record.event(now_s)], None)

        return await self.iam.execute(decide, Effect.ADDITION)

    async def _known(
        self, read: Read, owner_id: PrincipalId, hashed: str, origin: Origin
    ) -> Decision[None] | Refusal:
        """Somebody signs up with an address that has an account."""
        stored = await accounts.load(read, owner_id, self.keys)
        if stored is None:
            # Found by address but not there: it is being erased at this moment.
            return Refusal(errors.CONFLICT, "Try again.")
        now_s = self.clock.now_s()
        user = stored.user
        event = Record("user.signup_repeated", owner_id, owner_id, None, origin).event(now_s)
        if user.email_verified:
            told = mail.already_registered(user.email, user.display_name)
            sent = mail.outbox_event(told, self.keys.wrapping)
            return Decision(accounts.decoys(_CHANGES, now_s), [sent, event], None)
        verification = Verification(owner_id, hashed)
        token, sent = self._ask(user, verification, mail.verification_again, now_s)
        changes = [token, *accounts.decoys(_CHANGES - 1, now_s)]
        return Decision(changes, [sent, event], None)

    def _ask(
        self, user: User, verification: Verification, template: mail.Asking, now_s: float
    ) -> tuple[Put, Event]:
        """The change and the mail that ask to confirm an address."""
        token = Secret(secrets.token_urlsafe(ONE_TIME_BYTES))
        url = self.settings.verification_url
        asked = template(user.email, user.display_name, token, url)
        change = verification.put(token, now_s, self.settings.verification_ttl_s)
        return change, mail.outbox_event(asked, self.keys.wrapping)

    async def verify_email(self, token: str, origin: Origin) -> Done[None] | Refusal:
        """Uses up a verification token; its user may sign in from then on."""

        async def decide(read: Read) -> Decision[None] | Refusal:
            now_s = self.clock.now_s()
            entry = await read(one_time_key(accounts.VERIFY_EMAIL, Secret(token)))
            redeemed = Verification.redeem(entry, now_s)
            if redeemed is None:
                return _VOID
            verification, used_up = redeemed
            user_id = verification.user_id
            stored = await accounts.load(read, user_id, self.keys)
            if stored is None or stored.user.email_verified:
                return _VOID
            credential = await read(credential_key(user_id))
            changes: list[Change] = [
                used_up,
                accounts.set_password(user_id, verification.password_hash, credential, now_s),
                stored.put(stored.user.verified()),
            ]
            record = Record("user.email_verified", user_id, user_id, None, origin)
            return Decision(changes, [record.event(now_s)], None)

        return await self.iam.execute(decide, Effect.ADDITION)
