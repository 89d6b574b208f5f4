from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate.kernel import errors
from tidegate.kernel.errors import Refusal
from tidegate.routing.change_set import (
    MAX_CHANGES,
    MAX_PROBLEMS,
    ChangeSet,
    parse_change_set,
    problems_in,
)
from tidegate.routing.model import Endpoint, Routing, ServiceKind, Transport
from tidegate.routing.view import RoutingView
from tidegate.store.changes import Entry

AGGREGATE, PROJECTION = ServiceKind.AGGREGATE, ServiceKind.PROJECTION
NODE = Endpoint("n:1", Transport.GRPC)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)


def parsed(document: object) -> ChangeSet:
    change_set = parse_change_set(document)
    assert isinstance(change_set, ChangeSet), change_set
    return change_set


def refused_fields(document: object) -> list[str]:
    refusal = parse_change_set(document)
    assert isinstance(refusal, Refusal)
    assert refusal.code is errors.INVALID
    return [problem.field for problem in refusal.errors]


def routing_of(placements: dict[str, str], *shards: str, deleted: str | None = None) -> Routing:
    view = RoutingView()
    value = {"v": 1, "endpoints": [{"address": "n:1", "transport": "grpc"}]}
    view.load(
        [Entry(f"aggregate_shards.{name}", value, 1) for name in shards]
        + [
            Entry(f"aggregate_placement.{tenant}", {"v": 1, "shard": name, "epoch": 1}, 2)
            for tenant, name in placements.items()
        ]
    )
    if deleted is not None:
        view.apply([Entry(f"aggregate_shards.{deleted}", None, 3)])
    return view.routing


def problems(document: object, routing: Routing) -> list[tuple[str, str]]:
    return [(each.field, each.problem) for each in problems_in(parsed(document), routing)]


def test_a_document_says_what_to_put_and_what_to_delete():
    change_set = parsed(
        {
            "aggregate_placement": {"acme": "s1", "globex": None},
            "aggregate_shards": {"s1": [{"address": "n:1", "transport": "grpc"}], "s2": None},
            "projection_shards": {"s1": [{"address": "p:1", "transport": "http", "weight": 3}]},
        }
    )
    assert change_set.placements == {(AGGREGATE, "acme"): "s1", (AGGREGATE, "globex"): None}
    assert change_set.shards == {
        (AGGREGATE, "s1"): (NODE,),
        (AGGREGATE, "s2"): None,
        (PROJECTION, "s1"): (Endpoint("p:1", Transport.HTTP, "", 3),),
    }


@pytest.mark.parametrize(
    "endpoint",
    [
        "grpc://n:1",
        {"address": "grpc://n:1"},
        {"address": "grpc://n:1", "transport": "grpc"},
        {"address": "n:1", "transport": "grpc"},
    ],
)
def test_an_endpoint_may_carry_its_transport_in_the_address(endpoint: object):
    document = {"aggregate_shards": {"s1": [endpoint]}}
    assert parsed(document).shards == {(AGGREGATE, "s1"): (NODE,)}


@pytest.mark.parametrize(
    ("document", "fields"),
    [
        (None, [""]),
        ([], [""]),
        ({"placements": {}}, ["/placements"]),
        ({"aggregate_placement": []}, ["/aggregate_placement"]),
        ({"aggregate_placement": {"A.b": "s1"}}, ["/aggregate_placement/A.b"]),
        ({"aggregate_placement": {"a/b": "s1"}}, ["/aggregate_placement/a~1b"]),
        ({"aggregate_placement": {"acme": "S1"}}, ["/aggregate_placement/acme"]),
        ({"aggregate_placement": {"acme": {"shard": "s1"}}}, ["/aggregate_placement/acme"]),
        ({"aggregate_shards": {"*": None}}, ["/aggregate_shards/*"]),
        ({"aggregate_shards": {"s1": []}}, ["/aggregate_shards/s1"]),
        ({"aggregate_shards": {"s1": "grpc://n:1"}}, ["/aggregate_shards/s1"]),
        ({"aggregate_shards": {"s1": ["grpc://n:1"] * 101}}, ["/aggregate_shards/s1"]),
        ({"aggregate_shards": {"s1": ["n:1"]}}, ["/aggregate_shards/s1/0/transport"]),
        ({"aggregate_shards": {"s1": ["grpc://n"]}}, ["/aggregate_shards/s1/0/address"]),
        ({"aggregate_shards": {"s1": ["http://n:1"]}}, ["/aggregate_shards/s1/0/transport"]),
        ({"runner_shards": {"s1": ["http://n:1/"]}}, ["/runner_shards/s1/0/address"]),
        ({"aggregate_shards": {"s1": [7]}}, ["/aggregate_shards/s1/0"]),
        (
            {"aggregate_shards": {"s1": [{"address": "grpc://n:1", "transport": "grpcs"}]}},
            ["/aggregate_shards/s1/0/transport"],
        ),
        (
            {"aggregate_shards": {"s1": [{"address": "grpc://n:1", "wieght": 2}]}},
            ["/aggregate_shards/s1/0/wieght"],
        ),
        (
            {"aggregate_shards": {"s1": ["grpc://n:1", "grpcs://N:1"]}},
            ["/aggregate_shards/s1/1/address"],
        ),
    ],
)
def test_a_bad_document_is_refused_by_field(document: object, fields: list[str]):
    assert refused_fields(document) == fields


def test_everything_wrong_is_named_at_once():
    assert refused_fields(
        {
            "nonsense": 1,
            "aggregate_placement": {"acme": 7, "globex": "s1"},
            "runner_shards": {"s1": ["grpc://n:1", "http://n:0"]},
        }
    ) == [
        "/nonsense",
        "/aggregate_placement/acme",
        "/runner_shards/s1/0/transport",
        "/runner_shards/s1/1/address",
    ]


def test_the_named_problems_are_bounded():
    document = {"aggregate_placement": {f"t{place}": 7 for place in range(5000)}}
    assert len(refused_fields(document)) == MAX_PROBLEMS


@settings(max_examples=50, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["aggregate_placement", "runner_shards", "x/y"]),
        JSON | st.dictionaries(st.text("ab1-", min_size=1, max_size=4), JSON),
    )
)
def test_any_document_is_judged_without_failing(document: dict[str, Any]):
    assert isinstance(parse_change_set(document), ChangeSet | Refusal)


def test_a_placement_names_a_shard_that_is_there_or_comes_with_it():
    routing = routing_of({}, "s1")
    assert not problems({"aggregate_placement": {"acme": "s1"}}, routing)
    both = {"aggregate_placement": {"acme": "s2"}, "aggregate_shards": {"s2": ["grpc://n:1"]}}
    assert not problems(both, routing)


def test_a_placement_on_a_shard_that_is_not_there_is_wrong():
    routing = routing_of({"globex": "s3"}, "s1", "s3", deleted="s3")
    unknown = "names shard {}, which does not exist"
    assert problems(
        {
            "aggregate_placement": {"a": "s1", "b": "s2", "c": "s3"},
            "aggregate_shards": {"s1": None},
            "projection_placement": {"a": "s1"},
        },
        routing,
    ) == [
        ("/aggregate_placement/a", unknown.format("s1")),
        ("/aggregate_placement/b", unknown.format("s2")),
        ("/aggregate_placement/c", unknown.format("s3")),
        ("/projection_placement/a", unknown.format("s1")),
    ]


def test_a_shard_that_is_named_cannot_be_deleted():
    routing = routing_of({"acme": "s1", "globex": "s1"}, "s1", "s2")
    assert problems({"aggregate_shards": {"s1": None}}, routing) == [
        ("/aggregate_shards/s1", "still has 2 placements")
    ]
    assert problems(
        {"aggregate_shards": {"s1": None}, "aggregate_placement": {"acme": "s2"}}, routing
    ) == [("/aggregate_shards/s1", "still has 1 placements")]
    assert problems(
        {"aggregate_shards": {"s1": None}, "aggregate_placement": {"acme": "s1"}}, routing
    ) == [
        ("/aggregate_placement/acme", "names shard s1, which does not exist"),
        ("/aggregate_shards/s1", "still has 2 placements"),
    ]


def test_a_shard_can_be_deleted_together_with_its_last_placements():
    routing = routing_of({"acme": "s1", "globex": "s1"}, "s1", "s2")
    document = {
        "aggregate_placement": {"acme": "s2", "globex": None},
        "aggregate_shards": {"s1": None},
    }
    assert not problems(document, routing)


@pytest.mark.parametrize("changes", [0, MAX_CHANGES + 1])
def test_a_change_set_has_a_size(changes: int):
    change_set = ChangeSet({(AGGREGATE, f"t{place}"): "s1" for place in range(changes)}, {})
    assert [problem.field for problem in problems_in(change_set, routing_of({}, "s1"))] == [""]


def test_the_largest_change_set_is_fine():
    change_set = ChangeSet({(AGGREGATE, f"t{place}"): "s1" for place in range(MAX_CHANGES)}, {})
    assert not problems_in(change_set, routing_of({}, "s1"))
