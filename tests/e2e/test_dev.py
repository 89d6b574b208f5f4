"""`tidegate dev` as a newcomer and as a script see it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import stat
import subprocess
from collections.abc import Callable
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import aiohttp
import pytest

from tidegate.devstack.api import Api, As
from tidegate.devstack.provisioning import sign_in
from tidegate.devstack.ready_file import DEFAULT_PATH, Running

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.conftest import Dev, MakeMember, StartDev, Tidegate

pytestmark = pytest.mark.e2e

WaitUntil = Callable[..., None]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def accepts(address: str) -> bool:
    parts = urlsplit(address)
    try:
        socket.create_connection((parts.hostname or "", parts.port or 0), timeout=2).close()
    except OSError:
        return False
    return True


def addresses(running: Running) -> list[str]:
    return [
        *(replica.http for replica in running.replicas),
        *(node.address for node in running.nodes),
        running.mail.http,
        running.nats.url,
    ]


async def place_order(api: Api, caller: As, order_id: str) -> None:
    answer = await api.command("order", order_id, {"command_type": "order.place"}, caller)
    assert answer.status == 200, answer


async def test_when_the_ready_file_is_there_everything_answers(
    dev: Dev, http: aiohttp.ClientSession
) -> None:
    running = dev.running
    assert len(running.replicas) == 2
    assert [node.kind for node in running.nodes] == ["aggregate", "projection"]
    assert running.tenants == ("acme", "globex")
    for replica in running.replicas:
        assert (await Api(http, replica.http).get("/ready")).status == 200
    assert all(accepts(address) for address in addresses(running))
    pids = [each.pid for each in (*running.replicas, *running.nodes)]
    assert {*pids, *running.nats.pids} <= dev.children()


def test_ready_files_are_for_their_owner_alone(dev: Dev) -> None:
    for path in (dev.ready_path, dev.folder / DEFAULT_PATH):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_commands_it_suggests_work(dev: Dev, wait_until: WaitUntil) -> None:
    if shutil.which("curl") is None:
        pytest.skip("there is no curl")
    commands = [line.strip() for line in dev.out.splitlines() if line.strip().startswith("curl ")]
    sign_up, read_mail, sign_in_as_admin = commands

    def answer(command: str) -> object:
        return json.loads(subprocess.check_output(command, shell=True))

    assert answer(sign_up) == {"status": "verification_sent"}
    wait_until(lambda: "Your token" in json.dumps(answer(read_mail)))
    tokens = answer(sign_in_as_admin)
    assert isinstance(tokens, dict)
    assert tokens["token_type"] == "Bearer"


async def test_a_killed_replica_comes_back_at_its_address(
    dev: Dev, http: aiohttp.ClientSession
) -> None:
    before = dev.running
    victim = before.replicas[1]
    os.kill(victim.pid, signal.SIGKILL)
    dev.wait_new_pid(lambda running: running.replicas[1].pid, victim.pid)
    after = dev.running.replicas[1]
    assert after.http == victim.http
    assert after.pid in dev.children()
    assert (await Api(http, after.http).get("/ready")).status == 200
    assert dev.running.replicas[0] == before.replicas[0]
    assert "gateway 2 was ended by SIGKILL" in dev.out


async def test_killed_nodes_come_back_and_forget_nothing(
    dev: Dev, http: aiohttp.ClientSession, make_member: MakeMember
) -> None:
    before = dev.running
    api = Api(http, before.replicas[0].http)
    caller = await make_member(before, "nodes@example.org")
    await place_order(api, caller, "before")
    for place, node in enumerate(before.nodes):
        os.kill(node.pid, signal.SIGKILL)
        dev.wait_new_pid(lambda running, place=place: running.nodes[place].pid, node.pid)
    assert [node.address for node in dev.running.nodes] == [node.address for node in before.nodes]
    await place_order(api, caller, "after")
    query = {"aggregate_type": "order", "aggregate_id": "before"}
    seen = await api.query("aggregate", query, caller)
    assert (seen.status, seen.body["version"]) == (200, 1)


async def test_a_killed_nats_server_comes_back_with_everything(
    dev: Dev, http: aiohttp.ClientSession
) -> None:
    before = dev.running
    os.kill(before.nats.pids[0], signal.SIGKILL)
    dev.wait_new_pid(lambda running: running.nats.pids[0], before.nats.pids[0])
    assert dev.running.nats.url == before.nats.url
    # Who starts afterwards finds all that it needs, too.
    os.kill(before.replicas[0].pid, signal.SIGKILL)
    dev.wait_new_pid(lambda running: running.replicas[0].pid, before.replicas[0].pid)
    api = Api(http, before.replicas[0].http)
    await sign_in(api, before.admin.email, before.admin.password)


def assert_nothing_left(dev: Dev, running: Running, children: set[int]) -> None:
    assert not any(alive(pid) for pid in children)
    assert not any(accepts(address) for address in addresses(running))


async def test_ctrl_c_ends_everything_and_kept_data_serves_the_next_start(
    start_dev: StartDev,
    tmp_path: Path,
    http: aiohttp.ClientSession,
    make_member: MakeMember,
    wait_until: WaitUntil,
) -> None:
    data = tmp_path / "data"
    dev = start_dev("--data", str(data))
    dev.wait_ready()
    first, children = dev.running, dev.children()
    assert len(children) == 6
    caller = await make_member(first, "ann@example.org")
    await place_order(Api(http, first.replicas[0].http), caller, "kept")

    dev.process.send_signal(signal.SIGINT)
    assert dev.process.wait(timeout=3) == 0
    assert_nothing_left(dev, first, children)
    assert not dev.ready_path.exists()
    assert not (dev.folder / DEFAULT_PATH).exists()
    assert not list(dev.temporary.iterdir())

    # All ports are others now, so routing has to follow the nodes.
    dev = start_dev("--data", str(data))
    dev.wait_ready()
    again, children = dev.running, dev.children()
    assert again.admin == first.admin
    assert not {*addresses(first)} & {*addresses(again)}
    caller = await make_member(again, "bob@example.org")
    api = Api(http, again.replicas[1].http)
    query = {"aggregate_type": "order", "aggregate_id": "kept"}
    seen = await api.query("aggregate", query, caller)
    assert (seen.status, seen.body["version"]) == (200, 1)
    await place_order(api, caller, "kept")

    # However it goes, nothing outlives it.
    dev.process.kill()
    dev.process.wait()
    wait_until(lambda: not any(alive(pid) for pid in children))
    assert not any(accepts(address) for address in addresses(again))


def test_being_told_to_end_during_the_start_leaves_nothing(
    start_dev: StartDev, wait_until: WaitUntil
) -> None:
    dev = start_dev()
    wait_until(lambda: len(dev.children()) >= 3)
    children = dev.children()
    dev.process.terminate()
    assert dev.process.wait(timeout=10) == 0
    assert not any(alive(pid) for pid in children)
    assert not list(dev.temporary.iterdir())
    assert not (dev.folder / DEFAULT_PATH).exists()


def test_a_start_that_fails_half_way_says_why_and_leaves_nothing(
    start_dev: StartDev, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIDEGATE_NATS__REPLICAS", "3")
    dev = start_dev()
    assert dev.process.wait(timeout=30) == 1
    assert dev.out.startswith("tidegate: ")
    assert "Traceback" not in dev.out
    assert not list(dev.temporary.iterdir())


def test_a_taken_port_is_named(start_dev: StartDev, dev: Dev) -> None:
    port = urlsplit(dev.running.replicas[0].http).port or 0
    second = start_dev(port_base=port)
    assert second.process.wait(timeout=30) == 1
    assert second.out == (
        f"tidegate: port {port} cannot be used (Address already in use); "
        "choose other ports with --port-base, or 0 for any free ones\n"
    )


def test_one_directory_serves_one_stack_at_a_time(start_dev: StartDev, dev: Dev) -> None:
    second = start_dev("--data", str(dev.folder / "data"))
    assert second.process.wait(timeout=30) == 1
    assert "another NATS server is using the directory" in second.out
    assert all(accepts(address) for address in addresses(dev.running))


@pytest.mark.parametrize(
    "option", [("--replicas", "0"), ("--port-base", "-1"), ("--replicas", "x")]
)
async def test_wrong_options_are_refused(tidegate: Tidegate, option: tuple[str, str]) -> None:
    done = await tidegate("dev", *option)
    assert done.status == 2
    assert option[0] in done.err
