from __future__ import annotations

import pytest

from tidegate.upstream.headers import passed_on


def test_the_answers_own_headers_pass_in_order_with_lower_case_names():
    headers = [
        (b"Content-Type", b"application/json"),
        (b"ETag", b'"7"'),
        (b"Vary", b"accept"),
        (b"vary", b"x-tenant-id"),
        (b"Content-Encoding", b"gzip"),
        (b"X-Projection-Lag", b"0"),
    ]
    assert passed_on(headers) == tuple((name.lower(), value) for name, value in headers)


@pytest.mark.parametrize(
    "name",
    [
        b"Connection",
        b"Keep-Alive",
        b"Proxy-Authenticate",
        b"Proxy-Authorization",
        b"Proxy-Connection",
        b"TE",
        b"Trailer",
        b"Transfer-Encoding",
        b"Upgrade",
        b"Content-Length",
        b"Date",
        b"Server",
        b"Set-Cookie",
        b"Alt-Svc",
        b"Strict-Transport-Security",
        b"X-Correlation-Id",
        b"traceparent",
        b"X-Tidegate-Revision",
        b"x-tidegate-anything",
        b"Access-Control-Allow-Origin",
    ],
)
def test_what_is_not_the_upstreams_to_say_is_dropped(name: bytes):
    assert passed_on([(name, b"x"), (b"content-type", b"text/plain")]) == (
        (b"content-type", b"text/plain"),
    )


def test_what_connection_names_is_dropped_however_it_is_written():
    headers = [
        (b"Connection", b"close, X-One"),
        (b"connection", b" x-TWO ,,"),
        (b"x-one", b"1"),
        (b"X-Two", b"2"),
        (b"x-three", b"3"),
    ]
    assert passed_on(headers) == ((b"x-three", b"3"),)
