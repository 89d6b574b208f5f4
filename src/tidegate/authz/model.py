"""Rights, roles, assignments, tenants: what they are and how they are stored.

    tenant.<id>                             name, status
    role.<id>                               name, tenant (null: the platform's), rights
    assignment.<tenant or _>.<principal>.<role>   both directions are subject wildcards

An assignment's public id is its key without the kind, so the id yields the key.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from tidegate.kernel.ids import PrincipalId, TenantId, is_slug, is_uuid7
from tidegate.store.changes import Entry
from tidegate.store.events import PLATFORM

ANY = "*"


@dataclass(frozen=True, slots=True)
class Right:
    """An action on resources. Either may be a pattern.

    An action pattern is exact, `*`, or ends in `.*`, which stands for whatever follows. A
    resource pattern gives values for some attributes, `*` standing for any; attributes that it
    does not name may have any value.
    """

    action: str
    resource: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    def covers(self, action: str, resource: Mapping[str, str]) -> bool:
        if not _action_matches(self.action, action):
            return False
        return all(
            wanted == ANY or resource.get(name) == wanted for name, wanted in self.resource.items()
        )

    def reaches(self, other: Right) -> bool:
        """Whether whatever `other` covers, this covers too."""
        if not _action_matches(self.action, other.action):
            return False
        return all(
            wanted == ANY or other.resource.get(name) == wanted
            for name, wanted in self.resource.items()
        )


def _action_matches(pattern: str, action: str) -> bool:
    if pattern in (action, ANY):
        return True
    return pattern.endswith(".*") and action.startswith(pattern[:-1])


@dataclass(frozen=True, slots=True)
class Role:
    """A named set of rights: the platform's (tenant None), or one tenant's own."""

    id: str
    name: str
    tenant_id: TenantId | None
    rights: tuple[Right, ...]


@dataclass(frozen=True, slots=True)
class Assignment:
    """Principal ↔ tenant ↔ role; tenant None is the platform's scope."""

    principal_id: PrincipalId
    tenant_id: TenantId | None
    role_id: str
    expires_at_s: float | None
    revision: int

    @property
    def id(self) -> str:
        return f"{self.tenant_id or PLATFORM}.{self.principal_id}.{self.role_id}"

    def current(self, now_s: float) -> bool:
        return self.expires_at_s is None or now_s < self.expires_at_s


class TenantStatus(StrEnum):
    ACTIVE = "active"
    SUSPENDED = "suspended"


@dataclass(frozen=True, slots=True)
class Tenant:
    """The isolation unit."""

    id: TenantId
    name: str
    status: TenantStatus
    revision: int


def tenant_key(tenant_id: TenantId) -> str:
    return f"tenant.{tenant_id}"


def role_key(role_id: str) -> str:
    return f"role.{role_id}"


def assignment_key(assignment_id: str) -> str:
    return f"assignment.{assignment_id}"


def assignments_key(scope: str, principal: str) -> str:
    """The wildcard for a principal's assignments in a tenant, in `_`, or everywhere (`*`)."""
    return f"assignment.{scope}.{principal}.*"


def is_role_id(text: str) -> bool:
    """Roles of the platform have names for ids, those of tenants have UUIDs."""
    return is_slug(text) or is_uuid7(text)


def is_assignment_id(text: str) -> bool:
    """Whether `text` can be an assignment's id: only then may it become part of a key."""
    tokens = text.split(".")
    return (
        len(tokens) == 3
        and (tokens[0] == PLATFORM or is_slug(tokens[0]))
        and is_uuid7(tokens[1])
        and is_role_id(tokens[2])
    )


def decode_role(entry: Entry) -> Role:
    """Raises KeyError, TypeError, ValueError or AttributeError for what is not a role."""
    value = _value(entry)
    tenant = value["tenant"]
    return Role(
        id=entry.key.partition(".")[2],
        name=_text(value["name"]),
        tenant_id=None if tenant is None else TenantId(_text(tenant)),
        rights=tuple(_right(stored) for stored in value["rights"]),
    )


def decode_assignment(entry: Entry) -> Assignment:
    """Raises KeyError, TypeError or ValueError for what is not an assignment."""
    value = _value(entry)
    _, scope, principal_id, role_id = entry.key.split(".")
    exp = value["exp"]
    return Assignment(
        principal_id=PrincipalId(principal_id),
        tenant_id=None if scope == PLATFORM else TenantId(scope),
        role_id=role_id,
        expires_at_s=None if exp is None else float(exp),
        revision=entry.revision,
    )


def readable_role(entry: Entry) -> Role | None:
    """The role of an entry; None when it is absent, or unreadable, which counts as absent."""
    try:
        return decode_role(entry)
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def readable_assignment(entry: Entry) -> Assignment | None:
    """The assignment of an entry; None when it is absent, or unreadable."""
    try:
        return decode_assignment(entry)
    except (KeyError, TypeError, ValueError):
        return None


def decode_tenant(entry: Entry) -> Tenant:
    """Raises KeyError, TypeError or ValueError for what is not a tenant."""
    value = _value(entry)
    tenant_id = TenantId(entry.key.partition(".")[2])
    return Tenant(tenant_id, _text(value["name"]), TenantStatus(value["status"]), entry.revision)


def readable_tenant(entry: Entry) -> Tenant | None:
    """The tenant of an entry; None when it is absent, or unreadable."""
    try:
        return decode_tenant(entry)
    except (KeyError, TypeError, ValueError):
        return None


def _right(stored: Mapping[str, Any]) -> Right:
    resource = {_text(name): _text(wanted) for name, wanted in stored["resource"].items()}
    return Right(_text(stored["action"]), MappingProxyType(resource))


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"a text was expected, not a {type(value).__name__}")
    return value


def _value(entry: Entry) -> Mapping[str, Any]:
    if entry.value is None:
        raise ValueError(f"{entry.key} is absent")
    return entry.value
