"""Programs that start well, badly, and never: with small ones in their place."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from tidegate.devstack.managed_program import ManagedProgram, ProgramError, Recipe

ANSWERS = """
import http.server, sys
print("listening", flush=True)
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), http.server.SimpleHTTPRequestHandler
    ).serve_forever()
"""
DEAF = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + ANSWERS
BROKEN = "import sys; print('no such setting'); sys.exit(3)"
SILENT = "import time; print('here', flush=True); time.sleep(1000)"

Make = Callable[[str], ManagedProgram]


@pytest.fixture
async def make(tmp_path: Path, free_port: Callable[[], int]) -> AsyncIterator[Make]:
    made: list[ManagedProgram] = []
    port = free_port()

    def program(code: str) -> ManagedProgram:
        argv = (sys.executable, "-c", code, str(port))
        probes = (f"tcp://127.0.0.1:{port}", f"http://127.0.0.1:{port}/")
        made.append(ManagedProgram(Recipe("small", argv, tmp_path / "log", probes, 0.2)))
        return made[-1]

    yield program
    for each in made:
        await each.stop()


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_it_is_started_once_it_answers_and_gone_once_stopped(make: Make) -> None:
    program = make(ANSWERS)
    await program.start()
    pid = program.pid
    assert alive(pid)
    await program.stop()
    assert not alive(pid)
    await program.stop()


async def test_its_end_is_noticed_and_it_starts_again(make: Make) -> None:
    program = make(ANSWERS)
    await program.start()
    first = program.pid
    os.kill(first, signal.SIGKILL)
    assert await program.wait() == -signal.SIGKILL
    await program.restart()
    assert program.pid != first


async def test_a_restart_of_a_running_one_leaves_no_second_process(make: Make) -> None:
    program = make(ANSWERS)
    await program.start()
    first = program.pid
    await program.restart()
    assert not alive(first)
    assert alive(program.pid)


async def test_one_that_ends_while_starting_is_told_with_the_end_of_its_log(make: Make) -> None:
    with pytest.raises(ProgramError) as caught:
        await make(BROKEN).start()
    assert str(caught.value) == (
        "small exited with 3 while starting; its log ends with:\n  no such setting"
    )


async def test_a_start_that_is_given_up_leaves_no_process(
    make: Make, tmp_path: Path, eventually: Callable[..., asyncio.Future[None]]
) -> None:
    program = make(SILENT)
    starting = asyncio.create_task(program.start())

    async def running() -> bool:
        return (tmp_path / "log").exists() and "here" in (tmp_path / "log").read_text()

    await eventually(running)
    pid = program.pid
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert not alive(pid)
    with pytest.raises(ProgramError, match="small is not running"):
        _ = program.pid


async def test_one_that_does_not_listen_to_reason_is_killed(make: Make) -> None:
    program = make(DEAF)
    await program.start()
    pid = program.pid
    await program.stop()
    assert not alive(pid)
