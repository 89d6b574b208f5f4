"""What nats-server is told: accounts, passwords, storage, and its part in a cluster.

The gateway and the platform's nodes live in two accounts that cannot see each other: permissions
inside one account would not protect the gateway's state, as a publish may name any reply subject.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tidegate.devstack.ports import HOST
from tidegate.devstack.private_file import write_private

# user -> account
_ACCOUNTS = {"gateway": "GATEWAY", "nodes": "PLATFORM"}
# How the servers of a cluster know each other.
_ROUTE_USER = "route"

Passwords = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Membership:
    """A server's part in a cluster: what it is called and how the nodes find each other.

    All nodes share the passwords in `credentials`; `others` are the route ports of the rest.
    """

    node: str
    cluster: str
    route_port: int
    others: tuple[int, ...]
    credentials: Path


def credentials(path: Path) -> Passwords:
    """Read each user's password from the file, which is made when it is not there."""
    users = (*_ACCOUNTS, _ROUTE_USER)
    if not path.exists():
        write_private(path, json.dumps({user: secrets.token_urlsafe(24) for user in users}))
    stored = json.loads(path.read_text())
    return {user: str(stored[user]) for user in users if user in stored}


def server_config(
    store_dir: Path,
    ports_dir: Path,
    port: int,
    passwords: Passwords,
    membership: Membership | None,
) -> str:
    """The configuration file of one server, which writes the ports it got into `ports_dir`."""
    config: dict[str, Any] = {
        "listen": f"{HOST}:{port}",
        "http": f"{HOST}:-1",
        "ports_file_dir": str(ports_dir),
        "jetstream": {"store_dir": str(store_dir), "sync_interval": "always"},
        "accounts": {
            account: {
                "jetstream": "enabled",
                "users": [{"user": user, "password": passwords[user]}],
            }
            for user, account in _ACCOUNTS.items()
        },
    }
    if membership is not None:
        config |= _cluster(membership, passwords[_ROUTE_USER])
    # nats-server reads JSON as a subset of its own format, which saves quoting rules.
    return json.dumps(config, indent=2)


def _cluster(membership: Membership, password: str) -> dict[str, Any]:
    return {
        "server_name": membership.node,
        "cluster": {
            "name": membership.cluster,
            "listen": f"{HOST}:{membership.route_port}",
            "authorization": {"user": _ROUTE_USER, "password": password},
            "routes": [
                f"nats://{_ROUTE_USER}:{password}@{HOST}:{port}" for port in membership.others
            ],
            # Clients use the addresses that they were given, in which a test may have put
            # something between them and the server.
            "no_advertise": True,
        },
    }
