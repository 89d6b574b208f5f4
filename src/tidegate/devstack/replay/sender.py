"""One command, sent until somebody settles it.

A command may be sent again after anything that leaves its fate open, on the other replica, since
its id makes repeating it harmless. Bounded: after 30 s without a settling answer it has failed,
and whatever follows is not even tried, for then there is no gateway any more.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from tidegate.devstack.api import Answer, Api, NoAnswerError, UnexpectedAnswerError
from tidegate.devstack.replay.rows import Command
from tidegate.devstack.replay.tally import Outcome, Result
from tidegate.devstack.signed_in_user import SignedInUser

_PATIENCE_S = 30.0
_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 1.0
_NEVER = datetime.max.replace(tzinfo=UTC)
_PASSING = frozenset({429, 502, 503, 504})


class Sender:
    """Sends commands of one user, in turn to each replica."""

    def __init__(
        self,
        apis: Sequence[Api],
        user: SignedInUser,
        tenant: str,
        aggregate_type: str,
        patience_s: float = _PATIENCE_S,
    ) -> None:
        self._apis = apis
        self._user = user
        self._tenant = tenant
        self._aggregate_type = aggregate_type
        self._patience_s = patience_s
        self._sent = 0
        self._gave_up = False
        self._since = datetime.now(UTC)
        self._ids: set[str] = set()

    async def send(self, command: Command) -> Result:
        if self._gave_up:
            return Result(Outcome.FAILED, 0.0, 0, "not sent: the gateway had stopped answering")
        started = time.monotonic()
        # An id that came before in this very file is a duplicate, however young its event is.
        since = _NEVER if command.command_id in self._ids else self._since
        self._ids.add(command.command_id)
        self._sent += 1
        first = self._sent
        tries = 0
        reason = ""
        while time.monotonic() - started < self._patience_s:
            api = self._apis[(first + tries) % len(self._apis)]
            tries += 1
            try:
                answer = await self._try(api, command)
            except (NoAnswerError, UnexpectedAnswerError) as error:
                reason = str(error)
            else:
                outcome = settled(answer, since)
                if outcome is not None:
                    told = "" if answer.status == 200 else str(answer)
                    return Result(outcome, time.monotonic() - started, tries, told)
                reason = str(answer)
            await asyncio.sleep(_pause_s(tries))
        self._gave_up = True
        return Result(Outcome.FAILED, time.monotonic() - started, tries, reason)

    async def _try(self, api: Api, command: Command) -> Answer:
        for renewed in (False, True):
            caller = self._user.caller(self._tenant)
            answer = await api.command(
                self._aggregate_type, command.aggregate_id, command.body(), caller
            )
            if answer.status != 401 or renewed:
                break
            await self._user.renew(api, caller.token)
        return answer


def settled(answer: Answer, since: datetime) -> Outcome | None:
    """What the answer says has become of the command; None when it is worth asking again.

    A duplicate whose event is younger than `since`, the start of this run, was carried out in
    this run: the answer that said so was lost, here or behind the gateway.
    """
    if answer.status == 200:
        old = answer.body["duplicate"] and not _is_younger(answer.body["events"], since)
        return Outcome.DUPLICATE if old else Outcome.ACCEPTED
    if answer.status in _PASSING:
        return None
    return Outcome.REFUSED if 400 <= answer.status < 500 else Outcome.FAILED


def _is_younger(events: Sequence[Mapping[str, str]], since: datetime) -> bool:
    return any(datetime.fromisoformat(event["time"]) >= since for event in events)


def _pause_s(tries: int) -> float:
    """Back-off with jitter, so that the lanes do not come back all at once."""
    longest = min(_FIRST_PAUSE_S * 2.0 ** min(tries, 10), _LONGEST_PAUSE_S)
    return longest * random.uniform(0.5, 1.0)  # noqa: S311
