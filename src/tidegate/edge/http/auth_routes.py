"""`/v1/auth`: sign-up, verification, sign-in, refresh, sign-out, and the caller's profile."""

from dataclasses import dataclass
from typing import Annotated, Literal, Self

from fastapi import APIRouter, Depends, Response
from pydantic import BaseModel, ConfigDict, EmailStr, Field

from tidegate.edge.http.control import Caller, Refused, StrictRoute, accepted, origin
from tidegate.flows.profile import Profiles
from tidegate.flows.sessions import Sessions
from tidegate.flows.signin import SignIn, Tokens
from tidegate.flows.signup import SignUp
from tidegate.gateway.admission import Principal
from tidegate.kernel.clock import rfc3339
from tidegate.kernel.errors import Refusal

# Longer than any accepted password: the policy says what is wrong, not the parser.
Password = Annotated[str, Field(max_length=1024)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", str_strip_whitespace=False)


class SignUpBody(_Body):
    email: EmailStr = Field(examples=["ada@example.org"])
    password: Password = Field(examples=["correct horse battery staple"])
    display_name: str = Field("", max_length=200, examples=["Ada"])


class SignUpAnswer(BaseModel):
    status: Literal["verification_sent"] = "verification_sent"


class TokenBody(_Body):
    token: str = Field(min_length=1, max_length=200)


class SignInBody(_Body):
    email: str = Field(max_length=320, examples=["ada@example.org"])
    password: Password = Field(examples=["correct horse battery staple"])
    device_name: str = Field("", max_length=200, examples=["Ada's laptop"])


class RefreshBody(_Body):
    refresh_token: str = Field(max_length=512)


class SignOutBody(_Body):
    all: bool = False


class TokenAnswer(BaseModel):
    access_token: str
    token_type: Literal["Bearer"] = "Bearer"  # noqa: S105
    expires_in: int = Field(description="Seconds until the access token expires.")
    refresh_token: str
    refresh_expires_in: int = Field(description="Seconds until the session ends unless refreshed.")
    session_id: str

    @classmethod
    def of(cls, tokens: Tokens) -> Self:
        return cls(
            access_token=tokens.access_token.reveal_text(),
            expires_in=tokens.expires_in_s,
            refresh_token=tokens.refresh_token.reveal_text(),
            refresh_expires_in=tokens.refresh_expires_in_s,
            session_id=tokens.session_id,
        )


class MfaAnswer(BaseModel):
    totp: bool
    recovery_codes_left: int


class MembershipAnswer(BaseModel):
    id: str
    roles: list[str]


class MeAnswer(BaseModel):
    id: str
    email: str
    email_verified: bool
    display_name: str
    status: str
    mfa: MfaAnswer
    tenants: list[MembershipAnswer]
    created_at: str


@dataclass(frozen=True, slots=True)
class AuthRoutes:
    """The routes and what serves them."""

    sign_up: SignUp
    sign_in: SignIn
    sessions: Sessions
    profiles: Profiles
    caller: Caller

    def router(self) -> APIRouter:
        """All routes. Answers that carry tokens are never cached."""
        router = APIRouter(prefix="/v1/auth", tags=["auth"], route_class=StrictRoute)
        caller = Annotated[Principal, Depends(self.caller)]

        @router.post("/signup", status_code=202)
        async def signup(body: SignUpBody, response: Response) -> SignUpAnswer:
            """Makes an account and mails a token to its address.

            The answer is the same whether or not the address has an account.
            """
            made = await self.sign_up.sign_up(
                body.email, body.password, body.display_name, origin()
            )
            accepted(made, response)
            return SignUpAnswer()

        @router.post("/verify-email", status_code=204)
        async def verify_email(body: TokenBody, response: Response) -> None:
            """Proves the address with the token that was mailed to it."""
            accepted(await self.sign_up.verify_email(body.token, origin()), response)

        @router.post("/signin")
        async def signin(body: SignInBody, response: Response) -> TokenAnswer:
            """Starts a session."""
            done = await self.sign_in.sign_in(body.email, body.password, body.device_name, origin())
            tokens: Tokens = accepted(done, response)
            response.headers["cache-control"] = "no-store"
            return TokenAnswer.of(tokens)

        @router.post("/refresh")
        async def refresh(body: RefreshBody, response: Response) -> TokenAnswer:
            """Trades a refresh token for its successor. Each works once."""
            done = await self.sessions.refresh(body.refresh_token, origin())
            tokens: Tokens = accepted(done, response)
            response.headers["cache-control"] = "no-store"
            return TokenAnswer.of(tokens)

        @router.post("/signout", status_code=204)
        async def signout(body: SignOutBody, principal: caller, response: Response) -> None:
            """Ends this session, or all of the caller's."""
            if body.all:
                done = await self.sessions.sign_out_everywhere(principal.id, origin())
            else:
                done = await self.sessions.sign_out(principal.id, principal.session_id, origin())
            accepted(done, response)

        @router.get("/me")
        async def me(principal: caller) -> MeAnswer:
            """The caller's profile and memberships."""
            profile = await self.profiles.of(principal.id)
            if isinstance(profile, Refusal):
                raise Refused(profile)
            user = profile.user
            return MeAnswer(
                id=user.id,
                email=user.email,
                email_verified=user.email_verified,
                display_name=user.display_name,
                status=user.status.value,
                mfa=MfaAnswer(totp=False, recovery_codes_left=0),
                tenants=[
                    MembershipAnswer(id=m.tenant_id, roles=list(m.role_ids))
                    for m in profile.memberships
                ],
                created_at=rfc3339(user.created_at_s),
            )

        return router
