"""How commands end: failures become one clear line and an exit status, never a traceback.

Exit status: 0 done, 1 it failed and said why, 2 it was called wrongly.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import typer
import uvloop

from tidegate.config import ConfigError
from tidegate.store.connection import StoreError
from tidegate.store.keyring import KeyRingError

T = TypeVar("T")

_EXPECTED = (StoreError, ConfigError, KeyRingError, OSError)


def fail(message: str, status: int = 1) -> typer.Exit:
    """Says what went wrong, in one line, and gives the exit to raise."""
    typer.echo(f"tidegate: {message}", err=True)
    return typer.Exit(status)


def run(work: Callable[[], Coroutine[Any, Any, T]], *expected: type[Exception]) -> T:
    """Runs `work` on an event loop; what can go wrong in operation becomes one clear line.

    `expected` adds to what that is.
    """
    kinds: tuple[type[Exception], ...] = (*_EXPECTED, *expected)
    try:
        return uvloop.run(work())
    except BaseExceptionGroup as group:
        known, rest = group.split(kinds)
        if known is None or rest is not None:
            raise
        raise _told(_first(known)) from group
    except kinds as exc:
        raise _told(exc) from exc


def _told(error: BaseException) -> typer.Exit:
    return fail(str(error), 2 if isinstance(error, ConfigError) else 1)


def _first(group: BaseExceptionGroup[Any]) -> BaseException:
    inner = group.exceptions[0]
    return _first(inner) if isinstance(inner, BaseExceptionGroup) else inner
