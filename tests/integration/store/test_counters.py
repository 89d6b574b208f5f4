"""Counters on a real server: totals that replicas share."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from tidegate.devstack.nats_server import NatsServer
from tidegate.store.connection import Connection, StoreError
from tidegate.store.counters import LIMITS, QUOTA, Counter, Counters, Window

WINDOW = Window.at(1_700_000_030.0, 60)
SIGNINS = Counter("signin", "4f2a", WINDOW)


@pytest.mark.parametrize("stream", [LIMITS, QUOTA])
async def test_each_addition_gives_the_total(store: Connection, stream: str) -> None:
    counters = Counters(store, stream)
    assert await counters.total(SIGNINS) == 0
    assert [await counters.add(SIGNINS) for _ in range(3)] == [1, 2, 3]
    assert await counters.add(SIGNINS, 5) == 8
    assert await counters.add(SIGNINS, -2) == 6
    assert await counters.total(SIGNINS) == 6


async def test_all_replicas_count_together_and_each_total_is_given_once(
    store: Connection, connect_again: Callable[[], Awaitable[Connection]]
) -> None:
    replicas = [Counters(store, LIMITS), Counters(await connect_again(), LIMITS)]
    totals = await asyncio.gather(*(replicas[n % 2].add(SIGNINS) for n in range(200)))
    assert sorted(totals) == list(range(1, 201))


async def test_rules_callers_windows_and_streams_are_counted_apart(store: Connection) -> None:
    limits, quota = Counters(store, LIMITS), Counters(store, QUOTA)
    await limits.add(SIGNINS)
    later = Window.at(WINDOW.ends_s, 60)
    longer = Window(WINDOW.number, 3600)
    others = [
        Counter("reset", "4f2a", WINDOW),
        Counter("signin", "77aa", WINDOW),
        Counter("signin", "4f2a", later),
        Counter("signin", "4f2a", longer),
    ]
    assert [await limits.total(each) for each in others] == [0, 0, 0, 0]
    assert await quota.total(SIGNINS) == 0


@pytest.mark.parametrize("who", ["", "a.b", "*", ">", "a b", "ä", "x" * 129])
async def test_what_is_no_token_is_refused_before_anything_is_sent(
    store: Connection, who: str
) -> None:
    with pytest.raises(ValueError, match="a counter's name"):
        await Counters(store, LIMITS).add(Counter("signin", who, WINDOW))


async def test_counts_outlive_the_server(
    store: Connection, nats_server: NatsServer, eventually: Callable[..., Awaitable[None]]
) -> None:
    counters = Counters(store, QUOTA)
    await counters.add(SIGNINS, 7)
    nats_server.kill()
    with pytest.raises(StoreError):
        await counters.add(SIGNINS)
    await nats_server.restart()

    async def back() -> bool:
        return store.connected

    await eventually(back)
    assert await counters.total(SIGNINS) == 7


def test_a_window_ends_where_the_next_begins() -> None:
    assert WINDOW.ends_s - 60 <= 1_700_000_030.0 < WINDOW.ends_s
    assert Window.at(WINDOW.ends_s, 60).number == WINDOW.number + 1
    assert Window.at(WINDOW.ends_s - 0.001, 60) == WINDOW
