"""Logs: one JSON line for each request and event on stderr; text for people in a terminal.

Every line of a request carries its ids. Secrets cannot get in by type (`kernel.secret.Secret`).
"""

from __future__ import annotations

import logging
import sys
import traceback
from typing import Any

import orjson

from tidegate.kernel.clock import rfc3339
from tidegate.observability import context
from tidegate.observability.settings import Settings

# What one line may hold; a longer value is cut, so that no client can fill the disk with one.
_LONGEST_VALUE = 2048
_FIELDS = "fields"


def event(log: logging.Logger, level: int, message: str, **fields: object) -> None:
    """Logs `message` with structured fields."""
    log.log(level, message, extra={_FIELDS: fields})


def _line(record: logging.LogRecord, replica: str) -> dict[str, Any]:
    line: dict[str, Any] = {
        "timestamp": rfc3339(record.created),
        "level": record.levelname.lower(),
        "message": record.getMessage()[:_LONGEST_VALUE],
        "logger": record.name,
        "replica": replica,
    }
    request = context.current.get()
    if request is not None:
        line["request_id"] = request.request_id
        line["correlation_id"] = request.correlation_id
        line["trace_id"] = request.trace.trace_id
        line["span_id"] = request.trace.span_id
        line["principal_id"] = request.principal_id
        line["tenant_id"] = request.tenant_id
    for name, value in getattr(record, _FIELDS, {}).items():
        line[name] = value[:_LONGEST_VALUE] if isinstance(value, str) else value
    if record.exc_info is not None:
        line["exception"] = "".join(traceback.format_exception(*record.exc_info))[-8192:]
    return line


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def __init__(self, replica: str) -> None:
        super().__init__()
        self._replica = replica

    def format(self, record: logging.LogRecord) -> str:
        return orjson.dumps(_line(record, self._replica), default=str).decode()


class TextFormatter(logging.Formatter):
    """For people: time, level, message, and what is special about this line."""

    def format(self, record: logging.LogRecord) -> str:
        line = _line(record, "")
        fields = getattr(record, _FIELDS, {})
        details = " ".join(f"{k}={v}" for k, v in fields.items() if v not in (None, "", 0))
        text = f"{line['timestamp'][11:23]} {record.levelname:<7} {line['message']} {details}"
        return text.rstrip() + (f"\n{line['exception']}" if "exception" in line else "")


def configure(settings: Settings, replica: str) -> None:
    """Sends all logs of this process to stderr, in the form that `settings` asks for."""
    text = settings.format == "text" or (settings.format == "auto" and sys.stderr.isatty())
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(TextFormatter() if text else JsonFormatter(replica))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.level.upper())
    # Their lines are ours to write: one for each request, in our form.
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "nats", "aiohttp.access"):
        logging.getLogger(name).setLevel(logging.WARNING)
