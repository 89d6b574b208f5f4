"""What became of the rows: counts, reasons, latencies. Pure."""

from __future__ import annotations

import math
from array import array
from collections import Counter
from dataclasses import dataclass, field
from enum import Enum


class Outcome(Enum):
    """What became of one row."""

    ACCEPTED = "accepted"
    # The same command had been carried out before.
    DUPLICATE = "duplicate"
    # The gateway or the aggregate said no.
    REFUSED = "refused"
    # Nobody gave an answer that settles it.
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Result:
    outcome: Outcome
    latency_s: float
    tries: int
    reason: str = ""


@dataclass(slots=True)
class Tally:
    counts: Counter[Outcome] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    repeated: int = 0
    _latencies_s: array[float] = field(default_factory=lambda: array("d"))

    def add(self, result: Result) -> None:
        self.counts[result.outcome] += 1
        self._latencies_s.append(result.latency_s)
        self.repeated += result.tries > 1
        if result.reason:
            self.reasons[f"{result.outcome.value}: {result.reason}"] += 1

    @property
    def rows(self) -> int:
        return self.counts.total()

    @property
    def clean(self) -> bool:
        """Whether every row is settled and none was refused."""
        return not (self.counts[Outcome.REFUSED] or self.counts[Outcome.FAILED])

    def latency_s(self, share: float) -> float:
        """The latency that this share of the rows did not exceed (nearest rank)."""
        ordered = sorted(self._latencies_s)
        return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
