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
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from importlib import resources

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
from tidegate.flows.administration import Bootstrap, RoutingAdministration, Tenancy
from tidegate.flows.profile import Profiles
from tidegate.flows.sessions import Sessions
from tidegate.flows.signin import SignIn, TokenIssuer
from tidegate.flows.signup import SignUp
from tidegate.gateway.admission import Admission
from tidegate.gateway.forwarding import Forwarding
from tidegate.identity.accounts import Keys
from tidegate.identity.outbox import Outbox
from tidegate.identity.passwords import Passwords
from tidegate.identity.view import UserView
from tidegate.kernel import errors
from tidegate.kernel.clock import Clock, SystemClock
from tidegate.kernel.errors import Refusal
from tidegate.kernel.ids import PrincipalId
from tidegate.kernel.lifecycle import Ready, start
from tidegate.observability import metrics
from tidegate.routing.view import RoutingView
from tidegate.sessions import keys as signing_keys
from tidegate.sessions.keys import SigningKeyView
from tidegate.sessions.view import RevocationView
from tidegate.store import schema
from tidegate.store.bucket import Bucket, Decision, Done, Read
from tidegate.store.connection import StoreError, connect
from tidegate.store.follower import Follower
from tidegate.store.keyring import KeyRingError, Peppers, Wrapping, read_ring
from tidegate.store.views import Progress, View
from tidegate.upstream.aggregates import Aggregates
from tidegate.upstream.projections import Projections

log = logging.getLogger(__name__)

# A view that has heard nothing for this long is too old to be decided from.
VIEW_GRACE_S = 15.0


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
    """What this replica knows."""

    users: UserView
    access: AccessView
    revocations: RevocationView
    signing_keys: SigningKeyView
    routing: RoutingView

    @classmethod
    def empty(cls, keys: Keys, clock: Clock) -> Views:
        return cls(
            UserView(),
            AccessView(),
            RevocationView(clock),
            SigningKeyView(keys.wrapping),
            RoutingView(),
        )

    def of_iam(self) -> tuple[View, ...]:
        """The views that follow bucket `iam`."""
        return (self.users, self.access, self.revocations, self.signing_keys)


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
            views = Views.empty(keys, clock)
            iam_feed = Follower(connection, "iam", views.of_iam(), clock)
            routing_feed = Follower(connection, "routing", [views.routing], clock)
            deadline_s = settings.nats.commit_deadline_s
            iam = Bucket(connection, "iam", iam_feed.progress, deadline_s)
            routing = Bucket(connection, "routing", routing_feed.progress, deadline_s)
            front = self._http(iam, routing, views, passwords, forwarding)
            listener = HttpListener(front, settings.http, settings.stop.finish_within_s)
            outbox = Outbox(connection, keys.wrapping, settings.identity.mail)
            async with asyncio.TaskGroup() as group:
                services = [
                    await start(group, "feed of iam", iam_feed.run),
                    await start(group, "feed of routing", routing_feed.run),
                    await start(group, "outbox", outbox.run),
                ]
                await self._first_signing_key(iam)
                self._check_signing_keys(views)
                serving = await start(group, "http listener", listener.run)
                ready()
                await self._stop.wait()
                log.info("stopping")
                self._draining.active = True
                await asyncio.sleep(settings.stop.drain_delay_s)
                listener.stop()
                await serving
                for service in services:
                    service.cancel()

    async def _first_signing_key(self, iam: Bucket) -> None:
        async def decide(read: Read) -> Decision[str] | Refusal:
            now_s = self._clock.now_s()
            return await signing_keys.create_first(read, self._keys.wrapping, now_s)

        done = await iam.execute(decide)
        if isinstance(done, Refusal) and done.code is not errors.ALREADY_EXISTS:
            raise StoreError(f"making the first signing key failed: {done.detail}")

    def _check_signing_keys(self, views: Views) -> None:
        """A replica that cannot sign must not look ready: it would refuse every token."""
        if views.signing_keys.active is None:
            raise KeyRingError(
                "the stored signing keys cannot be decrypted: nats.wrapping_keys_file is not "
                "the ring that they were encrypted with"
            )

    def _http(
        self,
        iam: Bucket,
        routing: Bucket,
        views: Views,
        passwords: Passwords,
        forwarding: Forwarding,
    ) -> Front:
        """Everything that HTTP reaches, put together."""
        settings, clock, keys = self._settings, self._clock, self._keys
        admission = Admission(
            views.users,
            views.access,
            views.revocations,
            views.signing_keys,
            views.routing,
            settings.sessions,
            clock,
        )
        progress = {bucket.name: bucket.progress for bucket in (iam, routing)}
        issuer = TokenIssuer(keys, views.signing_keys, settings.sessions, clock)
        caller = Caller(admission)
        control = create_app(clock, settings.http.max_body_bytes)
        auth_routes = AuthRoutes(
            SignUp(iam, passwords, keys, settings.identity, clock),
            SignIn(iam, passwords, keys, issuer, clock),
            Sessions(iam, views.users, issuer, clock),
            Profiles(iam, keys, views.access, clock),
            caller,
        )
        admin_routes = AdminRoutes(Tenancy(iam, views.access, clock), views.access, caller)
        routing_routes = RoutingRoutes(
            RoutingAdministration(routing, views.routing, clock),
            views.routing,
            routing.progress,
            caller,
        )
        system_routes = SystemRoutes(
            self._version,
            lambda: self._not_ready(progress),
            views.signing_keys,
            settings.sessions.jwks_max_age_s,
        )
        control.include_router(auth_routes.router())
        control.include_router(admin_routes.router())
        control.include_router(routing_routes.router())
        control.include_router(system_routes.router(control))
        openapi.complete(control)
        data_plane = DataPlaneRoutes(admission, forwarding, settings.http.max_body_bytes, clock)
        return Front(data_plane, control, progress, self._draining, settings.http, clock)

    def _not_ready(self, progress: Mapping[str, Progress]) -> list[str]:
        reasons = ["draining"] if self._draining.active else []
        for name, feed in progress.items():
            metrics.VIEW_LAG_SECONDS.labels(view=name).set(feed.age_s)
            if feed.age_s > VIEW_GRACE_S:
                reasons.append(f"the feed of {name} has been silent for {feed.age_s:.0f} s")
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
