from __future__ import annotations

import dataclasses

from tidegate.upstream.call import CallContext, http_headers, metadata

CONTEXT = CallContext(
    tenant_id="acme",
    principal_id="p1",
    principal_kind="user",
    session_id="s1",
    correlation_id="c1",
    traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    tracestate="vendor=1",
    deadline_s=5,
)


def test_an_upstream_learns_for_whom_it_works():
    assert dict(metadata(CONTEXT)) == {
        "x-tenant-id": "acme",
        "x-principal-id": "p1",
        "x-principal-kind": "user",
        "x-session-id": "s1",
        "x-correlation-id": "c1",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "tracestate": "vendor=1",
    }


def test_what_there_is_not_is_not_sent():
    bare = dataclasses.replace(CONTEXT, session_id=None, tracestate=None)
    assert {"x-session-id", "tracestate"}.isdisjoint(dict(metadata(bare)))


def test_http_upstreams_learn_what_is_left_of_the_deadline():
    headers = http_headers(CONTEXT, remaining_s=1.2345)
    assert dict(headers) == {**dict(metadata(CONTEXT)), "x-request-timeout-ms": "1234"}


def test_a_deadline_is_never_sent_as_none_at_all():
    assert dict(http_headers(CONTEXT, remaining_s=0.0001))["x-request-timeout-ms"] == "1"
