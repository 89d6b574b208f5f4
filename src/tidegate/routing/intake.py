"""What a table takes in of the stored entries, and what it refuses. Pure; no I/O.

    stored value ──▶ valid? ──▶ shard known? ──▶ table
                       └─ no ─────────┴─ no ───▶ refused; the table keeps the last good one

Invariants
- A refused entry changes nothing: what its key stood for before stays. It is named with the
  reason until its key is written again or the reason is gone.
- Every placement in the table names a shard in it. A placement that names another waits for
  that shard; a shard whose entry is deleted stays until no placement names it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from tidegate.routing import entries
from tidegate.routing.entries import Invalid
from tidegate.routing.model import Placement, RoutingTable, ServiceKind, Shard
from tidegate.store.changes import Value

Values = Mapping[str, Value | None]


class Intake:
    """One service kind's table as entries come in, with what was refused."""

    def __init__(self, kind: ServiceKind) -> None:
        self.table = RoutingTable(kind)
        self._refused_placements: dict[str, str] = {}
        self._refused_shards: dict[str, str] = {}
        # The refused placements that only lack their shard.
        self._waiting: dict[str, Placement] = {}

    def rejected(self) -> dict[str, str]:
        """Why each refused entry was, by key."""
        kind = self.table.kind
        placements = self._refused_placements.items()
        shards = self._refused_shards.items()
        return {entries.placement_key(kind, tenant): reason for tenant, reason in placements} | {
            entries.shard_key(kind, shard): reason for shard, reason in shards
        }

    def take(self, placements: Values, shards: Values, revision: int) -> None:
        """Takes in the newest values of some tenants' placements and of some shards.

        None is a removal.
        """
        new_shards = self._judge_shards(shards)
        new_placements = self._judge_placements(placements, new_shards)
        self._count(new_placements, new_shards)
        self.table = RoutingTable(
            self.table.kind,
            revision,
            self.table.placements.with_changes(new_placements),
            self.table.shards.with_changes(new_shards),
        )

    def take_all(self, placements: Values, shards: Values, revision: int) -> None:
        """The same for all entries that there are: what is not among them is gone."""
        tenants = {*self.table.placements, *self._refused_placements}.difference(placements)
        names = {*self.table.shards, *self._refused_shards}.difference(shards)
        self.take(
            {**placements, **dict.fromkeys(tenants)}, {**shards, **dict.fromkeys(names)}, revision
        )

    def _judge_shards(self, shards: Values) -> dict[str, Shard | None]:
        accepted: dict[str, Shard | None] = {}
        for name, value in shards.items():
            self._refused_shards.pop(name, None)
            known = self.table.shards.get(name)
            if value is None:
                if known is not None:
                    accepted[name] = replace(known, deleted=True)
                continue
            endpoints = entries.parse_shard(self.table.kind, value)
            if not isinstance(endpoints, Invalid):
                accepted[name] = Shard(endpoints, known.tenants if known is not None else 0)
                continue
            self._refused_shards[name] = str(endpoints)
            if known is not None:
                accepted[name] = replace(known, deleted=False)
        return accepted

    def _judge_placements(
        self, placements: Values, new_shards: Mapping[str, Shard | None]
    ) -> dict[str, Placement | None]:
        accepted: dict[str, Placement | None] = {}
        candidates = {
            tenant: placement
            for tenant, placement in self._waiting.items()
            if placement.shard in new_shards
        }
        for tenant, value in placements.items():
            self._refused_placements.pop(tenant, None)
            self._waiting.pop(tenant, None)
            candidates.pop(tenant, None)
            if value is None:
                accepted[tenant] = None
                continue
            placement = entries.parse_placement(value)
            if isinstance(placement, Invalid):
                self._refused_placements[tenant] = str(placement)
            else:
                candidates[tenant] = placement
        for tenant, placement in candidates.items():
            shard = new_shards.get(placement.shard) or self.table.shards.get(placement.shard)
            if shard is None or shard.deleted:
                self._waiting[tenant] = placement
                reason = f"/shard names {placement.shard}, which does not exist"
                self._refused_placements[tenant] = reason
            else:
                self._waiting.pop(tenant, None)
                self._refused_placements.pop(tenant, None)
                accepted[tenant] = placement
        return accepted

    def _count(
        self, new_placements: Mapping[str, Placement | None], new_shards: dict[str, Shard | None]
    ) -> None:
        """Counts the moves on the shards, and lets go of deleted shards that are free."""
        moved: Counter[str] = Counter()
        for tenant, new in new_placements.items():
            old = self.table.placements.get(tenant)
            if old is not None:
                moved[old.shard] -= 1
            if new is not None:
                moved[new.shard] += 1
        for name in {*moved, *new_shards}:
            shard = new_shards.get(name) or self.table.shards[name]
            tenants = shard.tenants + moved[name]
            if not shard.deleted:
                new_shards[name] = replace(shard, tenants=tenants)
            elif tenants > 0:
                new_shards[name] = replace(shard, tenants=tenants)
                self._refused_shards[name] = "is deleted, but placements still name it"
            else:
                new_shards[name] = None
                self._refused_shards.pop(name, None)
