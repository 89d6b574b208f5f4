"""`tidegate demo`: the guided tour, on a stack of its own that is gone afterwards."""

from __future__ import annotations

import asyncio
import time

import typer

from tidegate.cli.exits import run
from tidegate.cli.stack import STACK_ERRORS, folder_of, started
from tidegate.cli.terminal import Terminal
from tidegate.devstack import tour
from tidegate.devstack.ports import Ports
from tidegate.devstack.program import until_signalled
from tidegate.devstack.stack import Stack
from tidegate.devstack.tour import Shown

_REPLICAS = 2


def run_demo() -> None:
    """Take the tour; exit status 0 only if every step held."""
    terminal = Terminal()
    taken: list[Shown] = []

    async def work() -> None:
        with folder_of(None) as folder:
            stack = Stack(folder, Ports.any_free(_REPLICAS))
            await until_signalled(_take(stack, terminal, taken))

    began = time.monotonic()
    terminal.say("The tour: two gateway replicas, real JetStream state, real HTTP.", "bold")
    run(work, *STACK_ERRORS)
    held = sum(step.held for step in taken)
    complete = held == len(tour.STEPS)
    terminal.say()
    terminal.say(
        f"{held} of {len(tour.STEPS)} steps held, in {time.monotonic() - began:.0f} s.",
        "bold green" if complete else "bold red",
    )
    if not complete:
        raise typer.Exit(1)


async def _take(stack: Stack, terminal: Terminal, taken: list[Shown]) -> None:
    def on_step(step: Shown) -> None:
        taken.append(step)
        mark, style = (terminal.tick, "green") if step.held else (terminal.cross, "bold red")
        terminal.say()
        terminal.say(f"{mark} {len(taken):2}. {step.title}", style)
        terminal.say(f"      {step.seen}")

    async with started(stack, terminal), asyncio.TaskGroup() as background:
        supervising = background.create_task(
            stack.supervise(lambda _: None, lambda _: None), name="supervision"
        )
        await tour.take(lambda: stack.running, on_step)
        supervising.cancel()
