"""`tidegate`: the commands of operators, and the program's entry point."""

from __future__ import annotations

import gc
import json
import os
import secrets
import sys
from pathlib import Path
from typing import Annotated

import typer

from tidegate import __version__, config
from tidegate.cli import development
from tidegate.cli.exits import fail, run
from tidegate.config import ConfigError, Settings
from tidegate.kernel.errors import Refusal
from tidegate.observability import logs
from tidegate.store import schema
from tidegate.store.connection import connect

ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", envvar=config.CONFIG_VARIABLE, help="TOML file with the settings."),
]

cli = typer.Typer(
    name="tidegate",
    help="API gateway and identity service on NATS JetStream.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
admin = typer.Typer(help="Administrators.", no_args_is_help=True)
cli.add_typer(admin, name="admin")


def load(file: Path | None) -> Settings:
    """The settings, or an exit that names what is wrong with them."""
    try:
        return config.load(file)
    except ConfigError as exc:
        raise fail(str(exc), 2) from exc


@cli.command()
def version() -> None:
    """Print the version."""
    typer.echo(__version__)


@cli.command()
def serve(config_file: ConfigFile = None) -> None:
    """Run one replica until SIGTERM."""
    from tidegate import app  # noqa: PLC0415  (the other commands start faster without it)

    settings = load(config_file)
    logs.configure(settings.log, replica=f"{settings.http.host}:{settings.http.port}")
    run(lambda: app.serve(settings))


@cli.command()
def migrate(
    action: Annotated[str, typer.Argument(help="`up`, or `status` to only look.")] = "up",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would run.")] = False,
    config_file: ConfigFile = None,
) -> None:
    """Bring the stored state to the schema of this program."""
    if action not in ("up", "status"):
        raise fail(f"migrate takes `up` or `status`, not {action!r}", 2)
    settings = load(config_file)

    async def work() -> None:
        migrations = schema.load_migrations(schema.migrations_folder())
        async with connect(settings.nats, "tidegate migrate") as connection:
            stored = await schema.stored_version(connection)
            if action == "status" or dry_run:
                typer.echo(f"stored schema {stored}, this program knows {len(migrations)}")
                for migration in migrations[stored:]:
                    typer.echo(f"to run: {migration.number:04} {migration.name}")
                return
            ran = await schema.migrate(connection, settings.nats, migrations)
            for migration in ran:
                typer.echo(f"ran {migration.number:04} {migration.name}")
            if not ran:
                typer.echo(f"nothing to do, the schema is {stored}")

    run(work)


@admin.command("bootstrap")
def bootstrap(
    email: Annotated[str, typer.Option(help="Address of the first platform admin.")],
    password_file: Annotated[
        Path | None,
        typer.Option(help="File with the password; without it one is made and printed once."),
    ] = None,
    config_file: ConfigFile = None,
) -> None:
    """Make the first platform admin, once in the life of an installation."""
    from tidegate import app  # noqa: PLC0415  (the other commands start faster without it)

    settings = load(config_file)
    try:
        given = password_file.read_text().strip() if password_file else None
    except OSError as exc:
        raise fail(f"{password_file}: {exc.strerror}", 2) from exc
    password = given or secrets.token_urlsafe(18)
    done = run(lambda: app.bootstrap_admin(settings, email, password))
    if isinstance(done, Refusal):
        problems = "; ".join(problem.problem for problem in done.errors)
        raise fail(problems or done.detail)
    made = {"id": done.outcome, "email": email}
    typer.echo(json.dumps(made if given else made | {"password": password}))


development.add_to(cli)


def main() -> None:
    """The program's entry point."""
    # A closed pipe (`tidegate … | head`) ends the program quietly.
    try:
        cli()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    finally:
        # The interpreter would search everything for garbage once more: a third of a second that
        # whoever stops a replica waits for.
        gc.freeze()


if __name__ == "__main__":
    main()
