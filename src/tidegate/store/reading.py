"""Reading entries for commands.

A read is never a decision: what it returns may be old (a direct get is answered by any copy
of the stream, and even a leader may have been deposed). The compare-and-set decides. A read
that must not be older than a known revision says so with `min_revision`.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping

import orjson

from tidegate.store.changes import Entry
from tidegate.store.connection import ApiError, Connection, StoreError

_NO_MESSAGE = 10037


async def read(connection: Connection, bucket: str, key: str, min_revision: int = 0) -> Entry:
    """The entry of `key`, from any copy; from the leader when that is older than `min_revision`.

    Raises Disconnected or AnswerLost.
    """
    answer = await connection.request(f"$JS.API.DIRECT.GET.KV_{bucket}.$KV.{bucket}.{key}")
    headers = answer.headers or {}
    status = headers.get("Status")
    if status is None:
        entry = decode(key, answer.data, int(headers["Nats-Sequence"]), headers)
    elif status == "404":
        entry = Entry(key, None, 0)
    else:
        raise StoreError(f"reading {key.partition('.')[0]}: {headers.get('Description', status)}")
    if entry.revision < min_revision:
        return await read_leader(connection, bucket, key)
    return entry


async def read_leader(connection: Connection, bucket: str, key: str) -> Entry:
    """The entry of `key` as the stream's leader has it. Raises Disconnected or AnswerLost."""
    try:
        answer = await connection.api(
            f"STREAM.MSG.GET.KV_{bucket}", {"last_by_subj": f"$KV.{bucket}.{key}"}
        )
    except ApiError as exc:
        if exc.err_code == _NO_MESSAGE:
            return Entry(key, None, 0)
        raise
    message = answer["message"]
    payload = base64.b64decode(message.get("data", ""))
    # Deletes and expiry markers have no payload; no entry of ours is empty.
    return decode(key, payload, message["seq"], {})


def decode(key: str, payload: bytes, revision: int, headers: Mapping[str, str]) -> Entry:
    """The entry that a stored message holds; an empty payload or a delete means absent."""
    if not payload or headers.get("KV-Operation") is not None:
        return Entry(key, None, revision)
    try:
        value = orjson.loads(payload)
    except orjson.JSONDecodeError as exc:
        raise StoreError(f"the stored value of a {key.partition('.')[0]} is not JSON") from exc
    if not isinstance(value, dict):
        raise StoreError(f"the stored value of a {key.partition('.')[0]} is not an object")
    return Entry(key, value, revision)
