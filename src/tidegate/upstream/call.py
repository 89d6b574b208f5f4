"""What goes along with every call to an upstream: for whom it is, and how long there is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CallContext:
    """For whom a call is made. All of it has been checked; no value holds a line break.

    `deadline_s` is how many seconds the caller is still willing to wait.
    """

    tenant_id: str
    principal_id: str
    principal_kind: str
    session_id: str | None
    correlation_id: str
    traceparent: str
    tracestate: str | None
    deadline_s: float


def metadata(context: CallContext) -> tuple[tuple[str, str], ...]:
    """The context as gRPC metadata. gRPC itself adds the deadline, as grpc-timeout."""
    pairs = [
        ("x-tenant-id", context.tenant_id),
        ("x-principal-id", context.principal_id),
        ("x-principal-kind", context.principal_kind),
        ("x-correlation-id", context.correlation_id),
        ("traceparent", context.traceparent),
    ]
    if context.session_id is not None:
        pairs.append(("x-session-id", context.session_id))
    if context.tracestate is not None:
        pairs.append(("tracestate", context.tracestate))
    return tuple(pairs)


def http_headers(context: CallContext, remaining_s: float) -> tuple[tuple[str, str], ...]:
    """The context as HTTP headers, with `remaining_s` as what is left of the deadline."""
    timeout_ms = max(1, int(remaining_s * 1000))
    return (*metadata(context), ("x-request-timeout-ms", str(timeout_ms)))
