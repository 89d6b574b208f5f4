"""JSON bodies: what is none is refused, whatever it is, and never echoed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.edge.http import codec
from tidegate.kernel import errors
from tidegate.kernel.errors import Refusal


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b" ", b"{", b'{"a"}', b"{'a': 1}", b'{"a": 1,}', b"[1, 2", b"nul", b"\x00", b'"a'),
        *(b"NaN", b"Infinity", b"-Infinity", b'{"a": NaN}', b"1e999", b"-1e999", b"9" * 400),
        *(b"01", b"+1", b".5", b"0x10", b"1 2", b"// x\n1", b'"\x01"', b'"\\x"'),
        *(b'"\\ud800"', b'"\\udc00\\ud800"', b'{"\\ud800": 1}'),
        *(b'"\xff"', b'"\xc0\x80"', b'"\xed\xa0\x80"', b"\xef\xbb\xbf{}", '"a"'.encode("utf-16")),
        *(b"[" * 100_000, b'{"a":' * 100_000, b"[" * 2000 + b"]" * 2000),
    ],
    ids=lambda body: ascii(body)[:30],
)
def test_what_is_not_json_is_malformed(body: bytes) -> None:
    refusal = codec.loads(body)
    assert isinstance(refusal, Refusal)
    assert refusal.code is errors.MALFORMED


@given(body=st.binary(max_size=200))
def test_any_bytes_come_to_a_value_or_a_refusal(body: bytes) -> None:
    value = codec.loads(body)
    assert isinstance(value, Refusal | dict | list | str | int | float | bool | None)


def test_a_refusal_names_the_place_and_never_the_content() -> None:
    refusal = codec.loads(b'{"password": "hunter2" "x"}')
    assert isinstance(refusal, Refusal)
    assert "hunter2" not in refusal.detail
    assert "23" in refusal.detail


@pytest.mark.parametrize(
    "content_type",
    [
        *("application/json", "Application/JSON", "application/json; charset=utf-8"),
        *(" application/json ;x=y", "application/problem+json", "application/vnd.api+json"),
    ],
)
def test_json_is_known_by_its_media_type(content_type: str) -> None:
    assert codec.is_json(content_type)


@pytest.mark.parametrize(
    "content_type",
    [
        *("", "text/plain", "text/json", "application/x-www-form-urlencoded", "application/jsonp"),
        *("multipart/form-data; boundary=application/json", "json", "*/*", "application/xml"),
        *("application/json application/json", "application/json; charset=utf-16", "x y+json"),
    ],
)
def test_nothing_else_is_json(content_type: str) -> None:
    assert not codec.is_json(content_type)
