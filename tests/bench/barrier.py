"""A take-away until it holds everywhere, with two live replicas.

Once alone: `Bucket.hold` on a replica in this process, the other one a process of its own; beside
it the bare question to the other replica, and what the commit before it takes. And once whole: the
admin's call over HTTP between two replica processes, which is reads, commit, barrier and the HTTP
around them.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Awaitable, Callable

import aiohttp
import orjson

from bench.deployment import Deployment, deployment, replica_in_process
from bench.measure import Figure, answer, at_most, folder, latencies, tell
from bench.population import ROLE, Population
from tidegate.app import State, bootstrap_admin
from tidegate.devstack.api import Api, As
from tidegate.devstack.provisioning import sign_in
from tidegate.identity import model as identity
from tidegate.store.barrier import Effect, Held
from tidegate.store.bucket import Done
from tidegate.store.changes import Committed
from tidegate.store.events import Origin, Record

_USERS = Population(users=10, tenants=1)
_USER = _USERS.user_id(0)
_TENANT = _USERS.tenant_id(0)
_ADMIN, _PASSWORD = "admin@example.org", "a long one for a benchmark"
_END_SESSIONS, _TAKE_ROLE = "HTTP, end all sessions", "HTTP, take a role away"
_WARM_UP = 10

# One call: how long each of its measured parts took, in seconds.
Call = Callable[[], Awaitable[dict[str, float]]]


async def measure(arguments: argparse.Namespace) -> list[Figure]:
    figures: list[Figure] = []
    with folder(None) as scratch:
        async with deployment(scratch, cluster=arguments.cluster) as nats:
            await _USERS.stored(scratch, nats.settings(), tell)
            await _bootstrap(nats)
            async with nats.replica(1):
                async with replica_in_process(nats.settings(0)) as state:
                    parts = await _rounds(_in_process(state), arguments)
                held = parts["Barrier.hold"]
                figures += latencies("Barrier.hold alone", held, at_most(5), at_most(30))
                figures += latencies("of that, asking the other replica", parts["question"])
                figures += latencies("the commit before it", parts["commit"])
                async with nats.replica(0), aiohttp.ClientSession() as http:
                    admin = await sign_in(Api(http, nats.url(0)), _ADMIN, _PASSWORD)
                    for what, call in _over_http(http, nats.url(0), admin).items():
                        figures += latencies(what, (await _rounds(call, arguments))[what])
    return figures


async def _bootstrap(nats: Deployment) -> None:
    made = await bootstrap_admin(nats.settings(), _ADMIN, _PASSWORD)
    if not isinstance(made, Done):
        raise TypeError(f"making the admin: {made}")


async def _rounds(call: Call, arguments: argparse.Namespace) -> dict[str, list[list[float]]]:
    """Each part's times, round by round."""
    for _ in range(_WARM_UP):
        await call()
    rounds: dict[str, list[list[float]]] = {}
    for _ in range(arguments.repeats):
        made = [await call() for _ in range(arguments.calls)]
        for part in made[0]:
            rounds.setdefault(part, []).append([each[part] for each in made])
    return rounds


def _in_process(state: State) -> Call:
    (other,) = [each for each in state.views.replicas.all() if each.lease_id != state.lease.id]

    async def end_sessions() -> dict[str, float]:
        entry = await state.iam.read_leader(identity.user_key(_USER))
        record = Record("user.sessions_ended", _USER, "bench", None, Origin("", "", ""))
        change = identity.end_all_sessions(entry)
        began = time.perf_counter()
        made = await state.iam.commit([change], [record.event(time.time())])
        committed = time.perf_counter()
        if not isinstance(made, Committed):
            raise TypeError(f"the commit ended as {made}")
        held = await state.iam.hold(made.revision, Effect.TAKE_AWAY)
        if held != Held():
            raise TypeError(f"the change does not hold: {held}")
        done = time.perf_counter()
        # Once more, when there is nothing to wait for any more: the floor of any barrier.
        question = orjson.dumps({"bucket": "iam", "sequence": made.revision})
        await state.connection.request(other.confirms_on, question)
        return {
            "commit": committed - began,
            "Barrier.hold": done - committed,
            "question": time.perf_counter() - done,
        }

    return end_sessions


def _over_http(http: aiohttp.ClientSession, url: str, admin: As) -> dict[str, Call]:
    async def delete(path: str) -> float:
        began = time.perf_counter()
        async with http.delete(f"{url}/admin/iam/{path}", headers=admin.headers()) as answered:
            took = time.perf_counter() - began
            if answered.status != 204:
                raise RuntimeError(f"{path}: {answered.status} {await answered.text()}")
        return took

    async def end_sessions() -> dict[str, float]:
        return {_END_SESSIONS: await delete(f"users/{_USER}/sessions")}

    async def take_role() -> dict[str, float]:
        body = {"principal_id": _USER, "tenant_id": _TENANT, "role_id": ROLE}
        # It is there before the first call.
        given = await Api(http, url).post("/admin/iam/assignments", body, admin)
        if given.code != "ALREADY_EXISTS":
            given.checked(201, "giving the role")
        return {_TAKE_ROLE: await delete(f"assignments/{_TENANT}.{_USER}.{ROLE}")}

    return {_END_SESSIONS: end_sessions, _TAKE_ROLE: take_role}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="bench.barrier", description=__doc__)
    parser.add_argument("--calls", type=int, default=200, help="calls in one repeat")
    parser.add_argument("--cluster", action="store_true", help="three servers, three copies")
    answer(parser, measure)
