"""An ASGI exchange without a server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tidegate.edge.http.asgi import Application, Message, Scope

Exchange = Callable[..., Any]


def make_scope(
    path: str = "/", method: str = "GET", headers: dict[str, str] | None = None, **members: Any
) -> Scope:
    return {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(k.encode(), v.encode("latin-1")) for k, v in (headers or {}).items()],
        "client": ("192.0.2.1", 1234),
        "server": ("127.0.0.1", 80),
        "scheme": "http",
        "http_version": "1.1",
        "root_path": "",
        **members,
    }


@pytest.fixture
def scope_of() -> Callable[..., Scope]:
    return make_scope


@pytest.fixture
def exchange() -> Exchange:
    """Sends one request to an application and gives status, headers and body."""

    async def send_request(
        application: Application,
        path: str = "/",
        method: str = "GET",
        headers: dict[str, str] | None = None,
        body: list[bytes | None] | None = None,
    ) -> tuple[int, dict[str, str], bytes]:
        # None stands for a client that is gone.
        messages: list[Message] = [
            {"type": "http.disconnect"}
            if chunk is None
            else {"type": "http.request", "body": chunk, "more_body": True}
            for chunk in body or []
        ]
        if not messages or messages[-1]["type"] == "http.request":
            messages.append({"type": "http.request", "body": b"", "more_body": False})
        sent: list[Message] = []

        async def receive() -> Message:
            return messages.pop(0) if messages else {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            sent.append(message)

        await application(make_scope(path, method, headers), receive, send)
        start = next((m for m in sent if m["type"] == "http.response.start"), None)
        if start is None:
            return 0, {}, b""
        answered = b"".join(m.get("body", b"") for m in sent if m["type"] == "http.response.body")
        found = {k.decode(): v.decode("latin-1") for k, v in start["headers"]}
        return start["status"], found, answered

    return send_request
