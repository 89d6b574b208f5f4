"""The OpenAPI document: FastAPI's, completed by what it cannot know.

That is the data plane, which never passes through FastAPI, the one error shape, and the token
that most calls need.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from tidegate.edge.http.dataplane import COMMAND_ROUTE, QUERY_ROUTE
from tidegate.edge.http.problems import PROBLEM_JSON

_TENANT = {
    "name": "x-tenant-id",
    "in": "header",
    "required": True,
    "schema": {"type": "string", "pattern": "^[a-z0-9][a-z0-9-]{0,62}$"},
}
_OPTIONAL_HEADERS = [
    {
        "name": name,
        "in": "header",
        "required": False,
        "description": description,
        "schema": {"type": "string"},
    }
    for name, description in (
        ("x-correlation-id", "Kept when valid (up to 128 visible ASCII characters), else made."),
        ("traceparent", "W3C trace context; continued when valid."),
        ("x-request-timeout-ms", "How long the caller is willing to wait, 1 to 600000."),
        ("x-tidegate-min-revision", "Answer from views that have reached this revision."),
    )
]
_PROBLEM: dict[str, Any] = {
    "type": "object",
    "description": "RFC 9457; `code` is a stable word, `type` leads to what it means.",
    "required": ["type", "title", "status", "detail", "code", "request_id", "timestamp"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "code": {"type": "string", "examples": ["TENANT_FORBIDDEN"]},
        "details": {"type": "object"},
        "request_id": {"type": ["string", "null"]},
        "timestamp": {"type": "string", "format": "date-time"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"field": {"type": "string"}, "problem": {"type": "string"}},
            },
        },
        "retry_after": {"type": ["integer", "null"]},
    },
}
_COMMAND = {
    "type": "object",
    "required": ["command_type"],
    "additionalProperties": False,
    "properties": {
        "command_id": {
            "type": "string",
            "description": "Deduplication key: sending it again changes nothing. Made when absent.",
        },
        "command_type": {"type": "string", "examples": ["order.place"]},
        "expected_version": {"type": ["integer", "string"], "minimum": 0},
        "payload": {"type": "object"},
        "metadata": {"type": "object", "additionalProperties": {"type": "string"}},
    },
}
_EVENT = {
    "type": "object",
    "properties": {
        "event_id": {"type": "string"},
        "event_type": {"type": "string"},
        "version": {"type": "string", "description": "64-bit integers are strings."},
        "payload": {"type": "object"},
        "time": {"type": "string", "format": "date-time"},
    },
}
_DECIDED = {
    "type": "object",
    "description": "The protobuf JSON form of SubmitCommandResponse.",
    "properties": {
        "command_id": {"type": "string"},
        "events": {"type": "array", "items": _EVENT},
        "version": {"type": "string"},
        "duplicate": {"type": "boolean"},
    },
}


def complete(app: FastAPI) -> None:
    """Makes `app.openapi()` the document of both planes."""
    own = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = own()
            document["paths"] |= _data_plane()
            components = document.setdefault("components", {})
            components["schemas"] = components.get("schemas", {}) | {"Problem": _PROBLEM}
            components["securitySchemes"] = {
                "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}
            }
            for operations in document["paths"].values():
                for operation in operations.values():
                    # FastAPI's own error shape is never sent.
                    operation["responses"].pop("422", None)
                    operation["responses"]["default"] = _answer(
                        PROBLEM_JSON, {"$ref": "#/components/schemas/Problem"}, "A refusal"
                    )
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _answer(media_type: str, schema: dict[str, Any], description: str) -> dict[str, Any]:
    return {"description": description, "content": {media_type: {"schema": schema}}}


def _data_plane() -> dict[str, Any]:
    anything: dict[str, Any] = {}
    return {
        COMMAND_ROUTE: _operation(
            "Submit a command",
            "Has the tenant's aggregate node decide a command. Safe to repeat with its command_id.",
            ["aggregate_type", "aggregate_id"],
            _COMMAND,
            _DECIDED,
        ),
        QUERY_ROUTE: _operation(
            "Run a query",
            "Has the tenant's projection node answer. Body and answer pass through untouched.",
            ["view_type"],
            anything,
            anything,
        ),
    }


def _operation(
    summary: str,
    description: str,
    path_parameters: list[str],
    body: dict[str, Any],
    answer: dict[str, Any],
) -> dict[str, Any]:
    in_path = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in path_parameters
    ]
    return {
        "post": {
            "tags": ["data plane"],
            "summary": summary,
            "description": description,
            "security": [{"bearer": []}],
            "parameters": [*in_path, _TENANT, *_OPTIONAL_HEADERS],
            "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
            "responses": {"200": _answer("application/json", answer, "The answer")},
        }
    }
