import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.devstack.nodes.events import (
    CAUSE_HEADER,
    AggregateKey,
    Cause,
    MalformedEventError,
    StoredEvent,
)
from tidegate.wire.aggregate.gateway.v1.command_pb2 import Event

names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
keys = st.builds(AggregateKey, names, names, names)


@given(keys)
def test_a_subject_names_its_aggregate(key: AggregateKey) -> None:
    assert AggregateKey.from_subject(key.subject()) == key


@given(keys)
def test_a_subject_has_five_plain_tokens(key: AggregateKey) -> None:
    tokens = key.subject().split(".")
    assert tokens[:2] == ["demo", "event"]
    assert len(tokens) == 5
    for token in tokens:
        assert token
        assert token.isascii()
        assert not set(token) & set("*> \t\r\n")


@pytest.mark.parametrize(
    "subject", ["demo.event.acme.order", "demo.event.acme.order.o-1.more", "other.event.a.b.c", ""]
)
def test_another_subject_names_no_aggregate(subject: str) -> None:
    with pytest.raises(MalformedEventError):
        AggregateKey.from_subject(subject)


@given(st.builds(Cause, names, names, names, names, st.dictionaries(names, names)))
def test_a_cause_fits_in_a_header_line_and_comes_back(cause: Cause) -> None:
    header = cause.encode()
    assert header.isascii()
    assert header.isprintable()
    assert Cause.decode(header) == cause


def test_a_later_field_of_a_cause_is_ignored() -> None:
    header = Cause("c-1").encode().replace("{", '{"later": 1, ', 1)
    assert Cause.decode(header) == Cause("c-1")


def test_a_stored_event_comes_back() -> None:
    event = Event(event_id="e-1", event_type="order.place", version=3)
    cause = Cause("c-1", "u-1", "user", "r-1", {"source": "web"})
    headers = {CAUSE_HEADER: cause.encode()}
    decoded = StoredEvent.decode(7, event.SerializeToString(), headers)
    assert decoded == StoredEvent(7, event, cause)


@pytest.mark.parametrize(
    ("data", "headers"),
    [
        (b"", None),
        (b"", {}),
        (b"not protobuf", {CAUSE_HEADER: Cause("c-1").encode()}),
        (b"", {CAUSE_HEADER: "not JSON"}),
        (b"", {CAUSE_HEADER: "[]"}),
        (b"", {CAUSE_HEADER: "{}"}),
    ],
)
def test_what_is_not_an_event_is_called_malformed(
    data: bytes, headers: dict[str, str] | None
) -> None:
    with pytest.raises(MalformedEventError, match="message 7"):
        StoredEvent.decode(7, data, headers)
