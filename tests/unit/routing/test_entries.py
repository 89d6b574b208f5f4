from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate.routing import entries
from tidegate.routing.entries import Invalid
from tidegate.routing.model import Endpoint, Placement, ServiceKind, Transport

AGGREGATE, PROJECTION = ServiceKind.AGGREGATE, ServiceKind.PROJECTION
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)


def endpoint(**members: Any) -> dict[str, Any]:
    return {"address": "10.0.0.7:50051", "transport": "grpc", **members}


def problems(kind: ServiceKind, *endpoints: Any) -> list[str]:
    parsed = entries.parse_shard(kind, {"v": 1, "endpoints": list(endpoints)})
    assert isinstance(parsed, Invalid)
    return [problem.field for problem in parsed.problems]


def test_there_is_a_key_for_placements_and_shards_of_each_kind():
    assert entries.placement_key(AGGREGATE, "acme") == "aggregate_placement.acme"
    assert entries.shard_key(ServiceKind.RUNNER, "s1") == "runner_shards.s1"
    assert len(entries.KEY_KINDS) == 2 * len(ServiceKind)


@pytest.mark.parametrize("name", ["", "a.b", "*", ">", "A", "a b", "a" * 64])
def test_a_key_is_only_made_of_a_slug(name: str):
    with pytest.raises(ValueError, match="no slug"):
        entries.placement_key(AGGREGATE, name)
    with pytest.raises(ValueError, match="no slug"):
        entries.shard_key(AGGREGATE, name)


@settings(deadline=None)
@given(st.from_regex(r"[a-z0-9][a-z0-9-]{0,62}", fullmatch=True), st.integers(1, 2**53))
def test_a_placement_survives_being_stored(shard: str, epoch: int):
    placement = Placement(shard, epoch)
    stored = orjson.loads(orjson.dumps(entries.placement_value(placement)))
    assert entries.parse_placement(stored) == placement


def test_a_shard_survives_being_stored():
    endpoints = (
        Endpoint("a.internal:1", Transport.GRPC, "eu", 7, {"rack": "r1"}),
        Endpoint("[::1]:65535", Transport.GRPCS),
    )
    stored = orjson.loads(orjson.dumps(entries.shard_value(endpoints)))
    assert entries.parse_shard(AGGREGATE, stored) == endpoints


def test_members_of_a_later_version_are_ignored():
    value = {"v": 1, "shard": "s1", "epoch": 1, "colour": "red"}
    assert entries.parse_placement(value) == Placement("s1", 1)
    assert not isinstance(
        entries.parse_shard(AGGREGATE, {"v": 1, "endpoints": [endpoint(colour="red")]}), Invalid
    )


def test_what_may_be_left_out_of_an_endpoint_has_a_default():
    parsed = entries.parse_shard(AGGREGATE, {"v": 1, "endpoints": [endpoint()]})
    assert parsed == (Endpoint("10.0.0.7:50051", Transport.GRPC, "", 1, {}),)


@pytest.mark.parametrize(
    ("value", "fields"),
    [
        ({}, ["/v", "/shard", "/epoch"]),
        ({"v": 2, "shard": "s1", "epoch": 1}, ["/v"]),
        ({"v": 1, "shard": "S 1", "epoch": 1}, ["/shard"]),
        ({"v": 1, "shard": None, "epoch": 1}, ["/shard"]),
        ({"v": 1, "shard": "s1", "epoch": 0}, ["/epoch"]),
        ({"v": 1, "shard": "s1", "epoch": True}, ["/epoch"]),
        ({"v": 1, "shard": "s1", "epoch": "1"}, ["/epoch"]),
        ({"v": 1, "shard": "s1", "epoch": 1.0}, ["/epoch"]),
    ],
)
def test_a_bad_placement_is_refused_by_field(value: dict[str, Any], fields: list[str]):
    parsed = entries.parse_placement(value)
    assert isinstance(parsed, Invalid)
    assert [problem.field for problem in parsed.problems] == fields


@pytest.mark.parametrize("listed", [None, [], {}, "grpc://h:1", [endpoint()] * 101])
def test_a_shard_has_some_endpoints_but_not_too_many(listed: object):
    parsed = entries.parse_shard(AGGREGATE, {"v": 1, "endpoints": listed})
    assert isinstance(parsed, Invalid)
    assert [problem.field for problem in parsed.problems] == ["/endpoints"]


@pytest.mark.parametrize(
    ("members", "field"),
    [
        ({"address": None}, "address"),
        ({"address": 50051}, "address"),
        ({"transport": None}, "transport"),
        ({"transport": ["grpc"]}, "transport"),
        ({"transport": "tcp"}, "transport"),
        ({"transport": "GRPC"}, "transport"),
        ({"region": "EU West"}, "region"),
        ({"region": None}, "region"),
        ({"weight": 0}, "weight"),
        ({"weight": 1001}, "weight"),
        ({"weight": True}, "weight"),
        ({"weight": 1.5}, "weight"),
        ({"labels": []}, "labels"),
        ({"labels": {"": "x"}}, "labels"),
        ({"labels": {"rack": 1}}, "labels"),
        ({"labels": {"rack": "x" * 129}}, "labels"),
        ({"labels": {f"l{place}": "" for place in range(33)}}, "labels"),
    ],
)
def test_a_bad_endpoint_is_refused_by_field(members: dict[str, Any], field: str):
    other = endpoint(address="10.0.0.8:50051")
    assert problems(AGGREGATE, other, endpoint(**members)) == [f"/endpoints/1/{field}"]


@pytest.mark.parametrize("item", [None, "grpc://10.0.0.7:50051", 7, []])
def test_an_endpoint_that_is_no_object_is_refused(item: object):
    assert problems(AGGREGATE, item) == ["/endpoints/0"]


@pytest.mark.parametrize(
    ("kind", "transport", "suits"),
    [
        (AGGREGATE, "grpc", True),
        (AGGREGATE, "grpcs", True),
        (AGGREGATE, "http", False),
        (PROJECTION, "http", True),
        (PROJECTION, "https", True),
        (PROJECTION, "grpc", False),
        (ServiceKind.RUNNER, "https", True),
        (ServiceKind.RUNNER, "grpcs", False),
    ],
)
def test_the_transport_suits_the_kind(kind: ServiceKind, transport: str, suits: bool):
    parsed = entries.parse_shard(kind, {"v": 1, "endpoints": [endpoint(transport=transport)]})
    assert isinstance(parsed, Invalid) is not suits


def test_an_address_is_listed_once_however_it_is_written():
    assert problems(
        AGGREGATE, endpoint(address="Node:1"), endpoint(address="node:1", transport="grpcs")
    ) == ["/endpoints/1/address"]


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("10.0.0.7:50051", "10.0.0.7:50051"),
        ("Node-1.Example:1", "node-1.example:1"),
        ("demo_aggregate:65535", "demo_aggregate:65535"),
        ("tasks.demo_aggregate:80", "tasks.demo_aggregate:80"),
        ("[2001:DB8::1]:443", "[2001:db8::1]:443"),
    ],
)
def test_addresses(text: str, address: str):
    assert entries.parse_address(text) == address


@pytest.mark.parametrize(
    "text",
    [
        None,
        b"h:1",
        "",
        ":1",
        "h",
        "h:",
        "h:0",
        "h:01",
        "h:65536",
        "h:+1",
        "h:1 ",
        "h:\u0661",
        "h:" + "9" * 5000,
        "h:1/path",
        "grpc://h:1",
        "user@h:1",
        "a b:1",
        "a\n:1",
        "-a:1",
        "a-:1",
        "a..b:1",
        "\u212a:1",
        "2001:db8::1:443",
        "[2001:db8::g]:443",
        "[fe80::1%eth0]:443",
        "[]:1",
        "256.0.0.1:1",
        "1.2.3:1",
        "1234:1",
        "a" * 64 + ":1",
        ".".join(["a" * 60] * 5) + ":1",
    ],
)
def test_what_is_no_address(text: object):
    assert entries.parse_address(text) is None


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(["v", "shard", "epoch", "endpoints"]), JSON))
def test_any_stored_object_is_judged_without_failing(value: dict[str, Any]):
    placement = entries.parse_placement(value)
    assert isinstance(placement, Placement | Invalid)
    for kind in ServiceKind:
        assert entries.parse_shard(kind, value)


def test_a_reason_stays_short_however_much_is_wrong():
    parsed = entries.parse_shard(AGGREGATE, {"v": 1, "endpoints": [{}] * 100})
    assert isinstance(parsed, Invalid)
    assert str(parsed) == (
        "/endpoints/0/address must be host:port; "
        "/endpoints/0/transport must be grpc or grpcs for aggregate nodes; "
        "/endpoints/1/address must be host:port; and 197 more"
    )
