"""Bodies are bounded before they are held, with a declared length and without."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tidegate.edge.http import asgi
from tidegate.edge.http.asgi import ClientGone, Message, Scope
from tidegate.kernel import errors
from tidegate.kernel.errors import Refusal


class Body:
    """A request body in chunks; None is the end of the connection."""

    def __init__(self, *chunks: bytes | None) -> None:
        self.left = list(chunks)

    async def receive(self) -> Message:
        chunk = self.left.pop(0)
        if chunk is None:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": chunk, "more_body": bool(self.left)}


@pytest.mark.parametrize(
    "chunks", [[b""], [b"abc"], [b"a", b"b", b"c"], [b"", b"abc", b""], [b"0123456789"]]
)
async def test_a_body_within_the_limit_is_read_whole(
    chunks: list[bytes], scope_of: Callable[..., Scope]
) -> None:
    assert await asgi.read_body(scope_of(), Body(*chunks).receive, 10) == b"".join(chunks)


async def test_a_body_that_declares_too_much_is_refused_unread(
    scope_of: Callable[..., Scope],
) -> None:
    body = Body(b"unread")
    scope = scope_of(headers={"content-length": "11"})
    refusal = await asgi.read_body(scope, body.receive, 10)
    assert isinstance(refusal, Refusal)
    assert refusal.code is errors.BODY_TOO_LARGE
    assert body.left == [b"unread"]


async def test_a_body_that_turns_out_too_large_is_read_no_further(
    scope_of: Callable[..., Scope],
) -> None:
    body = Body(b"012345", b"67890", b"unread", b"unread")
    refusal = await asgi.read_body(scope_of(), body.receive, 10)
    assert isinstance(refusal, Refusal)
    assert refusal.code is errors.BODY_TOO_LARGE
    assert body.left == [b"unread", b"unread"]


async def test_a_client_that_leaves_is_no_body(scope_of: Callable[..., Scope]) -> None:
    with pytest.raises(ClientGone):
        await asgi.read_body(scope_of(), Body(b"half", None).receive, 10)


def test_every_value_of_a_header_is_seen() -> None:
    headers = [(b"x-tenant-id", b"acme"), (b"other", b"1"), (b"x-tenant-id", b"\xff")]
    assert asgi.header_values({"headers": headers}, "x-tenant-id") == ["acme", "\xff"]
    assert asgi.header_values({"headers": headers}, "x-tenant") == []
