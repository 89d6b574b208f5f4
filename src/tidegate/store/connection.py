"""The one NATS connection of a replica.

Writes are never buffered: while disconnected a publish fails at once, because a write that
the client library sends later, after its caller gave up, would be applied unasked. Driver
exceptions are translated here and nowhere else.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

import nats.errors
import nats.js.errors
import orjson
from nats.aio.client import Client
from nats.aio.msg import Msg

from tidegate.observability import metrics
from tidegate.store.settings import Settings

log = logging.getLogger(__name__)

MINIMUM_SERVER = (2, 12)
_PING_INTERVAL_S = 2
_HEADER_BYTES = 16
_PROBLEMS_TOLD = 4
_RECONNECT_WAIT_S = 0.1
_NO_RESPONDERS = "503"


class StoreError(Exception):
    """JetStream did not do what was asked."""


class Disconnected(StoreError):
    """Nothing was sent."""


class AnswerLost(StoreError):
    """It was sent; whether it was done is not known."""


class ApiError(StoreError):
    """JetStream answered with an error of its own."""

    def __init__(self, code: int, err_code: int, description: str) -> None:
        super().__init__(f"{description} ({err_code})")
        self.code = code
        self.err_code = err_code


class Connection:
    """Requests, publishes and subscriptions, with our errors and explicit time limits."""

    def __init__(self, client: Client, request_timeout_s: float) -> None:
        self._client = client
        self.request_timeout_s = request_timeout_s
        self._on_reconnect: list[Callable[[], None]] = []
        self._waiting: set[asyncio.Timeout] = set()

    @property
    def connected(self) -> bool:
        return self._client.is_connected

    @property
    def closed(self) -> bool:
        """Whether it is over for good: closed by us, or by an error the client gives up on."""
        return self._client.is_closed

    @contextmanager
    def reconnects(self, call: Callable[[], None]) -> Iterator[None]:
        """Has `call` called after each reconnect, for the length of the block."""
        self._on_reconnect.append(call)
        try:
            yield
        finally:
            self._on_reconnect.remove(call)

    def reconnected(self) -> None:
        for call in list(self._on_reconnect):
            call()

    def disconnected(self) -> None:
        """Ends every wait for an answer: what was asked over a lost connection is not answered."""
        now = asyncio.get_running_loop().time()
        for waiting in self._waiting:
            if not waiting.expired():
                waiting.reschedule(now)

    @asynccontextmanager
    async def _answer_within(self, timeout_s: float) -> AsyncIterator[None]:
        """Raises AnswerLost when the block takes longer, or the connection is lost meanwhile.

        The client's own timeout is `asyncio.wait_for`, which up to Python 3.11 swallows a
        cancellation that comes together with the answer; and it waits on when disconnected.
        """
        try:
            async with asyncio.timeout(timeout_s) as waiting:
                self._waiting.add(waiting)
                try:
                    yield
                finally:
                    self._waiting.discard(waiting)
        except TimeoutError as exc:
            why = f"no answer within {timeout_s} s" if self.connected else "disconnected"
            raise AnswerLost(why) from exc

    def new_inbox(self) -> str:
        return self._client.new_inbox()

    async def request(
        self,
        subject: str,
        payload: bytes = b"",
        headers: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
    ) -> Msg:
        """Raises Disconnected (not sent), AnswerLost (perhaps done), or ValueError (unsendable)."""
        timeout = self.request_timeout_s if timeout_s is None else timeout_s
        self.check_size(payload, headers)
        try:
            async with self._answer_within(timeout):
                return await self._client.request(
                    subject,
                    payload,
                    timeout=None,  # type: ignore[arg-type]
                    headers=dict(headers) if headers else None,
                )
        except nats.errors.BadSubjectError as exc:
            raise ValueError("not a subject to publish to") from exc
        except nats.errors.NoRespondersError as exc:
            raise Disconnected(f"nobody answers on {subject.partition('.')[0]}") from exc
        except (nats.errors.Error, OSError) as exc:
            raise Disconnected(str(exc) or type(exc).__name__) from exc

    async def collect(self, subject: str, payload: bytes) -> list[Msg]:
        """Asks once and gathers the answers, up to and with the first that is a status.

        Raises Disconnected or AnswerLost.
        """
        inbox = self.new_inbox()
        answers: list[Msg] = []
        complete = asyncio.Event()

        async def receive(answer: Msg) -> None:
            answers.append(answer)
            if answer.headers and "Status" in answer.headers:
                complete.set()

        async with self.subscription(inbox, receive):
            await self.publish(subject, payload, reply=inbox)
            async with self._answer_within(self.request_timeout_s):
                await complete.wait()
        if (answers[-1].headers or {})["Status"] == _NO_RESPONDERS:
            raise Disconnected("no JetStream answers")
        return answers

    async def publish(
        self,
        subject: str,
        payload: bytes = b"",
        headers: Mapping[str, str] | None = None,
        reply: str = "",
    ) -> None:
        """Raises Disconnected, or ValueError (unsendable)."""
        self.check_size(payload, headers)
        try:
            await self._client.publish(
                subject, payload, reply=reply, headers=dict(headers) if headers else None
            )
        except nats.errors.BadSubjectError as exc:
            raise ValueError("not a subject to publish to") from exc
        except (nats.errors.Error, OSError) as exc:
            raise Disconnected(str(exc) or type(exc).__name__) from exc

    def check_size(self, payload: bytes, headers: Mapping[str, str] | None) -> None:
        """Raises ValueError for a message over the server's limit.

        The server closes the connection over such a message, and the client, which counts the
        payload alone, then never connects again.
        """
        size = len(payload) + _HEADER_BYTES
        for name, value in (headers or {}).items():
            size += len(name) + len(value) + len(": \r\n")
        if size > self._client.max_payload:
            raise ValueError(f"a message of {size} bytes is more than the server takes")

    async def api(
        self, subject: str, body: object = None, timeout_s: float | None = None
    ) -> dict[str, Any]:
        """One call of the JetStream API. Raises ApiError when it answers with an error."""
        payload = b"" if body is None else orjson.dumps(body)
        answer = await self.request(f"$JS.API.{subject}", payload, timeout_s=timeout_s)
        return checked(answer.data)

    @asynccontextmanager
    async def subscription(
        self, subject: str, on_message: Callable[[Msg], Awaitable[None]]
    ) -> AsyncIterator[None]:
        """Subscribes for the length of the block; messages are handed on one at a time."""
        try:
            subscription = await self._client.subscribe(
                subject,
                cb=on_message,
                pending_msgs_limit=1_000_000,
                pending_bytes_limit=512 * 1024 * 1024,
            )
        except (nats.errors.Error, OSError) as exc:
            raise Disconnected(str(exc) or type(exc).__name__) from exc
        try:
            yield
        finally:
            try:
                await subscription.unsubscribe()
            except (nats.errors.Error, OSError) as exc:
                log.debug("unsubscribe: %s", exc)

    async def close(self) -> None:
        # A client that was given no address it can read has nothing to close, and asserts so;
        # one that is cut off fails to send the rest of what it had to say.
        with suppress(AssertionError, OSError):
            await self._client.close()


def checked(payload: bytes) -> dict[str, Any]:
    """A JetStream answer as a dictionary. Raises ApiError for an error, StoreError for noise."""
    try:
        answer = orjson.loads(payload)
    except orjson.JSONDecodeError as exc:
        raise StoreError("JetStream answered with something that is not JSON") from exc
    if not isinstance(answer, dict):
        raise StoreError("JetStream answered with something that is not an object")
    error = answer.get("error")
    if error:
        raise ApiError(
            error.get("code", 0), error.get("err_code", 0), error.get("description", "error")
        )
    return answer


@asynccontextmanager
async def connect(settings: Settings, name: str) -> AsyncIterator[Connection]:
    """Connects for the length of the block.

    Raises Disconnected when no server answers within the request timeout, and StoreError when
    the server is too old for atomic batches.
    """
    client = Client()
    connection = Connection(client, settings.request_timeout_s)
    problems: list[str] = []

    async def on_error(exc: Exception) -> None:
        problem = str(exc) or type(exc).__name__
        if problem not in problems and len(problems) < _PROBLEMS_TOLD:
            problems.append(problem)
        metrics.NATS_ERRORS.inc()
        log.debug("nats: %s", exc)

    async def on_reconnect() -> None:
        metrics.NATS_RECONNECTS.inc()
        log.info("connected to NATS again")
        connection.reconnected()

    async def on_disconnect() -> None:
        if not client.is_closed:
            log.warning("lost the connection to NATS")
        connection.disconnected()

    options = _credentials(settings)
    try:
        try:
            async with asyncio.timeout(settings.request_timeout_s * 3):
                await client.connect(
                    list(settings.servers),
                    name=name,
                    inbox_prefix="_INBOX_TIDEGATE",
                    max_reconnect_attempts=-1,
                    reconnect_time_wait=_RECONNECT_WAIT_S,  # type: ignore[arg-type]  # seconds, any number
                    connect_timeout=max(1, round(settings.request_timeout_s)),
                    ping_interval=_PING_INTERVAL_S,
                    max_outstanding_pings=2,
                    pending_size=0,
                    error_cb=on_error,
                    reconnected_cb=on_reconnect,
                    disconnected_cb=on_disconnect,
                    **options,
                )
        except (TimeoutError, nats.errors.Error, OSError) as exc:
            where = ", ".join(_without_password(server) for server in settings.servers)
            why = "; ".join(problems) or str(exc) or "no answer"
            raise Disconnected(f"no NATS server lets us in at {where}: {why}") from exc
        _check_version(client)
        yield connection
    finally:
        await connection.close()


def _check_version(client: Client) -> None:
    version = client.connected_server_version
    if (version.major, version.minor) < MINIMUM_SERVER:
        wanted = ".".join(map(str, MINIMUM_SERVER))
        raise StoreError(f"NATS server {version} is too old: tidegate needs {wanted} or newer")


def _without_password(server: str) -> str:
    scheme, _, rest = server.rpartition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}" if scheme else rest.rpartition("@")[2]


def _credentials(settings: Settings) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if settings.user is not None:
        options["user"] = settings.user
    if settings.password_file is not None:
        options["password"] = settings.password_file.read_text().strip()
    if settings.credentials_file is not None:
        options["user_credentials"] = str(settings.credentials_file)
    if settings.nkey_seed_file is not None:
        options["nkeys_seed"] = str(settings.nkey_seed_file)
    if settings.ca_file is not None:
        context = ssl.create_default_context(cafile=str(settings.ca_file))
        if settings.certificate_file is not None:
            context.load_cert_chain(str(settings.certificate_file), settings.key_file)
        options["tls"] = context
    return options
