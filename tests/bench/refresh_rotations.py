"""Refresh rotations beside bare compare-and-set updates, on the same NATS in the same run.

Both have 64 under way on as many sessions or keys, and take turns. The bare update is one publish
of a value as large as a session's, with the revision that it expects.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Awaitable, Callable

import orjson

from bench.deployment import deployment, replica_in_process
from bench.measure import Figure, answer, at_least, folder, tell
from bench.population import Population
from tidegate.app import State, read_keys
from tidegate.config import Settings
from tidegate.flows.sessions import Sessions
from tidegate.flows.signin import TokenIssuer
from tidegate.kernel.clock import SystemClock
from tidegate.kernel.errors import Refusal
from tidegate.kernel.ids import SessionId, new_id
from tidegate.kernel.secret import Secret
from tidegate.sessions import refresh
from tidegate.sessions.refresh import RefreshToken, Session
from tidegate.store.changes import Committed
from tidegate.store.connection import Connection, checked
from tidegate.store.events import Origin
from tidegate.store.keyring import digest

_AT_ONCE = 64
_USERS = Population(users=_AT_ONCE, tenants=1)
_ORIGIN = Origin("", "", "")
_CLOCK = SystemClock()

# One more of what is measured, by the worker of this number.
Step = Callable[[int], Awaitable[None]]


async def measure(arguments: argparse.Namespace) -> list[Figure]:
    with folder(None) as scratch:
        async with deployment(scratch, cluster=arguments.cluster) as nats:
            settings = nats.settings()
            await _USERS.stored(scratch, settings, tell)
            async with replica_in_process(settings) as state:
                rotate, size = await _rotations(state, settings)
                update = _updates(state.connection, size)
                rotations, updates = [], []
                for _ in range(arguments.repeats):
                    updates.append(await _rate(update, arguments.steps))
                    rotations.append(await _rate(rotate, arguments.steps))
    ratios = tuple(one / other for one, other in zip(rotations, updates, strict=True))
    return [
        Figure("rotations ÷ bare updates", "", ratios, at_least(0.6)),
        Figure("rotations", "1/s", tuple(rotations)),
        Figure("bare updates", "1/s", tuple(updates)),
    ]


async def _rate(step: Step, steps: int) -> float:
    async def work(number: int) -> None:
        for _ in range(max(1, steps // _AT_ONCE)):
            await step(number)

    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for number in range(_AT_ONCE):
            group.create_task(work(number))
    return max(1, steps // _AT_ONCE) * _AT_ONCE / (time.perf_counter() - began)


async def _rotations(state: State, settings: Settings) -> tuple[Step, int]:
    """Rotations of one session for each worker, and how large a stored session is."""
    keys = read_keys(settings)
    issuer = TokenIssuer(keys, state.views.signing_keys, settings.sessions, _CLOCK)
    sessions = Sessions(state.iam, state.principals, state.lease, issuer, _CLOCK)
    texts, size = [], 0
    for number in range(_AT_ONCE):
        session, token = _session(number, settings)
        change = refresh.put(session, None, _CLOCK.now_s())
        made = await state.iam.commit([change], [])
        if not isinstance(made, Committed):
            raise TypeError(f"starting a session: {made}")
        texts.append(token.encode(keys.peppers).reveal_text())
        size = len(orjson.dumps(change.value))

    async def rotate(number: int) -> None:
        done = await sessions.refresh(texts[number], _ORIGIN)
        if isinstance(done, Refusal):
            raise TypeError(f"a rotation was refused: {done}")
        texts[number] = done.outcome.refresh_token.reveal_text()

    return rotate, size


def _session(number: int, settings: Settings) -> tuple[Session, RefreshToken]:
    now_s = _CLOCK.now_s()
    user_id, session_id = _USERS.user_id(number), SessionId(new_id())
    secret = Secret(bytes(refresh.SECRET_BYTES))
    session = Session(
        principal_id=user_id,
        id=session_id,
        session_epoch=0,
        counter=0,
        secret_hash=digest(secret),
        created_at_s=now_s,
        rotated_at_s=now_s,
        expires_at_s=refresh.expiry(now_s, now_s, settings.sessions),
        amr=("pwd",),
        acr="1",
        device_name="bench",
        address="127.0.0.1",
    )
    return session, RefreshToken(user_id, session_id, 0, secret)


def _updates(connection: Connection, size: int) -> Step:
    revisions: list[int] = [0] * _AT_ONCE
    payload = b"x" * size

    async def update(number: int) -> None:
        headers = {"Nats-Expected-Last-Subject-Sequence": str(revisions[number])}
        answered = await connection.request(f"$KV.iam.bench.{number}", payload, headers)
        revisions[number] = checked(answered.data)["seq"]

    return update


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="bench.refresh_rotations", description=__doc__)
    parser.add_argument("--steps", type=int, default=10_000, help="of each kind in one repeat")
    parser.add_argument("--cluster", action="store_true", help="three servers, three copies")
    answer(parser, measure)
