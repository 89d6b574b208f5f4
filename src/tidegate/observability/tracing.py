"""Correlation ids and W3C trace context (Level 1, with the `tracestate` keys of Level 2). Pure.

The gateway is the source of truth: what a client sends is continued when it is valid and
replaced when it is not, and every hop gets a span id of its own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_CORRELATION = re.compile(r"[!-~]{1,128}")
_MEMBER = re.compile(r"[a-z0-9][a-z0-9_*/@-]{0,255}=[ -+\--<>-~]{0,255}[!-+\--<>-~]")
_MOST_MEMBERS = 32
_MOST_STATE = 512


@dataclass(frozen=True, slots=True)
class Trace:
    """Where in which trace this request is."""

    trace_id: str
    span_id: str
    sampled: bool
    state: str | None

    @property
    def traceparent(self) -> str:
        return f"00-{self.trace_id}-{self.span_id}-{'01' if self.sampled else '00'}"


def continue_trace(traceparents: list[str], tracestates: list[str], entropy: int) -> Trace:
    """The trace of a request with these headers: continued with a new span, or a new one.

    `entropy` is 192 random bits. More than one `traceparent` is as good as none.
    """
    span_id = f"{entropy & (1 << 64) - 1 or 1:016x}"
    match = _TRACEPARENT.fullmatch(traceparents[0].strip()) if len(traceparents) == 1 else None
    if match is not None and _valid(match):
        sampled = bool(int(match[4], 16) & 1)
        return Trace(match[2], span_id, sampled, _state(tracestates))
    trace_id = f"{entropy >> 64 & (1 << 128) - 1 or 1:032x}"
    return Trace(trace_id, span_id, sampled=True, state=None)


def _valid(match: re.Match[str]) -> bool:
    version, trace_id, span_id, _, rest = match.groups()
    if version == "ff" or trace_id == "0" * 32 or span_id == "0" * 16:
        return False
    # Version 00 ends after the flags; later versions may go on.
    return rest is None or version != "00"


def _state(headers: list[str]) -> str | None:
    """The `tracestate` to pass on; None when it is absent, malformed or too long."""
    members = [part.strip() for header in headers for part in header.split(",")]
    members = [member for member in members if member]
    if not members or len(members) > _MOST_MEMBERS:
        return None
    if any(_MEMBER.fullmatch(member) is None for member in members):
        return None
    by_key: dict[str, str] = {}
    for member in members:
        # Of a repeated key the first stays: it is the most recent one.
        by_key.setdefault(member.partition("=")[0], member)
    joined = ",".join(by_key.values())
    return joined if len(joined) <= _MOST_STATE else None


def correlation_id(sent: list[str], made: str) -> str:
    """The client's correlation id when it is one, else `made`."""
    if len(sent) == 1 and _CORRELATION.fullmatch(sent[0]) is not None:
        return sent[0]
    return made
