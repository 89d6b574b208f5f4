from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate.routing.snapshot_map import SnapshotMap

CHANGES = st.lists(st.dictionaries(st.text(max_size=2), st.none() | st.integers()))


@settings(max_examples=30, deadline=None)
@given(CHANGES)
def test_every_successor_is_what_a_dictionary_would_be(history: list[dict[str, int | None]]):
    expected: dict[str, int] = {}
    snapshot: SnapshotMap[int] = SnapshotMap()
    for changes in history:
        snapshot = snapshot.with_changes(changes)
        merged = {**expected, **changes}
        expected = {key: value for key, value in merged.items() if value is not None}
        assert dict(snapshot) == expected
        assert len(snapshot) == len(expected)


@settings(max_examples=30, deadline=None)
@given(CHANGES)
def test_a_snapshot_stays_as_it_was(history: list[dict[str, int | None]]):
    snapshots = [SnapshotMap[int]()]
    contents: list[dict[str, int]] = [{}]
    for changes in history:
        snapshots.append(snapshots[-1].with_changes(changes))
        contents.append(dict(snapshots[-1]))
    assert [dict(snapshot) for snapshot in snapshots] == contents


def test_get_and_index_agree_on_what_is_there():
    snapshot = SnapshotMap[int]().with_changes({"a": 1})
    assert snapshot["a"] == snapshot.get("a") == 1
    assert snapshot.get("b") is None
    assert snapshot.get("b", 7) == 7
    with pytest.raises(KeyError):
        snapshot["b"]
