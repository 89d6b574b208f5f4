"""Refresh and sign-out: what happens to a session after it was started.

Take-aways change one parent: signing out everywhere raises the user's session epoch, which
admission and refresh compare, instead of touching each session.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from tidegate.flows.signin import TokenIssuer, Tokens
from tidegate.identity import model
from tidegate.kernel import errors
from tidegate.kernel.clock import Clock
from tidegate.kernel.errors import Refusal
from tidegate.kernel.ids import PrincipalId, SessionId
from tidegate.kernel.secret import Secret
from tidegate.principals.view import Principals
from tidegate.sessions import refresh
from tidegate.sessions.refresh import (
    Ended,
    Raced,
    RefreshToken,
    Reused,
    Rotated,
    Session,
    Stale,
)
from tidegate.store.barrier import Effect
from tidegate.store.bucket import Bucket, Decision, Done, Read
from tidegate.store.changes import Entry
from tidegate.store.events import Origin, Record
from tidegate.store.lease import FENCED, Lease

_VOID = Refusal(errors.REFRESH_INVALID, "Sign in again.")
# No "try again later": should it have been done, a later repeat is reuse and ends the session.
_UNKNOWN = Refusal(
    errors.COMMIT_UNKNOWN, "It is not known whether the token was used. Sign in again."
)
_RACED = Refusal(
    errors.REFRESH_RACED, "Another refresh of this session came first. Use what it brought."
)


@dataclass(frozen=True, slots=True)
class Sessions:
    """The life of sessions."""

    iam: Bucket
    principals: Principals
    lease: Lease
    issuer: TokenIssuer
    clock: Clock

    async def refresh(self, text: str, origin: Origin) -> Done[Tokens] | Refusal:
        """Uses a refresh token: exactly one use of it succeeds, on whichever replica."""
        token = refresh.parse(text, self.issuer.keys.peppers)
        if token is None:
            return _VOID
        if not self.lease.holds():
            return FENCED
        next_secret = Secret(secrets.token_bytes(refresh.SECRET_BYTES))

        async def decide(read: Read) -> Decision[Tokens | None] | Refusal:
            entry = await read(refresh.session_key(token.principal_id, token.session_id))
            now_s = self.clock.now_s()
            session = refresh.decode(entry, now_s)
            settings = self.issuer.settings
            rotation = refresh.rotate(session, token, next_secret, now_s, settings)
            match rotation:
                case Ended():
                    return _VOID
                case Raced():
                    return _RACED
                case Stale():
                    return Refusal(errors.VIEW_BEHIND, "Try again.", retry_after_s=1)
                case Reused():
                    return self._end_for_reuse(entry, origin, now_s)
                case Rotated(session=successor, token=successor_token):
                    return await self._rotated(entry, successor, successor_token, now_s)

        # Nobody follows session entries, so there is no view to wait for.
        done = await self.iam.execute(decide, Effect.UNSEEN)
        if isinstance(done, Refusal):
            return _UNKNOWN if done.code is errors.COMMIT_UNKNOWN else done
        if done.outcome is None:
            await self.iam.hold(done.revision.sequence, Effect.ADDITION)
            return _VOID
        return Done(done.outcome, done.revision)

    async def _rotated(
        self, entry: Entry, session: Session, token: RefreshToken, now_s: float
    ) -> Decision[Tokens | None] | Refusal:
        known = await self.principals.find(session.principal_id)
        if isinstance(known, Refusal):
            return known
        standing = known.standing
        if standing is None or not standing.active:
            return _VOID
        if standing.session_epoch != session.session_epoch:
            return _VOID
        tokens = self.issuer.issue(session, token)
        if isinstance(tokens, Refusal):
            return tokens
        return Decision([refresh.put(session, entry, now_s)], [], tokens)

    def _end_for_reuse(self, entry: Entry, origin: Origin, now_s: float) -> Decision[Tokens | None]:
        _, principal_id, session_id = entry.key.split(".")
        record = Record("session.refresh_reused", session_id, principal_id, None, origin)
        changes = refresh.end(entry, now_s, self.issuer.settings)
        return Decision(changes, [record.event(now_s)], None)

    async def sign_out(
        self, principal_id: PrincipalId, session_id: SessionId, origin: Origin
    ) -> Done[None] | Refusal:
        """Ends one session with its access tokens. Ending it twice is no error."""

        async def decide(read: Read) -> Decision[None] | Refusal:
            entry = await read(refresh.session_key(principal_id, session_id))
            revoked = await read(f"revocation.{principal_id}.{session_id}")
            now_s = self.clock.now_s()
            changes = refresh.end(entry, now_s, self.issuer.settings)
            # Deleted even where this copy knows of no session: were it not written to, nothing
            # would conflict, and a session that only a newer copy knows would live on.
            if revoked.value is not None:
                changes = changes[:-1]
            record = Record("session.signed_out", session_id, principal_id, None, origin)
            return Decision(changes, [record.event(now_s)], None)

        return await self.iam.execute(decide, Effect.TAKE_AWAY)

    async def sign_out_everywhere(
        self, principal_id: PrincipalId, origin: Origin
    ) -> Done[None] | Refusal:
        """Ends all sessions of a user with one change."""

        async def decide(read: Read) -> Decision[None] | Refusal:
            entry = await read(model.user_key(principal_id))
            if entry.value is None:
                return _VOID
            record = Record("user.signed_out_everywhere", principal_id, principal_id, None, origin)
            changes = [model.end_all_sessions(entry)]
            return Decision(changes, [record.event(self.clock.now_s())], None)

        return await self.iam.execute(decide, Effect.TAKE_AWAY)
