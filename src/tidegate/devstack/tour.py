"""The guided tour: what the gateway does, one small step after the other, over real HTTP.

Each function of `STEPS` is one step: its docstring says what it shows, its body is how a client
does it, and what it returns is what was seen. A step that does not hold raises. They build on
each other, so the tour ends at the first that fails.
"""

from __future__ import annotations

import asyncio
import os
import signal
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import aiohttp

from tidegate.devstack.api import Answer, Api, As, NoAnswerError, UnexpectedAnswerError
from tidegate.devstack.mailbox import Mailbox, NoMailError
from tidegate.devstack.provisioning import give_role, sign_in
from tidegate.devstack.ready_file import Running
from tidegate.devstack.signed_in_user import SignedInUser

_STEP_DEADLINE_S = 45.0
_READ_SIDE_DEADLINE_S = 10.0
_LOAD_PAUSE_S = 0.05
_POLL_S = 0.02
_EMAIL = "ada@example.org"
_PASSWORD = "correct horse battery staple"  # noqa: S105


class StepFailedError(Exception):
    """What a step was to show does not hold."""


_PROBLEMS = (NoAnswerError, NoMailError, StepFailedError, TimeoutError, UnexpectedAnswerError)


@dataclass(slots=True)
class Tour:
    """The stack, and what earlier steps left for later ones."""

    where: Callable[[], Running]
    apis: tuple[Api, ...]
    mailbox: Mailbox
    ada: As = field(default_factory=As)
    ada_id: str = ""
    refresh_token: str = ""
    command: dict[str, object] = field(default_factory=dict)
    events: list[dict[str, object]] = field(default_factory=list)

    @property
    def first(self) -> Api:
        return self.apis[0]

    @property
    def second(self) -> Api:
        return self.apis[1]


def expect(answer: Answer, status: int, code: str = "") -> Answer:
    """The answer, if it is the one that must come."""
    if answer.status != status or (code and answer.code != code):
        raise StepFailedError(f"expected {status} {code}".rstrip() + f", got {answer}")
    return answer


def hold(condition: bool, otherwise: str) -> None:
    if not condition:
        raise StepFailedError(otherwise)


async def sign_up(tour: Tour) -> str:
    """A user signs up, and gets no session before the address is proved."""
    user = {"email": _EMAIL, "password": _PASSWORD, "display_name": "Ada"}
    expect(await tour.first.post("/v1/auth/signup", user), 202)
    early = await tour.first.post("/v1/auth/signin", {"email": _EMAIL, "password": _PASSWORD})
    expect(early, 401, "SIGNIN_FAILED")
    return f"sign-up: 202; sign-in before verification: {early}"


async def verify(tour: Tour) -> str:
    """A mail with a one-time token arrives; the token proves the address, once."""
    token = {"token": await tour.mailbox.token_for(_EMAIL)}
    expect(await tour.second.post("/v1/auth/verify-email", token), 204)
    again = expect(await tour.first.post("/v1/auth/verify-email", token), 422, "TOKEN_VOID")
    return f"first use: 204; second use, on the other replica: {again}"


async def sign_in_once(tour: Tour) -> str:
    """The user signs in on one replica; the access token is good on both."""
    credentials = {"email": _EMAIL, "password": _PASSWORD, "device_name": "Ada's laptop"}
    tokens = expect(await tour.first.post("/v1/auth/signin", credentials), 200).body
    tour.ada = As(token=tokens["access_token"])
    tour.refresh_token = tokens["refresh_token"]
    for api in tour.apis:
        tour.ada_id = expect(await api.get("/v1/auth/me", tour.ada), 200).body["id"]
    return f"an access token for {tokens['expires_in']} s; /v1/auth/me: 200 on both replicas"


async def refresh_elsewhere(tour: Tour) -> str:
    """The session is refreshed on the other replica, and the old refresh token is void."""
    old = {"refresh_token": tour.refresh_token}
    tokens = expect(await tour.second.post("/v1/auth/refresh", old), 200).body
    tour.ada = As(token=tokens["access_token"])
    tour.refresh_token = tokens["refresh_token"]
    again = expect(await tour.first.post("/v1/auth/refresh", old), 409, "REFRESH_RACED")
    return f"new pair: 200; the old token again, on the first replica: {again}"


async def no_member_no_command(tour: Tour) -> str:
    """Who is no member of a tenant may do nothing there."""
    answer = await tour.first.command("order", "order-1", _order(), _in(tour, "acme"))
    expect(answer, 403, "TENANT_FORBIDDEN")
    return f"a command in acme: {answer}"


async def role_given(tour: Tour) -> str:
    """An admin gives the user a role: allowed at once, on both replicas."""
    admin = tour.where().admin
    as_admin = await sign_in(tour.first, admin.email, admin.password)
    await give_role(tour.apis, as_admin, tour.ada_id, "acme", "tenant-member")
    for api in tour.apis:
        expect(await api.query("counts", {"aggregate_type": "order"}, _in(tour, "acme")), 200)
    return "tenant-member in acme: 201; a query in acme: 200 on both replicas"


async def command(tour: Tour) -> str:
    """A command goes to the tenant's aggregate node and comes back as events."""
    tour.command = _order()
    answer = await tour.first.command("order", "order-1", tour.command, _in(tour, "acme"))
    body = expect(answer, 200).body
    tour.events = body["events"]
    hold(not body["duplicate"] and len(tour.events) == 1, "expected one new event")
    return f"200: event {tour.events[0]['event_type']!r}, order-1 is at version {body['version']}"


async def command_again(tour: Tour) -> str:
    """The same command once more, on the other replica, happens no second time."""
    answer = await tour.second.command("order", "order-1", tour.command, _in(tour, "acme"))
    body = expect(answer, 200).body
    hold(body["duplicate"], "the command happened a second time")
    hold(body["events"] == tour.events, "the answer has other events than the first one")
    return "200: duplicate, with the very same event"


async def query(tour: Tour) -> str:
    """The read side knows about it, whichever replica is asked."""
    for api in tour.apis:
        await _wait_orders(api, _in(tour, "acme"), 1)
        order = {"aggregate_type": "order", "aggregate_id": "order-1"}
        seen = expect(await api.query("aggregate", order, _in(tour, "acme")), 200).body["events"]
        ids = [event["event_id"] for event in tour.events]
        hold([event["event_id"] for event in seen] == ids, "the read side has other events")
    return "200 on both replicas: order-1 with that one event"


async def stranger_denied(tour: Tour) -> str:
    """Another user, signed in but without a role, sees and does nothing in this tenant."""
    bob = await SignedInUser.make(tour.apis, tour.mailbox, "bob@example.org")
    asked = await tour.first.query("counts", {"aggregate_type": "order"}, bob.caller("acme"))
    expect(asked, 403, "TENANT_FORBIDDEN")
    sent = await tour.second.command("order", "order-1", _order(), bob.caller("acme"))
    expect(sent, 403, "TENANT_FORBIDDEN")
    return f"bob's query: {asked}; bob's command: {sent}"


async def tenants_apart(tour: Tour) -> str:
    """A role in one tenant is none in another, and a call must name its tenant."""
    other = await tour.first.command("order", "order-1", _order(), _in(tour, "globex"))
    expect(other, 403, "TENANT_FORBIDDEN")
    none = expect(await tour.first.command("order", "order-1", _order(), tour.ada), 400)
    return f"in globex: {other}; without x-tenant-id: {none}"


async def replica_killed(tour: Tour) -> str:
    """A replica is killed under load: nothing is lost, and sessions live on in its successor."""
    victim = tour.where().replicas[0]
    restarted = asyncio.Event()
    accepted = 0

    async def load() -> None:
        nonlocal accepted
        while not restarted.is_set():
            order_id = f"order-{accepted + 2}"
            answer = await tour.second.command("order", order_id, _order(), _in(tour, "acme"))
            expect(answer, 200)
            accepted += 1
            await asyncio.sleep(_LOAD_PAUSE_S)

    async with asyncio.TaskGroup() as running:
        running.create_task(load())
        os.kill(victim.pid, signal.SIGKILL)
        while tour.where().replicas[0].pid == victim.pid:  # noqa: ASYNC110
            await asyncio.sleep(_POLL_S)
        restarted.set()
    expect(await tour.first.get("/v1/auth/me", tour.ada), 200)
    for api in tour.apis:
        await _wait_orders(api, _in(tour, "acme"), accepted + 1)
    return f"{accepted} commands meanwhile, all accepted and found; the session: 200 on the new one"


async def sign_out(tour: Tour) -> str:
    """Signing out on one replica ends the access token on the other."""
    out = expect(await tour.first.post("/v1/auth/signout", {"all": False}, tour.ada), 204)
    after = As(token=tour.ada.token, min_revision=out.revision)
    refused = expect(await tour.second.get("/v1/auth/me", after), 401, "TOKEN_INVALID")
    session = {"refresh_token": tour.refresh_token}
    void = expect(await tour.second.post("/v1/auth/refresh", session), 401, "REFRESH_INVALID")
    return f"the access token: {refused}; the refresh token: {void}"


Step = Callable[[Tour], Awaitable[str]]

STEPS: tuple[Step, ...] = (
    sign_up,
    verify,
    sign_in_once,
    refresh_elsewhere,
    no_member_no_command,
    role_given,
    command,
    command_again,
    query,
    stranger_denied,
    tenants_apart,
    replica_killed,
    sign_out,
)


@dataclass(frozen=True, slots=True)
class Shown:
    """One step that was taken: what it is to show, and what was seen or what went wrong."""

    title: str
    seen: str
    held: bool


async def take(where: Callable[[], Running], on_step: Callable[[Shown], None]) -> bool:
    """Take the tour of a running stack; whether every step held."""
    async with aiohttp.ClientSession() as http:
        running = where()
        apis = tuple(Api(http, replica.http) for replica in running.replicas)
        tour = Tour(where, apis, Mailbox(http, running.mail.http))
        for step in STEPS:
            shown = await _shown(step, tour)
            on_step(shown)
            if not shown.held:
                return False
    return True


async def _shown(step: Step, tour: Tour) -> Shown:
    title = (step.__doc__ or "").strip()
    try:
        async with asyncio.timeout(_STEP_DEADLINE_S):
            return Shown(title, await step(tour), held=True)
    except BaseExceptionGroup as group:
        problems, rest = group.split(_PROBLEMS)
        if problems is None or rest is not None:
            raise
        return Shown(title, "; ".join(str(each) for each in problems.exceptions), held=False)
    except _PROBLEMS as problem:
        return Shown(title, str(problem) or "it took too long", held=False)


async def _wait_orders(api: Api, caller: As, expected: int) -> None:
    """Return once the read side, which follows the write side, counts so many orders' events."""
    total = -1
    try:
        async with asyncio.timeout(_READ_SIDE_DEADLINE_S):
            while total != expected:
                answer = await api.query("counts", {"aggregate_type": "order"}, caller)
                total = expect(answer, 200).body["total"]
                await asyncio.sleep(_POLL_S)
    except TimeoutError:
        raise StepFailedError(f"{expected} events were written, {total} are read") from None


def _order() -> dict[str, object]:
    return {
        "command_id": str(uuid.uuid4()),
        "command_type": "order.place",
        "payload": {"item": "book", "quantity": 2},
    }


def _in(tour: Tour, tenant: str) -> As:
    return As(token=tour.ada.token, tenant=tenant)
