"""The consumer's distrust, with deliveries made by hand; a real server does not misbehave."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from nats.aio.msg import Msg

from tidegate.kernel.clock import SystemClock
from tidegate.store.consumer import SILENCE_S, Consumer, Delivered, FeedBroken

ACK = "$JS.ACK.KV_iam.follower.1.{sequence}.{count}.1700000000.{pending}"


class Wire:
    """Stands for the connection: takes what is published."""

    def __init__(self) -> None:
        self.published: list[str] = []

    async def publish(self, subject: str) -> None:
        self.published.append(subject)

    @contextmanager
    def reconnects(self, _: Callable[[], None]) -> Iterator[None]:
        yield


class StoppedClock(SystemClock):
    def __init__(self) -> None:
        self.at_s = 0.0

    def boottime_s(self) -> float:
        return self.at_s


class Feed:
    """A consumer and what it handed on."""

    def __init__(self, on_delivered: Callable[[Delivered], None] | None = None) -> None:
        self.delivered: list[int] = []
        self.idle: list[int] = []
        self.clock = StoppedClock()
        self.wire = Wire()
        connection: Any = self.wire

        def note(delivered: Delivered) -> None:
            self.delivered.append(delivered.stored.sequence)

        self.consumer = Consumer(
            connection, "KV_iam", self.clock, on_delivered or note, self.idle.append
        )

    async def message(self, sequence: int, count: int, pending: int = 0) -> None:
        await self.receive(reply=ACK.format(sequence=sequence, count=count, pending=pending))

    async def heartbeat(self, last_stream: int, last_consumer: int) -> None:
        headers = {
            "Status": "100",
            "Nats-Last-Consumer": str(last_consumer),
            "Nats-Last-Stream": str(last_stream),
        }
        await self.receive(headers=headers)

    async def receive(self, reply: str = "", headers: dict[str, str] | None = None) -> None:
        client: Any = None
        await self.consumer._receive(
            Msg(client, subject="$KV.iam.k.1", reply=reply, data=b"{}", headers=headers)
        )

    async def ended(self) -> None:
        async with asyncio.timeout(5):
            await self.consumer.until_finished()


async def test_deliveries_in_order_are_handed_on_and_heartbeats_tell_idleness() -> None:
    feed = Feed()
    await feed.message(7, 1)
    await feed.message(9, 2)
    await feed.heartbeat(last_stream=12, last_consumer=2)
    assert (feed.delivered, feed.idle) == ([7, 9], [12])
    feed.consumer.finish()
    await feed.ended()


async def test_a_reply_subject_with_a_domain_is_read_too() -> None:
    feed = Feed()
    await feed.receive(reply="$JS.ACK.hub.ACCOUNT.KV_iam.follower.1.7.1.1700000000.0.token")
    assert feed.delivered == [7]


@pytest.mark.parametrize("count", [1, 3])
async def test_a_skipped_or_repeated_delivery_breaks_the_feed(count: int) -> None:
    feed = Feed()
    await feed.message(7, 1)
    await feed.message(9, count)
    with pytest.raises(FeedBroken, match="gap"):
        await feed.ended()
    assert feed.delivered == [7]


@pytest.mark.parametrize("last_consumer", [0, 2])
async def test_a_heartbeat_that_counts_otherwise_breaks_the_feed(last_consumer: int) -> None:
    feed = Feed()
    await feed.message(7, 1)
    await feed.heartbeat(last_stream=9, last_consumer=last_consumer)
    with pytest.raises(FeedBroken, match="gap"):
        await feed.ended()
    assert feed.idle == []


async def test_a_broken_feed_hands_nothing_on() -> None:
    feed = Feed()
    await feed.message(7, 2)
    await feed.message(7, 1)
    await feed.heartbeat(last_stream=9, last_consumer=1)
    assert (feed.delivered, feed.idle) == ([], [])


@pytest.mark.parametrize("reply", ["", "x", "$JS.ACK.a.b.1.x.1.1.0", "$JS.ACK.a.b.1.7.1.1.-"])
async def test_a_delivery_that_cannot_be_read_breaks_the_feed(reply: str) -> None:
    feed = Feed()
    await feed.receive(reply=reply)
    with pytest.raises(FeedBroken, match="unreadable"):
        await feed.ended()


@pytest.mark.parametrize(
    "headers", [{"Status": "100"}, {"Status": "100", "Nats-Last-Consumer": "x"}]
)
async def test_a_heartbeat_that_cannot_be_read_breaks_the_feed(headers: dict[str, str]) -> None:
    feed = Feed()
    await feed.receive(headers=headers)
    with pytest.raises(FeedBroken, match="unreadable"):
        await feed.ended()


async def test_silence_breaks_the_feed() -> None:
    feed = Feed()
    await feed.message(7, 1)
    feed.clock.at_s += SILENCE_S
    with pytest.raises(FeedBroken, match="silence"):
        await feed.ended()


async def test_flow_control_is_answered() -> None:
    feed = Feed()
    await feed.receive(reply="$JS.FC.KV_iam.follower.x", headers={"Status": "100"})
    stalled = {
        "Status": "100",
        "Nats-Last-Consumer": "0",
        "Nats-Last-Stream": "9",
        "Nats-Consumer-Stalled": "$JS.FC.KV_iam.follower.y",
    }
    await feed.receive(headers=stalled)
    assert feed.wire.published == ["$JS.FC.KV_iam.follower.x", "$JS.FC.KV_iam.follower.y"]
    # A stalled consumer has more to deliver: its heartbeat is no proof of idleness.
    assert feed.idle == []


@pytest.mark.parametrize("error", [KeyError("x"), ValueError("x"), RuntimeError("x")])
async def test_what_a_receiver_raises_is_not_lost(error: Exception) -> None:
    """The client library would log it and go on with the next message."""

    def fail(_: Delivered) -> None:
        raise error

    feed = Feed(on_delivered=fail)
    await feed.message(7, 1)
    with pytest.raises(type(error)) as caught:
        await feed.ended()
    assert caught.value is error
