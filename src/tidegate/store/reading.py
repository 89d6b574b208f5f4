"""Reading entries for commands, and consistent reads of many.

A read is never a decision: what it returns may be old (a direct get is answered by any copy
of the stream, and even a leader may have been deposed). The compare-and-set decides. Who must
not have anything older than a known revision takes a `snapshot`, which says how new it is.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import orjson

from tidegate.store.changes import Entry
from tidegate.store.connection import ApiError, Connection, Disconnected, StoreError
from tidegate.store.encoding import COMMIT_HEADER, Marker

_NO_MESSAGE = 10037
_NO_LEADER_NOW = 503
_END_OF_BATCH = "204"
_NO_RESULTS = "404"


@dataclass(frozen=True, slots=True)
class Stored:
    """A message as the stream holds it."""

    subject: str
    payload: bytes
    headers: Mapping[str, str]
    sequence: int

    @property
    def marker(self) -> Marker | None:
        return Marker.parse(self.headers.get(COMMIT_HEADER))


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the stream held of some subjects when `up_to` was the last sequence of the copy read.

    Where it holds nothing of them `up_to` is 0: an empty answer says nothing of its age.
    """

    messages: tuple[Stored, ...]
    up_to: int


NOTHING = Snapshot((), 0)


async def snapshot(connection: Connection, bucket: str, subjects: Sequence[str]) -> Snapshot:
    """The newest message of each subject, all of one moment. Subjects may have wildcards.

    The server answers for 1024 messages at most. Raises Disconnected or AnswerLost, and
    StoreError when there are more or when one was overwritten while they were collected.
    """
    answers = await connection.collect(
        f"$JS.API.DIRECT.GET.KV_{bucket}", orjson.dumps({"multi_last": list(subjects)})
    )
    end = answers[-1].headers or {}
    if end.get("Status") == _NO_RESULTS and len(answers) == 1:
        return NOTHING
    if end.get("Status") != _END_OF_BATCH:
        raise StoreError(f"reading many: {end.get('Description', end.get('Status'))}")
    messages = tuple(
        Stored(headers["Nats-Subject"], answer.data, headers, int(headers["Nats-Sequence"]))
        for answer in answers[:-1]
        for headers in (answer.headers or {},)
    )
    return Snapshot(messages, int(end["Nats-UpTo-Sequence"]))


async def read(connection: Connection, bucket: str, key: str) -> Entry:
    """The entry of `key`, from any copy. Raises Disconnected or AnswerLost."""
    answer = await connection.request(f"$JS.API.DIRECT.GET.KV_{bucket}.$KV.{bucket}.{key}")
    headers = answer.headers or {}
    status = headers.get("Status")
    if status is None:
        return decode(key, answer.data, int(headers["Nats-Sequence"]), headers)
    if status == _NO_RESULTS:
        return Entry(key, None, 0)
    raise StoreError(f"reading {key.partition('.')[0]}: {headers.get('Description', status)}")


async def read_leader(connection: Connection, bucket: str, key: str) -> Entry:
    """The entry of `key` as the stream's leader has it. Raises Disconnected or AnswerLost."""
    try:
        answer = await connection.api(
            f"STREAM.MSG.GET.KV_{bucket}", {"last_by_subj": f"$KV.{bucket}.{key}"}
        )
    except ApiError as exc:
        if exc.err_code == _NO_MESSAGE:
            return Entry(key, None, 0)
        if exc.code == _NO_LEADER_NOW:
            raise Disconnected(str(exc)) from exc
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
