"""The outermost ASGI callable: what every request gets, whichever plane serves it.

It gives each request its ids and trace, waits for `x-tidegate-min-revision`, hands the request
to its plane, and writes its one log line and its metrics. Headers of ours that the client sent
(`x-tidegate-*`) are read here and end here.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Mapping
from ipaddress import ip_address

from tidegate.edge.http import asgi
from tidegate.edge.http.asgi import (
    CLIENT_GONE,
    INTERNAL,
    Application,
    ClientGone,
    Message,
    Receive,
    Scope,
    Send,
)
from tidegate.edge.http.settings import Settings
from tidegate.kernel import errors
from tidegate.kernel.clock import Clock
from tidegate.kernel.errors import Refusal
from tidegate.kernel.ids import new_id
from tidegate.observability import context, logs, metrics, tracing
from tidegate.observability.context import RequestContext
from tidegate.store.views import Progress

log = logging.getLogger("tidegate.access")

_LONGEST_USER_AGENT = 256
# FastAPI's own, which cannot name themselves.
_FRAMEWORK_ROUTES = frozenset({"/openapi.json", "/docs", "/docs/oauth2-redirect"})
# Asked for every few seconds by machines; a line each would drown the others.
_QUIET = frozenset(
    {
        *("/health", "/health/live", "/health/ready", "/health/startup"),
        *("/ready", "/startup", "/metrics"),
    }
)


class Draining:
    """Whether this replica is about to stop: it then answers, and closes each connection."""

    def __init__(self) -> None:
        self.active = False


# Clients choose what to wait for; more than this many at once are not kept waiting.
_MOST_WAITING = 10_000


class Front:
    """Contexts, log lines and metrics around the two planes."""

    def __init__(
        self,
        data_plane: Application,
        control_plane: Application,
        progress: Mapping[str, Progress],
        draining: Draining,
        settings: Settings,
        clock: Clock,
    ) -> None:
        self._data_plane = data_plane
        self._control_plane = control_plane
        self._progress = progress
        self._draining = draining
        self._settings = settings
        self._clock = clock
        self._waiting = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._control_plane(scope, receive, send)
            return
        request = self._context(scope)
        token = context.current.set(request)
        answer = _Answer(send, request, self._draining)
        started = time.perf_counter()
        try:
            await self._serve(scope, receive, answer.send)
        except ClientGone:
            answer.status = answer.status or CLIENT_GONE
        except Exception:
            log.exception("a request failed")
            if not answer.status:
                await asgi.refuse(answer.send, INTERNAL, self._clock)
            request.error_code = INTERNAL.code.word
        finally:
            self._account(scope, request, answer, time.perf_counter() - started)
            context.current.reset(token)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = await self._reach_min_revision(scope)
        if refusal is not None:
            await asgi.refuse(send, refusal, self._clock)
            return
        path: str = scope["path"]
        if path.startswith(("/v1/commands/", "/v1/query/")):
            await self._data_plane(scope, receive, send)
        elif scope["method"] == "HEAD":
            # The server below leaves the body out; the framework would know no such method.
            await self._control_plane({**scope, "method": "GET"}, receive, send)
        else:
            await self._control_plane(scope, receive, send)

    def _context(self, scope: Scope) -> RequestContext:
        request_id = new_id()
        trace = tracing.continue_trace(
            asgi.header_values(scope, "traceparent"),
            asgi.header_values(scope, "tracestate"),
            secrets.randbits(192),
        )
        correlation = tracing.correlation_id(
            asgi.header_values(scope, "x-correlation-id"), request_id
        )
        user_agent = " ".join(asgi.header_values(scope, "user-agent"))[:_LONGEST_USER_AGENT]
        request = RequestContext(request_id, correlation, trace, self._address(scope), user_agent)
        if scope["path"] in _FRAMEWORK_ROUTES:
            request.route = scope["path"]
        return request

    def _address(self, scope: Scope) -> str:
        """The client's address: the last one that a trusted proxy did not vouch for."""
        client = scope.get("client")
        hops = [client[0]] if client else []
        for value in reversed(asgi.header_values(scope, "x-forwarded-for")):
            hops += [hop.strip() for hop in reversed(value.split(","))]
        address = ""
        for hop in hops:
            try:
                parsed = ip_address(hop)
            except ValueError:
                break
            address = str(parsed)
            if not any(parsed in network for network in self._settings.trusted_proxies):
                break
        return address

    async def _reach_min_revision(self, scope: Scope) -> Refusal | None:
        for value in asgi.header_values(scope, "x-tidegate-min-revision"):
            bucket, _, sequence = value.partition(":")
            progress = self._progress.get(bucket)
            if progress is None or not (sequence.isascii() and sequence.isdigit()):
                return Refusal(
                    errors.MALFORMED, "x-tidegate-min-revision is `iam:<n>` or `routing:<n>`."
                )
            if len(sequence) > 19 or not await self._reach(progress, int(sequence)):
                return Refusal(
                    errors.VIEW_BEHIND,
                    f"This replica has not seen {bucket}:{sequence[:19]} yet.",
                    retry_after_s=1,
                )
        return None

    async def _reach(self, progress: Progress, revision: int) -> bool:
        if revision <= progress.revision:
            return True
        if self._waiting >= _MOST_WAITING:
            return False
        self._waiting += 1
        try:
            return await progress.wait_for(revision, self._settings.min_revision_wait_s)
        finally:
            self._waiting -= 1

    def _account(
        self, scope: Scope, request: RequestContext, answer: _Answer, seconds: float
    ) -> None:
        method, status = scope["method"], answer.status or CLIENT_GONE
        labelled = method if method in _METHODS else "other"
        metrics.REQUESTS.labels(labelled, request.route, status, request.service).inc()
        metrics.REQUEST_SECONDS.labels(request.route).observe(seconds)
        level = logging.DEBUG if scope["path"] in _QUIET else logging.INFO
        if not log.isEnabledFor(level):
            return
        logs.event(
            log,
            level,
            f"{method} {request.route} {status}",
            method=method,
            route=request.route,
            status=status,
            duration_ms=round(seconds * 1000, 2),
            upstream=request.upstream,
            retries=request.retries,
            bytes_out=answer.bytes_out,
            error_code=request.error_code,
            address=request.address,
        )


_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class _Answer:
    """The answer on its way out: adds our headers, remembers what was sent."""

    def __init__(self, send: Send, request: RequestContext, draining: Draining) -> None:
        self._send = send
        self._request = request
        self._draining = draining
        self.status = 0
        self.bytes_out = 0

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            ours = [
                (b"x-request-id", self._request.request_id.encode()),
                (b"x-correlation-id", self._request.correlation_id.encode()),
                (b"traceparent", self._request.trace.traceparent.encode()),
                (b"x-content-type-options", b"nosniff"),
                (b"referrer-policy", b"no-referrer"),
            ]
            if self._draining.active:
                ours.append((b"connection", b"close"))
            message["headers"] = [*message["headers"], *ours]
        elif message["type"] == "http.response.body":
            self.bytes_out += len(message.get("body", b""))
        await self._send(message)
