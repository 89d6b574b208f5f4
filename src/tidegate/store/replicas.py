"""The lease set: which replicas may be serving.

A replica stands in the set by its entry `replica.<lease id>`, which it renews. Invariant: an entry
is deleted only when the lease that it stands for is over, so who is not in the set as of a
commit either does not serve, or took its lease later and started with that commit applied.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tidegate.kernel.clock import Clock
from tidegate.store.changes import Entry

log = logging.getLogger(__name__)

KIND = "replica"
# Clocks of machines run at rates that differ; by far less than this.
CLOCK_RATE_MARGIN = 1.05


@dataclass(frozen=True, slots=True)
class Replica:
    """One lease as its entry tells it. `seen_s`: when this process saw it renewed."""

    lease_id: str
    revision: int
    ttl_s: float
    confirms_on: str
    seen_s: float

    @property
    def key(self) -> str:
        return f"{KIND}.{self.lease_id}"

    def surely_over(self, now_s: float) -> bool:
        """Whether the lease has ended, provided that this revision is still the newest.

        It lasts for its TTL from before the renewal was sent, which was before it was seen.
        """
        return now_s - self.seen_s > self.ttl_s * CLOCK_RATE_MARGIN


class ReplicaView:
    """All leases."""

    kinds = frozenset({KIND})

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._replicas: dict[str, Replica] = {}

    def all(self) -> list[Replica]:
        return list(self._replicas.values())

    def get(self, lease_id: str) -> Replica | None:
        return self._replicas.get(lease_id)

    def load(self, entries: Iterable[Entry]) -> None:
        self._replicas = {}
        self.apply(list(entries))

    def apply(self, changes: Sequence[Entry]) -> None:
        for entry in changes:
            lease_id = entry.key.partition(".")[2]
            self._replicas.pop(lease_id, None)
            if entry.value is None:
                continue
            try:
                ttl_s, confirms_on = float(entry.value["ttl_s"]), str(entry.value["confirms_on"])
            except (KeyError, TypeError, ValueError):
                # Nobody serves by an entry that a replica did not write.
                log.exception("%s is not a lease", entry.key)
                continue
            self._replicas[lease_id] = Replica(
                lease_id, entry.revision, ttl_s, confirms_on, self._clock.boottime_s()
            )
