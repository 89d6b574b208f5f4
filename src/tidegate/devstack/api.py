"""A client's view of the gateway's HTTP API: one call, one answer, nothing hidden.

What does not arrive is one exception, whatever the library calls it; what arrives is an answer,
whatever its status.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import quote

import aiohttp
from yarl import URL

_TIMEOUT_S = 15.0


class NoAnswerError(Exception):
    """The call got no whole answer; whether it was carried out is not known."""


class UnexpectedAnswerError(Exception):
    """The gateway answered, but not with what had to come."""


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    # The JSON value of the body; None when it has none.
    body: Any
    # What `x-tidegate-revision` says: from where on the change can be seen.
    revision: str | None

    @property
    def code(self) -> str:
        """The code of a problem, or nothing."""
        return str(self.body.get("code", "")) if isinstance(self.body, dict) else ""

    def checked(self, status: int, what: str) -> Self:
        """Itself. Raises UnexpectedAnswerError when the status is another."""
        if self.status != status:
            raise UnexpectedAnswerError(f"{what} was answered with {self}")
        return self

    def __str__(self) -> str:
        return f"{self.status} {self.code}".rstrip()


@dataclass(frozen=True, slots=True)
class As:
    """On whose behalf a call is made, in which tenant, seeing at least which change."""

    token: str | None = None
    tenant: str | None = None
    min_revision: str | None = None

    def headers(self) -> dict[str, str]:
        headers: dict[str, str] = {}
        if self.token is not None:
            headers["authorization"] = f"Bearer {self.token}"
        if self.tenant is not None:
            headers["x-tenant-id"] = self.tenant
        if self.min_revision is not None:
            headers["x-tidegate-min-revision"] = self.min_revision
        return headers


NOBODY = As()


class Api:
    """The API of one replica."""

    def __init__(self, http: aiohttp.ClientSession, url: str) -> None:
        self._http = http
        self.url = url

    async def get(self, path: str, caller: As = NOBODY) -> Answer:
        return await self._call("GET", path, None, caller)

    async def post(self, path: str, body: Mapping[str, Any], caller: As = NOBODY) -> Answer:
        return await self._call("POST", path, body, caller)

    async def command(
        self, aggregate_type: str, aggregate_id: str, body: Mapping[str, Any], caller: As
    ) -> Answer:
        path = f"/v1/commands/{quote(aggregate_type, safe='')}/{quote(aggregate_id, safe='')}"
        return await self.post(path, body, caller)

    async def query(self, view_type: str, body: Mapping[str, Any], caller: As) -> Answer:
        return await self.post(f"/v1/query/{quote(view_type, safe='')}", body, caller)

    async def _call(
        self, method: str, path: str, body: Mapping[str, Any] | None, caller: As
    ) -> Answer:
        headers = caller.headers()
        data = None
        if body is not None:
            headers["content-type"] = "application/json"
            data = json.dumps(body).encode()
        url = URL(self.url + path, encoded=True)
        timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
        try:
            async with self._http.request(
                method, url, data=data, headers=headers, timeout=timeout
            ) as answer:
                raw = await answer.read()
                return Answer(answer.status, _json(raw), answer.headers.get("x-tidegate-revision"))
        except aiohttp.ClientConnectorError as error:
            raise NoAnswerError(f"nothing listens at {self.url}") from error
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise NoAnswerError(f"{self.url}: {str(error) or type(error).__name__}") from error


def _json(raw: bytes) -> Any:
    try:
        return json.loads(raw) if raw else None
    except ValueError:
        return None
