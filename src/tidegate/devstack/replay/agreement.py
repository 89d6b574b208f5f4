"""Whether the read side came to know what the file says happened."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

from tidegate.devstack.replay.rows import Counts

_DEADLINE_S = 20.0
_POLL_S = 0.25

# The answer to the query `counts`; None when there is none now.
Ask = Callable[[], Awaitable[dict[str, Any] | None]]


async def difference(expected: Counts, ask: Ask, deadline_s: float = _DEADLINE_S) -> str | None:
    """What the projection still sees otherwise after the deadline; None once it agrees."""
    found: str | None = "it gave no answer"
    try:
        async with asyncio.timeout(deadline_s):
            while found is not None:
                answer = await ask()
                if answer is not None:
                    found = first_difference(expected, counts_of(answer))
                if found is not None:
                    await asyncio.sleep(_POLL_S)
    except TimeoutError:
        pass
    return found


def counts_of(answer: dict[str, Any]) -> Counts:
    """The counts in an answer to the query `counts`."""
    counts: Counts = {}
    for item in answer["items"]:
        counts.setdefault(item["aggregate_id"], Counter())[item["event_type"]] = item["count"]
    return counts


def first_difference(expected: Counts, seen: Counts) -> str | None:
    """One thing that differs, about the aggregates of the file; others are not its business."""
    for aggregate_id, types in expected.items():
        there = seen.get(aggregate_id, Counter())
        for name in sorted({*types, *there}):
            if types[name] != there[name]:
                return (
                    f"{aggregate_id} has {there[name]} {name} in the projection "
                    f"and {types[name]} in the file"
                )
    return None
