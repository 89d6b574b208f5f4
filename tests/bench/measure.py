"""What a measurement comes to: figures with their spread, beside their targets.

A figure is measured several times in one run; its value is the median, and the spread from the
lowest to the highest says how far to trust it. A target is only ever met or missed by the median.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import orjson
import uvloop
from rich.console import Console
from rich.table import Table

from bench.machine import Machine


@dataclass(frozen=True, slots=True)
class Target:
    """The bound that a figure must keep."""

    bound: float
    at_most: bool = True

    def met_by(self, value: float) -> bool:
        return value <= self.bound if self.at_most else value >= self.bound

    def __str__(self) -> str:
        return f"{'≤' if self.at_most else '≥'} {self.bound:g}"


def at_most(bound: float) -> Target:
    return Target(bound)


def at_least(bound: float) -> Target:
    return Target(bound, at_most=False)


@dataclass(frozen=True, slots=True)
class Figure:
    """One thing that was measured, once in each repeat. Without a target it explains others."""

    what: str
    unit: str
    values: tuple[float, ...]
    target: Target | None = None

    @property
    def value(self) -> float:
        return statistics.median(self.values)

    @property
    def verdict(self) -> str:
        if self.target is None:
            return ""
        return "met" if self.target.met_by(self.value) else "missed"

    def as_json(self) -> dict[str, object]:
        return {
            "what": self.what,
            "unit": self.unit,
            "value": self.value,
            "lowest": min(self.values),
            "highest": max(self.values),
            "repeats": len(self.values),
            "target": None if self.target is None else str(self.target),
            "verdict": self.verdict,
        }


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that so many percent of all do not exceed."""
    return sorted(values)[max(0, math.ceil(len(values) * percent / 100) - 1)]


def latencies(
    what: str,
    rounds: Sequence[Sequence[float]],
    p50: Target | None = None,
    p99: Target | None = None,
) -> list[Figure]:
    """p50 and p99 in milliseconds of what was measured in seconds, round by round."""
    return [
        Figure(
            f"{what}, p{percent}",
            "ms",
            tuple(percentile(each, percent) * 1000 for each in rounds),
            target,
        )
        for percent, target in ((50, p50), (99, p99))
    ]


def tell(text: str) -> None:
    """Progress, where it does not get into the answer."""
    print(text, file=sys.stderr, flush=True)


@contextmanager
def folder(chosen: Path | None) -> Iterator[Path]:
    """The chosen folder, which stays; or one that goes with the block."""
    if chosen is not None:
        chosen.mkdir(parents=True, exist_ok=True)
        yield chosen
        return
    with TemporaryDirectory(prefix="tidegate-bench-") as made:
        yield Path(made)


Run = Callable[[argparse.Namespace], Coroutine[Any, Any, list[Figure]]]


def answer(parser: argparse.ArgumentParser, run: Run) -> None:
    """A script's whole life: arguments, measurement, and a table or JSON."""
    parser.add_argument("--repeats", type=int, default=5, help="measure so many times")
    parser.add_argument("--json", action="store_true", help="answer with JSON")
    arguments = parser.parse_args()
    machine = Machine.now()
    figures = uvloop.run(run(arguments))
    given = {name: str(value) for name, value in vars(arguments).items() if name != "json"}
    result = {
        "bench": Path(sys.argv[0]).stem,
        "arguments": given,
        "machine": asdict(machine),
        "figures": [figure.as_json() for figure in figures],
    }
    if arguments.json:
        sys.stdout.buffer.write(orjson.dumps(result) + b"\n")
    else:
        show([result])


def show(results: Sequence[dict[str, Any]]) -> None:
    """One table of everything."""
    table = Table("bench", "figure", "median", "lowest … highest", "target", "verdict")
    for result in results:
        machine = Machine(**result["machine"])
        table.add_row(result["bench"], f"[dim]{machine}[/dim]")
        for figure in result["figures"]:
            spread = f"{figure['lowest']:.4g} … {figure['highest']:.4g}"
            table.add_row(
                "",
                figure["what"],
                f"{figure['value']:.4g} {figure['unit']}",
                spread,
                figure["target"] or "",
                figure["verdict"],
            )
        table.add_section()
    Console(width=None if sys.stdout.isatty() else 140).print(table)
