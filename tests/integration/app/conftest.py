"""A world in one process: NATS, two replicas, one node of each kind, and an SMTP sink.

Most tests share one world, each with users and tenants of its own; what breaks things gets a
world for itself. All of them run on one event loop, that of the session.
"""

from __future__ import annotations

import asyncio
import email
import email.policy
import json
import logging
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from contextvars import ContextVar, copy_context
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest
import pytest_asyncio
from aiohttp import web
from aiosmtpd.smtp import SMTP, Envelope
from harness.clock import PutForwardClock
from nats.aio.msg import Msg

from tidegate import app as replica_app
from tidegate.app import App
from tidegate.config import Settings
from tidegate.devstack.nats_server import NatsServer
from tidegate.kernel.ids import new_id
from tidegate.observability.logs import JsonFormatter
from tidegate.store import reading, schema
from tidegate.store.bucket import Done
from tidegate.store.connection import connect
from tidegate.store.consumer import Consumer
from tidegate.store.keyring import new_ring_text
from tidegate.store.lease import Lease
from tidegate.wire.aggregate.gateway.v1 import command_pb2_grpc
from tidegate.wire.aggregate.gateway.v1.command_pb2 import (
    Event,
    SubmitCommandRequest,
    SubmitCommandResponse,
)

HOST = "127.0.0.1"
DEADLINE_S = 20.0
# So long that no outage outlasts it by itself, on however slow a machine.
LEASE_S = 60
PASSWORD = "a long enough passphrase"
ADMIN = "admin@example.org"


# The replica whose code is running, and by how much the feed of which one is late.
AT_WORK: ContextVar[int] = ContextVar("AT_WORK", default=0)
LATE_S: dict[int, float] = {}


@dataclass(frozen=True)
class Answer:
    """An HTTP answer, read whole."""

    status: int
    headers: dict[str, str]
    raw: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.raw)

    @property
    def code(self) -> str:
        return str(self.json["code"])


@dataclass(frozen=True)
class User:
    """Somebody who has signed in."""

    id: str
    email: str
    password: str
    access_token: str
    refresh_token: str
    session_id: str

    @property
    def bearer(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.access_token}"}


async def eventually(condition: Callable[[], bool | Awaitable[bool]]) -> None:
    """Waits, with a deadline, until the condition holds."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            found = condition()
            if (found if isinstance(found, bool) else await found) is True:
                return
            await asyncio.sleep(0.01)


class Sink:
    """An SMTP server that keeps what it gets."""

    def __init__(self) -> None:
        self.mails: list[tuple[str, str]] = []
        self.port = 0

    async def handle_DATA(self, _: object, __: object, envelope: Envelope) -> str:  # noqa: N802
        content = envelope.content or b""
        raw = content if isinstance(content, bytes) else content.encode()
        message = email.message_from_bytes(raw, policy=email.policy.default)
        text = message.get_content().replace("\r\n", "\n")
        self.mails.append((str(message["To"]), text))
        return "250 OK"

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: SMTP(self, enable_SMTPUTF8=True), HOST, 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield
        finally:
            server.close()
            await server.wait_closed()

    def to(self, address: str) -> list[str]:
        return [text for recipient, text in self.mails if recipient == address]

    async def token_for(self, address: str, count: int = 1) -> str:
        """The token in the `count`th mail to `address`."""
        await eventually(lambda: len(self.to(address)) >= count)
        found = re.search(r"^Your token: (\S+)$", self.to(address)[count - 1], re.MULTILINE)
        assert found is not None
        return found[1]


class Aggregate(command_pb2_grpc.CommandServiceServicer):
    """An aggregate node that records what it is sent and answers with one event."""

    def __init__(self) -> None:
        self.port = 0
        self.calls: list[tuple[SubmitCommandRequest, dict[str, list[str]]]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.abort: tuple[grpc.StatusCode, str] | None = None

    async def SubmitCommand(  # noqa: N802
        self, request: SubmitCommandRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> SubmitCommandResponse:
        metadata: dict[str, list[str]] = {}
        for key, value in context.invocation_metadata() or ():
            metadata.setdefault(key, []).append(str(value))
        self.calls.append((request, metadata))
        await self.gate.wait()
        if self.abort is not None:
            await context.abort(*self.abort)
        event = Event(event_id=new_id(), event_type="order.placed", version=1)
        event.payload.update({"of": request.aggregate_id, "amount": 5})
        return SubmitCommandResponse(command_id=request.command_id, events=[event], version=1)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        server = grpc.aio.server()
        command_pb2_grpc.add_CommandServiceServicer_to_server(self, server)  # type: ignore[no-untyped-call]
        self.port = server.add_insecure_port(f"{HOST}:0")
        await server.start()
        try:
            yield
        finally:
            await server.stop(0)


class Projection:
    """A projection node that records what it is sent."""

    def __init__(self) -> None:
        self.port = 0
        self.calls: list[tuple[str, list[tuple[str, str]], bytes]] = []
        self.answer: tuple[int, dict[str, str], bytes] = (200, {}, b'{"rows": []}')

    async def _query(self, request: web.Request) -> web.Response:
        headers = [(name.lower(), value) for name, value in request.headers.items()]
        self.calls.append((request.path_qs, headers, await request.read()))
        status, extra, body = self.answer
        return web.Response(
            status=status, body=body, headers={"content-type": "application/json", **extra}
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", self._query)
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, HOST, 0)
        await site.start()
        self.port = runner.addresses[0][1]
        try:
            yield
        finally:
            await runner.cleanup()


@dataclass
class World:
    """Everything that runs, and how to talk to it."""

    folder: Path
    nats: NatsServer
    sink: Sink
    aggregate: Aggregate
    projection: Projection
    http: aiohttp.ClientSession
    settings: list[Settings]
    apps: list[App] = field(default_factory=list)
    runs: list[asyncio.Task[None]] = field(default_factory=list)
    admin: User = field(init=False)
    newest: dict[str, int] = field(default_factory=dict)
    clock: PutForwardClock = field(default_factory=PutForwardClock)
    shared: dict[tuple[tuple[str, str], ...], User] = field(default_factory=dict)

    def url(self, path: str, replica: int = 0) -> str:
        return f"http://{HOST}:{self.settings[replica].http.port}{path}"

    async def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        as_: User | None = None,
        replica: int = 0,
        headers: dict[str, str] | list[tuple[str, str]] | None = None,
        data: Any = None,
    ) -> Answer:
        """Like a good client: names the newest revision that it was told of, per bucket."""
        sent = [*(headers.items() if isinstance(headers, dict) else headers or ())]
        if "x-tidegate-min-revision" not in dict(sent):
            sent += [("x-tidegate-min-revision", f"{b}:{n}") for b, n in self.newest.items()]
        if as_ is not None:
            sent += as_.bearer.items()
        if body is not None:
            data = json.dumps(body).encode()
            sent.append(("content-type", "application/json"))
        request = self.http.request(
            method,
            self.url(path, replica),
            data=data,
            headers=sent,
            allow_redirects=False,
            skip_auto_headers=("content-type",),
        )
        async with request as answer:
            raw = await answer.read()
            found = {name.lower(): value for name, value in answer.headers.items()}
        bucket, _, sequence = found.get("x-tidegate-revision", "").partition(":")
        # No view follows a refresh: its revision is reached by the next heartbeat only.
        if bucket and not path.endswith("/refresh"):
            self.newest[bucket] = max(self.newest.get(bucket, 0), int(sequence))
        return Answer(answer.status, found, raw)

    async def post(self, path: str, body: Any, **how: Any) -> Answer:
        return await self.call("POST", path, body, **how)

    async def sign_up(self, address: str, password: str = PASSWORD, name: str = "Ada") -> str:
        """Makes a verified account; its id."""
        body = {"email": address, "password": password, "display_name": name}
        made = await self.post("/v1/auth/signup", body)
        assert made.status == 202, made
        verified = await self.post(
            "/v1/auth/verify-email", {"token": await self.sink.token_for(address)}
        )
        assert verified.status == 204, verified
        user = await self.sign_in(address, password)
        return user.id

    async def sign_in(self, address: str, password: str = PASSWORD, replica: int = 0) -> User:
        body = {"email": address, "password": password}
        answer = await self.post("/v1/auth/signin", body, replica=replica)
        assert answer.status == 200, answer
        tokens = answer.json
        bearer = {"authorization": f"Bearer {tokens['access_token']}"}
        me = await self.call("GET", "/v1/auth/me", headers=bearer, replica=replica)
        return User(
            me.json["id"],
            address,
            password,
            tokens["access_token"],
            tokens["refresh_token"],
            tokens["session_id"],
        )

    async def user(self, **roles: str) -> User:
        """A fresh user, with a role in each named tenant."""
        address = f"user-{new_id()[-12:]}@example.org"
        user_id = await self.sign_up(address)
        for tenant, role in roles.items():
            await self.assign(user_id, tenant, role)
        return await self.sign_in(address)

    async def someone(self, **roles: str) -> User:
        """A user with these roles that several tests share, and leave as it is."""
        known = tuple(sorted(roles.items()))
        if known not in self.shared:
            self.shared[known] = await self.user(**roles)
        return self.shared[known]

    async def assign(self, user_id: str, tenant: str | None, role: str) -> Answer:
        body = {"principal_id": user_id, "tenant_id": tenant, "role_id": role}
        made = await self.post("/admin/iam/assignments", body, as_=self.admin)
        assert made.status == 201, made
        return made

    async def tenant(self, tenant: str, *, placed: bool = True) -> None:
        """A tenant that is placed on the nodes of this world."""
        body = {"id": tenant, "name": tenant.title()}
        made = await self.post("/admin/iam/tenants", body, as_=self.admin)
        assert made.status == 201, made
        if placed:
            document = {
                "aggregate_placement": {tenant: "s1"},
                "projection_placement": {tenant: "s1"},
            }
            applied = await self.post("/admin/routing/apply", document, as_=self.admin)
            assert applied.status == 200, applied

    async def submit(self, user: User, tenant: str, replica: int = 0) -> Answer:
        """One command that a member may send."""
        return await self.post(
            "/v1/commands/order/o-1",
            {"command_type": "order.place"},
            as_=user,
            replica=replica,
            headers={"x-tenant-id": tenant},
        )

    async def start_replica(self, place: int) -> None:
        app = App(self.settings[place], self.clock)
        ready = asyncio.Event()
        # Whatever it does is done in this context, and so known as its doing.
        context = copy_context()
        context.run(AT_WORK.set, place)
        run = asyncio.create_task(app.run(ready.set), context=context)
        self.apps.append(app)
        self.runs.append(run)
        waiting = asyncio.create_task(ready.wait())
        await asyncio.wait({run, waiting}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if run.done():
            await run

    async def crash_replica(self, place: int) -> None:
        """Ends it without a word: its lease stays."""

        async def nothing(_: Lease) -> None:
            pass

        del self.apps[place]
        run = self.runs.pop(place)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Lease, "_leave", nothing)
            run.cancel()
            async with asyncio.timeout(DEADLINE_S):
                await asyncio.wait({run})

    async def leases(self) -> list[str]:
        """The lease set: who may be serving."""
        async with connect(self.settings[0].nats, "reader") as connection:
            found = await reading.snapshot(connection, "iam", ["$KV.iam.replica.*"])
        return [message.subject for message in found.messages if message.payload]

    async def all_ready(self) -> None:
        """Waits until every replica may decide."""

        async def ready(replica: int) -> bool:
            return (await self.call("GET", "/ready", replica=replica)).status == 200

        for replica in range(len(self.apps)):
            await eventually(partial(ready, replica))

    async def stop_replicas(self) -> None:
        for app in self.apps:
            app.stop()
        async with asyncio.timeout(DEADLINE_S):
            await asyncio.gather(*self.runs)


def free_port() -> int:
    with socket.create_server((HOST, 0)) as listener:
        return int(listener.getsockname()[1])


def make_settings(folder: Path, nats: NatsServer, smtp_port: int) -> Settings:
    """One replica's settings: cheap hashes, no drain delay, the world's NATS and mail."""
    for name in ("wrapping-keys", "peppers"):
        if not (folder / name).exists():
            (folder / name).write_text(new_ring_text("k1"))
    return Settings.model_validate(
        {
            "nats": {
                "servers": [nats.url],
                "replicas": 1,
                "request_timeout_s": 2.0,
                "commit_deadline_s": 4.0,
                "lease": {"ttl_s": LEASE_S},
                "wrapping_keys_file": folder / "wrapping-keys",
                "peppers_file": folder / "peppers",
            },
            "http": {"port": free_port(), "min_revision_wait_s": 1.0, "max_body_bytes": 65536},
            "identity": {
                "password": {"memory_kib": 8, "iterations": 1, "threads": 2, "queue": 64},
                "mail": {"port": smtp_port, "security": "none", "sender": "gw@example.org"},
            },
            "sessions": {"issuer": "https://gateway.example.org"},
            "stop": {"drain_delay_s": 0, "finish_within_s": 10},
        }
    )


@asynccontextmanager
async def a_world(folder: Path, replicas: int) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        nats = NatsServer(folder / "nats")
        await nats.start()
        stack.push_async_callback(nats.stop)
        sink, aggregate, projection = Sink(), Aggregate(), Projection()
        for part in (sink, aggregate, projection):
            await stack.enter_async_context(part.running())
        settings = [make_settings(folder, nats, sink.port) for _ in range(replicas)]
        migrations = schema.load_migrations(schema.migrations_folder())
        async with connect(settings[0].nats, "test") as connection:
            await schema.migrate(connection, settings[0].nats, migrations)
        made = await replica_app.bootstrap_admin(settings[0], ADMIN, PASSWORD)
        assert isinstance(made, Done), made
        http = await stack.enter_async_context(
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=DEADLINE_S))
        )
        world = World(folder, nats, sink, aggregate, projection, http, settings)
        stack.push_async_callback(world.stop_replicas)
        for place in range(replicas):
            await world.start_replica(place)
        world.admin = await world.sign_in(ADMIN)
        shards = {
            "aggregate_shards": {"s1": [f"grpc://{HOST}:{aggregate.port}"]},
            "projection_shards": {"s1": [f"http://{HOST}:{projection.port}"]},
        }
        applied = await world.post("/admin/routing/apply", shards, as_=world.admin)
        assert applied.status == 200, applied
        for tenant in ("acme", "globex"):
            await world.tenant(tenant)
        yield world


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def shared_world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    async with a_world(tmp_path_factory.mktemp("world"), replicas=2) as made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def world(shared_world: World) -> World:
    """The world that tests share: two replicas, tenants acme and globex, a platform admin.

    Its loop stands still while tests of other modules run, and its leases end meanwhile.
    """
    await shared_world.all_ready()
    return shared_world


@pytest.fixture(scope="session", autouse=True)
def feeds_that_can_be_late() -> Iterator[None]:
    receive = Consumer._receive

    async def receive_late(consumer: Consumer, message: Msg) -> None:
        await asyncio.sleep(LATE_S.get(AT_WORK.get(), 0))
        await receive(consumer, message)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Consumer, "_receive", receive_late)
        yield


@pytest.fixture
def late_feed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has it show when nothing waits for replica 1: it hears of changes after the next request."""
    monkeypatch.setitem(LATE_S, 1, 0.05)


@pytest_asyncio.fixture(loop_scope="session")
async def own_world(tmp_path: Path) -> AsyncIterator[World]:
    """A world with one replica, for one test alone."""
    async with a_world(tmp_path, replicas=1) as made:
        yield made


@pytest_asyncio.fixture(loop_scope="session")
async def own_pair(tmp_path: Path) -> AsyncIterator[World]:
    """A world with two replicas, for one test alone."""
    async with a_world(tmp_path, replicas=2) as made:
        yield made


class LogLines(logging.Handler):
    """Every line as it would be written, from the least severe level on."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.setFormatter(JsonFormatter("test"))
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        # The sink of these tests logs the mails that it gets.
        if not record.name.startswith("mail."):
            self.lines.append(self.format(record))

    def of(self, request_id: str) -> list[dict[str, Any]]:
        """Our own lines about one request."""
        parsed = (json.loads(line) for line in self.lines)
        return [
            line
            for line in parsed
            if line.get("request_id") == request_id and line["logger"].startswith("tidegate")
        ]


@pytest.fixture
def log_lines() -> Iterator[LogLines]:
    root, handler = logging.getLogger(), LogLines()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield handler
    root.setLevel(level)
    root.removeHandler(handler)
