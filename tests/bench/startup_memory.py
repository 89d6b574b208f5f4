"""From starting a replica to its being ready, and its memory: few users stored, and a million.

One replica at a time, on NATS that has all its state read. The time holds the interpreter and
all imports; it ends with the first answer of `/ready` that says so.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from bench.deployment import Deployment, deployment, replica_in_process
from bench.machine import cpu_s, resident_mib
from bench.measure import Figure, answer, at_most, folder, tell
from bench.population import Population
from tidegate.devstack.child import Child

_FEW = Population(users=1000, tenants=10)
_POLL_S = 0.005
_DEADLINE_S = 120.0
_STOP_GRACE_S = 5.0
# After the first renewals of the lease, and whatever else comes once.
_SETTLE_S = 3.0


@dataclass(frozen=True, slots=True)
class _Start:
    """One start of a replica."""

    took_s: float
    cpu_s: float
    resident_mib: float


async def measure(arguments: argparse.Namespace) -> list[Figure]:
    few = Population(min(_FEW.users, arguments.users), min(_FEW.tenants, arguments.tenants))
    many = Population(arguments.users, arguments.tenants)
    with folder(arguments.store) as stores:
        without, _ = await _measure(few, stores / str(few), arguments)
        with_all, nats = await _measure(many, stores / str(many), arguments)
    idle = tuple(each.resident_mib for each in without)
    more = tuple(
        each.resident_mib - base for each, base in zip(with_all, sorted(idle), strict=True)
    )
    return [
        *_starting(few, without),
        *_starting(many, with_all),
        Figure(f"memory when idle, {few.users} users", "MiB", idle, at_most(120)),
        Figure(f"memory more with {many.users} users", "MiB", more, at_most(50)),
        *nats,
    ]


def _starting(population: Population, starts: list[_Start]) -> list[Figure]:
    what = f"start to ready, {population.users} users"
    return [
        Figure(what, "s", tuple(each.took_s for each in starts), at_most(1.5)),
        Figure(f"{what}, of that CPU time", "s", tuple(each.cpu_s for each in starts)),
    ]


async def _measure(
    population: Population, store: Path, arguments: argparse.Namespace
) -> tuple[list[_Start], list[Figure]]:
    async with deployment(store) as nats:
        await population.stored(store, nats.settings(), tell)
        async with replica_in_process(nats.settings()):
            pass  # It made the signing key, which no other start has to do.
    began = time.monotonic()
    async with deployment(store) as nats:
        up_s = time.monotonic() - began
        starts = [await _start(nats, store, arguments.settle_s) for _ in range(arguments.repeats)]
        nats_mib = resident_mib(nats.nats_pids[0])
    return starts, [
        Figure("start of NATS itself", "s", (up_s,)),
        Figure("memory of NATS", "MiB", (nats_mib,)),
    ]


async def _start(nats: Deployment, store: Path, settle_s: float) -> _Start:
    began = time.monotonic()
    child = await Child.spawn(*nats.recipe(0).argv, log=store / "replica.log")
    try:
        await _wait_ready(child, f"{nats.url(0)}/ready")
        took_s, used_s = time.monotonic() - began, cpu_s(child.pid)
        await asyncio.sleep(settle_s)
        return _Start(took_s, used_s, resident_mib(child.pid))
    finally:
        await child.stop(_STOP_GRACE_S)


async def _wait_ready(child: Child, url: str) -> None:
    async with asyncio.timeout(_DEADLINE_S), aiohttp.ClientSession() as http:
        while True:
            if child.returncode is not None:
                raise RuntimeError(f"the replica ended with {child.returncode}")
            try:
                async with http.get(url) as answered:
                    if answered.status == 200:
                        return
            except aiohttp.ClientConnectorError:
                pass
            await asyncio.sleep(_POLL_S)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="bench.startup_memory", description=__doc__)
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--tenants", type=int, default=1000)
    parser.add_argument("--settle-s", type=float, default=_SETTLE_S, help="idle before a look")
    parser.add_argument("--store", type=Path, help="folder that keeps the stored users")
    answer(parser, measure)
