"""How each of the stack's programs is run, and how it is seen to answer."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from tidegate.devstack.managed_program import Recipe
from tidegate.devstack.ports import HOST, Ports

# With the time NATS takes, their sum stays below the three seconds in which Ctrl-C ends all.
_REPLICA_GRACE_S = 1.1
_NODE_GRACE_S = 0.5


def replica_name(place: int) -> str:
    return f"gateway {place + 1}"


def replica_url(ports: Ports, place: int) -> str:
    return f"http://{HOST}:{ports.http[place]}"


def replica(ports: Ports, place: int, config: Path, logs: Path) -> Recipe:
    name = replica_name(place)
    return Recipe(
        name,
        (sys.executable, "-m", "tidegate.cli.main", "serve", "--config", config),
        _log(logs, name),
        (f"{replica_url(ports, place)}/ready",),
        _REPLICA_GRACE_S,
    )


def node_name(kind: str) -> str:
    return f"{kind} node"


def node_addresses(ports: Ports) -> dict[str, str]:
    """The address of each demo node, by its kind."""
    return {
        "aggregate": f"grpc://{HOST}:{ports.aggregate}",
        "projection": f"http://{HOST}:{ports.projection}",
    }


def node(kind: str, address: str, nats_urls: Sequence[str], logs: Path) -> Recipe:
    name = node_name(kind)
    listen = address.rpartition("/")[2]
    # The aggregate node listens once it is ready, the projection before it has caught up.
    probe = f"{address}/health" if kind == "projection" else f"tcp://{listen}"
    module = f"tidegate.devstack.nodes.{kind}"
    # Who makes the event stream makes it with a copy on each server.
    copies = ("--replicas", str(len(nats_urls))) if kind == "aggregate" else ()
    return Recipe(
        name,
        (sys.executable, "-m", module, "--nats", *nats_urls, "--listen", listen, *copies),
        _log(logs, name),
        (probe,),
        _NODE_GRACE_S,
    )


def mail_sink(ports: Ports, logs: Path) -> Recipe:
    name = "mail sink"
    smtp, http = f"{HOST}:{ports.mail_smtp}", f"{HOST}:{ports.mail_http}"
    return Recipe(
        name,
        (sys.executable, "-m", "tidegate.devstack.mail_sink", "--smtp", smtp, "--http", http),
        _log(logs, name),
        (f"tcp://{smtp}", f"http://{http}/messages"),
        _NODE_GRACE_S,
    )


def _log(logs: Path, name: str) -> Path:
    return logs / f"{name.replace(' ', '-')}.log"
