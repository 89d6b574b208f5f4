"""What became of each change, read from the stream when the run is over.

Every commit carries an event that names the user agent of the call it was made for, and each call
of a writer has its own. So calls whose answer was lost are known in the end: they have a commit,
with its place in the order of all, or they have none and never will, as nobody is left to make it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable

import nats
import nats.errors

from harness.history.record import Change, ChangeKind, Log

_EVENTS = "tg.iam.event.>"
_STREAM = "KV_iam"
_DEADLINE_S = 60.0
_NEXT_S = 5.0
_TRY_AGAIN_S = 0.2

# These may find that it is so already, and then commit nothing.
_MAY_FIND_IT_DONE = {
    ChangeKind.DISABLE,
    ChangeKind.ENABLE,
    ChangeKind.SUSPEND,
    ChangeKind.RESUME,
}
SET_UP = "set-up"


def match_commits(log: Log, events: Iterable[tuple[str, int]]) -> list[str]:
    """Fills in `log.commits` from the events' labels and sequences. Pure.

    Returns what in the answers contradicts them: a call that was carried out twice, or was
    refused and carried out, or answered and not carried out.
    """
    answers = {change.id: change for change in log.changes}
    commits: dict[str, int] = {}
    problems: list[str] = []
    for label, sequence in events:
        if label in commits:
            problems.append(f"{answers[label]} was carried out twice")
        elif label in answers:
            commits[label] = sequence
    problems += [
        problem
        for change in log.changes
        if (problem := _problem(change, commits.get(change.id))) is not None
    ]
    log.commits = commits
    return problems


def _problem(change: Change, commit: int | None) -> str | None:
    if change.id.startswith(SET_UP):
        return None
    if commit is None:
        must_be_there = 200 <= change.status < 300 and change.kind not in _MAY_FIND_IT_DONE
        return f"{change} was not carried out" if must_be_there else None
    if 400 <= change.status < 500:
        return f"{change} was carried out, at {commit}"
    if change.acknowledged and change.revision != commit:
        return f"{change} was carried out at {commit}"
    return None


async def read_events(nats_url: str) -> list[tuple[str, int]]:
    """The user agent and the sequence of each event, in order. No replica may run any more.

    Raises TimeoutError when the stream, just out of its last fault, stays away.
    """
    async with asyncio.timeout(_DEADLINE_S):
        while True:
            try:
                return await _events(nats_url)
            except (nats.errors.Error, OSError):
                await asyncio.sleep(_TRY_AGAIN_S)


async def _events(nats_url: str) -> list[tuple[str, int]]:
    found: list[tuple[str, int]] = []
    client = await nats.connect(nats_url, allow_reconnect=False)
    try:
        feed = await client.jetstream().subscribe(_EVENTS, stream=_STREAM, ordered_consumer=True)
        while True:
            message = await feed.next_msg(timeout=_NEXT_S)
            value = json.loads(message.data)
            found.append((value["request"]["user_agent"], message.metadata.sequence.stream))
            # There is at least the one of the first admin.
            if message.metadata.num_pending == 0:
                return found
    finally:
        await client.close()
