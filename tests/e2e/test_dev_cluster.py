"""`tidegate dev --cluster`: what three NATS servers are for."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING

import aiohttp
import nats
import pytest
from nats.js.api import StreamInfo

from tidegate.devstack.api import Api, NoAnswerError, UnexpectedAnswerError
from tidegate.devstack.provisioning import sign_in
from tidegate.devstack.ready_file import Running

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.conftest import Dev, MakeMember, StartDev, Tidegate

pytestmark = pytest.mark.e2e

_DEADLINE_S = 60


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(_DEADLINE_S):
        while not await condition():
            await asyncio.sleep(0.1)


async def stream(url: str, name: str) -> StreamInfo:
    client = await nats.connect(url)
    try:
        return await client.jetstream().stream_info(name)
    finally:
        await client.close()


async def leader_of(running: Running, name: str) -> int:
    """The place of the server that leads the stream."""
    cluster = (await stream(running.nats.url, name)).cluster
    assert cluster is not None
    return int((cluster.leader or "").removeprefix("node-")) - 1


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def nodes_url(dev: Dev, data: Path) -> str:
    password = json.loads((data / "nats-cluster" / "credentials.json").read_text())["nodes"]
    return f"nats://nodes:{password}@{dev.running.nats.url.rpartition('@')[2]}"


async def test_the_stack_outlives_the_leader_of_its_state_and_stops_whole(
    start_dev: StartDev, tmp_path: Path, http: aiohttp.ClientSession, make_member: MakeMember
) -> None:
    data = tmp_path / "data"
    dev = start_dev("--cluster", "--data", str(data))
    dev.wait_ready()
    before, children = dev.running, dev.children()
    assert len(set(before.nats.urls)) == len(set(before.nats.pids)) == 3
    assert set(before.nats.pids) <= children
    for url, name in ((before.nats.url, "KV_iam"), (nodes_url(dev, data), "DEMO_EVENTS")):
        assert (await stream(url, name)).config.num_replicas == 3
    api = Api(http, before.replicas[0].http)
    caller = await make_member(before, "ann@example.org")

    place = await leader_of(before, "KV_iam")
    os.kill(before.nats.pids[place], signal.SIGKILL)

    async def signed_in() -> bool:
        with suppress(NoAnswerError, UnexpectedAnswerError):
            await sign_in(api, before.admin.email, before.admin.password)
            return True
        return False

    async def commanded() -> bool:
        with suppress(NoAnswerError):
            answer = await api.command("order", "o-1", {"command_type": "order.place"}, caller)
            return answer.status == 200
        return False

    await until(signed_in)
    await until(commanded)
    dev.wait_new_pid(lambda running: running.nats.pids[place], before.nats.pids[place])
    assert dev.running.nats.urls == before.nats.urls
    assert f"NATS {place + 1} was ended by SIGKILL" in dev.out

    children |= dev.children()
    dev.process.send_signal(signal.SIGINT)
    assert dev.process.wait(timeout=10) == 0
    assert not any(alive(pid) for pid in children)
    assert not dev.ready_path.exists()
    assert not list(dev.temporary.iterdir())


@pytest.mark.parametrize(
    ("folder", "options", "how"), [("nats", ["--cluster"], "without"), ("nats-cluster", [], "with")]
)
async def test_data_of_the_other_kind_is_refused(
    tidegate: Tidegate, tmp_path: Path, folder: str, options: list[str], how: str
) -> None:
    (tmp_path / "data" / folder).mkdir(parents=True)
    done = await tidegate("dev", "--port-base", "0", "--data", str(tmp_path / "data"), *options)
    assert done.status == 1
    assert done.err == (
        f"tidegate: {tmp_path / 'data'} holds the data of a stack that was started "
        f"{how} --cluster\n"
    )
