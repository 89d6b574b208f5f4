"""Queries to projection nodes, over HTTP.

The request is built anew: of what a client sent, the path, the body and its media type go on,
nothing else. The answer's body passes through untouched, even when compressed. A query may be
sent again until an answer has begun; a redirect is never followed, nor shown, for it names a
host behind the gateway.
"""

from __future__ import annotations

import logging
import math
import random
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import aiohttp
from yarl import URL

from tidegate.kernel.clock import Clock
from tidegate.kernel.errors import Refusal
from tidegate.routing.model import Endpoint, ServiceKind
from tidegate.upstream.call import CallContext, http_headers
from tidegate.upstream.caller import DEADLINE, UPSTREAM_FAILED, Caller
from tidegate.upstream.headers import Headers, passed_on
from tidegate.upstream.retry import Failed
from tidegate.upstream.settings import Settings

log = logging.getLogger(__name__)

_KEEPALIVE_S = 30.0
_DNS_TTL_S = 5


@dataclass(frozen=True, slots=True)
class UpstreamAnswer:
    """What a node answered, fit to be passed on."""

    status: int
    headers: Headers
    body: bytes


class Projections:
    """The projection nodes; an async context manager that holds the connections."""

    def __init__(self, settings: Settings, clock: Clock, rng: random.Random) -> None:
        self._settings = settings
        self._caller: Caller[UpstreamAnswer] = Caller(ServiceKind.PROJECTION, settings, clock, rng)
        self._tls = ssl.create_default_context(cafile=settings.ca_file)
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(
            # The caller bounds what is in flight; a second bound would be a hidden queue.
            limit=0,
            ssl=self._tls,
            keepalive_timeout=_KEEPALIVE_S,
            ttl_dns_cache=_DNS_TTL_S,
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            skip_auto_headers=("accept", "user-agent"),
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def query(
        self,
        endpoints: Sequence[Endpoint],
        path: str,
        body: bytes,
        content_type: str,
        context: CallContext,
    ) -> UpstreamAnswer | Refusal:
        """Sends one query to `path` (as it stood in the request line) at one of `endpoints`."""
        if not path.startswith("/"):
            raise ValueError(f"{path!r} is no path")
        fixed = (("content-type", content_type), ("accept-encoding", "identity"))

        async def attempt(
            endpoint: Endpoint, remaining_s: float
        ) -> UpstreamAnswer | Refusal | Failed:
            url = URL(f"{endpoint.transport}://{endpoint.address}{path}", encoded=True)
            headers = (*fixed, *http_headers(context, remaining_s))
            return await self._attempt(url, body, headers, remaining_s)

        return await self._caller.call(endpoints, context.deadline_s, attempt)

    async def _attempt(
        self, url: URL, body: bytes, headers: tuple[tuple[str, str], ...], remaining_s: float
    ) -> UpstreamAnswer | Refusal | Failed:
        if self._session is None:
            raise RuntimeError("the projections are not open")
        timeout = aiohttp.ClientTimeout(
            total=remaining_s,
            sock_connect=self._settings.connect_timeout_s,
            # Or else longer ones are rounded up, past the deadline.
            ceil_threshold=math.inf,
        )
        try:
            async with self._session.post(
                url, data=body, headers=headers, timeout=timeout, allow_redirects=False
            ) as answer:
                return await self._taken(answer)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as exc:
            return Failed(sent=False, why=str(exc))
        except TimeoutError:
            return DEADLINE
        except aiohttp.ClientConnectionError as exc:
            # Before an answer; one that breaks off half-way is a ClientPayloadError.
            return Failed(sent=True, why=str(exc))
        except aiohttp.ClientError as exc:
            log.warning("projection node %s failed: %s", url.authority, type(exc).__name__)
            return UPSTREAM_FAILED

    async def _taken(self, answer: aiohttp.ClientResponse) -> UpstreamAnswer | Refusal:
        if not 200 <= answer.status < 300 and not 400 <= answer.status < 600:
            log.warning("projection node %s answered %d", answer.url.authority, answer.status)
            return UPSTREAM_FAILED
        body = bytearray()
        async for chunk in answer.content.iter_any():
            body += chunk
            if len(body) > self._settings.max_answer_bytes:
                log.warning("projection node %s answered too much", answer.url.authority)
                # Left half read, the answer takes its connection along.
                return UPSTREAM_FAILED
        return UpstreamAnswer(answer.status, passed_on(answer.raw_headers), bytes(body))
