"""What `dev` and `demo` share: a stack's folder, its start as people see it, its failures."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path

from tidegate.cli.terminal import Terminal
from tidegate.devstack.api import NoAnswerError, UnexpectedAnswerError
from tidegate.devstack.managed_program import ProgramError
from tidegate.devstack.nats_server import NatsServerError
from tidegate.devstack.ports import PortUnavailableError
from tidegate.devstack.ready_file import ReadyFileError
from tidegate.devstack.stack import Stack, StackError

STACK_ERRORS = (
    NatsServerError,
    NoAnswerError,
    PortUnavailableError,
    ProgramError,
    ReadyFileError,
    StackError,
    UnexpectedAnswerError,
)


@contextmanager
def folder_of(data: Path | None) -> Iterator[Path]:
    """The folder for a stack's data: the given one, or one that is gone at the end."""
    if data is not None:
        yield data.absolute()
        return
    with tempfile.TemporaryDirectory(prefix="tidegate-") as folder:
        yield Path(folder)


@asynccontextmanager
async def started(stack: Stack, terminal: Terminal) -> AsyncIterator[None]:
    """Run the stack for the length of the block, saying meanwhile what is awaited."""
    with ExitStack() as starting:
        step = starting.enter_context(terminal.steps("starting"))
        async with stack.started(step):
            starting.close()
            yield
