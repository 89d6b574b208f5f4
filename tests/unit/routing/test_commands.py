from __future__ import annotations

from typing import Any

import orjson
import pytest

from tidegate.kernel import errors
from tidegate.kernel.errors import Refusal
from tidegate.routing.change_set import ChangeSet, parse_change_set
from tidegate.routing.commands import Applied, apply_change_set
from tidegate.routing.view import RoutingView
from tidegate.store.bucket import Decision
from tidegate.store.changes import Delete, Entry, Put
from tidegate.store.events import Origin

ORIGIN = Origin("request-1", "192.0.2.7", "curl")

SHARD = {"v": 1, "endpoints": [{"address": "n:1", "transport": "grpc"}]}
WHOLE_SHARD = {
    "v": 1,
    "endpoints": [{"address": "n:1", "transport": "grpc", "region": "", "weight": 1, "labels": {}}],
}


class Stored:
    """Some stored entries, and a view that has applied them."""

    def __init__(self, **values: dict[str, Any]) -> None:
        self.entries = {
            key.replace("__", "."): Entry(key.replace("__", "."), value, revision)
            for revision, (key, value) in enumerate(values.items(), start=5)
        }
        self.view = RoutingView()
        self.view.load(self.entries.values())

    async def read(self, key: str) -> Entry:
        return self.entries.get(key, Entry(key, None, 0))

    async def apply(self, document: object) -> Decision[Applied] | Refusal:
        change_set = parse_change_set(document)
        assert isinstance(change_set, ChangeSet)
        return await apply_change_set(
            self.read,
            self.view.routing,
            change_set,
            "0197-operator",
            ORIGIN,
            1_700_000_000.25,
        )


def decided(decision: Decision[Applied] | Refusal) -> Decision[Applied]:
    assert isinstance(decision, Decision), decision
    return decision


def refused(decision: Decision[Applied] | Refusal) -> list[tuple[str, str]]:
    assert isinstance(decision, Refusal)
    assert decision.code is errors.INVALID
    return [(problem.field, problem.problem) for problem in decision.errors]


async def test_a_first_placement_has_epoch_one():
    stored = Stored(aggregate_shards__s1=SHARD)
    decision = decided(await stored.apply({"aggregate_placement": {"acme": "s1"}}))
    assert decision.changes == [
        Put("aggregate_placement.acme", {"v": 1, "shard": "s1", "epoch": 1}, 0)
    ]
    assert decision.outcome == Applied(("aggregate_placement.acme",))


async def test_a_move_is_the_next_epoch_at_the_revision_that_was_read():
    stored = Stored(
        aggregate_shards__s1=SHARD,
        aggregate_shards__s2=SHARD,
        aggregate_placement__acme={"v": 1, "shard": "s1", "epoch": 4},
    )
    decision = decided(await stored.apply({"aggregate_placement": {"acme": "s2"}}))
    assert decision.changes == [
        Put("aggregate_placement.acme", {"v": 1, "shard": "s2", "epoch": 5}, 7)
    ]


async def test_a_placement_that_stays_keeps_its_epoch_and_unknown_members():
    stored = Stored(
        aggregate_shards__s1={**SHARD, "note": "keep"},
        aggregate_placement__acme={"v": 1, "shard": "s1", "epoch": 4, "colour": "red"},
    )
    document = {
        "aggregate_placement": {"acme": "s1"},
        "aggregate_shards": {"s1": ["grpc://n:1"]},
    }
    assert decided(await stored.apply(document)).changes == [
        Put("aggregate_shards.s1", {**WHOLE_SHARD, "note": "keep"}, 5),
        Put(
            "aggregate_placement.acme",
            {"v": 1, "shard": "s1", "epoch": 4, "colour": "red"},
            6,
        ),
    ]


async def test_an_unreadable_placement_counts_on_from_the_last_good_one():
    stored = Stored(
        aggregate_shards__s1=SHARD,
        aggregate_shards__s2=SHARD,
        aggregate_placement__acme={"v": 1, "shard": "s1", "epoch": 4},
    )
    broken = Entry("aggregate_placement.acme", {"v": 1, "shard": "s1", "epoch": "x"}, 20)
    stored.entries[broken.key] = broken
    stored.view.apply([broken])
    decision = decided(await stored.apply({"aggregate_placement": {"acme": "s2"}}))
    assert decision.changes == [
        Put("aggregate_placement.acme", {"v": 1, "shard": "s2", "epoch": 5}, 20)
    ]


async def test_deleting_names_the_revision_that_was_read():
    stored = Stored(
        aggregate_shards__s1=SHARD,
        aggregate_placement__acme={"v": 1, "shard": "s1", "epoch": 1},
    )
    document = {"aggregate_placement": {"acme": None}, "aggregate_shards": {"s1": None}}
    assert decided(await stored.apply(document)).changes == [
        Delete("aggregate_shards.s1", 5),
        Delete("aggregate_placement.acme", 6),
    ]


async def test_deleting_what_is_not_there_is_wrong():
    document = {"aggregate_placement": {"acme": None}, "runner_shards": {"s1": None}}
    assert refused(await Stored().apply(document)) == [
        ("/runner_shards/s1", "is not there"),
        ("/aggregate_placement/acme", "is not there"),
    ]


async def test_what_does_not_fit_the_tables_is_refused_unread():
    async def read(key: str) -> Entry:
        raise AssertionError(key)

    change_set = parse_change_set({"aggregate_placement": {"acme": "s1", "globex": "s2"}})
    assert isinstance(change_set, ChangeSet)
    decision = await apply_change_set(read, RoutingView().routing, change_set, "op", ORIGIN, 0)
    assert [field for field, _ in refused(decision)] == [
        "/aggregate_placement/acme",
        "/aggregate_placement/globex",
    ]


async def test_one_event_says_what_was_done():
    stored = Stored(aggregate_shards__s1=SHARD)
    decision = decided(await stored.apply({"aggregate_placement": {"acme": "s1"}}))
    (event,) = decision.events
    assert event.topic == "event"
    assert event.tokens == ("acme", "routing", "acme", "applied", "0197-operator")
    value = orjson.loads(event.value)
    assert value["at"] == "2023-11-14T22:13:20.250Z"
    assert (value["action"], value["target"], value["tenant"]) == (
        "routing.applied",
        "acme",
        "acme",
    )
    assert value["request"]["id"] == ORIGIN.request_id
    assert value["changed"] == {"aggregate_placement.acme": {"v": 1, "shard": "s1", "epoch": 1}}


async def test_an_event_says_what_was_deleted():
    stored = Stored(aggregate_shards__s1=SHARD)
    decision = decided(await stored.apply({"aggregate_shards": {"s1": None}}))
    assert orjson.loads(decision.events[0].value)["changed"] == {"aggregate_shards.s1": None}


@pytest.mark.parametrize(
    ("document", "tokens"),
    [
        ({"aggregate_shards": {"s1": ["grpc://n:1"]}}, ("_", "routing", "s1")),
        ({"aggregate_placement": {"acme": "s0"}}, ("acme", "routing", "acme")),
        ({"aggregate_placement": {"acme": "s0", "globex": "s0"}}, ("_", "routing", "_")),
        (
            {"aggregate_placement": {"s1": "s1"}, "aggregate_shards": {"s1": ["grpc://n:1"]}},
            ("_", "routing", "_"),
        ),
    ],
)
async def test_an_event_is_filed_under_the_one_thing_it_is_about(
    document: object, tokens: tuple[str, ...]
):
    decision = decided(await Stored(aggregate_shards__s0=SHARD).apply(document))
    assert decision.events[0].tokens[:3] == tokens


async def test_a_change_set_whose_event_no_message_can_hold_is_refused():
    labels = {f"label-{place}": "x" * 128 for place in range(32)}
    listed = [{"address": f"grpc://n:{port}", "labels": labels} for port in range(1, 101)]
    document = {"aggregate_shards": {f"s{place}": listed for place in range(3)}}
    assert refused(await Stored().apply(document)) == [
        ("", "is too large for one commit; split it")
    ]
