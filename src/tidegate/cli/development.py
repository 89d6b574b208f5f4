"""`tidegate dev`, `demo`, `replay`: what they are called with.

What they do is imported only when they run: a replica loads nothing of it but these names.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tidegate.devstack.ports import DEFAULT_BASE, HIGHEST_BASE, MAX_REPLICAS
from tidegate.devstack.ready_file import DEFAULT_PATH


def dev(
    replicas: Annotated[
        int, typer.Option(min=1, max=MAX_REPLICAS, help="How many gateway replicas.")
    ] = 2,
    data: Annotated[
        Path | None,
        typer.Option(
            file_okay=False,
            help="Directory that keeps everything over restarts; without it, nothing is kept.",
        ),
    ] = None,
    port_base: Annotated[
        int,
        typer.Option(min=0, max=HIGHEST_BASE, help="First port; 0 picks free ones."),
    ] = DEFAULT_BASE,
    cluster: Annotated[
        bool,
        typer.Option(
            "--cluster", help="Three NATS servers, and a copy of everything on each of them."
        ),
    ] = False,
    ready_file: Annotated[
        Path | None,
        typer.Option(
            dir_okay=False,
            help=f"Also write where everything is to this file, as to {DEFAULT_PATH}.",
        ),
    ] = None,
) -> None:
    """Run the whole platform on this machine, until Ctrl-C."""
    from tidegate.cli.dev import run_dev  # noqa: PLC0415

    files = [DEFAULT_PATH, *([ready_file] if ready_file else [])]
    run_dev(replicas, data, port_base, files, cluster=cluster)


def demo() -> None:
    """Take the guided tour: every step over real HTTP, on a stack of its own."""
    from tidegate.cli.demo import run_demo  # noqa: PLC0415

    run_demo()


def replay(
    file: Annotated[Path, typer.Argument(metavar="FILE.csv", help="CSV with a header, in UTF-8.")],
    aggregate_type: Annotated[str, typer.Option(help="Kind of the aggregates, e.g. permit.")],
    id_column: Annotated[str, typer.Option(help="Column that says which aggregate.")],
    type_column: Annotated[str, typer.Option(help="Column that says what happened.")],
    command_id_column: Annotated[
        str | None,
        typer.Option(help="Column that identifies the row; without it, its number and content do."),
    ] = None,
    tenant: Annotated[str, typer.Option(help="Tenant in which it happens.")] = "acme",
    rate: Annotated[float | None, typer.Option(min=0.1, help="Rows a second at most.")] = None,
    concurrency: Annotated[
        int, typer.Option(min=1, max=1000, help="Commands under way at once.")
    ] = 32,
    ready_file: Annotated[
        Path, typer.Option(help="Tells where the stack of `tidegate dev` is.")
    ] = DEFAULT_PATH,
) -> None:
    """Send each row of a file as a command to the stack of `tidegate dev`.

    Rows of one aggregate stay in order. It is safe to run again: command ids make it idempotent.
    """
    from tidegate.cli.replay import run_replay  # noqa: PLC0415
    from tidegate.devstack.replay.rows import Layout  # noqa: PLC0415

    layout = Layout(aggregate_type, id_column, type_column, command_id_column)
    run_replay(file, layout, tenant, ready_file, concurrency, rate)


def add_to(cli: typer.Typer) -> None:
    """Make the three commands part of `cli`."""
    for command in (dev, demo, replay):
        cli.command()(command)
