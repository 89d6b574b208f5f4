"""The view of bucket `routing`: the snapshot that requests use, and what it refused.

Invariants
- `routing` is replaced whole, once for all the commits that arrive together.
- An invalid entry never takes the place of a good one; see `intake`. It shows in `rejected`,
  in the metric and in the log until it is put right.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType

from tidegate.kernel.ids import is_slug
from tidegate.observability import metrics
from tidegate.routing.entries import KEY_KINDS, KeyKind
from tidegate.routing.intake import Intake
from tidegate.routing.model import Routing, ServiceKind
from tidegate.store.changes import Entry, Value

log = logging.getLogger(__name__)

# Of what is refused at once; the rest is in `rejected`.
_MOST_LOGGED = 20


class RoutingView:
    """Follows placements and shards; see `store.views.View`."""

    kinds = frozenset(KEY_KINDS)

    def __init__(self) -> None:
        self._intakes = {kind: Intake(kind) for kind in ServiceKind}
        self._misnamed: dict[str, str] = {}
        self._routing = Routing()
        self._rejected: Mapping[str, str] = MappingProxyType({})

    @property
    def routing(self) -> Routing:
        """The newest snapshot."""
        return self._routing

    @property
    def rejected(self) -> Mapping[str, str]:
        """Why each refused entry was, by key."""
        return self._rejected

    def load(self, entries: Iterable[Entry]) -> None:
        """Replaces everything by `entries`; the last good one stays where one is invalid."""
        self._misnamed.clear()
        batch = self._sorted(entries)
        for kind, intake in self._intakes.items():
            placements, shards = batch.placements[kind], batch.shards[kind]
            intake.take_all(placements, shards, batch.revisions.get(kind, 0))
        self._publish()

    def apply(self, changes: Sequence[Entry]) -> None:
        """Applies whole commits in order."""
        for entries in _without_repeats(changes):
            batch = self._sorted(entries)
            for kind, revision in batch.revisions.items():
                self._intakes[kind].take(batch.placements[kind], batch.shards[kind], revision)
        self._publish()

    def _sorted(self, entries: Iterable[Entry]) -> _Batch:
        batch = _Batch()
        for entry in entries:
            word, _, name = entry.key.partition(".")
            if is_slug(name):
                batch.add(KEY_KINDS[word], name, entry)
            elif entry.value is None:
                self._misnamed.pop(entry.key, None)
            else:
                self._misnamed[entry.key] = "its name is no slug"
        return batch

    def _publish(self) -> None:
        tables = {kind: intake.table for kind, intake in self._intakes.items()}
        rejected = dict(self._misnamed)
        for intake in self._intakes.values():
            rejected |= intake.rejected()
        fresh = [key for key, reason in rejected.items() if self._rejected.get(key) != reason]
        self._routing = Routing(MappingProxyType(tables))
        self._rejected = MappingProxyType(rejected)
        if fresh:
            metrics.VIEW_REJECTED.labels(view="routing").inc(len(fresh))
        for key in fresh[:_MOST_LOGGED]:
            log.warning("routing entry %s is refused: %s", key, rejected[key])
        if len(fresh) > _MOST_LOGGED:
            log.warning("%d more routing entries are refused", len(fresh) - _MOST_LOGGED)


class _Batch:
    """Entries of different keys, sorted by what they are."""

    def __init__(self) -> None:
        self.placements: dict[ServiceKind, dict[str, Value | None]] = {k: {} for k in ServiceKind}
        self.shards: dict[ServiceKind, dict[str, Value | None]] = {k: {} for k in ServiceKind}
        self.revisions: dict[ServiceKind, int] = {}

    def add(self, of: KeyKind, name: str, entry: Entry) -> None:
        values = self.placements if of.is_placement else self.shards
        values[of.service][name] = entry.value
        if entry.revision > self.revisions.get(of.service, 0):
            self.revisions[of.service] = entry.revision


def _without_repeats(changes: Sequence[Entry]) -> Iterator[list[Entry]]:
    """Runs of changes in which each key stands once.

    Where a key comes again, the first of the two must be judged before it: should the second
    be refused, the first is the last good one.
    """
    run: dict[str, Entry] = {}
    for entry in changes:
        if entry.key in run:
            yield list(run.values())
            run = {}
        run[entry.key] = entry
    yield list(run.values())
