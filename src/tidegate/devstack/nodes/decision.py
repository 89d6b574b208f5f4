"""What an aggregate decides: pure, synchronous, and all that a domain has to write.

The state may lag behind the stored events; `submission` knows which decisions that can spoil.
"""

from dataclasses import dataclass, field

from google.protobuf.struct_pb2 import Struct

from tidegate.devstack.nodes.events import Cause, StoredEvent


@dataclass(frozen=True, slots=True)
class Command:
    command_type: str
    payload: Struct
    cause: Cause
    expected_version: int | None = None


@dataclass(frozen=True, slots=True)
class Accepted:
    """The command may happen; the event that says so is still to be stored."""

    event_type: str
    version: int
    payload: Struct


@dataclass(frozen=True, slots=True)
class Duplicate:
    """The command happened before; its event is stored at this sequence."""

    sequence: int


@dataclass(frozen=True, slots=True)
class VersionMismatch:
    actual: int


class StaleStateError(Exception):
    """The state is not one that the stored events lead to."""


Decision = Accepted | Duplicate | VersionMismatch


@dataclass(slots=True)
class AggregateState:
    """What the events so far amount to; of each, only what deciding needs."""

    version: int = 0
    # Where the aggregate's last event is in the stream; 0 before the first.
    last_sequence: int = 0
    sequence_by_command: dict[str, int] = field(default_factory=dict)

    def apply(self, stored: StoredEvent) -> None:
        version, sequence = stored.event.version, stored.sequence
        if version != self.version + 1 or sequence <= self.last_sequence:
            raise StaleStateError(
                f"event {version} at {sequence} does not follow "
                f"event {self.version} at {self.last_sequence}"
            )
        self.version = version
        self.last_sequence = sequence
        self.sequence_by_command[stored.cause.command_id] = sequence


def decide(state: AggregateState, command: Command) -> Decision:
    """Decide one command against one state, without changing it."""
    # Before the version: a repeated command must find its first answer, although the very event
    # it caused has moved the version on.
    known = state.sequence_by_command.get(command.cause.command_id)
    if known is not None:
        return Duplicate(known)
    if command.expected_version is not None and command.expected_version != state.version:
        return VersionMismatch(actual=state.version)
    return Accepted(command.command_type, state.version + 1, command.payload)
