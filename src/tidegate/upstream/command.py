"""What a well-formed command is, whichever way it came in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

from tidegate.kernel.errors import FieldProblem
from tidegate.wire.aggregate.gateway.v1.command_pb2 import SubmitCommandRequest

MAX_VERSION = 2**53
MAX_NOTES = 64

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_NAME_RULE = "must be 1 to 128 letters, digits, dots, underscores or hyphens"
_NOTE_NAME = re.compile(r"[!-~]{1,128}")
_MAX_NOTE_CHARS = 4096
_TEXTS: Mapping[str, tuple[re.Pattern[str], str]] = MappingProxyType(
    {
        "command_id": (re.compile(r"[!-~]{1,128}"), "must be 1 to 128 visible ASCII characters"),
        "command_type": (_NAME, _NAME_RULE),
        "aggregate_type": (_NAME, _NAME_RULE),
        "aggregate_id": (
            re.compile(r"[!-.0-~]{1,256}"),
            "must be 1 to 256 visible ASCII characters other than /",
        ),
    }
)


def text_problem(field: str, value: object) -> FieldProblem | None:
    """What is wrong with one of the fields that name the command or its aggregate."""
    pattern, rule = _TEXTS[field]
    if isinstance(value, str) and pattern.fullmatch(value):
        return None
    return FieldProblem(f"/{field}", rule)


def version_problem(value: object) -> FieldProblem | None:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_VERSION:
        return None
    return FieldProblem("/expected_version", "must be a whole number from 0 to 2^53")


def metadata_problem(value: object) -> FieldProblem | None:
    if (
        isinstance(value, Mapping)
        and len(value) <= MAX_NOTES
        and all(isinstance(name, str) and _NOTE_NAME.fullmatch(name) for name in value)
        and all(isinstance(text, str) and len(text) <= _MAX_NOTE_CHARS for text in value.values())
    ):
        return None
    return FieldProblem("/metadata", f"must be up to {MAX_NOTES} texts with visible ASCII names")


def problems_in(request: SubmitCommandRequest) -> tuple[FieldProblem, ...]:
    """Everything that is wrong with a command that came as a message."""
    found = [text_problem(field, getattr(request, field)) for field in _TEXTS]
    if request.HasField("expected_version"):
        found.append(version_problem(request.expected_version))
    found.append(metadata_problem(request.metadata))
    return tuple(problem for problem in found if problem is not None)
