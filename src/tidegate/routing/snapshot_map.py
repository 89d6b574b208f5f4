"""A mapping that is never changed, only succeeded by another one.

A routing table must be swapped whole and yet change one tenant in a million within
microseconds. So the items are spread over buckets, and a successor copies only the buckets
that differ: with a million items about a thousand of them, and a thousand pointers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Generic, TypeVar, overload

V = TypeVar("V")
D = TypeVar("D")

# The square root of the million items to carry: copying a bucket and copying the list of
# buckets then cost the same.
_BUCKETS = 1024


class SnapshotMap(Mapping[str, V], Generic[V]):
    """An immutable mapping with cheap successors."""

    __slots__ = ("_buckets",)

    def __init__(self) -> None:
        empty: dict[str, V] = {}
        self._buckets: tuple[dict[str, V], ...] = (empty,) * _BUCKETS

    def with_changes(self, changes: Mapping[str, V | None]) -> SnapshotMap[V]:
        """This mapping with each of `changes` set, or removed where the new value is None."""
        buckets = list(self._buckets)
        copied: set[int] = set()
        for key, value in changes.items():
            place = hash(key) % _BUCKETS
            if place not in copied:
                buckets[place] = dict(buckets[place])
                copied.add(place)
            if value is None:
                buckets[place].pop(key, None)
            else:
                buckets[place][key] = value
        successor: SnapshotMap[V] = SnapshotMap.__new__(SnapshotMap)
        successor._buckets = tuple(buckets)
        return successor

    def __getitem__(self, key: str) -> V:
        return self._buckets[hash(key) % _BUCKETS][key]

    @overload
    def get(self, key: str, default: None = None, /) -> V | None: ...
    @overload
    def get(self, key: str, default: V | D, /) -> V | D: ...
    def get(self, key: str, default: V | D | None = None, /) -> V | D | None:
        # The hot path: the inherited one is several times slower.
        return self._buckets[hash(key) % _BUCKETS].get(key, default)

    def __iter__(self) -> Iterator[str]:
        for bucket in self._buckets:
            yield from bucket

    def __len__(self) -> int:
        return sum(map(len, self._buckets))
