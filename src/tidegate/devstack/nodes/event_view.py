"""What the demo projection knows: events counted and listed per aggregate.

Pure and in memory: rebuilt from the first event at each start. Tenants never meet in an answer,
because every lookup starts at one tenant.
"""

from collections import Counter, defaultdict, deque
from dataclasses import dataclass, field

from tidegate.devstack.nodes.events import AggregateKey
from tidegate.wire.aggregate.gateway.v1.command_pb2 import Event

# The last ones; the counts go by all.
_LISTED_EVENTS = 100


@dataclass(frozen=True, slots=True)
class Count:
    aggregate_id: str
    event_type: str
    count: int


@dataclass(slots=True)
class AggregateHistory:
    version: int = 0
    events: deque[Event] = field(default_factory=lambda: deque(maxlen=_LISTED_EVENTS))
    counts: Counter[str] = field(default_factory=Counter)


class EventView:
    def __init__(self) -> None:
        self._by_kind: defaultdict[tuple[str, str], dict[str, AggregateHistory]]
        self.clear()

    def clear(self) -> None:
        self._by_kind = defaultdict(dict)

    def apply(self, key: AggregateKey, event: Event) -> None:
        aggregates = self._by_kind[key.tenant, key.aggregate_type]
        history = aggregates.setdefault(key.aggregate_id, AggregateHistory())
        history.version = event.version
        history.events.append(event)
        history.counts[event.event_type] += 1

    def counts(self, tenant: str, aggregate_type: str) -> list[Count]:
        """Return how many events of each type each aggregate has, sorted by both."""
        aggregates = self._by_kind.get((tenant, aggregate_type), {})
        return [
            Count(aggregate_id, event_type, count)
            for aggregate_id, history in sorted(aggregates.items())
            for event_type, count in sorted(history.counts.items())
        ]

    def aggregate(self, key: AggregateKey) -> AggregateHistory:
        """Return what is known of one aggregate; of an unknown one, the empty history."""
        aggregates = self._by_kind.get((key.tenant, key.aggregate_type), {})
        return aggregates.get(key.aggregate_id) or AggregateHistory()
