"""Commands to aggregate nodes, over gRPC.

A command may be sent again: nodes apply a `command_id` once. So a lost connection or an
UNAVAILABLE is tried elsewhere, with the very same bytes. What a node answers with ABORTED,
FAILED_PRECONDITION or INVALID_ARGUMENT is a word of the domain and is passed on; every other
status is the platform's affair, and its text stays here.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Mapping, Sequence
from types import MappingProxyType, TracebackType
from typing import Self

import grpc
from google.protobuf.message import DecodeError

from tidegate.kernel import errors
from tidegate.kernel.clock import Clock
from tidegate.kernel.errors import Code, Refusal
from tidegate.routing.model import Endpoint, ServiceKind
from tidegate.upstream.call import CallContext, metadata
from tidegate.upstream.caller import DEADLINE, UPSTREAM_FAILED, Caller
from tidegate.upstream.channels import Channels
from tidegate.upstream.retry import Failed
from tidegate.upstream.settings import Settings
from tidegate.wire.aggregate.gateway.v1.command_pb2 import (
    SubmitCommandRequest,
    SubmitCommandResponse,
)

log = logging.getLogger(__name__)

_METHOD = "/aggregate.gateway.v1.CommandService/SubmitCommand"
_MAX_DETAIL = 512
_DOMAIN_ANSWERS: Mapping[grpc.StatusCode, Code] = MappingProxyType(
    {
        grpc.StatusCode.ABORTED: errors.VERSION_CONFLICT,
        grpc.StatusCode.FAILED_PRECONDITION: errors.COMMAND_REJECTED,
        grpc.StatusCode.INVALID_ARGUMENT: errors.COMMAND_INVALID,
    }
)


class Aggregates:
    """The aggregate nodes; an async context manager that closes its connections."""

    def __init__(self, settings: Settings, clock: Clock, rng: random.Random) -> None:
        self._caller: Caller[SubmitCommandResponse] = Caller(
            ServiceKind.AGGREGATE, settings, clock, rng
        )
        self._channels = Channels(settings)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._channels.aclose()

    async def submit(
        self,
        endpoints: Sequence[Endpoint],
        request: SubmitCommandRequest,
        context: CallContext,
    ) -> SubmitCommandResponse | Refusal:
        """Sends one command to one of `endpoints` and gives the node's answer."""
        payload = request.SerializeToString()
        pairs = metadata(context)

        async def attempt(
            endpoint: Endpoint, remaining_s: float
        ) -> SubmitCommandResponse | Refusal | Failed:
            async with self._channels.lease(endpoint) as channel:
                return await _attempt(channel, endpoint, payload, pairs, remaining_s)

        return await self._caller.call(endpoints, context.deadline_s, attempt)


async def _attempt(
    channel: grpc.aio.Channel,
    endpoint: Endpoint,
    payload: bytes,
    pairs: tuple[tuple[str, str], ...],
    remaining_s: float,
) -> SubmitCommandResponse | Refusal | Failed:
    # Such a channel tries to connect by itself, and fails every call until it has.
    if channel.get_state(try_to_connect=True) is grpc.ChannelConnectivity.TRANSIENT_FAILURE:
        return Failed(sent=False)
    call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(_METHOD)
    try:
        answer = await call(payload, timeout=remaining_s, metadata=pairs)
        return SubmitCommandResponse.FromString(answer)
    except grpc.aio.AioRpcError as exc:
        return outcome_of(exc.code(), exc.details() or "", endpoint.address)
    except DecodeError:
        log.warning("aggregate node %s answered what is no SubmitCommandResponse", endpoint.address)
        return UPSTREAM_FAILED


def outcome_of(status: grpc.StatusCode, details: str, address: str) -> Refusal | Failed:
    """What a status other than OK comes to."""
    code = _DOMAIN_ANSWERS.get(status)
    if code is not None:
        return Refusal(code, details[:_MAX_DETAIL] or code.title)
    if status is grpc.StatusCode.UNAVAILABLE:
        return Failed(sent=True, why=details[:_MAX_DETAIL])
    if status is grpc.StatusCode.DEADLINE_EXCEEDED:
        return DEADLINE
    log.warning("aggregate node %s failed: %s %s", address, status.name, details[:_MAX_DETAIL])
    return UPSTREAM_FAILED
