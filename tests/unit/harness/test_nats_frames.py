"""Frames of the NATS protocol, however the bytes come in."""

from __future__ import annotations

import pytest
from harness.nats_frames import Frames, NotNatsError, is_feed, is_read
from hypothesis import given
from hypothesis import strategies as st

ACK = b"$JS.ACK.S.c.1.7.7.1700000000000000000.0"
HEARTBEAT = b"NATS/1.0 100 Idle Heartbeat\r\nNats-Last-Consumer: 2\r\n\r\n"
FLOW_CONTROL = b"NATS/1.0 100 FlowControl Request\r\n\r\n"
HEADERS = b"NATS/1.0\r\nX: y\r\n\r\n"


def hmsg(subject: bytes, reply: bytes, headers: bytes, payload: bytes) -> bytes:
    sizes = b"%d %d" % (len(headers), len(headers + payload))
    line = b" ".join(word for word in (b"HMSG", subject, b"1", reply, sizes) if word)
    return line + b"\r\n" + headers + payload + b"\r\n"


def msg(subject: bytes, reply: bytes, payload: bytes) -> bytes:
    line = b" ".join(word for word in (b"MSG", subject, b"1", reply, b"%d" % len(payload)) if word)
    return line + b"\r\n" + payload + b"\r\n"


FED = [
    msg(b"s.a", ACK, b"a delivery"),
    hmsg(b"s.a", ACK, HEADERS, b"a delivery"),
    hmsg(b"_INBOX.x", b"", HEARTBEAT, b""),
    hmsg(b"_INBOX.x", b"$JS.FC.S.c.x", FLOW_CONTROL, b""),
]
OTHER = [
    b'INFO {"max_payload":1048576}\r\n',
    b"PING\r\n",
    b"+OK\r\n",
    b"-ERR 'Slow Consumer'\r\n",
    msg(b"$JS.ACK.x", b"", b'{"seq":1}'),
    msg(b"_INBOX.x", b"", ACK),
    msg(b"core", b"_INBOX.y", b"MSG x 1 99\r\nMSG x 1 " + ACK + b" 1\r\n"),
    msg(b"core", b"", b""),
    hmsg(b"_INBOX.x", b"", b"NATS/1.0 503\r\n\r\n", b""),
    hmsg(b"_INBOX.x", b"", HEADERS, HEARTBEAT),
]
STORED = b"NATS/1.0\r\nNats-Stream: S\r\nNats-Subject: s.a\r\nNats-Sequence: 7\r\n\r\n"
READ = [
    hmsg(b"_INBOX.x", b"", STORED, b"value"),
    hmsg(b"_INBOX.x", b"", b"NATS/1.0 204 EOB\r\nNats-UpTo-Sequence: 7\r\n\r\n", b""),
    hmsg(b"_INBOX.x", b"", b"NATS/1.0 404 No Results\r\n\r\n", b""),
]


@given(
    st.lists(st.one_of(st.sampled_from(FED + OTHER), st.binary().map(lambda b: msg(b"s", b"", b)))),
    st.lists(st.integers(1, 40)),
)
def test_frames_come_out_whole_whatever_the_chunks(sent: list[bytes], sizes: list[int]) -> None:
    stream, frames, got = b"".join(sent), Frames(), []
    for size in sizes:
        got += frames.feed(stream[:size])
        stream = stream[size:]
    got += frames.feed(stream)
    assert got == sent


@pytest.mark.parametrize("frame", FED)
def test_what_consumers_send_is_feed(frame: bytes) -> None:
    assert is_feed(frame)


@pytest.mark.parametrize("frame", OTHER)
def test_everything_else_is_not(frame: bytes) -> None:
    assert not is_feed(frame)


@pytest.mark.parametrize("frame", READ)
def test_what_direct_gets_answer_is_read(frame: bytes) -> None:
    assert is_read(frame)
    assert not is_feed(frame)


@pytest.mark.parametrize("frame", [*FED, *OTHER, hmsg(b"s.a", b"", HEADERS, STORED)])
def test_no_other_message_is_read(frame: bytes) -> None:
    assert not is_read(frame)


@pytest.mark.parametrize(
    "noise",
    [b"MSG s 1 many\r\n", b"HMSG s 1 3 -9\r\n", b"MSG s 1 99999999999\r\n", b"x" * 1_048_577],
)
def test_noise_is_refused(noise: bytes) -> None:
    with pytest.raises(NotNatsError):
        Frames().feed(noise)
