from __future__ import annotations

import random

from tidegate.routing.model import Endpoint, Transport
from tidegate.upstream.choice import in_turn

NODES = tuple(Endpoint(f"n:{port}", Transport.GRPC) for port in (1, 2, 3))


def test_each_endpoint_stands_once_and_in_turn():
    rng = random.Random(7)
    for _ in range(20):
        order = in_turn(NODES, rng)
        start = NODES.index(order[0])
        assert order == NODES[start:] + NODES[:start]


def test_every_endpoint_gets_to_be_the_first():
    rng = random.Random(7)
    assert {in_turn(NODES, rng)[0] for _ in range(100)} == set(NODES)


def test_one_endpoint_is_a_choice_too():
    assert in_turn(NODES[:1], random.Random(7)) == NODES[:1]
