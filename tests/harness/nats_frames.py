"""The server's half of the NATS client protocol, cut into frames.

Invariant: the frames joined are the bytes that came in; none is given out before it is whole.
"""

from __future__ import annotations

_LINE_END = b"\r\n"
_LONGEST_LINE_BYTES = 1024 * 1024
_LARGEST_PAYLOAD_BYTES = 64 * 1024 * 1024
_WITH_PAYLOAD = (b"MSG ", b"HMSG ")


class NotNatsError(Exception):
    """The bytes are not what a NATS server sends to a client."""


class Frames:
    """Takes bytes as they come and gives whole frames: a line, and the payload it announces."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        # Where the line of the first frame ends, as far as it was looked for.
        self._searched = 0
        self._needed = 0

    def feed(self, chunk: bytes) -> list[bytes]:
        """Take more bytes. Raises NotNatsError."""
        self._buffer += chunk
        frames: list[bytes] = []
        while (size := self._first_frame_size()) and size <= len(self._buffer):
            frames.append(bytes(self._buffer[:size]))
            del self._buffer[:size]
            self._needed = self._searched = 0
        return frames

    def _first_frame_size(self) -> int:
        """How large the first frame is; 0 while that is not known."""
        if self._needed == 0:
            line_end = self._buffer.find(_LINE_END, max(0, self._searched - 1))
            if line_end < 0:
                self._searched = len(self._buffer)
                if self._searched > _LONGEST_LINE_BYTES:
                    raise NotNatsError("a line without an end")
                return 0
            line = bytes(self._buffer[:line_end])
            self._needed = line_end + len(_LINE_END) + _payload_bytes(line)
        return self._needed


def is_feed(frame: bytes) -> bool:
    """Whether a JetStream push consumer sent it: a delivery, a heartbeat, flow control."""
    line, _, rest = frame.partition(_LINE_END)
    words = line.split()
    if words[:1] == [b"MSG"]:
        return _is_delivery(words, 5)
    if words[:1] == [b"HMSG"]:
        return rest.startswith(b"NATS/1.0 100") or _is_delivery(words, 6)
    return False


def is_read(frame: bytes) -> bool:
    """Whether it is an answer to a direct get, or a part of one."""
    line, _, rest = frame.partition(_LINE_END)
    headers = rest.partition(2 * _LINE_END)[0]
    return line.startswith(b"HMSG ") and (
        headers.startswith((b"NATS/1.0 204", b"NATS/1.0 404"))
        or (_LINE_END + b"Nats-Sequence: ") in headers
    )


def _is_delivery(words: list[bytes], with_reply: int) -> bool:
    return len(words) == with_reply and words[3].startswith(b"$JS.ACK.")


def _payload_bytes(line: bytes) -> int:
    if not line.startswith(_WITH_PAYLOAD):
        return 0
    try:
        size = int(line.split()[-1])
    except ValueError as exc:
        raise NotNatsError("a message of no size") from exc
    if not 0 <= size <= _LARGEST_PAYLOAD_BYTES:
        raise NotNatsError("a message of an impossible size")
    return size + len(_LINE_END)
