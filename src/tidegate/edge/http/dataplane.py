"""The data plane over HTTP: commands and queries, as one plain ASGI callable.

Nothing of the framework is on this path. A request is matched, admitted from its headers alone,
and only then is its body read.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote

from tidegate.authz.engine import COMMAND_SUBMIT, QUERY_READ
from tidegate.edge.http import asgi, codec
from tidegate.edge.http.asgi import Receive, Scope, Send
from tidegate.gateway.admission import Admission, Admitted, Call, NeedsLoad
from tidegate.gateway.forwarding import Forwarding
from tidegate.kernel import errors
from tidegate.kernel.clock import Clock
from tidegate.kernel.errors import Refusal
from tidegate.observability import context
from tidegate.observability.context import RequestContext
from tidegate.routing.model import ServiceKind
from tidegate.upstream import json_form

COMMAND_ROUTE = "/v1/commands/{aggregate_type}/{aggregate_id}"
QUERY_ROUTE = "/v1/query/{view_type}"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_NO_ROUTE = Refusal(errors.NOT_FOUND, "There is nothing here for this request.")
_POST_ONLY = Refusal(errors.METHOD_NOT_ALLOWED, "Send a POST.")
_NOT_JSON = Refusal(errors.MEDIA_TYPE, "Send `Content-Type: application/json`.")
_BAD_TIMEOUT = Refusal(
    errors.MALFORMED, "x-request-timeout-ms is a whole number of milliseconds, 1 to 600000."
)
_LONGEST_TIMEOUT_MS = 600_000
_JSON = [(b"content-type", codec.JSON.encode())]


@dataclass(frozen=True, slots=True)
class _Matched:
    """Which operation a path asks for, on what."""

    route: str
    action: str
    kind: ServiceKind
    attribute: str
    name: str
    aggregate_id: str = ""


class DataPlaneRoutes:
    """ASGI application of `/v1/commands/…` and `/v1/query/…`."""

    def __init__(
        self, admission: Admission, forwarding: Forwarding, max_body_bytes: int, clock: Clock
    ) -> None:
        self._admission = admission
        self._forwarding = forwarding
        self._max_body_bytes = max_body_bytes
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = context.current.get()
        if request is None:
            raise LookupError("no request is being served")
        refusal = await self._serve(scope, receive, send, request)
        if refusal is not None:
            allow = "POST" if refusal is _POST_ONLY else None
            await asgi.refuse(send, refusal, self._clock, allow)

    async def _serve(
        self, scope: Scope, receive: Receive, send: Send, request: RequestContext
    ) -> Refusal | None:
        matched = match(scope["raw_path"])
        if matched is None:
            return _NO_ROUTE
        request.route, request.service = matched.route, matched.kind.value
        if scope["method"] != "POST":
            return _POST_ONLY
        call = Call(
            authorization=asgi.header_values(scope, "authorization"),
            tenant=asgi.header_values(scope, "x-tenant-id"),
            action=matched.action,
            resource={matched.attribute: matched.name},
            service_kind=matched.kind,
        )
        admitted = self._admission.admit(call)
        if isinstance(admitted, NeedsLoad):
            admitted = await self._admission.after_loading(lambda: self._admission.admit(call))
        if isinstance(admitted, Refusal):
            return admitted
        request.principal_id, request.tenant_id = admitted.principal.id, admitted.tenant_id
        request.upstream = admitted.target.shard
        timeout_s = client_timeout_s(asgi.header_values(scope, "x-request-timeout-ms"))
        if isinstance(timeout_s, Refusal):
            return timeout_s
        content_type = " ".join(asgi.header_values(scope, "content-type"))
        if not codec.is_json(content_type):
            return _NOT_JSON
        body = await asgi.read_body(scope, receive, self._max_body_bytes)
        if isinstance(body, Refusal):
            return body
        if matched.kind is ServiceKind.AGGREGATE:
            return await self._command(matched, admitted, body, request, timeout_s, send)
        answer = await self._forwarding.query(
            admitted, scope["raw_path"].decode("ascii"), body, content_type, request, timeout_s
        )
        if isinstance(answer, Refusal):
            return answer
        await asgi.answer(send, answer.status, answer.headers, answer.body)
        return None

    async def _command(
        self,
        matched: _Matched,
        admitted: Admitted,
        body: bytes,
        request: RequestContext,
        timeout_s: float | None,
        send: Send,
    ) -> Refusal | None:
        value = codec.loads(body)
        if isinstance(value, Refusal):
            return value
        command = json_form.request_from_json(matched.name, matched.aggregate_id, value)
        if isinstance(command, Refusal):
            return command
        decided = await self._forwarding.submit_command(admitted, command, request, timeout_s)
        if isinstance(decided, Refusal):
            return decided
        answer = json_form.response_to_json(decided)
        if isinstance(answer, Refusal):
            return answer
        await asgi.answer(send, 200, _JSON, answer)
        return None


def match(raw_path: bytes) -> _Matched | None:
    """What a path asks for. Works on the raw path, in which an escaped `/` is no separator."""
    segments = raw_path.decode("latin-1").split("/")
    match segments:
        case ["", "v1", "commands", name, aggregate_id] if _NAME.fullmatch(name) and aggregate_id:
            return _Matched(
                COMMAND_ROUTE,
                COMMAND_SUBMIT,
                ServiceKind.AGGREGATE,
                "aggregate_type",
                name,
                unquote(aggregate_id),
            )
        case ["", "v1", "query", name] if _NAME.fullmatch(name):
            return _Matched(QUERY_ROUTE, QUERY_READ, ServiceKind.PROJECTION, "view_type", name)
        case _:
            return None


def client_timeout_s(values: list[str]) -> float | Refusal | None:
    """How long the client is willing to wait; None when it does not say."""
    if not values:
        return None
    text = values[0]
    if len(values) > 1 or not (text.isascii() and text.isdigit()) or len(text) > 6:
        return _BAD_TIMEOUT
    timeout_ms = int(text)
    return timeout_ms / 1000 if 1 <= timeout_ms <= _LONGEST_TIMEOUT_MS else _BAD_TIMEOUT
