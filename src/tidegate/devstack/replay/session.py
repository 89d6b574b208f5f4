"""A replay's dealings with a running stack: join a tenant, send everything, ask what is known."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from tidegate.devstack.api import Api, NoAnswerError, UnexpectedAnswerError
from tidegate.devstack.mailbox import Mailbox
from tidegate.devstack.provisioning import give_role, sign_in
from tidegate.devstack.ready_file import Running
from tidegate.devstack.replay import agreement
from tidegate.devstack.replay.rows import Command, Counts
from tidegate.devstack.replay.sender import Sender
from tidegate.devstack.replay.tally import Result
from tidegate.devstack.signed_in_user import SignedInUser


class ReplaySession:
    """One new user of the stack, a member of one tenant."""

    def __init__(self, apis: Sequence[Api], user: SignedInUser, tenant: str, kind: str) -> None:
        self._apis = apis
        self._user = user
        self._tenant = tenant
        self._aggregate_type = kind
        self._sender = Sender(apis, user, tenant, kind)
        self._asked = 0

    async def send(self, command: Command) -> Result:
        return await self._sender.send(command)

    async def difference(self, expected: Counts) -> str | None:
        """How the projection differs from what is expected; None when it agrees."""
        return await agreement.difference(expected, self._counts)

    async def _counts(self) -> dict[str, Any] | None:
        self._asked += 1
        api = self._apis[self._asked % len(self._apis)]
        caller = self._user.caller(self._tenant)
        try:
            answer = await api.query("counts", {"aggregate_type": self._aggregate_type}, caller)
            if answer.status == 401:
                await self._user.renew(api, caller.token)
        except (NoAnswerError, UnexpectedAnswerError):
            return None
        return answer.body if answer.status == 200 else None


@asynccontextmanager
async def joined(
    running: Running, tenant: str, aggregate_type: str
) -> AsyncIterator[ReplaySession]:
    """Sign a new user up and have the admin make it a member of the tenant.

    Raises NoAnswerError, UnexpectedAnswerError or NoMailError.
    """
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
        apis = [Api(http, replica.http) for replica in running.replicas]
        mailbox = Mailbox(http, running.mail.http)
        user = await SignedInUser.make(apis, mailbox, f"replay-{uuid.uuid4().hex}@example.org")
        as_admin = await sign_in(apis[0], running.admin.email, running.admin.password)
        user_id = await user.principal_id()
        await give_role(apis, as_admin, user_id, tenant, "tenant-member")
        yield ReplaySession(apis, user, tenant, aggregate_type)
