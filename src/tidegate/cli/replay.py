"""`tidegate replay`: a file of things that happened, sent as commands to a running stack."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

from tidegate.cli.exits import fail, run
from tidegate.cli.terminal import Terminal
from tidegate.devstack import ready_file
from tidegate.devstack.api import NoAnswerError, UnexpectedAnswerError
from tidegate.devstack.mailbox import NoMailError
from tidegate.devstack.ready_file import ReadyFileError
from tidegate.devstack.replay import rows
from tidegate.devstack.replay.rows import InputError, Layout, Survey
from tidegate.devstack.replay.sending import send_all
from tidegate.devstack.replay.session import joined
from tidegate.devstack.replay.tally import Outcome, Result, Tally

_LINE_EVERY_S = 5.0
_REASONS_SHOWN = 5


def run_replay(
    file: Path,
    layout: Layout,
    tenant: str,
    ready_path: Path,
    concurrency: int,
    rate: float | None,
) -> None:
    """Send the file; exit status 0 only if nothing was refused or failed and the views agree."""
    try:
        survey = rows.survey(file, layout)
        running = ready_file.read(ready_path)
    except (InputError, ReadyFileError) as error:
        raise fail(str(error), 2) from error
    terminal = Terminal()
    tally = Tally()
    terminal.say(
        f"{survey.rows} rows of {len(survey.counts)} aggregates, "
        f"to tenant {tenant} through {', '.join(replica.http for replica in running.replicas)}"
    )

    async def work() -> None:
        async with joined(running, tenant, layout.aggregate_type) as session:
            with _progress(terminal, survey.rows, tally) as on_result:
                began = time.monotonic()
                commands = rows.read(file, layout)
                await send_all(commands, session.send, on_result, concurrency, rate)
            _report(terminal, tally, time.monotonic() - began)
            if not tally.clean:
                # The read side cannot know of what never happened.
                raise typer.Exit(1)
            difference = await session.difference(survey.counts)
            _report_agreement(terminal, survey, difference)
            if difference is not None:
                raise typer.Exit(1)

    run(work, InputError, NoAnswerError, NoMailError, UnexpectedAnswerError)


@contextmanager
def _progress(terminal: Terminal, total: int, tally: Tally) -> Iterator[Callable[[Result], None]]:
    """Count results and show how far it is: a bar in a terminal, a line now and then elsewhere."""
    if terminal.console.is_terminal:
        columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=terminal.console) as progress:
            bar = progress.add_task("", total=total)

            def advance(result: Result) -> None:
                tally.add(result)
                progress.advance(bar)

            yield advance
        return
    next_line_s = time.monotonic() + _LINE_EVERY_S

    def count(result: Result) -> None:
        nonlocal next_line_s
        tally.add(result)
        if time.monotonic() >= next_line_s:
            next_line_s = time.monotonic() + _LINE_EVERY_S
            terminal.say(f"{tally.rows} of {total}")

    yield count


def _report(terminal: Terminal, tally: Tally, took_s: float) -> None:
    terminal.say(f"sent in {took_s:.1f} s ({tally.rows / took_s:.0f} rows/s)")
    for outcome in Outcome:
        terminal.say(f"  {outcome.value:<10} {tally.counts[outcome]:>8}")
    for reason, count in tally.reasons.most_common(_REASONS_SHOWN):
        terminal.say(f"  {count} {reason}")
    if tally.repeated:
        terminal.say(f"  {tally.repeated} were sent more than once, as an answer did not come")
    latencies = (
        f"p{percent} {tally.latency_s(percent / 100) * 1000:.0f} ms" for percent in (50, 95, 99)
    )
    terminal.say(f"  latency    {'  '.join(latencies)}")


def _report_agreement(terminal: Terminal, survey: Survey, difference: str | None) -> None:
    if difference is None:
        events = sum(types.total() for types in survey.counts.values())
        terminal.say(
            f"{terminal.tick} the projection agrees: {events} events "
            f"of {len(survey.counts)} aggregates",
            "green",
        )
    else:
        terminal.say(f"{terminal.cross} the projection does not agree: {difference}", "bold red")
