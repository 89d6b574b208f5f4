"""Sign-in: a proof of identity becomes a session.

Invariants
- An unknown address, a wrong password, a disabled and an unverified account are told apart by
  nobody outside: same status, same body, the same hash verified.
- A proof that a change overtakes opens nothing. The credential is read again before the commit,
  and the session carries the epoch that was read with it: whatever ends a user's sessions raises
  the epoch, which admission and refresh compare.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from tidegate.identity import accounts, model, passwords
from tidegate.identity.accounts import Keys
from tidegate.identity.model import UserStatus
from tidegate.identity.passwords import Passwords
from tidegate.kernel import errors
from tidegate.kernel.clock import Clock
from tidegate.kernel.errors import Refusal
from tidegate.kernel.ids import PrincipalId, SessionId, new_id
from tidegate.kernel.secret import Secret
from tidegate.observability import metrics
from tidegate.sessions import access, refresh
from tidegate.sessions.access import AccessClaims
from tidegate.sessions.keys import SigningKeyView
from tidegate.sessions.refresh import RefreshToken, Session
from tidegate.sessions.settings import Settings
from tidegate.store.barrier import Effect
from tidegate.store.bucket import UNAVAILABLE, Bucket, Decision, Done, Read
from tidegate.store.changes import Put
from tidegate.store.connection import AnswerLost, Disconnected
from tidegate.store.events import Origin, Record
from tidegate.store.keyring import digest

ONE_FACTOR = "1"
_FAILED = Refusal(errors.SIGNIN_FAILED, "The address or the password is wrong.")


@dataclass(frozen=True, slots=True)
class Tokens:
    """What a client gets for a session."""

    access_token: Secret
    expires_in_s: int
    refresh_token: Secret
    refresh_expires_in_s: int
    session_id: SessionId


@dataclass(frozen=True, slots=True)
class TokenIssuer:
    """Turns a session into the tokens that stand for it."""

    keys: Keys
    signing_keys: SigningKeyView
    settings: Settings
    clock: Clock

    def issue(self, session: Session, token: RefreshToken) -> Tokens | Refusal:
        signing_key = self.signing_keys.active
        if signing_key is None:
            return UNAVAILABLE
        now_s = self.clock.now_s()
        claims = AccessClaims(
            principal_id=session.principal_id,
            session_id=session.id,
            session_epoch=session.session_epoch,
            expires_at_s=min(now_s + self.settings.access_ttl_s, session.expires_at_s),
            authenticated_at_s=session.created_at_s,
            amr=session.amr,
            acr=session.acr,
            scope="",
        )
        return Tokens(
            access_token=access.issue(claims, signing_key, self.settings, now_s),
            expires_in_s=round(claims.expires_at_s - now_s),
            refresh_token=token.encode(self.keys.peppers),
            refresh_expires_in_s=round(session.expires_at_s - now_s),
            session_id=session.id,
        )


@dataclass(frozen=True, slots=True)
class _Proof:
    """A password that was verified, and against which credential."""

    user_id: PrincipalId
    credential_revision: int
    new_hash: str | None


@dataclass(frozen=True, slots=True)
class SignIn:
    """Sign-in with a password."""

    iam: Bucket
    passwords: Passwords
    keys: Keys
    issuer: TokenIssuer
    clock: Clock

    async def sign_in(
        self, email: str, password: str, device_name: str, origin: Origin
    ) -> Done[Tokens] | Refusal:
        """Starts a session for whoever proves an account."""
        try:
            proof = await self._prove(email, passwords.normalize(password))
        except (Disconnected, AnswerLost):
            return UNAVAILABLE
        if isinstance(proof, Refusal):
            metrics.SIGNINS.labels(method="password", result="refused").inc()
            return proof
        done = await self._start_session(proof, device_name, origin)
        result = "refused" if isinstance(done, Refusal) else "ok"
        metrics.SIGNINS.labels(method="password", result=result).inc()
        return done

    async def _prove(self, email: str, password: Secret) -> _Proof | Refusal:
        # From the leader: who was verified a moment ago must not be told that he is unknown.
        read = self.iam.read_leader
        user_id = await accounts.find_by_email(read, email, self.keys)
        credential = await read(model.credential_key(user_id)) if user_id else None
        stored = accounts.password_hash(credential.value) if credential else None
        matches = await self.passwords.verify(stored, password)
        if isinstance(matches, Refusal):
            return matches
        if not matches or user_id is None or credential is None or stored is None:
            return _FAILED
        new_hash = None
        if self.passwords.needs_rehash(stored):
            made = await self.passwords.hash(password)
            new_hash = None if isinstance(made, Refusal) else made
        return _Proof(user_id, credential.revision, new_hash)

    async def _start_session(
        self, proof: _Proof, device_name: str, origin: Origin
    ) -> Done[Tokens] | Refusal:
        session_id = SessionId(new_id())
        secret = Secret(secrets.token_bytes(refresh.SECRET_BYTES))

        async def decide(read: Read) -> Decision[Tokens] | Refusal:
            credential = await read(model.credential_key(proof.user_id))
            # From the leader: a session of an epoch that was ended just now would be void.
            user = await self.iam.read_leader(model.user_key(proof.user_id))
            if credential.revision != proof.credential_revision or user.value is None:
                return _FAILED
            if user.value["status"] != UserStatus.ACTIVE or not user.value["email_verified"]:
                return _FAILED
            now_s = self.clock.now_s()
            session = Session(
                principal_id=proof.user_id,
                id=session_id,
                session_epoch=user.value["session_epoch"],
                counter=0,
                secret_hash=digest(secret),
                created_at_s=now_s,
                rotated_at_s=now_s,
                expires_at_s=refresh.expiry(now_s, now_s, self.issuer.settings),
                amr=("pwd",),
                acr=ONE_FACTOR,
                device_name=device_name,
                address=origin.address,
            )
            tokens = self.issuer.issue(session, RefreshToken(proof.user_id, session_id, 0, secret))
            if isinstance(tokens, Refusal):
                return tokens
            changes = [refresh.put(session, None, now_s)]
            if proof.new_hash is not None:
                value = {**(credential.value or {}), "hash": proof.new_hash}
                changes.append(Put(credential.key, value, credential.revision))
            record = Record("session.started", session_id, proof.user_id, None, origin)
            return Decision(changes, [record.event(now_s)], tokens)

        return await self.iam.execute(decide, Effect.UNSEEN)
