"""Which port each part of the stack listens on.

Invariant: a part keeps its port for as long as the stack runs, over restarts of the part too.

From a base N, replicas listen on N, N + 1 ..., and everything else stands in N + 10 to N + 14,
so that one number moves the whole stack.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from typing import Self

HOST = "127.0.0.1"
DEFAULT_BASE = 8080
MAX_REPLICAS = 10

_LAST_OFFSET = 14
HIGHEST_BASE = 65535 - _LAST_OFFSET
# Below the ports that Linux and macOS give to outgoing connections: such a connection could take
# one while the part it belongs to is restarted.
_FREE_FROM, _FREE_TO = 20_000, 32_768
_BLOCK = 16
_TRIES = 4096


class PortUnavailableError(Exception):
    """A port that the stack needs cannot be had; the message names it."""


@dataclass(frozen=True, slots=True)
class Ports:
    """One port for each part; of the replicas, one each."""

    http: tuple[int, ...]
    mail_http: int
    mail_smtp: int
    aggregate: int
    projection: int
    nats: int

    @classmethod
    def from_base(cls, base: int, replicas: int) -> Self:
        """The fixed layout. Raises PortUnavailableError when one of its ports is taken."""
        ports = cls(
            http=tuple(base + place for place in range(replicas)),
            mail_http=base + 10,
            mail_smtp=base + 11,
            aggregate=base + 12,
            projection=base + 13,
            nats=base + 14,
        )
        for port in (*ports.http, *range(base + 10, base + _LAST_OFFSET + 1)):
            problem = _problem_with(port)
            if problem is not None:
                raise PortUnavailableError(
                    f"port {port} cannot be used ({problem}); "
                    "choose other ports with --port-base, or 0 for any free ones"
                )
        return ports

    @classmethod
    def any_free(cls, replicas: int) -> Self:
        """Ports that nobody uses now."""
        free: list[int] = []
        # Ports are bound only seconds later, so stacks that start at once must not look in the
        # same place: the process id sets them apart.
        place = os.getpid() * _BLOCK
        for step in range(_TRIES):
            port = _FREE_FROM + (place + step) % (_FREE_TO - _FREE_FROM)
            if _problem_with(port) is None:
                free.append(port)
            if len(free) == replicas + 5:
                return cls(tuple(free[5:]), *free[:5])
        raise PortUnavailableError(f"no free ports from {_FREE_FROM} to {_FREE_TO - 1}")


def _problem_with(port: int) -> str | None:
    try:
        # Like the servers: a connection of an earlier run that lingers does not count.
        socket.create_server((HOST, port)).close()
    except OSError as error:
        # create_server adds the address, which the message names already.
        return os.strerror(error.errno or 0)
    return None
