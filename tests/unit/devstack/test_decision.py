import pytest
from google.protobuf.struct_pb2 import Struct

from tidegate.devstack.nodes.decision import (
    Accepted,
    AggregateState,
    Command,
    Duplicate,
    StaleStateError,
    VersionMismatch,
    decide,
)
from tidegate.devstack.nodes.events import Cause, StoredEvent
from tidegate.wire.aggregate.gateway.v1.command_pb2 import Event


def stored(version: int, sequence: int, command_id: str) -> StoredEvent:
    return StoredEvent(sequence, Event(version=version), Cause(command_id))


def after(*events: StoredEvent) -> AggregateState:
    state = AggregateState()
    for event in events:
        state.apply(event)
    return state


def command(
    command_id: str, *, expected_version: int | None = None, command_type: str = "order.place"
) -> Command:
    return Command(command_type, Struct(), Cause(command_id), expected_version)


def test_the_first_command_makes_version_1() -> None:
    assert decide(AggregateState(), command("c-1")) == Accepted("order.place", 1, Struct())


def test_the_next_command_makes_the_next_version() -> None:
    state = after(stored(1, 10, "c-1"), stored(2, 17, "c-2"))
    assert decide(state, command("c-3")) == Accepted("order.place", 3, Struct())


def test_the_event_carries_the_commands_payload() -> None:
    payload = Struct()
    payload.update({"a": [1, None]})
    decision = decide(AggregateState(), Command("order.place", payload, Cause("c-1")))
    assert decision == Accepted("order.place", 1, payload)


@pytest.mark.parametrize("expected_version", [0, 1, 3])
def test_another_version_than_expected_is_a_mismatch(expected_version: int) -> None:
    state = after(stored(1, 10, "c-1"), stored(2, 17, "c-2"))
    decision = decide(state, command("c-3", expected_version=expected_version))
    assert decision == VersionMismatch(actual=2)


def test_the_expected_version_is_accepted() -> None:
    state = after(stored(1, 10, "c-1"), stored(2, 17, "c-2"))
    decision = decide(state, command("c-3", expected_version=2))
    assert decision == Accepted("order.place", 3, Struct())


def test_a_known_command_is_a_duplicate_of_its_event() -> None:
    state = after(stored(1, 10, "c-1"), stored(2, 17, "c-2"))
    assert decide(state, command("c-1")) == Duplicate(sequence=10)
    assert decide(state, command("c-2")) == Duplicate(sequence=17)


def test_a_known_command_is_a_duplicate_whatever_version_it_expects_now() -> None:
    state = after(stored(1, 10, "c-1"), stored(2, 17, "c-2"))
    assert decide(state, command("c-1", expected_version=0)) == Duplicate(sequence=10)
    assert decide(state, command("c-1", expected_version=99)) == Duplicate(sequence=10)


def test_a_known_command_is_a_duplicate_whatever_type_it_has_now() -> None:
    state = after(stored(1, 10, "c-1"))
    assert decide(state, command("c-1", command_type="order.cancel")) == Duplicate(sequence=10)


def test_deciding_changes_nothing() -> None:
    state = after(stored(1, 10, "c-1"))
    decide(state, command("c-2"))
    assert state == after(stored(1, 10, "c-1"))


@pytest.mark.parametrize(
    "event",
    [stored(1, 11, "c-2"), stored(3, 11, "c-2"), stored(2, 10, "c-2"), stored(2, 9, "c-2")],
    ids=["version again", "version left out", "sequence again", "sequence going back"],
)
def test_an_event_that_does_not_follow_is_not_applied(event: StoredEvent) -> None:
    state = after(stored(1, 10, "c-1"))
    with pytest.raises(StaleStateError):
        state.apply(event)
    assert state == after(stored(1, 10, "c-1"))
