from __future__ import annotations

import pytest

from tidegate.upstream.command import MAX_VERSION, problems_in
from tidegate.wire.aggregate.gateway.v1.command_pb2 import SubmitCommandRequest

FINE = {
    "command_id": "c-1",
    "command_type": "order.place",
    "aggregate_type": "order",
    "aggregate_id": "o-1",
}


def test_a_message_with_the_needed_fields_is_fine():
    request = SubmitCommandRequest(**FINE, expected_version=MAX_VERSION, metadata={"a": "b"})
    assert problems_in(request) == ()


@pytest.mark.parametrize(
    ("members", "field"),
    [
        ({"command_id": ""}, "/command_id"),
        ({"command_type": "order place"}, "/command_type"),
        ({"aggregate_type": "-order"}, "/aggregate_type"),
        ({"aggregate_id": "a/b"}, "/aggregate_id"),
        ({"expected_version": MAX_VERSION + 1}, "/expected_version"),
        ({"metadata": {"é": ""}}, "/metadata"),
    ],
)
def test_a_wrong_field_is_named(members: dict[str, object], field: str):
    problems = problems_in(SubmitCommandRequest(**{**FINE, **members}))
    assert [problem.field for problem in problems] == [field]


def test_an_empty_message_names_all_that_it_lacks():
    problems = problems_in(SubmitCommandRequest())
    assert {problem.field for problem in problems} == {f"/{field}" for field in FINE}
