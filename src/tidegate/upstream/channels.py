"""gRPC channels to endpoints: one each, kept while in use and for a while after.

Invariants
- At most `max_idle` channels that no call uses are open; the least recently used goes first.
- Retrying, and what a deadline leaves of it, is the caller's alone: gRPC's own retries are off,
  and its reconnecting is tuned to a node that restarts, not to one that has moved away.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc

from tidegate.routing.model import Endpoint, Transport
from tidegate.upstream.settings import Settings

_KEEPALIVE_MS = 10_000
_KEEPALIVE_TIMEOUT_MS = 5_000
_IDLE_MS = 300_000
_FIRST_BACKOFF_MS = 50
_LONGEST_BACKOFF_MS = 500
_RESOLVE_AGAIN_MS = 1_000


@dataclass(slots=True)
class _Pooled:
    channel: grpc.aio.Channel
    calls: int = 0


class Channels:
    """The open channels, by transport and address."""

    def __init__(self, settings: Settings) -> None:
        self._options = _options(settings)
        self._credentials = grpc.ssl_channel_credentials(_read(settings.ca_file))
        self._max_idle = settings.max_idle_channels
        self._pooled: OrderedDict[tuple[Transport, str], _Pooled] = OrderedDict()

    @asynccontextmanager
    async def lease(self, endpoint: Endpoint) -> AsyncIterator[grpc.aio.Channel]:
        """A channel to `endpoint` that stays open for the length of the block."""
        key = (endpoint.transport, endpoint.address)
        pooled = self._pooled.get(key)
        if pooled is None:
            pooled = self._pooled[key] = _Pooled(self._open(endpoint))
        self._pooled.move_to_end(key)
        pooled.calls += 1
        try:
            yield pooled.channel
        finally:
            pooled.calls -= 1
            await self._close_surplus()

    async def aclose(self) -> None:
        """Closes every channel; calls that still run are cancelled."""
        while self._pooled:
            _, pooled = self._pooled.popitem()
            await pooled.channel.close()

    def _open(self, endpoint: Endpoint) -> grpc.aio.Channel:
        # Named by scheme, lest a host called "unix" or "ipv4" be taken for one.
        target = f"dns:///{endpoint.address}"
        if endpoint.transport is Transport.GRPCS:
            return grpc.aio.secure_channel(target, self._credentials, self._options)
        return grpc.aio.insecure_channel(target, self._options)

    async def _close_surplus(self) -> None:
        if len(self._pooled) <= self._max_idle:
            return
        idle = [key for key, pooled in self._pooled.items() if pooled.calls == 0]
        surplus = [self._pooled.pop(key) for key in idle[: max(0, len(idle) - self._max_idle)]]
        for pooled in surplus:
            await pooled.channel.close()


def _options(settings: Settings) -> tuple[tuple[str, int], ...]:
    return (
        ("grpc.enable_retries", 0),
        ("grpc.enable_http_proxy", 0),
        ("grpc.service_config_disable_resolution", 1),
        # The second is the connect timeout too; the wait between attempts obeys the others.
        ("grpc.initial_reconnect_backoff_ms", _FIRST_BACKOFF_MS),
        ("grpc.min_reconnect_backoff_ms", int(settings.connect_timeout_s * 1000)),
        ("grpc.max_reconnect_backoff_ms", _LONGEST_BACKOFF_MS),
        # A restarted container may come back under its name with another address.
        ("grpc.dns_min_time_between_resolutions_ms", _RESOLVE_AGAIN_MS),
        # A peer that vanished without a word is found out while calls wait for it.
        ("grpc.keepalive_time_ms", _KEEPALIVE_MS),
        ("grpc.keepalive_timeout_ms", _KEEPALIVE_TIMEOUT_MS),
        ("grpc.keepalive_permit_without_calls", 0),
        ("grpc.client_idle_timeout_ms", _IDLE_MS),
        ("grpc.max_receive_message_length", settings.max_answer_bytes),
    )


def _read(path: Path | None) -> bytes | None:
    return path.read_bytes() if path is not None else None
