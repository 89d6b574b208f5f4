"""Writers that take rights away and give them back. They judge nothing; each answer is logged.

A call that ends in 503 or without an answer is repeated until its answer is definite, at another
replica if need be, as admins are told to.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import aiohttp

from harness.history.calls import Answer, Call, send
from harness.history.cells import PASSWORD, ROLE, Cell, assignment_body
from harness.history.clients import Bell, Client
from harness.history.deployment import Replica
from harness.history.record import NO_ANSWER, Change, ChangeKind, Log, Request, Verdict, now_s

# How long a writer waits for each client to have looked at a change.
_LOOK_S = 0.3
_REPEAT_AFTER_S = 0.05
_AT_AFFLICTED = 0.1

_TAKING = (
    ChangeKind.DISABLE,
    ChangeKind.END_SESSIONS,
    ChangeKind.END_SESSION,
    ChangeKind.UNASSIGN,
    ChangeKind.SUSPEND,
)
# What gives back what was taken; after the ending of sessions, a new one does.
_GIVING = {
    ChangeKind.DISABLE: ChangeKind.ENABLE,
    ChangeKind.UNASSIGN: ChangeKind.ASSIGN,
    ChangeKind.SUSPEND: ChangeKind.RESUME,
}
_ENDING_SESSIONS = {ChangeKind.DISABLE, ChangeKind.END_SESSIONS, ChangeKind.END_SESSION}


@dataclass(frozen=True, slots=True)
class Writing:
    """What all writers share: whom to ask, as whom, where it is written down, and until when.

    Replicas that are `afflicted` by a fault are asked seldom, or nothing would change while one
    of them does not answer.
    """

    replicas: Sequence[Replica]
    afflicted: set[str]
    http: aiohttp.ClientSession
    admin_token: str
    log: Log
    rng: random.Random
    timeout_s: float
    go_on: Callable[[], bool]

    def somebody(self) -> Replica:
        """A replica to send a change to."""
        running = [replica for replica in self.replicas if replica.up.is_set()]
        sound = [replica for replica in running if replica.name not in self.afflicted]
        anybody = not sound or self.rng.random() < _AT_AFFLICTED
        return self.rng.choice((running or self.replicas) if anybody else sound)


class Writer:
    """Takes one right of its cell away, lets everybody look, gives it back, and so on."""

    def __init__(
        self, shared: Writing, cell: Cell, clients: Sequence[Client], looked: Bell
    ) -> None:
        self._shared = shared
        self._cell = cell
        self._clients = clients
        self._looked = looked
        self._numbers = itertools.count(1)

    async def run(self) -> None:
        """Writes as long as it is to go on."""
        while self._shared.go_on():
            await self._everybody_looks()
            if all(client.last is Verdict.REFUSED for client in self._clients):
                await self._give_everything()
                await self._sign_in()
            await self._take_and_give_back(self._shared.rng.choice(_TAKING))

    async def _take_and_give_back(self, taking: ChangeKind) -> None:
        await self._change(taking)
        await self._everybody_looks()
        if taking in _GIVING:
            await self._change(_GIVING[taking])
        if taking in _ENDING_SESSIONS:
            await self._everybody_looks()
            await self._sign_in()

    async def _give_everything(self) -> None:
        """For when a call that got no answer was carried out after all, and late."""
        for giving in _GIVING.values():
            await self._change(giving)

    async def _sign_in(self) -> None:
        """A new session, from which on the clients use it."""
        while self._shared.go_on():
            answer = await self._change(ChangeKind.SIGN_IN)
            if answer.status == 200:
                self._cell.take_session(answer.body)
                return
            await self._give_everything()

    async def _everybody_looks(self) -> None:
        """Waits, not for long, until each client has finished a request that began after now."""
        since_s = now_s()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LOOK_S):
                while any(
                    client.looked_s <= since_s
                    for client in self._clients
                    if client.replica.up.is_set()
                ):
                    await self._looked.wait()

    async def _change(self, kind: ChangeKind) -> Answer:
        """Repeats the call until its answer is definite, or the run is over."""
        while True:
            answer = await self._call(kind)
            if 200 <= answer.status < 500 or not self._shared.go_on():
                return answer
            await asyncio.sleep(_REPEAT_AFTER_S)

    async def _call(self, kind: ChangeKind) -> Answer:
        shared, cell = self._shared, self._cell
        label = f"{cell.tenant}-{next(self._numbers)}"
        replica = shared.somebody()
        right = cell.changed_by(kind)
        call = self._what(kind, label)
        start_s = now_s()
        under_way = Change(label, kind, right, replica.name, start_s, math.inf, NO_ANSWER)
        shared.log.under_way[label] = under_way
        answer = await send(shared.http, replica.url, call, shared.timeout_s)
        end_s = now_s()
        if kind is ChangeKind.SIGN_IN:
            # It asks for a right as well: that its user may sign in.
            request = Request(
                label,
                replica.name,
                cell.user_id,
                "",
                "sign in",
                (cell.user,),
                start_s,
                end_s,
                answer.status,
                answer.code,
            )
            shared.log.requests.append(request)
            if answer.status == 200:
                right = (*right, str(answer.body["session_id"]))
        change = replace(
            under_way,
            right=right,
            end_s=end_s,
            status=answer.status,
            code=answer.code,
            revision=answer.revision,
            unconfirmed=answer.unconfirmed,
        )
        del shared.log.under_way[label]
        shared.log.changes.append(change)
        return answer

    def _what(self, kind: ChangeKind, label: str) -> Call:
        """The call that makes a change."""
        cell, token = self._cell, self._shared.admin_token
        iam = "/admin/iam"
        match kind:
            case ChangeKind.DISABLE | ChangeKind.ENABLE:
                path = f"{iam}/users/{cell.user_id}/{kind}"
                return Call("POST", path, token=token, label=label)
            case ChangeKind.END_SESSIONS:
                path = f"{iam}/users/{cell.user_id}/sessions"
                return Call("DELETE", path, token=token, label=label)
            case ChangeKind.END_SESSION:
                return Call("POST", "/v1/auth/signout", {}, cell.token, label=label)
            case ChangeKind.SIGN_IN:
                proof = {"email": cell.email, "password": PASSWORD}
                return Call("POST", "/v1/auth/signin", proof, label=label)
            case ChangeKind.UNASSIGN:
                path = f"{iam}/assignments/{cell.tenant}.{cell.user_id}.{ROLE}"
                return Call("DELETE", path, token=token, label=label)
            case ChangeKind.ASSIGN:
                body = assignment_body(cell)
                return Call("POST", f"{iam}/assignments", body, token, label=label)
            case ChangeKind.SUSPEND | ChangeKind.RESUME:
                path = f"{iam}/tenants/{cell.tenant}/{kind}"
                return Call("POST", path, token=token, label=label)
