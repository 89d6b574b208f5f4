"""Commands on the routing tables.

The check goes by this replica's view, which may be a moment behind, and no revision guards a
shard that a placement only names. So two operators at once can still store a placement on a
shard that is just being deleted. The view is the last line: it refuses what does not fit, keeps
what was good, and says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tidegate.kernel.errors import FieldProblem, Refusal
from tidegate.routing import entries
from tidegate.routing.change_set import ChangeSet, problems_in, refused
from tidegate.routing.entries import Invalid
from tidegate.routing.model import Endpoint, Placement, Routing
from tidegate.store.bucket import Decision, Read
from tidegate.store.changes import Change, Delete, Entry, Put, Value
from tidegate.store.events import Origin, Record

# The server takes 1 MiB a message unless told otherwise.
_MAX_EVENT_BYTES = 900_000
_SEVERAL = "_"


@dataclass(frozen=True, slots=True)
class Applied:
    """The keys that a change set wrote or deleted."""

    keys: tuple[str, ...]


async def apply_change_set(
    read: Read,
    routing: Routing,
    change_set: ChangeSet,
    actor: str,
    origin: Origin,
    now_s: float,
) -> Decision[Applied] | Refusal:
    """Decides a change set: everything in one commit, or a problem for each wrong item."""
    problems = problems_in(change_set, routing)
    if problems:
        return refused(problems)
    changes: list[Change] = []
    for (kind, name), endpoints in change_set.shards.items():
        entry = await read(entries.shard_key(kind, name))
        change = _change(entry, _shard_value(entry, endpoints))
        _keep(change, f"/{kind}_shards/{name}", changes, problems)
    for (kind, tenant), shard in change_set.placements.items():
        entry = await read(entries.placement_key(kind, tenant))
        good = routing.table(kind).placements.get(tenant) if entry.value is not None else None
        change = _change(entry, _placement_value(entry, shard, good))
        _keep(change, f"/{kind}_placement/{tenant}", changes, problems)
    if problems:
        return refused(problems)
    event = _record(change_set, changes, actor, origin).event(now_s)
    if len(event.value) > _MAX_EVENT_BYTES:
        return refused([FieldProblem("", "is too large for one commit; split it")])
    return Decision(changes, [event], Applied(tuple(change.key for change in changes)))


def _change(entry: Entry, value: Value | None) -> Put | Delete | None:
    """What turns `entry` into `value`; None when it is to be deleted and is not there."""
    if value is not None:
        return Put(entry.key, value, entry.revision)
    return Delete(entry.key, entry.revision) if entry.value is not None else None


def _keep(
    change: Change | None, at: str, changes: list[Change], problems: list[FieldProblem]
) -> None:
    if change is None:
        problems.append(FieldProblem(at, "is not there"))
    else:
        changes.append(change)


def _shard_value(entry: Entry, endpoints: tuple[Endpoint, ...] | None) -> Value | None:
    if endpoints is None:
        return None
    return {**(entry.value or {}), **entries.shard_value(endpoints)}


def _placement_value(entry: Entry, shard: str | None, good: Placement | None) -> Value | None:
    """`good` is the last valid placement, should the stored one not be valid."""
    if shard is None:
        return None
    stored = entry.value or {}
    previous = entries.parse_placement(stored)
    if isinstance(previous, Invalid):
        previous = good or Placement("", 0)
    # Nodes refuse requests of an epoch that they have lost, so each move has its own.
    epoch = previous.epoch if previous.shard == shard else previous.epoch + 1
    return {**stored, **entries.placement_value(Placement(shard, epoch))}


def _record(change_set: ChangeSet, changes: list[Change], actor: str, origin: Origin) -> Record:
    tenants = {tenant for _, tenant in change_set.placements}
    targets = tenants | {shard for _, shard in change_set.shards}
    # Filed under the one tenant or shard that it is about, if there is just one.
    target = targets.pop() if len(tenants) + len(change_set.shards) == 1 else _SEVERAL
    new: dict[str, Any] = {
        change.key: change.value if isinstance(change, Put) else None for change in changes
    }
    tenant = target if target in tenants else None
    return Record("routing.applied", target, actor, tenant, origin, changed=new)
