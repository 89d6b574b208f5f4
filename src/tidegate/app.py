"""The one place where a replica is built: configuration → App → run.

Reads from top to bottom. Every resource is entered on one exit stack, so a start that fails
half way unwinds too; every long-lived part runs in one task group, so when one fails all end.

Stop: `/ready` turns 503 and answers say `Connection: close` → still serving for the drain delay
→ no new connections → requests in flight finish → everything else is closed, in reverse order.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from importlib import resources
from typing import Any

from tidegate import __version__
from tidegate.authz.view import AccessView
from tidegate.config import ConfigError, Settings
from tidegate.edge.http import openapi
from tidegate.edge.http.admin_routes import AdminRoutes
from tidegate.edge.http.auth_routes import AuthRoutes
from tidegate.edge.http.control import Caller, create_app
from tidegate.edge.http.dataplane import DataPlaneRoutes
from tidegate.edge.http.front import Draining, Front
from tidegate.edge.http.routing_routes import RoutingRoutes
from tidegate.edge.http.server import HttpListener
from tidegate.edge.http.system_routes import SystemRoutes, Version
from tidegate.flows.administration import Bootstrap, RoutingAdministration, Tenancy, Users
from tidegate.flows.profile import Profiles
from tidegate.flows.sessions import Sessions
from tidegate.flows.signin import SignIn, TokenIssuer
from tidegate.flows.signup import SignUp
from tidegate.gateway.admission import Admission
from tidegate.gateway.forwarding import Forwarding
from tidegate.identity.accounts import Keys
from tidegate.identity.outbox import Outbox
from tidegate.identity.passwords import Passwords
from tidegate.kernel import errors
from tidegate.kernel.clock import Clock, SystemClock
from tidegate.kernel.errors import Refusal
from tidegate.kernel.ids import PrincipalId
from tidegate.kernel.lifecycle import Ready, start
from tidegate.observability import metrics
from tidegate.principals.view import Principals
from tidegate.routing.view import RoutingView
from tidegate.sessions import keys as signing_keys
from tidegate.sessions.keys import SigningKeyView
from tidegate.sessions.view import RevocationView
from tidegate.store import schema
from tidegate.store.barrier import Barrier, Confirmations, Effect
from tidegate.store.bucket import Bucket, Decision, Done, Read
from tidegate.store.connection import Connection, StoreError, connect
from tidegate.store.follower import Follower
from tidegate.store.keyring import KeyRingError, Peppers, Wrapping, read_ring
from tidegate.store.lease import Lease
from tidegate.store.replicas import ReplicaView
from tidegate.store.views import Progress, View
from tidegate.store.watchdog import Watchdog
from tidegate.upstream.aggregates import Aggregates
from tidegate.upstream.projections import Projections

log = logging.getLogger(__name__)


def read_keys(settings: Settings) -> Keys:
    """The server keys from their files. Raises ConfigError or KeyRingError."""
    wrapping_file, peppers_file = settings.nats.wrapping_keys_file, settings.nats.peppers_file
    if wrapping_file is None or peppers_file is None:
        raise ConfigError("nats.wrapping_keys_file and nats.peppers_file must be set")
    return Keys(Wrapping(read_ring(wrapping_file)), Peppers(read_ring(peppers_file)))


def read_version() -> Version:
    """What is running; a build leaves `_build.json` with its revision and time."""
    found = resources.files("tidegate") / "_build.json"
    build = json.loads(found.read_text()) if found.is_file() else {}
    return Version(
        __version__, build.get("git_revision", "unknown"), build.get("build_time", "unknown")
    )


@dataclass(frozen=True, slots=True)
class Views:
    """What this replica knows, all of it in memory."""

    replicas: ReplicaView
    access: AccessView
    revocations: RevocationView
    signing_keys: SigningKeyView
    routing: RoutingView

    @classmethod
    def empty(cls, keys: Keys, clock: Clock) -> Views:
        return cls(
            ReplicaView(clock),
            AccessView(),
            RevocationView(clock),
            SigningKeyView(keys.wrapping),
            RoutingView(),
        )

    def of_iam(self) -> tuple[View, ...]:
        """The views that follow bucket `iam`."""
        return (self.replicas, self.access, self.revocations, self.signing_keys)


@dataclass(frozen=True, slots=True)
class State:
    """The stored state as this replica reads and changes it."""

    views: Views
    principals: Principals
    lease: Lease
    iam: Bucket
    routing: Bucket
    progress: Mapping[str, Progress]
    feeds: Mapping[str, Follower]
    connection: Connection

    @classmethod
    def build(cls, connection: Connection, views: Views, settings: Settings, clock: Clock) -> State:
        nats = settings.nats
        progress = {name: Progress(clock) for name in ("iam", "routing")}
        lease = Lease(connection, views.replicas, progress, nats.lease, clock)
        principals = Principals(connection, progress["iam"], lambda: lease.key, settings.principals)
        feeds = {
            "iam": Follower(
                connection, "iam", views.of_iam(), progress["iam"], clock, principals.views
            ),
            "routing": Follower(connection, "routing", [views.routing], progress["routing"], clock),
        }
        barrier = Barrier(connection, lease, views.replicas, progress, clock)
        iam, routing = (
            Bucket(connection, name, progress[name], nats.commit_deadline_s, barrier)
            for name in ("iam", "routing")
        )
        return cls(views, principals, lease, iam, routing, progress, feeds, connection)

    def services(self) -> dict[str, Callable[[Ready], Coroutine[Any, Any, None]]]:
        """What must run for the state to be current, by name, in the order of its start."""
        confirmations = Confirmations(self.connection, self.lease.confirms_on, self.progress)
        feeds = {f"feed of {name}": feed.run for name, feed in self.feeds.items()}
        watchdogs = {
            f"watchdog of {name}": Watchdog(self.connection, name, feed).run
            for name, feed in self.feeds.items()
        }
        return {**feeds, **watchdogs, "confirmations": confirmations.run}


class _StoppedEarly(Exception):
    """The stop came before the start was complete."""


@dataclass(frozen=True, slots=True)
class _Running:
    """The tasks of a replica that serves."""

    services: tuple[asyncio.Task[None], ...]
    leasing: asyncio.Task[None]
    serving: asyncio.Task[None]


async def _started(starting: asyncio.Task[_Running]) -> _Running:
    """Raises _StoppedEarly, which ends whatever was started, when the start is not complete."""
    if not starting.done():
        raise _StoppedEarly
    return await starting


class App:
    """One replica. `run` is called once; another App may run after it in the same process."""

    def __init__(self, settings: Settings, clock: Clock | None = None) -> None:
        self._settings = settings
        self._clock = clock or SystemClock()
        self._keys = read_keys(settings)
        self._version = read_version()
        self._draining = Draining()
        self._stop = asyncio.Event()

    def stop(self) -> None:
        """Starts the stop sequence; `run` returns at its end."""
        self._stop.set()

    async def run(self, ready: Ready) -> None:
        """Serves until `stop()`. Raises StoreError or OSError when it cannot start."""
        settings, clock, keys = self._settings, self._clock, self._keys
        metrics.BUILD_INFO.labels(self._version.version, self._version.git_revision).set(1)
        async with AsyncExitStack() as stack:
            connection = await stack.enter_async_context(connect(settings.nats, "tidegate"))
            await schema.check(connection, schema.load_migrations(schema.migrations_folder()))
            passwords = Passwords(settings.identity.password)
            stack.callback(passwords.close)
            rng = random.Random()  # noqa: S311
            aggregates = Aggregates(settings.upstream, clock, rng)
            projections = Projections(settings.upstream, clock, rng)
            forwarding = Forwarding(
                await stack.enter_async_context(aggregates),
                await stack.enter_async_context(projections),
                settings.upstream.total_timeout_s,
            )
            state = State.build(connection, Views.empty(keys, clock), settings, clock)
            # However it ends: others would wait for a replica that failed until its lease is over.
            stack.push_async_callback(state.lease.release)
            front = self._http(state, passwords, forwarding)
            listener = HttpListener(front, settings.http, settings.stop.finish_within_s)
            outbox = Outbox(connection, keys.wrapping, settings.identity.mail)
            try:
                async with asyncio.TaskGroup() as group:
                    stopped = group.create_task(self._stop.wait())
                    starting = group.create_task(self._start(group, state, outbox, listener))
                    await asyncio.wait({starting, stopped}, return_when=asyncio.FIRST_COMPLETED)
                    running = await _started(starting)
                    ready()
                    await stopped
                    await self._wind_down(state, listener, running)
            except* _StoppedEarly:
                log.info("stopped before it was ready")

    async def _start(
        self, group: asyncio.TaskGroup, state: State, outbox: Outbox, listener: HttpListener
    ) -> _Running:
        """Starts everything in its order. What it waits for may never come: stop ends it."""
        services = [await start(group, name, run) for name, run in state.services().items()]
        services.append(await start(group, "outbox", outbox.run))
        await self._first_signing_key(state.iam)
        self._check_signing_keys(state.views)
        leasing = await start(group, "lease", state.lease.run)
        serving = await start(group, "http listener", listener.run)
        return _Running(tuple(services), leasing, serving)

    async def _wind_down(self, state: State, listener: HttpListener, running: _Running) -> None:
        log.info("stopping")
        self._draining.active = True
        await asyncio.sleep(self._settings.stop.drain_delay_s)
        listener.stop()
        await running.serving
        running.leasing.cancel()
        await asyncio.wait({running.leasing})
        await state.lease.release()
        for service in running.services:
            service.cancel()

    async def _first_signing_key(self, iam: Bucket) -> None:
        async def decide(read: Read) -> Decision[str] | Refusal:
            now_s = self._clock.now_s()
            return await signing_keys.create_first(read, self._keys.wrapping, now_s)

        done = await iam.execute(decide, Effect.ADDITION)
        if isinstance(done, Refusal) and done.code is not errors.ALREADY_EXISTS:
            raise StoreError(f"making the first signing key failed: {done.detail}")

    def _check_signing_keys(self, views: Views) -> None:
        """A replica that cannot sign must not look ready: it would refuse every token."""
        if views.signing_keys.active is None:
            raise KeyRingError(
                "the stored signing keys cannot be decrypted: nats.wrapping_keys_file is not "
                "the ring that they were encrypted with"
            )

    def _http(self, state: State, passwords: Passwords, forwarding: Forwarding) -> Front:
        """Everything that HTTP reaches, put together."""
        settings, clock, keys = self._settings, self._clock, self._keys
        iam, routing, views, principals = state.iam, state.routing, state.views, state.principals
        admission = Admission(
            state.lease,
            principals,
            views.access,
            views.revocations,
            views.signing_keys,
            views.routing,
            settings.sessions,
            clock,
        )
        issuer = TokenIssuer(keys, views.signing_keys, settings.sessions, clock)
        caller = Caller(admission)
        control = create_app(clock, settings.http.max_body_bytes)
        auth_routes = AuthRoutes(
            SignUp(iam, passwords, keys, settings.identity, clock),
            SignIn(iam, passwords, keys, issuer, clock),
            Sessions(iam, principals, state.lease, issuer, clock),
            Profiles(iam, keys, principals, clock),
            caller,
        )
        admin_routes = AdminRoutes(
            Tenancy(iam, views.access, principals, clock),
            Users(iam, clock),
            views.access,
            principals,
            caller,
        )
        routing_routes = RoutingRoutes(
            RoutingAdministration(routing, views.routing, clock),
            views.routing,
            routing.progress,
            caller,
        )
        system_routes = SystemRoutes(
            self._version,
            lambda: self._not_ready(state),
            views.signing_keys,
            settings.sessions.jwks_max_age_s,
        )
        control.include_router(auth_routes.router())
        control.include_router(admin_routes.router())
        control.include_router(routing_routes.router())
        control.include_router(system_routes.router(control))
        openapi.complete(control)
        data_plane = DataPlaneRoutes(admission, forwarding, settings.http.max_body_bytes, clock)
        return Front(data_plane, control, state.progress, self._draining, settings.http, clock)

    def _not_ready(self, state: State) -> list[str]:
        reasons = ["draining"] if self._draining.active else []
        if not state.lease.holds():
            reasons.append("the lease has ended: this replica cannot follow the changes")
        for name, feed in state.progress.items():
            metrics.VIEW_LAG_SECONDS.labels(view=name).set(feed.age_s)
        return reasons


@asynccontextmanager
async def operator_bucket(settings: Settings) -> AsyncIterator[Bucket]:
    """Bucket `iam` for one command of an operator: it commits, and follows nothing.

    Raises StoreError.
    """
    async with connect(settings.nats, "tidegate operator") as connection:
        await schema.check(connection, schema.load_migrations(schema.migrations_folder()))
        yield Bucket(connection, "iam", Progress(SystemClock()), settings.nats.commit_deadline_s)


async def bootstrap_admin(
    settings: Settings, email: str, password: str
) -> Done[PrincipalId] | Refusal:
    """Makes the first platform admin. Raises StoreError, ConfigError or KeyRingError."""
    keys = read_keys(settings)
    passwords = Passwords(settings.identity.password)
    try:
        async with operator_bucket(settings) as iam:
            bootstrap = Bootstrap(iam, passwords, keys, settings.identity, SystemClock())
            return await bootstrap.first_admin(email, password)
    finally:
        passwords.close()


async def serve(settings: Settings) -> None:
    """Runs one replica until SIGTERM or SIGINT. Raises like `App.run`."""
    app = App(settings)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, app.stop)
    http = settings.http
    await app.run(lambda: log.info("ready on http://%s:%d", http.host, http.port))
