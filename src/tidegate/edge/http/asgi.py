"""The few ASGI words that the front and the data plane share: headers in, body in, answer out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

from tidegate.edge.http import problems
from tidegate.kernel import errors
from tidegate.kernel.clock import Clock
from tidegate.kernel.errors import Refusal

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]


INTERNAL = Refusal(errors.INTERNAL, "The request failed. Its id finds it in the logs.")
# Never sent, for nobody is there to read it: what logs and metrics call such an answer.
CLIENT_GONE = 499


class ClientGone(Exception):
    """The client closed the connection before its request was whole."""


def header_values(scope: Scope, name: str) -> list[str]:
    """All values of a header (lower-case name), in order."""
    wanted = name.encode()
    return [value.decode("latin-1") for key, value in scope["headers"] if key == wanted]


async def read_body(scope: Scope, receive: Receive, limit_bytes: int) -> bytes | Refusal:
    """The whole body, or BODY_TOO_LARGE as soon as that is clear. Raises ClientGone."""
    too_large = Refusal(errors.BODY_TOO_LARGE, f"A body may have at most {limit_bytes} bytes.")
    declared = header_values(scope, "content-length")
    if declared and int(declared[0]) > limit_bytes:
        return too_large
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > limit_bytes:
            return too_large
        chunks.append(chunk)
        if not message.get("more_body", False):
            return chunks[0] if len(chunks) == 1 else b"".join(chunks)


async def answer(
    send: Send, status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes
) -> None:
    """Sends a whole answer."""
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": body})


async def refuse(send: Send, refusal: Refusal, clock: Clock, allow: str | None = None) -> None:
    """Answers with a problem document; `allow` names the method that is not refused."""
    headers = [(name.encode(), value.encode()) for name, value in problems.headers(refusal)]
    if allow is not None:
        headers.append((b"allow", allow.encode()))
    await answer(send, problems.status(refusal), headers, problems.body(refusal, clock))
