"""A user of the running stack, made through the API alone, whose token is renewed when it ends."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from typing import Self

from tidegate.devstack.api import Api, As, NoAnswerError
from tidegate.devstack.mailbox import Mailbox

_PASSWORD_BYTES = 15


class SignedInUser:
    """Many tasks may use one; whoever finds the token expired renews it for all."""

    def __init__(self, apis: Sequence[Api], email: str, password: str) -> None:
        self._apis = apis
        self._email = email
        self._password = password
        self._access_token = ""
        self._refresh_token = ""
        self._renewing = asyncio.Lock()

    @classmethod
    async def make(cls, apis: Sequence[Api], mailbox: Mailbox, email: str) -> Self:
        """Sign up, verify by mail, sign in.

        Raises NoAnswerError, UnexpectedAnswerError or NoMailError.
        """
        password = secrets.token_urlsafe(_PASSWORD_BYTES)
        user = cls(apis, email, password)
        signed_up = await apis[0].post(
            "/v1/auth/signup", {"email": email, "password": password, "display_name": "Replay"}
        )
        signed_up.checked(202, "signing up")
        token = await mailbox.token_for(email)
        verified = await apis[0].post("/v1/auth/verify-email", {"token": token})
        verified.checked(204, "verifying the address")
        await user._sign_in(apis[0])
        return user

    def caller(self, tenant: str) -> As:
        return As(self._access_token, tenant)

    async def principal_id(self) -> str:
        me = await self._apis[0].get("/v1/auth/me", As(self._access_token))
        return str(me.checked(200, "reading the profile").body["id"])

    async def renew(self, api: Api, expired: str | None) -> None:
        """Get a new access token, unless another task has since `expired` was used.

        Raises NoAnswerError or UnexpectedAnswerError.
        """
        async with self._renewing:
            if self._access_token != expired:
                return
            try:
                answer = await api.post("/v1/auth/refresh", {"refresh_token": self._refresh_token})
            except NoAnswerError:
                # Perhaps it was used up: whoever cannot tell had better not use it again.
                self._refresh_token = ""
                raise
            if answer.status == 200:
                self._take(answer.body)
            else:
                await self._sign_in(api)

    async def _sign_in(self, api: Api) -> None:
        body = {"email": self._email, "password": self._password}
        answer = await api.post("/v1/auth/signin", body)
        self._take(answer.checked(200, f"signing in as {self._email}").body)

    def _take(self, tokens: dict[str, str]) -> None:
        self._access_token = tokens["access_token"]
        self._refresh_token = tokens["refresh_token"]
