from __future__ import annotations

import dataclasses

import pytest

from tidegate.kernel import errors
from tidegate.kernel.errors import Refusal
from tidegate.routing.model import (
    Endpoint,
    Placement,
    Resolved,
    Routing,
    RoutingTable,
    ServiceKind,
    Shard,
    Transport,
)
from tidegate.routing.snapshot_map import SnapshotMap

NODE = Endpoint("10.0.0.7:50051", Transport.GRPC)


def table(placements: dict[str, Placement], shards: dict[str, Shard]) -> RoutingTable:
    return RoutingTable(
        ServiceKind.AGGREGATE,
        12,
        SnapshotMap[Placement]().with_changes(placements),
        SnapshotMap[Shard]().with_changes(shards),
    )


def test_a_placed_tenant_resolves_to_the_endpoints_of_its_shard():
    routing = table({"acme": Placement("s1", 3)}, {"s1": Shard((NODE,), 1)})
    assert routing.resolve("acme") == Resolved(
        ServiceKind.AGGREGATE, "acme", "s1", 3, (NODE,), revision=12
    )


def test_an_unknown_tenant_is_not_placed():
    refusal = table({}, {"s1": Shard((NODE,))}).resolve("acme")
    assert isinstance(refusal, Refusal)
    assert refusal.code is errors.TENANT_NOT_PLACED
    assert refusal.retry_after_s is None


@pytest.mark.parametrize("shards", [{}, {"s1": Shard(())}])
def test_a_tenant_without_an_endpoint_may_come_again(shards: dict[str, Shard]):
    refusal = table({"acme": Placement("s1", 1)}, shards).resolve("acme")
    assert isinstance(refusal, Refusal)
    assert refusal.code is errors.NO_ENDPOINT
    assert refusal.retry_after_s == 1


def test_an_empty_routing_has_a_table_of_every_kind():
    routing = Routing()
    for kind in ServiceKind:
        assert routing.table(kind).kind is kind
        refusal = routing.resolve(kind, "acme")
        assert isinstance(refusal, Refusal)
        assert kind in refusal.detail


@pytest.mark.parametrize(
    "thing", [NODE, Placement("s1", 1), Shard((NODE,)), Routing(), table({}, {})]
)
def test_routing_state_is_frozen_and_slotted(thing: object):
    name = dataclasses.fields(thing)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(thing, name, None)
    assert not hasattr(thing, "__dict__")


def test_endpoints_can_be_told_apart_in_sets():
    labelled = dataclasses.replace(NODE, labels={"rack": "a"})
    assert len({NODE, labelled, Endpoint("10.0.0.7:50051", Transport.GRPC)}) == 2
