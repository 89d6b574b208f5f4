"""The demo aggregate node: `python -m tidegate.devstack.nodes.aggregate`.

Owns the gRPC face: what a request must look like, and which status tells what happened. The
deciding is in `decision`, the storing in `event_log`, the two together in `submission`.
"""

import argparse
import asyncio
import logging
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc
from grpc import StatusCode
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio

from tidegate.devstack.nodes.connection import connected
from tidegate.devstack.nodes.decision import Command, StaleStateError, VersionMismatch
from tidegate.devstack.nodes.event_log import EventLog, EventTooLargeError, LogUnavailableError
from tidegate.devstack.nodes.events import AggregateKey, Cause
from tidegate.devstack.nodes.submission import ContendedError, Recorded, Submission
from tidegate.devstack.program import Address, FatalError, address, run
from tidegate.wire.aggregate.gateway.v1 import command_pb2, command_pb2_grpc

_SERVICE = "aggregate.gateway.v1.CommandService"
# Every wait for the log is inside it; a repeated command is safe, so giving up is too.
_COMMAND_DEADLINE_S = 3.0
_STOP_GRACE_S = 1.0
_MAX_IN_FLIGHT = 1024
_COMMAND_ID = re.compile("[!-~]{1,128}")
_MAX_NAME_BYTES = 256
_log = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[
    command_pb2.SubmitCommandRequest, command_pb2.SubmitCommandResponse
]


class InvalidRequestError(Exception):
    """The request can never be valid; the message tells the client why."""


@dataclass(frozen=True, slots=True)
class Refusal:
    status: StatusCode
    message: str


class CommandService(command_pb2_grpc.CommandServiceServicer):
    def __init__(self, submission: Submission) -> None:
        self._submission = submission
        self._in_flight = 0

    async def SubmitCommand(  # noqa: N802 - named by the contract
        self, request: command_pb2.SubmitCommandRequest, context: Context
    ) -> command_pb2.SubmitCommandResponse:
        metadata = {
            name: value
            for name, value in context.invocation_metadata() or ()
            if isinstance(value, str)
        }
        self._in_flight += 1
        try:
            answer = await self._answer(request, metadata)
        finally:
            self._in_flight -= 1
        if isinstance(answer, Refusal):
            await context.abort(answer.status, answer.message)
        return answer

    async def _answer(
        self, request: command_pb2.SubmitCommandRequest, metadata: dict[str, str]
    ) -> command_pb2.SubmitCommandResponse | Refusal:
        if self._in_flight > _MAX_IN_FLIGHT:
            return Refusal(StatusCode.UNAVAILABLE, "too many commands in flight")
        try:
            key, command = parse(request, metadata)
            async with asyncio.timeout(_COMMAND_DEADLINE_S):
                outcome = await self._submission.submit(key, command)
        except (InvalidRequestError, EventTooLargeError) as error:
            return Refusal(StatusCode.INVALID_ARGUMENT, str(error))
        except (LogUnavailableError, ContendedError, StaleStateError) as error:
            return Refusal(StatusCode.UNAVAILABLE, str(error))
        except TimeoutError:
            return Refusal(StatusCode.UNAVAILABLE, "no decision in time")
        match outcome:
            case VersionMismatch(actual):
                expected = request.expected_version
                return Refusal(
                    StatusCode.ABORTED, f"the aggregate is at version {actual}, not {expected}"
                )
            case Recorded(event, duplicate):
                return command_pb2.SubmitCommandResponse(
                    command_id=request.command_id,
                    events=[event],
                    version=event.version,
                    duplicate=duplicate,
                )


def parse(
    request: command_pb2.SubmitCommandRequest, metadata: dict[str, str]
) -> tuple[AggregateKey, Command]:
    """Turn a request and what the gateway says about it into a command on an aggregate."""
    if not _COMMAND_ID.fullmatch(request.command_id):
        raise InvalidRequestError("command_id is not 1 to 128 visible ASCII characters")
    names = {
        "x-tenant-id": metadata.get("x-tenant-id", ""),
        "command_type": request.command_type,
        "aggregate_type": request.aggregate_type,
        "aggregate_id": request.aggregate_id,
    }
    for name, value in names.items():
        if not 1 <= len(value.encode()) <= _MAX_NAME_BYTES:
            raise InvalidRequestError(f"{name} is missing or longer than {_MAX_NAME_BYTES} bytes")
    key = AggregateKey(names["x-tenant-id"], request.aggregate_type, request.aggregate_id)
    return key, Command(
        command_type=request.command_type,
        payload=request.payload,
        cause=Cause(
            command_id=request.command_id,
            principal_id=metadata.get("x-principal-id", ""),
            principal_kind=metadata.get("x-principal-kind", ""),
            correlation_id=metadata.get("x-correlation-id", ""),
            notes=dict(request.metadata),
        ),
        expected_version=(
            request.expected_version if request.HasField("expected_version") else None
        ),
    )


@asynccontextmanager
async def _listening(submission: Submission, health: object, at: Address) -> AsyncIterator[int]:
    # Without the option a second node would silently share the port.
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    service = CommandService(submission)
    command_pb2_grpc.add_CommandServiceServicer_to_server(service, server)  # type: ignore[no-untyped-call]
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    try:
        port = server.add_insecure_port(str(at))
    except RuntimeError as error:
        raise FatalError(str(error)) from error
    await server.start()
    try:
        yield port
    finally:
        await server.stop(_STOP_GRACE_S)


async def serve(nats_urls: Sequence[str], listen: Address, replicas: int) -> None:
    health = health_aio.HealthServicer()

    async def set_health(up: bool) -> None:
        status = health_pb2.HealthCheckResponse
        for service in ("", _SERVICE):
            await health.set(service, status.SERVING if up else status.NOT_SERVING)

    async def on_change(up: bool) -> None:
        if not up:
            log.disconnected()
        await set_health(up)

    async with connected(nats_urls, "demo-aggregate", on_change) as client:
        log = EventLog(client)
        try:
            await log.open(replicas)
        except LogUnavailableError as error:
            raise FatalError(f"the event log cannot be opened: {error}") from error
        await set_health(True)
        async with _listening(Submission(log), health, listen) as port:
            _log.info("aggregate node listens on %s:%d", listen.host, port)
            try:
                await asyncio.Event().wait()
            finally:
                await health.enter_graceful_shutdown()


def main() -> None:
    parser = argparse.ArgumentParser(prog="aggregate", description="The demo aggregate node.")
    parser.add_argument("--nats", required=True, nargs="+", metavar="URL")
    parser.add_argument("--listen", required=True, type=address, metavar="HOST:PORT")
    parser.add_argument(
        "--replicas", type=int, default=1, metavar="N", help="copies of the event stream"
    )
    arguments = parser.parse_args()
    run(serve(arguments.nats, arguments.listen, arguments.replicas))


if __name__ == "__main__":
    main()
