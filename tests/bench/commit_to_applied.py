"""A commit on one replica until another has applied it: one entry, and an entry with its event.

Two processes on one NATS, commits one after another. The targets are for the time from the
acknowledgement; the time from the sending is said beside it, and holds the commit itself.
"""

from __future__ import annotations

import argparse
import asyncio
import bisect
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import orjson

from bench.deployment import deployment
from bench.measure import Figure, answer, at_most, folder, latencies
from tidegate.store.changes import Committed, Event, Put
from tidegate.store.commit import Committer
from tidegate.store.connection import connect
from tidegate.store.events import Origin, Record

_KEY = "tenant.bench"
_WARM_UP = 20
_NS = 1e9
# A lone server stages each batch on disk, which takes it milliseconds: fewer of them.
_FEWER_BATCHES = 5

Events = Callable[[], Sequence[Event]]
# When each revision was applied, in the order of both.
Applied = Sequence[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class _Made:
    """A commit: when it was sent, when it was acknowledged, and its revision."""

    sent_ns: int
    acknowledged_ns: int
    revision: int


async def measure(arguments: argparse.Namespace) -> list[Figure]:
    shapes: dict[str, tuple[Events, int]] = {
        "one entry": (list, arguments.commits),
        "entry and event": (_event, max(1, arguments.commits // _FEWER_BATCHES)),
    }
    with folder(None) as scratch:
        async with (
            deployment(scratch, cluster=arguments.cluster) as nats,
            connect(nats.settings().nats, "bench") as connection,
            _peer(nats.config_path(0)) as finish,
        ):
            writer = _Writer(Committer(connection, "iam", deadline_s=5))
            rounds = {
                shape: [await writer.write(events, commits) for _ in range(arguments.repeats)]
                for shape, (events, commits) in shapes.items()
            }
            applied = await finish(writer.revision)
    return [figure for shape in shapes for figure in _figures(shape, rounds[shape], applied)]


def _event() -> Sequence[Event]:
    record = Record("tenant.changed", "bench", "bench", None, Origin("", "", ""))
    return [record.event(time.time())]


class _Writer:
    """Rewrites one entry, again and again."""

    def __init__(self, committer: Committer) -> None:
        self._committer = committer
        self._expected = 0
        self.revision = 0

    async def write(self, events: Events, commits: int) -> list[_Made]:
        for _ in range(_WARM_UP):
            await self._commit(events())
        return [await self._commit(events()) for _ in range(commits)]

    async def _commit(self, events: Sequence[Event]) -> _Made:
        value = {"v": 1, "name": "Bench", "status": "active", "created_at": 0.0}
        sent_ns = time.monotonic_ns()
        result = await self._committer.commit([Put(_KEY, value, self._expected)], events)
        acknowledged_ns = time.monotonic_ns()
        if not isinstance(result, Committed):
            raise TypeError(f"the commit ended as {result}")
        # The entry comes first, its event after it.
        self._expected = result.revision - len(events)
        self.revision = result.revision
        return _Made(sent_ns, acknowledged_ns, result.revision)


@asynccontextmanager
async def _peer(config_path: Path) -> AsyncIterator[Callable[[int], Awaitable[Applied]]]:
    """The other replica: asked for it, it tells what it has noted up to a revision, and ends."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "bench.applied_peer",
        str(config_path),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        if await process.stdout.readline() != b"ready\n":
            raise RuntimeError("the other replica did not start")

        async def finish(revision: int) -> Applied:
            answered, _ = await process.communicate(str(revision).encode())
            noted: Applied = [(revision, at_ns) for revision, at_ns in orjson.loads(answered)]
            return noted

        yield finish
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def _figures(shape: str, rounds: Sequence[Sequence[_Made]], applied: Applied) -> list[Figure]:
    revisions = [revision for revision, _ in applied]

    def applied_ns(made: _Made) -> int:
        return applied[bisect.bisect_left(revisions, made.revision)][1]

    # Applied before the acknowledgement was seen is no time at all.
    after = [[max(0, applied_ns(m) - m.acknowledged_ns) / _NS for m in made] for made in rounds]
    whole = [[(applied_ns(m) - m.sent_ns) / _NS for m in made] for made in rounds]
    commit = [[(m.acknowledged_ns - m.sent_ns) / _NS for m in made] for made in rounds]
    return [
        *latencies(f"{shape}: acknowledged → applied", after, at_most(3), at_most(20)),
        *latencies(f"{shape}: sent → applied", whole),
        *latencies(f"{shape}: sent → acknowledged", commit),
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="bench.commit_to_applied", description=__doc__)
    parser.add_argument("--commits", type=int, default=2000, help="single entries in one repeat")
    parser.add_argument("--cluster", action="store_true", help="three servers, three copies")
    answer(parser, measure)
