"""What people see: one way to print, in a terminal and in a pipe."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console


class Terminal:
    """Standard output. Nothing is wrapped, so that commands stay copyable."""

    def __init__(self) -> None:
        self.console = Console(highlight=False)
        utf8 = self.console.encoding.startswith("utf")
        self.tick, self.cross = ("✓", "✗") if utf8 else ("ok", "FAILED")

    def say(self, text: str = "", style: str | None = None) -> None:
        self.console.print(text, style=style, markup=False, soft_wrap=True)

    @contextmanager
    def steps(self, first: str) -> Iterator[Callable[[str], None]]:
        """Show what is being done now, while there is somebody to see it."""
        with self.console.status(f"{first} ...") as status:
            yield lambda step: status.update(f"{step} ...")
