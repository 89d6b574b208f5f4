"""One call of a replica's API, and what came back: an answer, or none."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp

from harness.history.record import NO_ANSWER


@dataclass(frozen=True, slots=True)
class Answer:
    """`status` is NO_ANSWER when there was none, which does not say that nothing was done."""

    status: int
    code: str = ""
    body: Any = None
    revision: int | None = None
    unconfirmed: int = 0


@dataclass(frozen=True, slots=True)
class Call:
    """What is sent. `label` goes along as the user agent."""

    method: str
    path: str
    body: Mapping[str, object] | None = None
    token: str | None = None
    tenant: str | None = None
    label: str = ""


def new_session() -> aiohttp.ClientSession:
    """For calls that are sent once, whatever happens to them."""
    session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
    # Else a DELETE whose connection breaks is sent again, and the log knows of one of the two.
    session._retry_connection = False
    return session


async def send(http: aiohttp.ClientSession, url: str, call: Call, timeout_s: float) -> Answer:
    headers = {"user-agent": call.label}
    if call.token is not None:
        headers["authorization"] = f"Bearer {call.token}"
    if call.tenant is not None:
        headers["x-tenant-id"] = call.tenant
    data = None
    if call.body is not None:
        headers["content-type"] = "application/json"
        data = json.dumps(call.body).encode()
    timeout = aiohttp.ClientTimeout(total=timeout_s)
    try:
        async with http.request(
            call.method, url + call.path, data=data, headers=headers, timeout=timeout
        ) as answer:
            raw = await answer.read()
            revision = answer.headers.get("x-tidegate-revision", "").rpartition(":")[2]
            unconfirmed = answer.headers.get("x-tidegate-unconfirmed", "0")
            body = _json(raw)
            return Answer(
                answer.status,
                str(body.get("code", "")) if isinstance(body, dict) else "",
                body,
                int(revision) if revision else None,
                int(unconfirmed),
            )
    except (aiohttp.ClientError, OSError, TimeoutError):
        return Answer(NO_ANSWER)


def _json(raw: bytes) -> Any:
    try:
        return json.loads(raw) if raw else None
    except ValueError:
        return None
