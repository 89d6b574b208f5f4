from __future__ import annotations

import math
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate.kernel import errors
from tidegate.kernel.errors import Refusal
from tidegate.kernel.ids import is_uuid7
from tidegate.upstream.command import problems_in
from tidegate.upstream.json_form import (
    MAX_DEPTH,
    MAX_PROBLEMS,
    request_from_json,
    response_to_json,
)
from tidegate.wire.aggregate.gateway.v1.command_pb2 import (
    SubmitCommandRequest,
    SubmitCommandResponse,
)

EXACT = 2**53
# What a JSON text can hold and a double keeps. Past 2^53 a float is written without a fraction,
# and may be read as an integer.
NUMBERS = st.integers(-EXACT, EXACT) | st.floats(-(2.0**53), 2.0**53)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=20,
)
PAYLOADS = st.dictionaries(TEXTS, VALUES, max_size=5)
BODIES = st.fixed_dictionaries(
    {"command_type": st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", fullmatch=True)},
    optional={
        "command_id": st.from_regex(r"[!-~]{1,128}", fullmatch=True),
        "expected_version": st.integers(0, EXACT),
        "payload": PAYLOADS,
        "metadata": st.dictionaries(
            st.from_regex(r"[!-~]{1,20}", fullmatch=True), TEXTS, max_size=3
        ),
    },
)


def command(body: object) -> SubmitCommandRequest:
    request = request_from_json("order", "o-1", body)
    assert isinstance(request, SubmitCommandRequest), request
    return request


def refusal(body: object, aggregate: tuple[str, str] = ("order", "o-1")) -> Refusal:
    refused = request_from_json(*aggregate, body)
    assert isinstance(refused, Refusal)
    return refused


def refused_fields(body: object) -> list[str]:
    return [problem.field for problem in refusal(body).errors]


def answered(response: SubmitCommandResponse) -> dict[str, Any]:
    answer = response_to_json(response)
    assert isinstance(answer, bytes)
    value: dict[str, Any] = orjson.loads(answer)
    return value


def nested(levels: int, leaf: object = 1) -> dict[str, Any]:
    """A payload of so many objects, one in another."""
    value: dict[str, Any] = {"leaf": leaf}
    for _ in range(levels - 1):
        value = {"in": value}
    return value


def same_numbers(one: Any, other: Any) -> bool:
    """Equality that tells 0.0 from -0.0 and True from 1, but not 5 from 5.0."""
    if isinstance(one, bool) or isinstance(other, bool) or one is None or other is None:
        return one is other
    if isinstance(one, int | float) and isinstance(other, int | float):
        return one == other and math.copysign(1, one) == math.copysign(1, other)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same_numbers, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same_numbers(one[k], other[k]) for k in one)
    return type(one) is type(other) and bool(one == other)


@settings(deadline=None)
@given(BODIES)
def test_a_body_becomes_the_command_it_says(body: dict[str, Any]):
    request = command(orjson.loads(orjson.dumps(body)))
    assert (request.aggregate_type, request.aggregate_id) == ("order", "o-1")
    assert request.command_type == body["command_type"]
    if "command_id" in body:
        assert request.command_id == body["command_id"]
    assert request.HasField("expected_version") is ("expected_version" in body)
    assert request.expected_version == body.get("expected_version", 0)
    assert request.HasField("payload") is ("payload" in body)
    assert dict(request.metadata) == body.get("metadata", {})
    assert problems_in(request) == ()


@settings(deadline=None)
@given(PAYLOADS)
def test_a_payload_comes_back_as_it_was_sent(payload: dict[str, Any]):
    sent = command({"command_type": "t", "payload": orjson.loads(orjson.dumps(payload))})
    wire = SubmitCommandRequest.FromString(sent.SerializeToString())
    response = SubmitCommandResponse()
    response.events.add().payload.CopyFrom(wire.payload)
    got = answered(response)["events"][0]["payload"]
    assert same_numbers(got, orjson.loads(orjson.dumps(payload)))


def test_a_command_without_an_id_gets_one():
    ids = {command({"command_type": "t"}).command_id for _ in range(3)}
    assert len(ids) == 3
    assert all(map(is_uuid7, ids))


def test_null_stands_for_absent():
    body = dict.fromkeys(("command_id", "expected_version", "payload", "metadata"))
    request = command({"command_type": "t", **body})
    assert is_uuid7(request.command_id)
    assert not request.HasField("expected_version")
    assert not request.HasField("payload")
    assert not request.metadata


def test_a_version_may_be_sent_back_in_the_form_it_was_answered_in():
    version = answered(SubmitCommandResponse(version=7))["version"]
    assert command({"command_type": "t", "expected_version": version}).expected_version == 7


@pytest.mark.parametrize("body", [None, [], "order.place", 7, True])
def test_a_body_is_an_object(body: object):
    assert refused_fields(body) == [""]


@pytest.mark.parametrize(
    ("members", "field"),
    [
        ({"command_type": None}, "/command_type"),
        ({"command_type": ""}, "/command_type"),
        ({"command_type": 7}, "/command_type"),
        ({"command_type": ".a"}, "/command_type"),
        ({"command_type": "a b"}, "/command_type"),
        ({"command_type": "a\n"}, "/command_type"),
        ({"command_type": "a" * 129}, "/command_type"),
        ({"command_id": ""}, "/command_id"),
        ({"command_id": 7}, "/command_id"),
        ({"command_id": "a b"}, "/command_id"),
        ({"command_id": "é"}, "/command_id"),
        ({"command_id": "a" * 129}, "/command_id"),
        ({"expected_version": -1}, "/expected_version"),
        ({"expected_version": 2**53 + 1}, "/expected_version"),
        ({"expected_version": 1.0}, "/expected_version"),
        ({"expected_version": True}, "/expected_version"),
        ({"expected_version": ""}, "/expected_version"),
        ({"expected_version": "-1"}, "/expected_version"),
        ({"expected_version": "²"}, "/expected_version"),
        ({"expected_version": "9" * 5000}, "/expected_version"),
        ({"payload": []}, "/payload"),
        ({"payload": "{}"}, "/payload"),
        ({"payload": 7}, "/payload"),
        ({"metadata": []}, "/metadata"),
        ({"metadata": {"a": 1}}, "/metadata"),
        ({"metadata": {"": "x"}}, "/metadata"),
        ({"metadata": {"a": "x" * 4097}}, "/metadata"),
        ({"metadata": {f"n{place}": "" for place in range(65)}}, "/metadata"),
        ({"comand_id": "x"}, "/comand_id"),
        ({"aggregate_id": "o-2"}, "/aggregate_id"),
        ({"a/b~c": 1}, "/a~1b~0c"),
    ],
)
def test_a_wrong_member_is_refused_by_its_name(members: dict[str, Any], field: str):
    assert refused_fields({"command_type": "t", **members}) == [field]


@pytest.mark.parametrize(
    ("aggregate", "field"),
    [
        (("", "o-1"), "/aggregate_type"),
        (("or/der", "o-1"), "/aggregate_type"),
        (("order", ""), "/aggregate_id"),
        (("order", "a/b"), "/aggregate_id"),
        (("order", "a b"), "/aggregate_id"),
        (("order", "a\x00"), "/aggregate_id"),
        (("order", "é"), "/aggregate_id"),
        (("order", "a" * 257), "/aggregate_id"),
    ],
)
def test_a_wrong_aggregate_is_refused_by_its_name(aggregate: tuple[str, str], field: str):
    refused = refusal({"command_type": "t"}, aggregate)
    assert [problem.field for problem in refused.errors] == [field]


def test_everything_wrong_is_named_at_once():
    refused = refusal(
        {
            "command_id": "",
            "expected_version": -1,
            "payload": {"n": 2**60},
            "metadata": 7,
            "more": 1,
        },
        ("", "/"),
    )
    assert refused.code is errors.INVALID
    assert {problem.field for problem in refused.errors} == {
        "/aggregate_type",
        "/aggregate_id",
        "/command_type",
        "/command_id",
        "/expected_version",
        "/metadata",
        "/more",
        "/payload/n",
    }


@pytest.mark.parametrize(
    "text",
    [
        str(EXACT + 1),
        str(-EXACT - 1),
        "18446744073709551615",
        "18446744073709551616",
        "-9223372036854775809",
        "123456789012345678901234567890",
        "1e300",
    ],
)
def test_a_number_that_might_be_changed_is_refused_by_its_place(text: str):
    body = orjson.loads(f'{{"command_type": "t", "payload": {{"a/b": [0, {{"n": {text}}}]}}}}')
    refused = refusal(body)
    assert refused.code is errors.NUMBER_UNSAFE
    assert [problem.field for problem in refused.errors] == ["/payload/a~1b/1/n"]


@pytest.mark.parametrize("text", [str(EXACT), str(-EXACT), "0.1", "1e18", "-1e18", "5e-324"])
def test_a_number_that_a_double_holds_is_taken(text: str):
    payload = orjson.loads(f'{{"n": {text}}}')
    assert command({"command_type": "t", "payload": payload}).payload["n"] == float(text)


def test_every_unsafe_number_is_named():
    refused = refusal({"command_type": "t", "payload": {"a": 2**60, "b": [2**61], "c": 1}})
    assert [problem.field for problem in refused.errors] == ["/payload/a", "/payload/b/0"]


def test_the_named_problems_are_bounded():
    numbers = refusal({"command_type": "t", "payload": {"n": [2**60] * 5000}})
    members = refusal({f"m{place}": 1 for place in range(5000)})
    assert len(numbers.errors) == len(members.errors) == MAX_PROBLEMS


def test_the_deepest_payload_is_read_back_by_a_node_and_answered():
    lists: Any = 1
    for _ in range(MAX_DEPTH - 1):
        lists = [lists]
    for payload in (nested(MAX_DEPTH), {"in": lists}):
        sent = command({"command_type": "t", "payload": payload})
        wire = SubmitCommandRequest.FromString(sent.SerializeToString())
        response = SubmitCommandResponse()
        response.events.add().payload.CopyFrom(wire.payload)
        back = SubmitCommandResponse.FromString(response.SerializeToString())
        assert answered(back)["events"][0]["payload"] == payload


def test_a_deeper_payload_is_refused():
    refused = refusal({"command_type": "t", "payload": nested(MAX_DEPTH + 1)})
    assert refused.code is errors.INVALID
    assert [problem.field for problem in refused.errors] == ["/payload" + "/in" * MAX_DEPTH]
    assert refused_fields({"command_type": "t", "payload": nested(900)})


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(st.sampled_from(["command_type", "payload", "metadata", "x"]), VALUES))
def test_any_body_is_judged_without_failing(body: dict[str, Any]):
    assert isinstance(request_from_json("order", "o-1", body), SubmitCommandRequest | Refusal)


def test_the_answer_is_the_protobuf_json_form():
    response = SubmitCommandResponse(command_id="c-1", version=3)
    event = response.events.add(event_id="e-1", event_type="order.placed", version=3)
    event.payload.update({"total": 5, "rate": 0.25})
    event.time.FromMilliseconds(1_700_000_000_250)
    assert response_to_json(response) is not None
    assert answered(response) == {
        "command_id": "c-1",
        "events": [
            {
                "event_id": "e-1",
                "event_type": "order.placed",
                "version": "3",
                "payload": {"total": 5, "rate": 0.25},
                "time": "2023-11-14T22:13:20.250Z",
            }
        ],
        "version": "3",
        "duplicate": False,
    }


def test_empty_fields_are_there():
    assert answered(SubmitCommandResponse()) == {
        "command_id": "",
        "events": [],
        "version": "0",
        "duplicate": False,
    }


@pytest.mark.parametrize(
    ("number", "text"),
    [(5.0, b"5"), (-7.0, b"-7"), (2.0**53, b"9007199254740992"), (0.5, b"0.5"), (-0.0, b"-0.0")],
)
def test_whole_numbers_are_written_as_such(number: float, text: bytes):
    response = SubmitCommandResponse()
    response.events.add().payload.update({"n": [number]})
    answer = response_to_json(response)
    assert isinstance(answer, bytes)
    assert b'"payload":{"n":[' + text + b"]}" in answer


def test_huge_numbers_are_not_written_out():
    response = SubmitCommandResponse()
    response.events.add().payload.update({"n": 1e300})
    answer = response_to_json(response)
    assert isinstance(answer, bytes)
    assert b'"n":1e+300' in answer


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_number_that_json_cannot_say_is_the_upstreams_failure(number: float):
    response = SubmitCommandResponse()
    response.events.add().payload.fields["n"].number_value = number
    refused = response_to_json(response)
    assert isinstance(refused, Refusal)
    assert refused.code is errors.UPSTREAM_FAILED


def test_a_time_that_json_cannot_say_is_the_upstreams_failure():
    response = SubmitCommandResponse()
    response.events.add().time.seconds = 10**15
    refused = response_to_json(response)
    assert isinstance(refused, Refusal)
    assert refused.code is errors.UPSTREAM_FAILED
