"""Reading a principal that is not in memory: few users stored, and many in few and many tenants.

One load after another, and 64 at once. Where NATS has just started, the part of its store that
holds the user has to be read first; these loads are told apart.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import time
from collections.abc import Iterator
from pathlib import Path

from bench.deployment import deployment, replica_in_process
from bench.machine import resident_mib
from bench.measure import Figure, answer, folder, latencies, tell
from bench.population import Population
from tidegate.app import State
from tidegate.kernel.errors import Refusal

_FEW = Population(users=1000, tenants=10)
_AT_ONCE = 64


async def measure(arguments: argparse.Namespace) -> list[Figure]:
    few = Population(min(_FEW.users, arguments.users), _FEW.tenants)
    many = [Population(arguments.users, tenants) for tenants in arguments.tenants]
    figures: list[Figure] = []
    with folder(arguments.store) as stores:
        for population in (few, *many):
            figures += await _measure(population, stores / str(population), arguments)
    return figures


async def _measure(
    population: Population, store: Path, arguments: argparse.Namespace
) -> list[Figure]:
    async with deployment(store) as nats:
        await population.stored(store, nats.settings(), tell)
    async with deployment(store) as nats, replica_in_process(nats.settings()) as state:
        loads = _Loads(state, population, arguments.loads)
        first = await loads.one_by_one()
        again = [await loads.one_by_one() for _ in range(arguments.repeats)]
        at_once = [await loads.at_once() for _ in range(arguments.repeats)]
        everywhere = [await loads.every_tenant() for _ in range(arguments.repeats)]
        nats_mib = resident_mib(nats.nats_pids[0])
    where = f"{population.users} users, {population.tenants} tenants"
    return [
        *latencies(f"{where}: first loads", [first]),
        *latencies(f"{where}: loads", again),
        Figure(f"{where}: loads, {_AT_ONCE} at once", "1/s", tuple(at_once)),
        *latencies(f"{where}: assignments in every tenant", everywhere),
        Figure(f"{where}: memory of NATS", "MiB", (nats_mib,)),
    ]


class _Loads:
    """Loads of users picked at random; what is in memory is forgotten before each round."""

    def __init__(self, state: State, population: Population, count: int) -> None:
        self._state = state
        self._population = population
        self._count = count
        self._random = random.Random(1)

    async def one_by_one(self) -> list[float]:
        return [await self._load(number) for number in self._picked()]

    async def at_once(self) -> float:
        """Loads in a second, many under way."""
        waiting = self._picked()

        async def work() -> None:
            for number in waiting:
                await self._load(number)

        began = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for _ in range(_AT_ONCE):
                group.create_task(work())
        return self._count / (time.perf_counter() - began)

    async def every_tenant(self) -> list[float]:
        took = []
        for number in self._picked():
            began = time.perf_counter()
            found = await self._state.principals.assignments_of(self._population.user_id(number))
            took.append(time.perf_counter() - began)
            if isinstance(found, Refusal) or len(found) != 1:
                raise RuntimeError(f"user {number} has {found}")
        return took

    async def _load(self, number: int) -> float:
        user_id = self._population.user_id(number)
        tenant_id = self._population.tenant_id(number)
        began = time.perf_counter()
        known = await self._state.principals.find(user_id, tenant_id)
        took = time.perf_counter() - began
        if isinstance(known, Refusal) or known.standing is None or not known.assigned.in_tenant:
            raise RuntimeError(f"user {number} is {known}")
        return took

    def _picked(self) -> Iterator[int]:
        for view in self._state.principals.views:
            view.clear()
        users = self._population.users
        return iter(self._random.sample(range(users), min(self._count, users)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="bench.on_demand_load", description=__doc__)
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--tenants", type=int, nargs="+", default=[1000, 100_000])
    parser.add_argument("--loads", type=int, default=1000, help="loads in one repeat")
    parser.add_argument("--store", type=Path, help="folder that keeps the stored users")
    answer(parser, measure)
