"""The stored form of placements and shards, and what makes one valid.

    <kind>_placement.<tenant>  {"v": 1, "shard": "s1", "epoch": 3}
    <kind>_shards.<shard>      {"v": 1, "endpoints": [{"address": "10.0.0.7:50051",
                               "transport": "grpc", "region": "", "weight": 1, "labels": {}}]}

Members that this version does not know are ignored when reading and kept when rewriting. What
is wrong is collected as field problems, whose pointers start at the value.
"""

from __future__ import annotations

import ipaddress
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from tidegate.kernel.errors import FieldProblem
from tidegate.kernel.ids import is_slug
from tidegate.routing.model import TRANSPORTS, Endpoint, Placement, ServiceKind, Transport
from tidegate.store.changes import Value

VERSION = 1
MAX_ENDPOINTS = 100
MAX_WEIGHT = 1000
MAX_LABELS = 32

# Container platforms put underscores into the names of their services.
_HOST_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_PORT = re.compile(r"[1-9][0-9]{0,4}")
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,62}")
_SHOWN = 3
_MAX_EPOCH = 2**53
_MAX_HOST = 253
_MAX_LABEL_VALUE = 128


@dataclass(frozen=True, slots=True)
class KeyKind:
    """What a key's first token says: the service kind, and whether it is a placement's."""

    service: ServiceKind
    is_placement: bool


def placement_key(kind: ServiceKind, tenant: str) -> str:
    """Raises ValueError when `tenant` is no slug, for a key is a subject."""
    return f"{kind}_placement.{_checked(tenant)}"


def shard_key(kind: ServiceKind, shard: str) -> str:
    """Raises ValueError when `shard` is no slug, for a key is a subject."""
    return f"{kind}_shards.{_checked(shard)}"


KEY_KINDS: Mapping[str, KeyKind] = MappingProxyType(
    {f"{kind}_placement": KeyKind(kind, is_placement=True) for kind in ServiceKind}
    | {f"{kind}_shards": KeyKind(kind, is_placement=False) for kind in ServiceKind}
)


@dataclass(frozen=True, slots=True)
class Invalid:
    """A value that is none, and everything that is wrong with it."""

    problems: tuple[FieldProblem, ...]

    def __str__(self) -> str:
        shown = [f"{problem.field} {problem.problem}" for problem in self.problems[:_SHOWN]]
        more = len(self.problems) - len(shown)
        return "; ".join(shown) + (f"; and {more} more" if more else "")


def parse_placement(value: Value) -> Placement | Invalid:
    problems: list[FieldProblem] = []
    _check_version(value, problems)
    shard = value.get("shard")
    if not isinstance(shard, str) or not is_slug(shard):
        problems.append(FieldProblem("/shard", "must be a slug"))
    if not _is_int(value.get("epoch"), 1, _MAX_EPOCH):
        problems.append(FieldProblem("/epoch", "must be a whole number from 1"))
    if problems:
        return Invalid(tuple(problems))
    # A million tenants share some thousand shards; their names shall be there once.
    return Placement(sys.intern(str(shard)), value["epoch"])


def placement_value(placement: Placement) -> dict[str, Any]:
    return {"v": VERSION, "shard": placement.shard, "epoch": placement.epoch}


def parse_shard(kind: ServiceKind, value: Value) -> tuple[Endpoint, ...] | Invalid:
    problems: list[FieldProblem] = []
    _check_version(value, problems)
    endpoints = parse_endpoints(kind, value.get("endpoints"), "/endpoints", problems)
    return Invalid(tuple(problems)) if problems else endpoints


def shard_value(endpoints: tuple[Endpoint, ...]) -> dict[str, Any]:
    return {
        "v": VERSION,
        "endpoints": [
            {
                "address": endpoint.address,
                "transport": str(endpoint.transport),
                "region": endpoint.region,
                "weight": endpoint.weight,
                "labels": dict(endpoint.labels),
            }
            for endpoint in endpoints
        ],
    }


def parse_endpoints(
    kind: ServiceKind, items: object, at: str, problems: list[FieldProblem]
) -> tuple[Endpoint, ...]:
    """The endpoints that `items` lists; what is wrong goes to `problems`, with pointers from `at`.

    The result counts only when nothing was wrong.
    """
    if not isinstance(items, list) or not 1 <= len(items) <= MAX_ENDPOINTS:
        problems.append(FieldProblem(at, f"must list 1 to {MAX_ENDPOINTS} endpoints"))
        return ()
    endpoints: list[Endpoint] = []
    seen: set[str] = set()
    for place, item in enumerate(items):
        endpoint = _parse_endpoint(kind, item, f"{at}/{place}", problems)
        if endpoint is None:
            continue
        if endpoint.address in seen:
            problems.append(FieldProblem(f"{at}/{place}/address", "is listed twice"))
        seen.add(endpoint.address)
        endpoints.append(endpoint)
    return tuple(endpoints)


def _parse_endpoint(
    kind: ServiceKind, item: object, at: str, problems: list[FieldProblem]
) -> Endpoint | None:
    if not isinstance(item, Mapping):
        problems.append(FieldProblem(at, "must be an object"))
        return None
    before = len(problems)
    address = parse_address(item.get("address"))
    if address is None:
        problems.append(FieldProblem(f"{at}/address", "must be host:port"))
    transport = item.get("transport")
    allowed = TRANSPORTS[kind]
    if not isinstance(transport, str) or transport not in allowed:
        words = " or ".join(sorted(allowed))
        problems.append(FieldProblem(f"{at}/transport", f"must be {words} for {kind} nodes"))
    region, weight = item.get("region", ""), item.get("weight", 1)
    if not isinstance(region, str) or (region and not is_slug(region)):
        problems.append(FieldProblem(f"{at}/region", "must be a slug or empty"))
    if not _is_int(weight, 1, MAX_WEIGHT):
        problems.append(FieldProblem(f"{at}/weight", f"must be a number from 1 to {MAX_WEIGHT}"))
    labels = item.get("labels", {})
    if not _are_labels(labels):
        problems.append(FieldProblem(f"{at}/labels", f"must be up to {MAX_LABELS} short texts"))
    if address is None or len(problems) > before:
        return None
    return Endpoint(
        address, Transport(str(transport)), str(region), weight, MappingProxyType(dict(labels))
    )


def parse_address(text: object) -> str | None:
    """`text` as `host:port` in lower case; None when it is not that."""
    if not isinstance(text, str) or not text.isascii():
        return None
    host, _, port = text.lower().rpartition(":")
    if not _PORT.fullmatch(port) or int(port) > 65535 or not _is_host(host):
        return None
    return f"{host}:{port}"


def _is_host(host: str) -> bool:
    if host.startswith("[") and host.endswith("]"):
        try:
            # A zone would name an interface of this machine only.
            return ipaddress.IPv6Address(host[1:-1]).scope_id is None
        except ValueError:
            return False
    if host.replace(".", "").isdigit():
        try:
            ipaddress.IPv4Address(host)
        except ValueError:
            return False
        return True
    labels = host.removesuffix(".").split(".")
    return len(host) <= _MAX_HOST and all(_HOST_LABEL.fullmatch(label) for label in labels)


def _are_labels(labels: object) -> bool:
    return (
        isinstance(labels, Mapping)
        and len(labels) <= MAX_LABELS
        and all(isinstance(name, str) and _LABEL.fullmatch(name) for name in labels)
        and all(isinstance(text, str) and len(text) <= _MAX_LABEL_VALUE for text in labels.values())
    )


def _check_version(value: Value, problems: list[FieldProblem]) -> None:
    if value.get("v") != VERSION:
        problems.append(FieldProblem("/v", f"must be {VERSION}"))


def _is_int(value: object, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _checked(name: str) -> str:
    if not is_slug(name):
        raise ValueError(f"{name!r} is no slug")
    return name
