"""In which order the endpoints of a shard are tried."""

from __future__ import annotations

import random
from collections.abc import Sequence

from tidegate.routing.model import Endpoint


def in_turn(endpoints: Sequence[Endpoint], rng: random.Random) -> tuple[Endpoint, ...]:
    """All endpoints once, from a random one on: load spreads, and a retry goes elsewhere."""
    start = rng.randrange(len(endpoints))
    return (*endpoints[start:], *endpoints[:start])
