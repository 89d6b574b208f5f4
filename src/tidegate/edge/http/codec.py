"""JSON on the HTTP edge: one codec for the data plane and the control plane alike.

orjson is strict where the standard library is not: no NaN, no Infinity, no lone surrogates, no
invalid UTF-8.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from tidegate.kernel import errors
from tidegate.kernel.errors import Refusal

JSON = "application/json"


def loads(body: bytes) -> Any | Refusal:
    """The value of a JSON body, or why it is none."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        # The message names a place, never the content.
        return Refusal(errors.MALFORMED, f"The body is not JSON: {exc.msg} at {exc.pos}.")


def dumps(value: Mapping[str, Any]) -> bytes:
    return orjson.dumps(value)


def is_json(content_type: str) -> bool:
    """Whether a Content-Type names JSON."""
    media_type = content_type.partition(";")[0].strip().lower()
    return media_type == JSON or media_type.endswith("+json")
