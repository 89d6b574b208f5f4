"""Refusals on the HTTP wire: `application/problem+json` (RFC 9457), from one table.

Nothing else decides a status, and nothing that a refusal does not say gets into an answer: no
stack trace, no internal address, no secret.
"""

from __future__ import annotations

from typing import Any

from tidegate.edge.http import codec
from tidegate.kernel.clock import Clock, rfc3339
from tidegate.kernel.errors import ErrorKind, Refusal
from tidegate.observability import context

PROBLEM_JSON = "application/problem+json"

STATUSES: dict[ErrorKind, int] = {
    ErrorKind.MALFORMED: 400,
    ErrorKind.UNAUTHENTICATED: 401,
    ErrorKind.FORBIDDEN: 403,
    ErrorKind.NOT_FOUND: 404,
    ErrorKind.WRONG_METHOD: 405,
    ErrorKind.CONFLICT: 409,
    ErrorKind.LOST_UPDATE: 412,
    ErrorKind.TOO_LARGE: 413,
    ErrorKind.WRONG_MEDIA_TYPE: 415,
    ErrorKind.INVALID: 422,
    ErrorKind.LIMITED: 429,
    ErrorKind.INTERNAL: 500,
    ErrorKind.BAD_UPSTREAM: 502,
    ErrorKind.UNAVAILABLE: 503,
    ErrorKind.DEADLINE: 504,
}


def status(refusal: Refusal) -> int:
    return STATUSES[refusal.code.kind]


def body(refusal: Refusal, clock: Clock) -> bytes:
    """The problem document. Also notes the code in the request's context, for its log line."""
    request = context.current.get()
    if request is not None:
        request.error_code = refusal.code.word
    document: dict[str, Any] = {
        "type": f"/errors/{refusal.code.word}",
        "title": refusal.code.title,
        "status": status(refusal),
        "detail": refusal.detail,
        "code": refusal.code.word,
        "details": dict(refusal.details),
        "request_id": request.request_id if request is not None else None,
        "timestamp": rfc3339(clock.now_s()),
        "errors": [{"field": e.field, "problem": e.problem} for e in refusal.errors],
        "retry_after": refusal.retry_after_s,
    }
    return codec.dumps(document)


def headers(refusal: Refusal) -> list[tuple[str, str]]:
    """The headers that go with the refusal."""
    found = [("content-type", PROBLEM_JSON), ("cache-control", "no-store")]
    if refusal.retry_after_s is not None:
        found.append(("retry-after", str(refusal.retry_after_s)))
    if refusal.code.kind is ErrorKind.UNAUTHENTICATED:
        error = ', error="invalid_token"' if refusal.code.word == "TOKEN_INVALID" else ""
        found.append(("www-authenticate", f'Bearer realm="tidegate"{error}'))
    return found
