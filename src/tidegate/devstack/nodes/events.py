"""The demo nodes' events: what is stored, under which subject, in which form.

Owns the form of the stream DEMO_EVENTS, shared by the node that writes it and the node that reads
it. A message's data is the contract's `Event`, so what a client once got is what is stored, to
the bit; its header tells the cause. Pure. The form is for ever: fields are only added, and
readers ignore what they do not know.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import quote, unquote

from google.protobuf.message import DecodeError

from tidegate.wire.aggregate.gateway.v1.command_pb2 import Event

STREAM = "DEMO_EVENTS"
ALL_SUBJECTS = "demo.event.>"
CAUSE_HEADER = "Demo-Cause"
_SUBJECT_PREFIX = "demo.event."


class MalformedEventError(Exception):
    """A stored message is not an event of ours."""


@dataclass(frozen=True, slots=True)
class AggregateKey:
    """Which aggregate; each one's events have a subject, and so a sequence, of their own."""

    tenant: str
    aggregate_type: str
    aggregate_id: str

    def subject(self) -> str:
        parts = (self.tenant, self.aggregate_type, self.aggregate_id)
        return _SUBJECT_PREFIX + ".".join(_token(part) for part in parts)

    @classmethod
    def from_subject(cls, subject: str) -> Self:
        parts = subject.removeprefix(_SUBJECT_PREFIX).split(".")
        if not subject.startswith(_SUBJECT_PREFIX) or len(parts) != 3:
            raise MalformedEventError(f"subject {subject!r}")
        return cls(*(unquote(part) for part in parts))


@dataclass(frozen=True, slots=True)
class Cause:
    """Which command made the event happen, and on whose behalf."""

    command_id: str
    principal_id: str = ""
    principal_kind: str = ""
    correlation_id: str = ""
    # The command's own metadata.
    notes: dict[str, str] = field(default_factory=dict)

    def encode(self) -> str:
        # As ASCII: nothing in it can end the header or start another.
        return json.dumps(
            {
                "command_id": self.command_id,
                "principal_id": self.principal_id,
                "principal_kind": self.principal_kind,
                "correlation_id": self.correlation_id,
                "notes": self.notes,
            }
        )

    @classmethod
    def decode(cls, header: str) -> Self:
        stored = json.loads(header)
        return cls(
            command_id=str(stored["command_id"]),
            principal_id=str(stored["principal_id"]),
            principal_kind=str(stored["principal_kind"]),
            correlation_id=str(stored["correlation_id"]),
            notes=dict(stored["notes"]),
        )


@dataclass(frozen=True, slots=True)
class StoredEvent:
    # The stream's sequence, which all aggregates share; `event.version` is the aggregate's own.
    sequence: int
    event: Event
    cause: Cause

    @classmethod
    def decode(cls, sequence: int, data: bytes, headers: Mapping[str, str] | None) -> Self:
        try:
            return cls(
                sequence, Event.FromString(data), Cause.decode((headers or {})[CAUSE_HEADER])
            )
        except (DecodeError, ValueError, TypeError, KeyError) as error:
            raise MalformedEventError(f"message {sequence}: {error!r}") from error


def _token(text: str) -> str:
    # quote() leaves the dot alone, which would split the token.
    return quote(text, safe="").replace(".", "%2E")
