"""Commands and their answers as JSON.

In: `{"command_type", "command_id"?, "expected_version"?, "payload"?, "metadata"?}`; null stands
for absent. The payload becomes a `google.protobuf.Struct`, whose numbers are doubles. So a
number that may be changed on the way is refused, by a rule that can be told in a sentence: an
integer beyond ±2^53, and any number beyond ±2^63, where the parser no longer says whether it
was written as an integer. Nesting is limited to what every protobuf parser reads back: one level
of JSON takes up to three of the hundred levels that a message may have.

Out: the protobuf JSON form of `SubmitCommandResponse` with the names of the contract and with
empty fields present. As that form has it, 64-bit integers (`version`) are strings; a request's
`expected_version` may be one too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import orjson
from google.protobuf import json_format

from tidegate.kernel import errors
from tidegate.kernel.errors import FieldProblem, Refusal
from tidegate.kernel.ids import new_id
from tidegate.upstream.caller import UPSTREAM_FAILED
from tidegate.upstream.command import metadata_problem, text_problem, version_problem
from tidegate.wire.aggregate.gateway.v1.command_pb2 import (
    SubmitCommandRequest,
    SubmitCommandResponse,
)

MAX_DEPTH = 32
MAX_PROBLEMS = 100

_EXACT = 2**53
_PARSED_EXACTLY = 2.0**63
_MEMBERS = frozenset({"command_id", "command_type", "expected_version", "payload", "metadata"})
_MAX_VERSION_DIGITS = 16


def request_from_json(
    aggregate_type: str, aggregate_id: str, body: object
) -> SubmitCommandRequest | Refusal:
    """The command in a parsed body; a refusal names everything that is wrong with it.

    Makes a `command_id` when there is none.
    """
    if not isinstance(body, Mapping):
        return errors.invalid("", "must be an object")
    given = {name: value for name, value in body.items() if value is not None}
    if "command_id" not in given:
        given["command_id"] = new_id()
    version = _version(given.get("expected_version", 0))
    payload, metadata = given.get("payload"), given.get("metadata", {})
    found = [
        text_problem("aggregate_type", aggregate_type),
        text_problem("aggregate_id", aggregate_id),
        text_problem("command_type", given.get("command_type")),
        text_problem("command_id", given["command_id"]),
        version_problem(version),
        metadata_problem(metadata),
    ]
    problems = [problem for problem in found if problem is not None]
    problems += [
        FieldProblem(_pointer([name]), "is not known") for name in body if name not in _MEMBERS
    ]
    unsafe: list[FieldProblem] = []
    if payload is not None and not isinstance(payload, dict):
        problems.append(FieldProblem("/payload", "must be an object"))
    elif payload is not None:
        _check_payload(payload, ["payload"], problems, unsafe)
    if problems or unsafe:
        return _refusal(problems, unsafe)
    request = SubmitCommandRequest(
        command_id=given["command_id"],
        command_type=given["command_type"],
        aggregate_type=aggregate_type,
        aggregate_id=aggregate_id,
        metadata=metadata,
    )
    if "expected_version" in given:
        request.expected_version = version
    if payload is not None:
        # An empty payload is one too; filling it alone would not make it present.
        request.payload.SetInParent()
        request.payload.update(payload)
    return request


def response_to_json(response: SubmitCommandResponse) -> bytes | Refusal:
    """The answer's JSON; refused when a node put into it what JSON cannot say."""
    try:
        document = json_format.MessageToDict(
            response,
            preserving_proto_field_name=True,
            always_print_fields_with_no_presence=True,
        )
    except (json_format.Error, ValueError):
        return UPSTREAM_FAILED
    for event in document["events"]:
        if "payload" in event:
            event["payload"] = _as_written(event["payload"])
    return orjson.dumps(document)


def _version(value: object) -> Any:
    if isinstance(value, str) and value.isascii() and value.isdigit():
        return int(value) if len(value) <= _MAX_VERSION_DIGITS else None
    return value


def _check_payload(
    value: object, path: list[str | int], problems: list[FieldProblem], unsafe: list[FieldProblem]
) -> None:
    """Notes what in a payload cannot be sent on; `path` leads to `value`."""
    if len(problems) + len(unsafe) >= MAX_PROBLEMS:
        return
    if isinstance(value, dict | list):
        if len(path) > MAX_DEPTH:
            problem = f"is nested more than {MAX_DEPTH} deep"
            problems.append(FieldProblem(_pointer(path), problem))
            return
        for name, item in value.items() if isinstance(value, dict) else enumerate(value):
            path.append(name)
            _check_payload(item, path, problems, unsafe)
            path.pop()
    elif isinstance(value, int | float) and not _is_safe(value):
        unsafe.append(FieldProblem(_pointer(path), "cannot be sent exactly; send it as a text"))


def _is_safe(number: float) -> bool:
    if isinstance(number, int):
        return -_EXACT <= number <= _EXACT
    return -_PARSED_EXACTLY < number < _PARSED_EXACTLY


def _refusal(problems: list[FieldProblem], unsafe: list[FieldProblem]) -> Refusal:
    every = problems + unsafe
    code = errors.INVALID if problems else errors.NUMBER_UNSAFE
    count = "One field is" if len(every) == 1 else f"{len(every)} fields are"
    return Refusal(code, f"{count} wrong.", tuple(every[:MAX_PROBLEMS]))


def _as_written(value: Any) -> Any:
    """`value` with whole numbers as integers: a 5 sent in a payload comes back as 5, not 5.0."""
    if isinstance(value, float):
        minus_zero = value == 0 and math.copysign(1, value) < 0
        whole = value.is_integer() and abs(value) <= _EXACT and not minus_zero
        return int(value) if whole else value
    if isinstance(value, dict):
        return {name: _as_written(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_as_written(item) for item in value]
    return value


def _pointer(path: list[str | int]) -> str:
    """The JSON pointer (RFC 6901) of `path`, its parts cut where they are absurdly long."""
    parts = (str(part)[:128].replace("~", "~0").replace("/", "~1") for part in path)
    return "".join(f"/{part}" for part in parts)
