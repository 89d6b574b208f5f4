"""`tidegate dev`: the whole platform on one machine, until Ctrl-C."""

from __future__ import annotations

import asyncio
import json
import shlex
from collections.abc import Sequence
from pathlib import Path

from tidegate.cli.exits import run
from tidegate.cli.stack import STACK_ERRORS, folder_of, started
from tidegate.cli.terminal import Terminal
from tidegate.devstack.ports import Ports
from tidegate.devstack.program import until_signalled
from tidegate.devstack.ready_file import ReadyFile, Running
from tidegate.devstack.stack import Stack


def run_dev(
    replicas: int,
    data: Path | None,
    port_base: int,
    ready_paths: Sequence[Path],
    *,
    cluster: bool,
) -> None:
    """Start the stack, say where it is, and stop it when told to."""
    terminal = Terminal()

    async def work() -> None:
        ports = (
            Ports.from_base(port_base, replicas, cluster=cluster)
            if port_base
            else Ports.any_free(replicas, cluster=cluster)
        )
        with folder_of(data) as folder:
            await until_signalled(_serve(Stack(folder, ports), ready_paths, terminal))

    run(work, *STACK_ERRORS)
    terminal.say("Stopped." if data is None else f"Stopped. The data is kept in {data}.")


async def _serve(stack: Stack, ready_paths: Sequence[Path], terminal: Terminal) -> None:
    ready_files = [ReadyFile(path) for path in ready_paths]

    def write(running: Running) -> None:
        for file in ready_files:
            file.write(running)

    async with started(stack, terminal):
        try:
            write(stack.running)
            _introduce(stack, terminal)
            await stack.supervise(terminal.say, write)
        except asyncio.CancelledError:
            terminal.say("Stopping ...")
            raise
        finally:
            # Before the parts end: whoever finds the file finds a stack.
            for file in ready_files:
                file.remove()


def _introduce(stack: Stack, terminal: Terminal) -> None:
    running = stack.running
    terminal.say("tidegate dev is running. Ctrl-C stops it.", style="bold green")
    terminal.say()
    for name, where in _table(stack, running):
        terminal.say(f"  {name:<16} {where}")
    terminal.say()
    terminal.say("Three things to try:", style="bold")
    for what, command in examples(running):
        terminal.say()
        terminal.say(f"  # {what}", style="dim")
        terminal.say(f"  {command}")
    terminal.say()


def _table(stack: Stack, running: Running) -> list[tuple[str, str]]:
    replicas = [
        (f"gateway {place}", f"{replica.http}  (its API: {replica.http}/docs)")
        for place, replica in enumerate(running.replicas, start=1)
    ]
    return [
        *replicas,
        *((f"{node.kind} node", node.address) for node in running.nodes),
        ("mail sink", running.mail.http),
        ("NATS", ", ".join("nats://" + url.rpartition("@")[2] for url in running.nats.urls)),
        ("logs", str(stack.logs_dir)),
        ("tenants", ", ".join(running.tenants)),
        ("platform admin", f"{running.admin.email}  password: {running.admin.password}"),
    ]


def examples(running: Running) -> list[tuple[str, str]]:
    """What a newcomer may try first: what it does, and the command."""
    first, last = running.replicas[0].http, running.replicas[-1].http
    user = {"email": "ada@example.org", "password": "correct horse battery staple"}
    admin = {"email": running.admin.email, "password": running.admin.password}
    return [
        ("sign a user up; a mail asks to verify the address", _post(first, "signup", user)),
        ("read that mail", f"curl -s {running.mail.http}/messages"),
        ("sign in as the platform admin, on the last replica", _post(last, "signin", admin)),
    ]


def _post(url: str, call: str, body: dict[str, str]) -> str:
    data = shlex.quote(json.dumps(body))
    return f"curl -s {url}/v1/auth/{call} -H 'content-type: application/json' -d {data}"
