"""The request being served: what every log line of it carries.

Held in a context variable, so that a line logged deep inside knows its request.
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass

from tidegate.observability.tracing import Trace


@dataclass(slots=True)
class RequestContext:
    """One request. Filled in as it passes the gateway, read when it is logged."""

    request_id: str
    correlation_id: str
    trace: Trace
    address: str
    user_agent: str
    route: str = "unmatched"
    service: str = "control"
    principal_id: str | None = None
    tenant_id: str | None = None
    error_code: str | None = None
    upstream: str | None = None
    retries: int = 0


current: ContextVar[RequestContext | None] = ContextVar("request", default=None)
