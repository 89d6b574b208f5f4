"""Runs a history and judges it: `python -m harness.history.run --changes 1000 --seed 7`.

Prints a table at the end; exit status 1 says that there were violations.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import aiohttp

from harness.history import cells as people
from harness.history import commits
from harness.history.calls import new_session
from harness.history.cells import Cell
from harness.history.checker import Report, check
from harness.history.clients import Bell, Client, Refresher
from harness.history.deployment import Deployment, Shape
from harness.history.faults import NATS_KINDS, REPLICA_KINDS, ROUTE_KINDS, Nemesis, Plan
from harness.history.record import Change, Log, Request, now_s
from harness.history.replica import BREAKABLE
from harness.history.table import AFTERMATH_S, table
from harness.history.writers import Writer, Writing

_LOOK_EVERY_S = 0.5
# A change waits for a lease to end and for a commit; whoever asks must be more patient than that.
_PATIENCE_S = 15.0


ALL_KINDS = (*REPLICA_KINDS, *NATS_KINDS, *ROUTE_KINDS)


@dataclass(frozen=True, slots=True)
class Options:
    """`plan`: None for no faults at all."""

    shape: Shape
    changes: int
    seed: int
    plan: Plan | None
    cells: int = 3
    # Between a client's requests: without one they take all the machine has, and less changes.
    pause_s: float = 0.02
    # Enough after that, however many changes there were.
    longest_s: float = math.inf
    # With a broken product the first violation is all that is wanted.
    until_violated: bool = False


@dataclass(slots=True)
class Outcome:
    """What was seen, what it says, and what else is wrong: with the stream, or with answers."""

    log: Log
    report: Report
    problems: list[str] = field(default_factory=list)


async def run(options: Options, folder: Path) -> Outcome:
    """One history from an empty store to its judgement. Raises what ended it early.

    In every case the log is in `folder` afterwards.
    """
    log = Log()
    try:
        problems = await _record(options, folder, log)
    finally:
        log.write(folder / "history.ndjson")
    return Outcome(log, check(log, AFTERMATH_S), problems)


async def _record(options: Options, folder: Path, log: Log) -> list[str]:
    """Fills the log; returns what is wrong besides what the checker looks for."""
    async with AsyncExitStack() as stack:
        deployment = await stack.enter_async_context(Deployment.prepared(folder, options.shape))
        await people.bootstrap(deployment)
        http = await stack.enter_async_context(new_session())
        async with asyncio.TaskGroup() as watching:
            async with asyncio.TaskGroup() as starting:
                for replica in deployment.replicas:
                    starting.create_task(replica.start(watching))
            token, made = await people.make_cells(deployment, http, options.cells, log)
            await _act(options, deployment, http, token, made, log, watching)
            for replica in deployment.replicas:
                await replica.stop()
        events = await commits.read_events(deployment.nats[0].url)
    return [*commits.match_commits(log, events), *_failures(log)]


def _failures(log: Log) -> list[str]:
    """Answers that no fault excuses: what cannot be done now is refused, it does not go wrong."""
    calls: list[Request | Change] = [*log.requests, *log.changes]
    failed = Counter(
        f"{call.kind} at {call.replica} was answered with 500"
        for call in calls
        if call.status == 500
    )
    return [f"{what}, {times} times" for what, times in failed.items()]


class _Goal:
    """Whether there is more to do."""

    def __init__(self, log: Log, changes: int, longest_s: float) -> None:
        self._log = log
        self._left = changes
        self._until_s = now_s() + longest_s
        self._counted = 0
        self._violated = False

    def open(self) -> bool:
        for change in self._log.changes[self._counted :]:
            self._counted += 1
            self._left -= change.acknowledged
        return self._left > 0 and now_s() < self._until_s and not self._violated

    async def watch(self) -> None:
        """Ends it at the first violation."""
        while not self._violated:
            await asyncio.sleep(_LOOK_EVERY_S)
            self._violated = bool(check(self._log.so_far()).violations)


async def _act(
    options: Options,
    deployment: Deployment,
    http: aiohttp.ClientSession,
    admin_token: str,
    made: Sequence[Cell],
    log: Log,
    watching: asyncio.TaskGroup,
) -> None:
    """Everybody does their part until there were enough changes."""
    rng = random.Random(options.seed)
    replicas = [*deployment.replicas, deployment.spare]
    goal = _Goal(log, options.changes, options.longest_s)
    nemesis = Nemesis(deployment, options.plan, log, rng) if options.plan is not None else None
    timeout_s = options.shape.lease_s + _PATIENCE_S
    shared = Writing(
        replicas,
        nemesis.afflicted if nemesis is not None else set(),
        http,
        admin_token,
        log,
        rng,
        timeout_s,
        goal.open,
    )
    async with asyncio.TaskGroup() as others:
        background = []
        async with asyncio.TaskGroup() as writing:
            for cell in made:
                looked = Bell()
                clients = [
                    Client(cell, replica, http, log, looked, options.pause_s)
                    for replica in replicas
                ]
                refresher = Refresher(cell, replicas, http, log, rng)
                asking = [*(client.run() for client in clients), refresher.run()]
                background += [others.create_task(each) for each in asking]
                writing.create_task(Writer(shared, cell, clients, looked).run())
            if nemesis is not None:
                background.append(others.create_task(nemesis.run(watching)))
            if options.until_violated:
                background.append(others.create_task(goal.watch()))
        for task in background:
            task.cancel()


def options(arguments: argparse.Namespace) -> Options:
    shape = Shape(arguments.replicas, arguments.cluster, arguments.lease_s, arguments.broken)
    plan = Plan.everything(cluster=shape.cluster, lease_s=shape.lease_s)
    if arguments.faults is not None:
        kinds = tuple(kind for kind in arguments.faults.split(",") if kind)
        unknown = set(kinds) - set(ALL_KINDS)
        if unknown:
            raise SystemExit(f"no such fault: {', '.join(sorted(unknown))}")
        plan = replace(plan, kinds=kinds)
    if arguments.hold_s:
        plan = replace(plan, hold_s=arguments.hold_s)
    return Options(
        shape,
        arguments.changes,
        arguments.seed,
        plan if plan.kinds else None,
        arguments.cells,
        arguments.pause_s,
        arguments.longest_s,
        until_violated=shape.broken is not None,
    )


def _first(error: BaseException) -> BaseException:
    """What went wrong first, out of all the groups that it came through."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def main() -> None:
    parser = argparse.ArgumentParser(prog="harness.history.run", description=__doc__)
    parser.add_argument("--changes", type=int, default=1000)
    parser.add_argument("--longest-s", type=float, default=math.inf, help="however few changes")
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--cells", type=int, default=3)
    parser.add_argument("--pause-s", type=float, default=0.02)
    parser.add_argument("--cluster", action="store_true", help="three NATS servers, not one")
    parser.add_argument("--lease-s", type=float, default=3.0)
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    parser.add_argument("--broken", choices=BREAKABLE)
    parser.add_argument("--faults", help="these, comma-separated, and no others; may be empty")
    parser.add_argument("--hold-s", type=float, action="append", help="how long; repeatable")
    parser.add_argument("--folder", type=Path, help="keep everything there, and the log")
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            outcome = asyncio.run(run(options(arguments), folder))
        except BaseExceptionGroup as group:
            raise _first(group) from group
    print(table(outcome.log, outcome.report, outcome.problems))
    sys.exit(bool(outcome.report.violations or outcome.problems))


if __name__ == "__main__":
    main()
