"""JSON on the HTTP edge: one codec for the data plane and the control plane alike.

orjson is strict where the standard library is not: no NaN, no Infinity, no lone surrogates, no
invalid UTF-8.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import orjson

from tidegate.kernel import errors
from tidegate.kernel.errors import Refusal

JSON = "application/json"
_JSON_TYPE = re.compile(r"application/json|[a-z0-9!#$&^_.+-]+/[a-z0-9!#$&^_.+-]+\+json")


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
    """Whether a Content-Type names JSON, which is UTF-8 (RFC 8259) whatever else it says."""
    media_type, *parameters = (part.strip() for part in content_type.lower().split(";"))
    if _JSON_TYPE.fullmatch(media_type) is None:
        return False
    charsets = {p.partition("=")[2].strip('"') for p in parameters if p.startswith("charset=")}
    return charsets <= {"utf-8"}
