"""The demo projection node: `python -m tidegate.devstack.nodes.projection`.

Owns the HTTP face of the view: what a query must look like, and its JSON. Every answer tells the
stream sequence it stands at, and `min_position` in a query waits for one.
"""

import argparse
import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import orjson
from aiohttp import web
from nats.aio.msg import Msg

from tidegate.devstack.nodes.connection import connected
from tidegate.devstack.nodes.event_view import EventView
from tidegate.devstack.nodes.events import (
    STREAM,
    AggregateKey,
    MalformedEventError,
    StoredEvent,
)
from tidegate.devstack.nodes.follower import Follower
from tidegate.devstack.nodes.payload import from_struct
from tidegate.devstack.program import Address, address, run
from tidegate.wire.aggregate.gateway.v1.command_pb2 import Event

_MAX_WAIT_S = 2.0
_STOP_GRACE_S = 1.0
_log = logging.getLogger(__name__)

Json = dict[str, Any]


class InvalidQueryError(Exception):
    """The query can never be answered; the message tells the client why."""


class Queries:
    """The views by name, for one request each: synchronous, so each answer is of one position."""

    def __init__(self, view: EventView) -> None:
        self._view = view
        self._by_name: dict[str, Callable[[web.Request, str, Json], Json]] = {
            "counts": self._counts,
            "aggregate": self._aggregate,
            "echo": self._echo,
        }

    def __contains__(self, name: str) -> bool:
        return name in self._by_name

    def answer(self, name: str, request: web.Request, tenant: str, query: Json) -> Json:
        return self._by_name[name](request, tenant, query)

    def _counts(self, _: web.Request, tenant: str, query: Json) -> Json:
        counts = self._view.counts(tenant, _text(query, "aggregate_type"))
        return {"total": sum(item.count for item in counts), "items": counts}

    def _aggregate(self, _: web.Request, tenant: str, query: Json) -> Json:
        key = AggregateKey(tenant, _text(query, "aggregate_type"), _text(query, "aggregate_id"))
        history = self._view.aggregate(key)
        return {"version": history.version, "events": [_event_json(e) for e in history.events]}

    def _echo(self, request: web.Request, _tenant: str, _query: Json) -> Json:
        """Show what the gateway sends to its upstreams."""
        return {"headers": {name.lower(): value for name, value in request.headers.items()}}


class ProjectionApi:
    def __init__(self, follower: Follower, queries: Queries) -> None:
        self._follower = follower
        self._queries = queries

    def application(self) -> web.Application:
        application = web.Application()
        application.router.add_post("/v1/query/{view_type}", self._query)
        application.router.add_get("/health", self._health)
        return application

    async def _query(self, request: web.Request) -> web.Response:
        name = request.match_info["view_type"]
        if name not in self._queries:
            return _json(404, {"error": f"there is no view {name}"})
        try:
            tenant = _tenant(request)
            query = _parse(await request.read())
            async with asyncio.timeout(_MAX_WAIT_S):
                await self._follower.wait_for(_min_position(query))
            answer = self._queries.answer(name, request, tenant, query)
        except InvalidQueryError as error:
            return _json(400, {"error": str(error)})
        except TimeoutError:
            return _json(503, {"error": "not there yet", "position": self._follower.position})
        return _json(200, {"position": self._follower.position, **answer})

    async def _health(self, _: web.Request) -> web.Response:
        ready = self._follower.caught_up
        return _json(200 if ready else 503, {"position": self._follower.position, "ready": ready})


def _tenant(request: web.Request) -> str:
    tenant = request.headers.get("x-tenant-id", "")
    if not tenant:
        raise InvalidQueryError("x-tenant-id is missing")
    return tenant


def _parse(body: bytes) -> Json:
    try:
        query = orjson.loads(body or b"{}")
    except orjson.JSONDecodeError as error:
        raise InvalidQueryError(f"the body is not JSON: {error}") from error
    if not isinstance(query, dict):
        raise InvalidQueryError("the body is not a JSON object")
    return query


def _text(query: Json, name: str) -> str:
    value = query.get(name)
    if not isinstance(value, str) or not value:
        raise InvalidQueryError(f"{name} is missing or not a text")
    return value


def _min_position(query: Json) -> int:
    position = query.get("min_position", 0)
    if type(position) is not int or position < 0:
        raise InvalidQueryError("min_position is not a stream sequence")
    return position


def _event_json(event: Event) -> Json:
    return {
        "event_id": event.event_id,
        "event_type": event.event_type,
        "version": event.version,
        "time": event.time.ToJsonString(),
        "payload": from_struct(event.payload),
    }


def _json(status: int, body: Json) -> web.Response:
    return web.Response(status=status, body=orjson.dumps(body), content_type="application/json")


@asynccontextmanager
async def _listening(api: ProjectionApi, at: Address) -> AsyncIterator[None]:
    runner = web.AppRunner(api.application(), access_log=None, shutdown_timeout=_STOP_GRACE_S)
    await runner.setup()
    try:
        await web.TCPSite(runner, at.host, at.port).start()
        _log.info("projection node listens on %s:%d", *runner.addresses[0][:2])
        yield
    finally:
        await runner.cleanup()


async def serve(nats_urls: Sequence[str], listen: Address) -> None:
    view = EventView()

    def apply(sequence: int, message: Msg) -> None:
        try:
            key = AggregateKey.from_subject(message.subject)
            stored = StoredEvent.decode(sequence, message.data, message.headers)
        except MalformedEventError as error:
            # Not written by the demo node: nobody will ever be able to read it.
            _log.warning("skipped: %s", error)
            return
        view.apply(key, stored.event)

    async with connected(nats_urls, "demo-projection") as client:
        follower = Follower(client, STREAM, apply, view.clear)
        async with _listening(ProjectionApi(follower, Queries(view)), listen):
            await follower.run()


def main() -> None:
    parser = argparse.ArgumentParser(prog="projection", description="The demo projection node.")
    parser.add_argument("--nats", required=True, nargs="+", metavar="URL")
    parser.add_argument("--listen", required=True, type=address, metavar="HOST:PORT")
    arguments = parser.parse_args()
    run(serve(arguments.nats, arguments.listen))


if __name__ == "__main__":
    main()
