"""Clients that ask without pause. They judge nothing; each answer is logged."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Sequence

import aiohttp

from harness.history.calls import Call, send
from harness.history.cells import Cell
from harness.history.deployment import Replica
from harness.history.record import NO_ANSWER, Log, Request, Verdict, now_s

# Long enough for what waits in a paused replica to be answered when it goes on: those answers
# are the ones that matter.
_TIMEOUT_S = 15.0
_MOST_STUCK = 6
_STUCK_AFTER_S = 0.1
_NOBODY_THERE_S = 0.05
_PROFILE_EVERY = 8
_REFRESH_EVERY_S = 0.1


class Bell:
    """Wakes all who wait whenever it rings."""

    def __init__(self) -> None:
        self._rung = asyncio.Event()

    def ring(self) -> None:
        self._rung.set()
        self._rung = asyncio.Event()

    async def wait(self) -> None:
        await self._rung.wait()


class Client:
    """Asks one replica on behalf of one cell, one request after the other.

    A request that gets stuck does not keep the next from being sent, up to a few.
    """

    def __init__(
        self,
        cell: Cell,
        replica: Replica,
        http: aiohttp.ClientSession,
        log: Log,
        looked: Bell,
        pause_s: float,
    ) -> None:
        self.replica = replica
        # When the latest of the finished requests had begun, and what it was told.
        self.looked_s = 0.0
        self.last = Verdict.UNCLEAR
        self._cell = cell
        self._http = http
        self._log = log
        self._looked = looked
        self._pause_s = pause_s
        self._name = f"{cell.tenant}@{replica.name}"
        self._slots = asyncio.Semaphore(_MOST_STUCK)

    async def run(self) -> None:
        """Asks until cancelled."""
        async with asyncio.TaskGroup() as group:
            for count in itertools.count(1):
                await self.replica.up.wait()
                await self._slots.acquire()
                task = group.create_task(self._ask(profile=count % _PROFILE_EVERY == 0))
                await asyncio.wait({task}, timeout=_STUCK_AFTER_S)
                await asyncio.sleep(self._pause_s)

    async def _ask(self, *, profile: bool) -> None:
        cell = self._cell
        needs = [cell.user, cell.session]
        call = Call("GET", "/v1/auth/me", token=cell.token)
        if not profile:
            needs += [cell.assignment, cell.place]
            call = Call("POST", "/v1/query/anything", {}, cell.token, cell.tenant)
        start_s = now_s()
        try:
            answer = await send(self._http, self.replica.url, call, _TIMEOUT_S)
            if answer.status == NO_ANSWER:
                await asyncio.sleep(_NOBODY_THERE_S)
        finally:
            self._slots.release()
        request = Request(
            self._name,
            self.replica.name,
            cell.user_id,
            cell.tenant,
            "profile" if profile else "query",
            tuple(needs),
            start_s,
            now_s(),
            answer.status,
            answer.code,
        )
        self._log.requests.append(request)
        self.looked_s = max(self.looked_s, start_s)
        self.last = request.verdict
        self._looked.ring()


class Refresher:
    """Keeps a cell's session going, at one replica after the other, as often as it may.

    A refresh token works once: after an answer that leaves open whether it was used, and after a
    refusal, there is nothing to do until the next session.
    """

    def __init__(
        self,
        cell: Cell,
        replicas: Sequence[Replica],
        http: aiohttp.ClientSession,
        log: Log,
        rng: random.Random,
    ) -> None:
        self._cell = cell
        self._replicas = replicas
        self._http = http
        self._log = log
        self._rng = rng

    async def run(self) -> None:
        """Refreshes until cancelled."""
        while True:
            running = [replica for replica in self._replicas if replica.up.is_set()]
            if self._cell.refresh_token and running:
                await self._refresh(self._rng.choice(running))
            await asyncio.sleep(_REFRESH_EVERY_S)

    async def _refresh(self, replica: Replica) -> None:
        cell, session = self._cell, self._cell.session
        body = {"refresh_token": cell.refresh_token}
        cell.refresh_token = ""
        start_s = now_s()
        call = Call("POST", "/v1/auth/refresh", body)
        answer = await send(self._http, replica.url, call, _TIMEOUT_S)
        request = Request(
            f"{cell.tenant}-refresher",
            replica.name,
            cell.user_id,
            "",
            "refresh",
            (cell.user, session),
            start_s,
            now_s(),
            answer.status,
            answer.code,
        )
        self._log.requests.append(request)
        if answer.status == 200 and cell.session == session:
            cell.token = answer.body["access_token"]
            cell.refresh_token = answer.body["refresh_token"]
