"""The lease set: who is in it, and when a lease is surely over."""

from __future__ import annotations

from typing import Any

import pytest
from harness.memory import SetClock

from tidegate.store.changes import Entry
from tidegate.store.replicas import Replica, ReplicaView

VALUE: dict[str, Any] = {"v": 1, "ttl_s": 10, "confirms_on": "tg.replica.one", "renewed_at": 1.0}


@pytest.fixture
def clock() -> SetClock:
    return SetClock(100.0)


@pytest.fixture
def view(clock: SetClock) -> ReplicaView:
    return ReplicaView(clock)


def entry(lease_id: str, value: Any = VALUE, revision: int = 1) -> Entry:
    return Entry(f"replica.{lease_id}", value, revision)


def test_a_lease_is_what_its_entry_says_seen_when_it_was_applied(view: ReplicaView) -> None:
    view.apply([entry("one", revision=7)])
    replica = Replica("one", 7, 10.0, "tg.replica.one", 100.0)
    assert view.all() == [replica]
    assert view.get("one") == replica
    assert replica.key == "replica.one"


def test_a_renewal_is_seen_anew(view: ReplicaView, clock: SetClock) -> None:
    view.apply([entry("one", revision=7), entry("two", revision=8)])
    clock.now += 3
    view.apply([entry("one", {**VALUE, "ttl_s": 20}, revision=9)])
    assert {each.lease_id: (each.revision, each.seen_s, each.ttl_s) for each in view.all()} == {
        "one": (9, 103.0, 20.0),
        "two": (8, 100.0, 10.0),
    }


def test_a_deleted_entry_leaves_the_set(view: ReplicaView) -> None:
    view.apply([entry("one"), entry("two")])
    view.apply([entry("one", None, 3), entry("never", None, 4)])
    assert [each.lease_id for each in view.all()] == ["two"]
    assert view.get("one") is None


def test_a_set_that_is_loaded_is_seen_as_a_whole_anew(view: ReplicaView, clock: SetClock) -> None:
    """How long ago each was renewed is not known, so each has its whole time before it."""
    view.apply([entry("one"), entry("gone")])
    clock.now += 9
    view.load(iter([entry("one", revision=1), entry("two", revision=2)]))
    assert sorted((each.lease_id, each.seen_s) for each in view.all()) == [
        ("one", 109.0),
        ("two", 109.0),
    ]


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"ttl_s": 10},
        {"confirms_on": "tg.replica.one"},
        {**VALUE, "ttl_s": None},
        {**VALUE, "ttl_s": "long"},
        {**VALUE, "ttl_s": []},
    ],
    ids=str,
)
def test_what_no_replica_wrote_is_no_lease_and_harms_none(
    value: dict[str, Any], view: ReplicaView
) -> None:
    view.apply([entry("one"), entry("bad"), entry("two")])
    view.apply([entry("bad", value, 2), entry("three", revision=3)])
    assert sorted(each.lease_id for each in view.all()) == ["one", "three", "two"]
    assert view.get("bad") is None


@pytest.mark.parametrize(
    ("since_s", "over"), [(0.0, False), (10.0, False), (10.5, False), (10.501, True), (1e6, True)]
)
def test_a_lease_is_surely_over_after_its_time_and_what_clocks_may_differ(
    since_s: float, over: bool, view: ReplicaView, clock: SetClock
) -> None:
    view.apply([entry("one")])
    (replica,) = view.all()
    assert replica.surely_over(clock.now + since_s) is over


def test_who_looks_may_change_the_set_meanwhile(view: ReplicaView) -> None:
    view.apply([entry("one"), entry("two")])
    for each in view.all():
        view.apply([entry(each.lease_id, None, 9)])
    assert view.all() == []
