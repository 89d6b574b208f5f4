"""Trace context by the rules that the W3C's own test suite checks (strict)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.observability.tracing import Trace, continue_trace, correlation_id

TRACE_ID = "12345678901234567890123456789012"
PARENT = f"00-{TRACE_ID}-1234567890123456-01"
ENTROPY = (0xABCDEF << 64) | 0x1234


def continued(traceparent: str, *tracestates: str) -> Trace:
    return continue_trace([traceparent], list(tracestates), ENTROPY)


@pytest.mark.parametrize(
    "traceparent",
    [
        PARENT,
        f"00-{TRACE_ID}-1234567890123456-00",
        f"00-{TRACE_ID}-1234567890123456-ff",
        f" {PARENT}",
        f"\t{PARENT} \t",
        f"cc-{TRACE_ID}-1234567890123456-01",
        f"cc-{TRACE_ID}-1234567890123456-01-what-the-future-will-be-like",
        f"01-{TRACE_ID}-1234567890123456-01-",
    ],
)
def test_a_valid_traceparent_is_continued_with_a_new_span(traceparent: str) -> None:
    trace = continued(traceparent)
    assert trace.trace_id == TRACE_ID
    assert trace.span_id != "1234567890123456"
    assert trace.traceparent.startswith(f"00-{TRACE_ID}-{trace.span_id}-")


@pytest.mark.parametrize(
    "traceparent",
    [
        *("", " ", "-", "---", "00", "garbage", "\u0660" * 55),
        f"{PARENT}.",
        f"{PARENT}-",
        f"{PARENT}-what-the-future-will-be-like",
        f"cc-{TRACE_ID}-1234567890123456-01.what-the-future-will-be-like",
        f"ff-{TRACE_ID}-1234567890123456-01",
        f".0-{TRACE_ID}-1234567890123456-01",
        f"0.-{TRACE_ID}-1234567890123456-01",
        f"000-{TRACE_ID}-1234567890123456-01",
        f"0-{TRACE_ID}-1234567890123456-01",
        f"00-{'0' * 32}-1234567890123456-01",
        f"00-{TRACE_ID[:-1]}.-1234567890123456-01",
        f"00-.{TRACE_ID[1:]}-1234567890123456-01",
        f"00-{TRACE_ID}3-1234567890123456-01",
        f"00-{TRACE_ID[:-1]}-1234567890123456-01",
        f"00-{TRACE_ID}-{'0' * 16}-01",
        f"00-{TRACE_ID}-.234567890123456-01",
        f"00-{TRACE_ID}-12345678901234567-01",
        f"00-{TRACE_ID}-123456789012345-01",
        f"00-{TRACE_ID}-1234567890123456-.0",
        f"00-{TRACE_ID}-1234567890123456-0.",
        f"00-{TRACE_ID}-1234567890123456-001",
        f"00-{TRACE_ID}-1234567890123456-1",
        f"00-{TRACE_ID}-1234567890123456",
        f"00-{'A' * 32}-1234567890123456-01",
        f"00-{TRACE_ID}-ABCDEF7890123456-01",
        f"{PARENT}\n00",
        f"{PARENT},{PARENT}",
    ],
)
def test_an_invalid_traceparent_starts_a_new_trace_without_state(traceparent: str) -> None:
    trace = continued(traceparent, "foo=1")
    assert trace.trace_id == f"{0xABCDEF:032x}"
    assert trace.state is None


def test_without_a_traceparent_or_with_two_a_new_trace_starts() -> None:
    for sent in ([], [PARENT, PARENT]):
        trace = continue_trace(sent, ["foo=1"], ENTROPY)
        assert trace.trace_id == f"{0xABCDEF:032x}"
        assert trace.state is None
        assert trace.sampled


@pytest.mark.parametrize(("flags", "sampled"), [("00", False), ("01", True), ("03", True)])
def test_whether_a_trace_is_sampled_is_the_callers_choice(flags: str, sampled: bool) -> None:
    trace = continued(f"00-{TRACE_ID}-1234567890123456-{flags}")
    assert trace.sampled is sampled
    assert trace.traceparent.endswith("-01" if sampled else "-00")


@given(entropy=st.integers(0, 2**192 - 1))
def test_ids_that_are_made_are_valid(entropy: int) -> None:
    trace = continue_trace([], [], entropy)
    again = continue_trace([trace.traceparent], [], entropy)
    assert again.trace_id == trace.trace_id


_KEY_CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789_-*/"
_VALUE = "".join(chr(c) for c in range(0x20, 0x7F) if chr(c) not in ",=")


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        (["foo=1,bar=2"], "foo=1,bar=2"),
        (["foo=1", ""], "foo=1"),
        (["", "foo=1"], "foo=1"),
        (["foo=1,,bar=2", ","], "foo=1,bar=2"),
        (["foo=1,bar=2", "rojo=1,congo=2", "baz=3"], "foo=1,bar=2,rojo=1,congo=2,baz=3"),
        (["foo=1 \t , \t bar=2, \t baz=3"], "foo=1,bar=2,baz=3"),
        (["\t foo=1 \t"], "foo=1"),
        ([f"{_KEY_CHARACTERS}={_VALUE}"], f"{_KEY_CHARACTERS}={_VALUE}"),
        ([f"{_KEY_CHARACTERS}@a-z0-9_-*/=1"], f"{_KEY_CHARACTERS}@a-z0-9_-*/=1"),
        (["foo@=1,bar=2"], "foo@=1,bar=2"),
        (["foo@bar@baz=1"], "foo@bar@baz=1"),
        (["0foo=1"], "0foo=1"),
        (["foo=1", f"{'z' * 256}=1"], f"foo=1,{'z' * 256}=1"),
        (["foo=1", f"{'t' * 241}@{'v' * 14}=1"], f"foo=1,{'t' * 241}@{'v' * 14}=1"),
        ([f"a={'v' * 256}"], f"a={'v' * 256}"),
        # Of a repeated key one may stay: the first, which is the most recent.
        (["foo=1,foo=1"], "foo=1"),
        (["foo=1,bar=3,foo=2"], "foo=1,bar=3"),
        (["foo=1", "foo=2"], "foo=1"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_valid_tracestate_is_passed_on_in_order(headers: list[str], expected: str) -> None:
    assert continued(PARENT, *headers).state == expected


@pytest.mark.parametrize(
    "header",
    [
        *("", ",", "foo", "=1", "foo=", "foo=,bar=3", "foo =1", "FOO=1", "foo.bar=1"),
        *("@foo=1,bar=2", "foo=bar=baz", "foo=1;bar=2,x", "foo=\x00", "foo=é", "foo=1\x7f"),
        f"foo=1,{'z' * 257}=1",
        f"a={'v' * 257}",
        ",".join(f"bar{n:02}={n:02}" for n in range(33)),
        ",".join(f"{letter}={'v' * 200}" for letter in "abc"),
    ],
    ids=lambda value: ascii(value)[:40],
)
def test_an_invalid_or_too_long_tracestate_is_dropped_whole(header: str) -> None:
    trace = continued(PARENT, header)
    assert trace.state is None
    assert trace.trace_id == TRACE_ID


def test_up_to_32_members_are_passed_on() -> None:
    members = [f"bar{n:02}={n:02}" for n in range(32)]
    assert continued(PARENT, ",".join(members)).state == ",".join(members)


@given(parents=st.lists(st.text(max_size=80), max_size=2), states=st.lists(st.text(max_size=80)))
def test_whatever_is_sent_what_goes_on_is_one_clean_line(
    parents: list[str], states: list[str]
) -> None:
    trace = continue_trace([*parents], states, ENTROPY)
    for text in (trace.traceparent, trace.state or ""):
        assert text.isascii()
        assert text.isprintable()
        assert len(text) <= 512


@pytest.mark.parametrize("sent", ["x", "a-b_c:d/e", "x" * 128, "!~", "550e8400-e29b"])
def test_a_valid_correlation_id_is_kept(sent: str) -> None:
    assert correlation_id([sent], "made") == sent


@pytest.mark.parametrize(
    "sent",
    [[], [""], [" "], ["a b"], ["x" * 129], ["é"], ["a\x00"], ["a\r\nx: y"], ["a\n"], ["a", "a"]],
)
def test_an_invalid_or_repeated_correlation_id_is_replaced(sent: list[str]) -> None:
    assert correlation_id(sent, "made") == "made"
