"""Which port each part of the stack listens on.

Invariant: a part keeps its port for as long as the stack runs, over restarts of the part too.

From a base N, replicas listen on N, N + 1 ..., and everything else stands in N + 10 to N + 19,
so that one number moves the whole stack.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from itertools import islice
from typing import Self

HOST = "127.0.0.1"
DEFAULT_BASE = 8080
MAX_REPLICAS = 10

# The nodes of a NATS cluster that a stack may have.
CLUSTER_SIZE = 3

_MAIL_HTTP, _MAIL_SMTP, _AGGREGATE, _PROJECTION = 10, 11, 12, 13
_NATS, _NATS_ROUTES = 14, 17
_LAST_OFFSET = 19
HIGHEST_BASE = 65535 - _LAST_OFFSET
# Below the ports that Linux and macOS give to outgoing connections: such a connection could take
# one while the part it belongs to is restarted.
_FREE_FROM, _FREE_TO = 20_000, 32_768
_BLOCK = 32
_TRIES = 4096


class PortUnavailableError(Exception):
    """A port that the stack needs cannot be had; the message names it."""


@dataclass(frozen=True, slots=True)
class Ports:
    """One port for each part; of the replicas and of the NATS servers, one each.

    A single NATS server has no route: only the nodes of a cluster need to find each other.
    """

    http: tuple[int, ...]
    mail_http: int
    mail_smtp: int
    aggregate: int
    projection: int
    nats: tuple[int, ...]
    nats_routes: tuple[int, ...] = ()

    @classmethod
    def from_base(cls, base: int, replicas: int, *, cluster: bool = False) -> Self:
        """The fixed layout. Raises PortUnavailableError when one of its ports is taken."""

        def row(first: int, size: int) -> tuple[int, ...]:
            return tuple(range(base + first, base + first + size))

        ports = cls(
            http=row(0, replicas),
            mail_http=base + _MAIL_HTTP,
            mail_smtp=base + _MAIL_SMTP,
            aggregate=base + _AGGREGATE,
            projection=base + _PROJECTION,
            nats=row(_NATS, CLUSTER_SIZE if cluster else 1),
            nats_routes=row(_NATS_ROUTES, CLUSTER_SIZE) if cluster else (),
        )
        for port in ports.all:
            problem = _problem_with(port)
            if problem is not None:
                raise PortUnavailableError(
                    f"port {port} cannot be used ({problem}); "
                    "choose other ports with --port-base, or 0 for any free ones"
                )
        return ports

    @classmethod
    def any_free(cls, replicas: int, *, cluster: bool = False) -> Self:
        """Ports that nobody uses now."""
        servers = CLUSTER_SIZE if cluster else 1
        routes = CLUSTER_SIZE if cluster else 0
        free = iter(free_ports(replicas + 4 + servers + routes))
        return cls(
            http=tuple(islice(free, replicas)),
            mail_http=next(free),
            mail_smtp=next(free),
            aggregate=next(free),
            projection=next(free),
            nats=tuple(islice(free, servers)),
            nats_routes=tuple(islice(free, routes)),
        )

    @property
    def all(self) -> tuple[int, ...]:
        return (
            *self.http,
            self.mail_http,
            self.mail_smtp,
            self.aggregate,
            self.projection,
            *self.nats,
            *self.nats_routes,
        )


def free_ports(count: int) -> tuple[int, ...]:
    """So many ports that nobody uses now. Raises PortUnavailableError."""
    free: list[int] = []
    # Ports are bound only seconds later, so stacks that start at once must not look in the
    # same place: the process id sets them apart.
    place = os.getpid() * _BLOCK
    for step in range(_TRIES):
        port = _FREE_FROM + (place + step) % (_FREE_TO - _FREE_FROM)
        if _problem_with(port) is None:
            free.append(port)
        if len(free) == count:
            return tuple(free)
    raise PortUnavailableError(f"no free ports from {_FREE_FROM} to {_FREE_TO - 1}")


def _problem_with(port: int) -> str | None:
    try:
        # Like the servers: a connection of an earlier run that lingers does not count.
        socket.create_server((HOST, port)).close()
    except OSError as error:
        # create_server adds the address, which the message names already.
        return os.strerror(error.errno or 0)
    return None
