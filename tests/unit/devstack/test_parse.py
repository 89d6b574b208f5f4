from typing import Any

import pytest

from tidegate.devstack.nodes.aggregate import InvalidRequestError, parse
from tidegate.devstack.nodes.events import AggregateKey, Cause
from tidegate.wire.aggregate.gateway.v1.command_pb2 import SubmitCommandRequest

VALID: dict[str, Any] = {
    "command_id": "c-1",
    "command_type": "order.place",
    "aggregate_type": "order",
    "aggregate_id": "o-1",
}
TENANT = {"x-tenant-id": "acme"}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("command_id", ""),
        ("command_id", "a" * 129),
        ("command_id", "two words"),
        ("command_id", "ä"),
        ("command_id", "line\n"),
        ("command_id", "\x7f"),
        ("command_type", ""),
        ("aggregate_type", ""),
        ("aggregate_id", ""),
        ("aggregate_id", "é" * 129),
    ],
)
def test_a_request_with_a_bad_field_is_refused_by_its_name(field: str, value: str) -> None:
    request = SubmitCommandRequest(**(VALID | {field: value}))
    with pytest.raises(InvalidRequestError, match=field):
        parse(request, TENANT)


@pytest.mark.parametrize("metadata", [{}, {"x-tenant-id": ""}, {"x-tenant-id": "a" * 257}])
def test_a_request_without_a_usable_tenant_is_refused(metadata: dict[str, str]) -> None:
    with pytest.raises(InvalidRequestError, match="x-tenant-id"):
        parse(SubmitCommandRequest(**VALID), metadata)


def test_the_longest_names_are_taken() -> None:
    request = SubmitCommandRequest(**(VALID | {"command_id": "~" * 128, "aggregate_id": "é" * 128}))
    key, command = parse(request, TENANT)
    assert key.aggregate_id == "é" * 128
    assert command.cause.command_id == "~" * 128


def test_a_request_becomes_a_command_on_an_aggregate() -> None:
    request = SubmitCommandRequest(**VALID, metadata={"source": "web"}, expected_version=0)
    request.payload.update({"a": 1})
    key, command = parse(
        request,
        {
            "x-tenant-id": "acme",
            "x-principal-id": "u-1",
            "x-principal-kind": "user",
            "x-correlation-id": "r-1",
            "traceparent": "ignored",
        },
    )
    assert key == AggregateKey("acme", "order", "o-1")
    assert command.command_type == "order.place"
    assert command.payload == request.payload
    assert command.expected_version == 0
    assert command.cause == Cause("c-1", "u-1", "user", "r-1", {"source": "web"})


def test_no_expected_version_is_not_version_zero() -> None:
    _, command = parse(SubmitCommandRequest(**VALID), TENANT)
    assert command.expected_version is None
