"""Change sets: what an operator wants changed, in one atomic step.

As a document, the same shape for the API, the command line and files:

    aggregate_placement:  {acme: s1, globex: null}         null deletes
    aggregate_shards:     {s1: ["grpc://10.0.0.7:50051"], s2: null}

An endpoint is `transport://host:port` or an object with the members of the stored form, in
which `address` may carry the transport too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tidegate.kernel import errors
from tidegate.kernel.errors import FieldProblem, Refusal
from tidegate.kernel.ids import is_slug
from tidegate.routing import entries
from tidegate.routing.entries import KEY_KINDS
from tidegate.routing.model import Endpoint, Routing, ServiceKind

# A commit has at most 1000 messages, and one is the event.
MAX_CHANGES = 999
MAX_PROBLEMS = 100

_MEMBERS = frozenset({"address", "transport", "region", "weight", "labels"})


@dataclass(frozen=True, slots=True)
class ChangeSet:
    """Placements (to which shard) and shards (with which endpoints) to put; None deletes."""

    placements: Mapping[tuple[ServiceKind, str], str | None]
    shards: Mapping[tuple[ServiceKind, str], tuple[Endpoint, ...] | None]


def refused(problems: list[FieldProblem]) -> Refusal:
    """The refusal that names each wrong item."""
    count = "One item is" if len(problems) == 1 else f"{len(problems)} items are"
    return Refusal(
        errors.INVALID, f"{count} wrong; nothing was changed.", tuple(problems[:MAX_PROBLEMS])
    )


def parse_change_set(document: object) -> ChangeSet | Refusal:
    """The change set that a document describes; a refusal names everything that is wrong."""
    if not isinstance(document, Mapping):
        return errors.invalid("", "must be an object")
    placements: dict[tuple[ServiceKind, str], str | None] = {}
    shards: dict[tuple[ServiceKind, str], tuple[Endpoint, ...] | None] = {}
    problems: list[FieldProblem] = []
    for word, items in document.items():
        at = f"/{_escaped(word)}"
        key_kind = KEY_KINDS.get(word)
        if key_kind is None:
            problems.append(FieldProblem(at, "is not known"))
            continue
        if not isinstance(items, Mapping):
            problems.append(FieldProblem(at, "must be an object"))
            continue
        for name, item in items.items():
            where = f"{at}/{_escaped(name)}"
            if not isinstance(name, str) or not is_slug(name):
                problems.append(FieldProblem(where, "must be named by a slug"))
            elif key_kind.is_placement:
                placements[key_kind.service, name] = _shard_name(item, where, problems)
            else:
                shards[key_kind.service, name] = _endpoints(key_kind.service, item, where, problems)
    return refused(problems) if problems else ChangeSet(placements, shards)


def problems_in(change_set: ChangeSet, routing: Routing) -> list[FieldProblem]:
    """What is wrong with a change set as things are now."""
    size = len(change_set.placements) + len(change_set.shards)
    if not 1 <= size <= MAX_CHANGES:
        return [FieldProblem("", f"must have 1 to {MAX_CHANGES} changes, not {size}")]
    problems: list[FieldProblem] = []
    leaving: dict[tuple[ServiceKind, str], int] = {}
    for (kind, tenant), shard in change_set.placements.items():
        if shard is not None and not _will_exist(kind, shard, change_set, routing):
            at = f"/{kind}_placement/{tenant}"
            problems.append(FieldProblem(at, f"names shard {shard}, which does not exist"))
        now = routing.table(kind).placements.get(tenant)
        if now is not None and now.shard != shard:
            leaving[kind, now.shard] = leaving.get((kind, now.shard), 0) + 1
    for (kind, name), endpoints in change_set.shards.items():
        known = routing.table(kind).shards.get(name)
        if endpoints is None and known is not None:
            staying = known.tenants - leaving.get((kind, name), 0)
            if staying > 0:
                at = f"/{kind}_shards/{name}"
                problems.append(FieldProblem(at, f"still has {staying} placements"))
    return problems


def _will_exist(kind: ServiceKind, shard: str, change_set: ChangeSet, routing: Routing) -> bool:
    if (kind, shard) in change_set.shards:
        return change_set.shards[kind, shard] is not None
    known = routing.table(kind).shards.get(shard)
    return known is not None and not known.deleted


def _shard_name(item: object, at: str, problems: list[FieldProblem]) -> str | None:
    if item is None:
        return None
    if not isinstance(item, str) or not is_slug(item):
        problems.append(FieldProblem(at, "must be the name of a shard, or null"))
        return None
    return item


def _endpoints(
    kind: ServiceKind, item: object, at: str, problems: list[FieldProblem]
) -> tuple[Endpoint, ...] | None:
    if item is None:
        return None
    if isinstance(item, list):
        item = [
            _spelt_out(each, f"{at}/{place}", problems)
            for place, each in enumerate(item[: entries.MAX_ENDPOINTS + 1])
        ]
    return entries.parse_endpoints(kind, item, at, problems)


def _spelt_out(item: object, at: str, problems: list[FieldProblem]) -> object:
    """An endpoint of a document in the stored form, in which the transport stands apart."""
    if isinstance(item, str):
        transport, _, address = item.rpartition("://")
        return {"address": address, "transport": transport}
    if not isinstance(item, Mapping):
        return item
    problems.extend(
        FieldProblem(f"{at}/{_escaped(member)}", "is not known") for member in {*item} - _MEMBERS
    )
    url = item.get("address")
    if not isinstance(url, str) or "://" not in url:
        return item
    transport, _, address = url.partition("://")
    if item.get("transport", transport) != transport:
        problems.append(FieldProblem(f"{at}/transport", "is another than the address says"))
    return {**item, "address": address, "transport": transport}


def _escaped(member: object) -> str:
    """`member` as a token of a JSON pointer (RFC 6901), cut where it is absurdly long."""
    return str(member)[:128].replace("~", "~0").replace("/", "~1")
