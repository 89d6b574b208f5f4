"""Channels that never connect: opening one does nothing but remember where to."""

from __future__ import annotations

from contextlib import AsyncExitStack

import grpc
import pytest

from tidegate.routing.model import Endpoint, Transport
from tidegate.upstream.channels import Channels
from tidegate.upstream.settings import Settings

NODES = [Endpoint(f"192.0.2.7:{port}", Transport.GRPC) for port in range(1, 7)]


def is_open(channel: grpc.aio.Channel) -> bool:
    try:
        return channel.get_state() is not grpc.ChannelConnectivity.SHUTDOWN
    except grpc.aio.UsageError:
        return False


@pytest.fixture
async def channels():
    pool = Channels(Settings(max_idle_channels=2))
    yield pool
    await pool.aclose()


async def leased(channels: Channels, endpoint: Endpoint) -> grpc.aio.Channel:
    async with channels.lease(endpoint) as channel:
        return channel


async def test_an_endpoint_keeps_its_channel(channels: Channels):
    assert await leased(channels, NODES[0]) is await leased(channels, NODES[0])


async def test_transports_of_one_address_do_not_share_a_channel(channels: Channels):
    secure = Endpoint(NODES[0].address, Transport.GRPCS)
    assert await leased(channels, NODES[0]) is not await leased(channels, secure)


async def test_what_was_used_last_is_kept(channels: Channels):
    first, second = [await leased(channels, node) for node in NODES[:2]]
    assert await leased(channels, NODES[0]) is first
    third = await leased(channels, NODES[2])
    assert [is_open(channel) for channel in (first, second, third)] == [True, False, True]
    assert is_open(await leased(channels, NODES[1]))


async def test_channels_in_use_stay_open_however_many_there_are(channels: Channels):
    async with AsyncExitStack() as stack:
        opened = [await stack.enter_async_context(channels.lease(node)) for node in NODES]
        await leased(channels, NODES[0])
        assert all(map(is_open, opened))
    assert sum(map(is_open, opened)) == 2


async def test_closing_closes_every_channel():
    channels = Channels(Settings())
    opened = [await leased(channels, node) for node in NODES]
    await channels.aclose()
    assert not any(map(is_open, opened))
