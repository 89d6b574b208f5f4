"""What can be refused, in one table.

A *refusal* is a value: a decision that came out as "no", with a code that clients may rely on.
Exceptions are for what went wrong. Each code belongs to one kind; the edges map kinds (never
single codes) to the statuses of their protocol, one table each.

    code ──▶ kind ──▶ HTTP status (edge/http/problems.py)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType


class ErrorKind(Enum):
    """Who has to do something about it, and what."""

    MALFORMED = "malformed"
    UNAUTHENTICATED = "unauthenticated"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    WRONG_METHOD = "wrong_method"
    CONFLICT = "conflict"
    LOST_UPDATE = "lost_update"
    TOO_LARGE = "too_large"
    WRONG_MEDIA_TYPE = "wrong_media_type"
    INVALID = "invalid"
    LIMITED = "limited"
    BAD_UPSTREAM = "bad_upstream"
    UNAVAILABLE = "unavailable"
    DEADLINE = "deadline"
    INTERNAL = "internal"


@dataclass(frozen=True, slots=True)
class Code:
    """A stable word for one reason, with the sentence that titles it."""

    word: str
    kind: ErrorKind
    title: str


CODES: dict[str, Code] = {}


def _code(word: str, kind: ErrorKind, title: str) -> Code:
    code = Code(word, kind, title)
    if word in CODES:
        raise ValueError(f"error code {word} stands twice")
    CODES[word] = code
    return code


MALFORMED = _code("MALFORMED", ErrorKind.MALFORMED, "The request cannot be read")
TENANT_REQUIRED = _code("TENANT_REQUIRED", ErrorKind.MALFORMED, "The x-tenant-id header is missing")
TENANT_INVALID = _code("TENANT_INVALID", ErrorKind.MALFORMED, "The x-tenant-id header is invalid")
TOKEN_MISSING = _code("TOKEN_MISSING", ErrorKind.UNAUTHENTICATED, "A bearer token is needed")
TOKEN_INVALID = _code("TOKEN_INVALID", ErrorKind.UNAUTHENTICATED, "The token is not valid")
SIGNIN_FAILED = _code("SIGNIN_FAILED", ErrorKind.UNAUTHENTICATED, "Sign-in failed")
REFRESH_INVALID = _code("REFRESH_INVALID", ErrorKind.UNAUTHENTICATED, "The refresh token is void")
FORBIDDEN = _code("FORBIDDEN", ErrorKind.FORBIDDEN, "A right is missing")
TENANT_FORBIDDEN = _code("TENANT_FORBIDDEN", ErrorKind.FORBIDDEN, "Not a member of this tenant")
TENANT_SUSPENDED = _code("TENANT_SUSPENDED", ErrorKind.FORBIDDEN, "The tenant is suspended")
NOT_FOUND = _code("NOT_FOUND", ErrorKind.NOT_FOUND, "There is no such thing")
TENANT_NOT_PLACED = _code("TENANT_NOT_PLACED", ErrorKind.NOT_FOUND, "The tenant has no placement")
METHOD_NOT_ALLOWED = _code("METHOD_NOT_ALLOWED", ErrorKind.WRONG_METHOD, "Wrong method")
CONFLICT = _code("CONFLICT", ErrorKind.CONFLICT, "Something changed at the same time")
REFRESH_RACED = _code("REFRESH_RACED", ErrorKind.CONFLICT, "Another refresh came first")
ALREADY_EXISTS = _code("ALREADY_EXISTS", ErrorKind.CONFLICT, "It exists already")
LAST_ADMIN = _code("LAST_ADMIN", ErrorKind.CONFLICT, "The last platform admin stays")
VERSION_CONFLICT = _code("VERSION_CONFLICT", ErrorKind.CONFLICT, "The aggregate has moved on")
COMMAND_REJECTED = _code("COMMAND_REJECTED", ErrorKind.CONFLICT, "The aggregate refused")
BODY_TOO_LARGE = _code("BODY_TOO_LARGE", ErrorKind.TOO_LARGE, "The body is too large")
MEDIA_TYPE = _code("MEDIA_TYPE", ErrorKind.WRONG_MEDIA_TYPE, "The body must be JSON")
INVALID = _code("INVALID", ErrorKind.INVALID, "Some fields are wrong")
NUMBER_UNSAFE = _code("NUMBER_UNSAFE", ErrorKind.INVALID, "A number would be changed in transit")
COMMAND_INVALID = _code("COMMAND_INVALID", ErrorKind.INVALID, "The command can never be valid")
TOKEN_VOID = _code("TOKEN_VOID", ErrorKind.INVALID, "The one-time token is void")
UPSTREAM_FAILED = _code("UPSTREAM_FAILED", ErrorKind.BAD_UPSTREAM, "The upstream failed")
UNAVAILABLE = _code("UNAVAILABLE", ErrorKind.UNAVAILABLE, "The state cannot be reached now")
COMMIT_UNKNOWN = _code("COMMIT_UNKNOWN", ErrorKind.UNAVAILABLE, "The outcome is not known; repeat")
BARRIER_PENDING = _code("BARRIER_PENDING", ErrorKind.UNAVAILABLE, "Made, but not in force yet")
REPLICA_FENCED = _code(
    "REPLICA_FENCED", ErrorKind.UNAVAILABLE, "This replica cannot follow the changes now"
)
VIEW_BEHIND = _code("VIEW_BEHIND", ErrorKind.UNAVAILABLE, "This replica is not there yet")
NO_ENDPOINT = _code("NO_ENDPOINT", ErrorKind.UNAVAILABLE, "No endpoint can take it now")
OVERLOADED = _code("OVERLOADED", ErrorKind.UNAVAILABLE, "Too much at once")
DEADLINE = _code("DEADLINE", ErrorKind.DEADLINE, "It took too long")
INTERNAL = _code("INTERNAL", ErrorKind.INTERNAL, "Something went wrong")


@dataclass(frozen=True, slots=True)
class FieldProblem:
    """One wrong field: where it is (JSON pointer) and what is wrong, safe to show."""

    field: str
    problem: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """A decision that came out as "no". Everything in it may be shown to the client."""

    code: Code
    detail: str
    errors: tuple[FieldProblem, ...] = ()
    details: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}))
    retry_after_s: int | None = None


def invalid(field_pointer: str, problem: str) -> Refusal:
    """The refusal for one wrong field, named by its JSON pointer."""
    return Refusal(INVALID, problem, errors=(FieldProblem(field_pointer, problem),))
