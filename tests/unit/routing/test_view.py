"""The view against stored entries good and bad, alone and against a naive model."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import REGISTRY

from tidegate.routing import entries
from tidegate.routing.entries import Invalid
from tidegate.routing.model import Endpoint, Placement, Resolved, Routing, ServiceKind
from tidegate.routing.view import RoutingView
from tidegate.store.changes import Entry

AGGREGATE = ServiceKind.AGGREGATE
REVISIONS: Iterator[int] = iter(range(1, 10**12))


def placed(tenant: str, shard: str, epoch: int = 1, kind: ServiceKind = AGGREGATE) -> Entry:
    value = {"v": 1, "shard": shard, "epoch": epoch}
    return Entry(f"{kind}_placement.{tenant}", value, next(REVISIONS))


def shard(name: str, *addresses: str, kind: ServiceKind = AGGREGATE) -> Entry:
    transport = "grpc" if kind is AGGREGATE else "http"
    listed = [{"address": address, "transport": transport} for address in addresses or ("n:1",)]
    return Entry(f"{kind}_shards.{name}", {"v": 1, "endpoints": listed}, next(REVISIONS))


def gone(key: str) -> Entry:
    return Entry(key, None, next(REVISIONS))


def bad(key: str) -> Entry:
    return Entry(key, {"v": 1, "nonsense": True}, next(REVISIONS))


def view_of(*loaded: Entry) -> RoutingView:
    view = RoutingView()
    view.load(loaded)
    return view


def where(view: RoutingView, tenant: str, kind: ServiceKind = AGGREGATE) -> str | None:
    resolved = view.routing.resolve(kind, tenant)
    return resolved.shard if isinstance(resolved, Resolved) else None


def addresses(view: RoutingView, tenant: str) -> list[str]:
    resolved = view.routing.resolve(AGGREGATE, tenant)
    assert isinstance(resolved, Resolved)
    return [endpoint.address for endpoint in resolved.endpoints]


def test_the_view_follows_all_six_kinds_of_key():
    assert RoutingView.kinds == {
        "aggregate_placement",
        "aggregate_shards",
        "projection_placement",
        "projection_shards",
        "runner_placement",
        "runner_shards",
    }


def test_what_is_stored_is_what_resolves():
    view = view_of(placed("acme", "s1", epoch=4), shard("s1", "a:1", "b:2"))
    resolved = view.routing.resolve(AGGREGATE, "acme")
    assert isinstance(resolved, Resolved)
    assert (resolved.shard, resolved.epoch) == ("s1", 4)
    assert addresses(view, "acme") == ["a:1", "b:2"]
    assert not view.rejected


def test_the_kinds_have_tables_and_revisions_of_their_own():
    view = view_of(shard("s1"), placed("acme", "s1"))
    before = view.routing
    runner = [shard("s1", kind=ServiceKind.RUNNER), placed("acme", "s1", kind=ServiceKind.RUNNER)]
    view.apply(runner)
    assert where(view, "acme", ServiceKind.PROJECTION) is None
    assert where(view, "acme", ServiceKind.RUNNER) == "s1"
    assert view.routing.table(ServiceKind.RUNNER).revision == runner[-1].revision
    assert view.routing.table(AGGREGATE) is before.table(AGGREGATE)
    assert view.routing.table(ServiceKind.PROJECTION).revision == 0


def test_a_commit_swaps_whole_and_leaves_the_old_snapshot_alone():
    view = view_of(shard("s1"), placed("acme", "s1"), placed("globex", "s1"))
    before = view.routing
    view.apply([shard("s2"), placed("acme", "s2", 2), placed("globex", "s2", 2)])
    assert [where(view, tenant) for tenant in ("acme", "globex")] == ["s2", "s2"]
    for tenant in ("acme", "globex"):
        old = before.resolve(AGGREGATE, tenant)
        assert isinstance(old, Resolved)
        assert old.shard == "s1"


def test_a_removed_placement_is_gone():
    view = view_of(shard("s1"), placed("acme", "s1"))
    view.apply([gone("aggregate_placement.acme")])
    assert where(view, "acme") is None
    assert not view.rejected


def test_a_bad_shard_leaves_the_last_good_one():
    view = view_of(shard("s1", "a:1"), placed("acme", "s1"))
    view.apply([bad("aggregate_shards.s1")])
    assert addresses(view, "acme") == ["a:1"]
    assert list(view.rejected) == ["aggregate_shards.s1"]
    view.apply([shard("s1", "b:1")])
    assert addresses(view, "acme") == ["b:1"]
    assert not view.rejected


def test_a_bad_placement_leaves_the_last_good_one():
    view = view_of(shard("s1"), placed("acme", "s1"))
    view.apply([bad("aggregate_placement.acme")])
    assert where(view, "acme") == "s1"
    assert list(view.rejected) == ["aggregate_placement.acme"]
    view.apply([gone("aggregate_placement.acme")])
    assert where(view, "acme") is None
    assert not view.rejected


def test_the_last_good_one_is_also_that_of_the_same_delivery():
    view = view_of()
    view.apply([shard("s1"), placed("acme", "s1"), bad("aggregate_placement.acme")])
    assert where(view, "acme") == "s1"
    assert list(view.rejected) == ["aggregate_placement.acme"]


def test_a_placement_on_an_unknown_shard_waits_for_it():
    view = view_of(shard("s1"), placed("acme", "s1"))
    view.apply([placed("acme", "s2", 2)])
    assert where(view, "acme") == "s1"
    assert view.rejected == {"aggregate_placement.acme": "/shard names s2, which does not exist"}
    view.apply([shard("s2")])
    assert where(view, "acme") == "s2"
    assert not view.rejected


def test_only_the_newest_placement_waits():
    view = view_of(shard("s1"), placed("acme", "s1"))
    view.apply([placed("acme", "s2", 2)])
    view.apply([placed("acme", "s1", 3)])
    view.apply([shard("s2")])
    assert where(view, "acme") == "s1"


def test_a_deleted_shard_stays_for_its_tenants_and_takes_no_more():
    view = view_of(shard("s1"), shard("s2"), placed("acme", "s1"), placed("globex", "s2"))
    view.apply([gone("aggregate_shards.s1")])
    assert where(view, "acme") == "s1"
    assert view.rejected == {"aggregate_shards.s1": "is deleted, but placements still name it"}
    view.apply([placed("globex", "s1", 2)])
    assert where(view, "globex") == "s2"
    assert set(view.rejected) == {"aggregate_shards.s1", "aggregate_placement.globex"}
    view.apply([placed("globex", "s2", 3), placed("acme", "s2", 2)])
    assert "s1" not in view.routing.table(AGGREGATE).shards
    assert not view.rejected


def test_a_deleted_shard_may_come_back():
    view = view_of(shard("s1", "a:1"), placed("acme", "s1"))
    view.apply([gone("aggregate_shards.s1")])
    view.apply([shard("s1", "b:1")])
    assert addresses(view, "acme") == ["b:1"]
    assert not view.rejected


def test_a_deleted_shard_that_comes_back_broken_is_as_it_was_last_good():
    view = view_of(shard("s1", "a:1"), shard("s2"), placed("acme", "s1"))
    view.apply([gone("aggregate_shards.s1")])
    view.apply([bad("aggregate_shards.s1")])
    view.apply([placed("globex", "s1"), placed("acme", "s2", 2)])
    view.apply([placed("globex", "s2", 2)])
    assert "s1" in view.routing.table(AGGREGATE).shards
    assert list(view.rejected) == ["aggregate_shards.s1"]


def test_a_commit_may_empty_a_shard_and_delete_it():
    view = view_of(shard("s1"), shard("s2"), placed("acme", "s1"))
    view.apply([gone("aggregate_shards.s1"), placed("acme", "s2", 2)])
    assert set(view.routing.table(AGGREGATE).shards) == {"s2"}
    assert not view.rejected


def test_a_key_that_names_nothing_is_refused_until_it_is_gone():
    view = view_of(shard("s1"), placed("acme", "s1"))
    view.apply([Entry("aggregate_placement.a.b", {"v": 1}, 9), Entry("runner_shards.X", {}, 9)])
    assert set(view.rejected) == {"aggregate_placement.a.b", "runner_shards.X"}
    view.apply([gone("aggregate_placement.a.b"), gone("runner_shards.X")])
    assert not view.rejected


def test_loading_drops_what_is_no_longer_there():
    view = view_of(shard("s1"), shard("s2"), placed("acme", "s1"), bad("runner_shards.s9"))
    view.load([shard("s2"), placed("globex", "s2")])
    assert where(view, "acme") is None
    assert where(view, "globex") == "s2"
    assert set(view.routing.table(AGGREGATE).shards) == {"s2"}
    assert not view.rejected


def test_loading_keeps_the_last_good_one_of_an_invalid_entry():
    view = view_of(shard("s1", "a:1"), placed("acme", "s1"))
    view.load([bad("aggregate_shards.s1"), placed("acme", "s1")])
    assert addresses(view, "acme") == ["a:1"]
    assert list(view.rejected) == ["aggregate_shards.s1"]


def test_a_refusal_is_counted_and_logged_once_with_its_key(caplog: pytest.LogCaptureFixture):
    def counted() -> float:
        return REGISTRY.get_sample_value("tidegate_view_rejected_total", {"view": "routing"}) or 0.0

    view = view_of(shard("s1"))
    before = counted()
    with caplog.at_level(logging.WARNING):
        view.apply([placed("acme", "s9"), bad("runner_shards.s1")])
        view.apply([placed("globex", "s1")])
    assert counted() == before + 2
    assert [record.getMessage().split(" is refused")[0] for record in caplog.records] == [
        "routing entry aggregate_placement.acme",
        "routing entry runner_shards.s1",
    ]


def test_a_flood_of_refusals_is_not_a_flood_of_log_lines(caplog: pytest.LogCaptureFixture):
    view = RoutingView()
    with caplog.at_level(logging.WARNING):
        view.load([placed(f"t{place}", "s9") for place in range(500)])
    assert len(view.rejected) == 500
    assert len(caplog.records) == 21
    assert caplog.records[-1].getMessage() == "480 more routing entries are refused"


# The naive model keeps every stored value and works everything out again after each commit.

TENANTS, SHARDS = ["t1", "t2", "t3"], ["s1", "s2", "s3"]
PLACEMENT_VALUES = (
    st.none()
    | st.just({"v": 1, "shard": "?"})
    | st.builds(
        lambda name, epoch: {"v": 1, "shard": name, "epoch": epoch},
        st.sampled_from(SHARDS),
        st.integers(1, 3),
    )
)
SHARD_VALUES = (
    st.none()
    | st.just({"v": 1, "endpoints": []})
    | st.builds(
        lambda port: {"v": 1, "endpoints": [{"address": f"n:{port}", "transport": "grpc"}]},
        st.integers(1, 3),
    )
)
COMMITS = st.builds(
    lambda placements, shards: (placements, shards),
    st.dictionaries(st.sampled_from(TENANTS), PLACEMENT_VALUES, max_size=3),
    st.dictionaries(st.sampled_from(SHARDS), SHARD_VALUES, max_size=3),
)
Commit = tuple[dict[str, Any], dict[str, Any]]


class Naive:
    def __init__(self) -> None:
        self.stored_placements: dict[str, Any] = {}
        self.stored_shards: dict[str, Any] = {}
        self.placements: dict[str, Placement] = {}
        self.shards: dict[str, tuple[Endpoint, ...]] = {}

    def commit(self, commit: Commit) -> None:
        placements, shards = commit
        self.stored_placements |= placements
        self.stored_shards |= shards
        for name in SHARDS:
            endpoints = self._parsed_shard(name)
            if endpoints is not None:
                self.shards[name] = endpoints
        for tenant in TENANTS:
            placement = self._parsed_placement(tenant)
            if self.stored_placements.get(tenant) is None:
                self.placements.pop(tenant, None)
            elif placement is not None and self._available(placement.shard):
                self.placements[tenant] = placement
        in_use = {placement.shard for placement in self.placements.values()}
        for name in SHARDS:
            if self.stored_shards.get(name) is None and name not in in_use:
                self.shards.pop(name, None)

    def invalid_keys(self) -> set[str]:
        """Keys whose stored value is nothing that can be used as things are."""
        found = set()
        for tenant in TENANTS:
            placement = self._parsed_placement(tenant)
            usable = placement is not None and self._available(placement.shard)
            if self.stored_placements.get(tenant) is not None and not usable:
                found.add(f"aggregate_placement.{tenant}")
        for name in SHARDS:
            kept = self.stored_shards.get(name) is None and name in self.shards
            unreadable = self.stored_shards.get(name) is not None and not self._parsed_shard(name)
            if kept or unreadable:
                found.add(f"aggregate_shards.{name}")
        return found

    def _available(self, name: str) -> bool:
        return name in self.shards and self.stored_shards.get(name) is not None

    def _parsed_placement(self, tenant: str) -> Placement | None:
        parsed = entries.parse_placement(self.stored_placements.get(tenant) or {})
        return None if isinstance(parsed, Invalid) else parsed

    def _parsed_shard(self, name: str) -> tuple[Endpoint, ...] | None:
        parsed = entries.parse_shard(AGGREGATE, self.stored_shards.get(name) or {})
        return None if isinstance(parsed, Invalid) else parsed


def entries_of(commit: Commit) -> list[Entry]:
    placements, shards = commit
    return [
        Entry(f"aggregate_placement.{tenant}", value, next(REVISIONS))
        for tenant, value in placements.items()
    ] + [
        Entry(f"aggregate_shards.{name}", value, next(REVISIONS)) for name, value in shards.items()
    ]


def assert_sound(routing: Routing) -> None:
    table = routing.table(AGGREGATE)
    named = [placement.shard for placement in table.placements.values()]
    for name, known in table.shards.items():
        assert known.endpoints
        assert known.tenants == named.count(name)
    assert set(named) <= set(table.shards)


@settings(deadline=None)
@given(st.lists(COMMITS, max_size=12))
def test_commit_by_commit_the_table_is_that_of_the_naive_model(commits: list[Commit]):
    view, naive = RoutingView(), Naive()
    for commit in commits:
        view.apply(entries_of(commit))
        naive.commit(commit)
        table = view.routing.table(AGGREGATE)
        assert dict(table.placements) == naive.placements
        assert {name: known.endpoints for name, known in table.shards.items()} == naive.shards
        assert_sound(view.routing)
        # A placement whose shard was deleted later is good still; it is the shard that is named.
        assert set(view.rejected) <= naive.invalid_keys()
        assert naive.invalid_keys() - set(view.rejected) <= {
            f"aggregate_placement.{tenant}" for tenant in naive.placements
        }


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.lists(COMMITS, max_size=4)), max_size=6))
def test_however_commits_arrive_what_is_valid_is_shown(
    deliveries: list[tuple[bool, list[Commit]]],
):
    view, naive = RoutingView(), Naive()
    for loads, commits in deliveries:
        for commit in commits:
            naive.commit(commit)
        if loads:
            stored = entries_of((naive.stored_placements, naive.stored_shards))
            view.load([entry for entry in stored if entry.value is not None])
        else:
            view.apply([entry for commit in commits for entry in entries_of(commit)])
        assert_sound(view.routing)
        table = view.routing.table(AGGREGATE)
        for name, value in naive.stored_shards.items():
            endpoints = entries.parse_shard(AGGREGATE, value or {})
            if isinstance(endpoints, Invalid):
                continue
            assert table.shards[name].endpoints == endpoints
            for tenant, stored_value in naive.stored_placements.items():
                placement = entries.parse_placement(stored_value or {})
                if isinstance(placement, Placement) and placement.shard == name:
                    assert table.placements[tenant] == placement
        for tenant in TENANTS:
            if naive.stored_placements.get(tenant) is None:
                assert tenant not in table.placements
