"""The configuration of a development replica, as the file that `tidegate serve` reads."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

from tidegate.devstack.ports import HOST, Ports
from tidegate.devstack.secrets_dir import SecretsDir

_LEASE_TTL_S = 5
MAIL_SENDER = "no-reply@tidegate.example.org"

Sections = Mapping[str, Mapping[str, object]]


def replica_config(ports: Ports, place: int, nats_urls: Sequence[str], secrets: SecretsDir) -> str:
    """The TOML of the replica at `place`. All replicas differ in their port alone."""
    nats = [urlsplit(url) for url in nats_urls]
    return to_toml(
        {
            "nats": {
                "servers": [f"nats://{server.hostname}:{server.port}" for server in nats],
                "user": nats[0].username,
                "password_file": str(secrets.nats_password),
                "replicas": len(nats),
                "wrapping_keys_file": str(secrets.wrapping_keys),
                "peppers_file": str(secrets.peppers),
            },
            # One server has no elections to outlast, and whoever kills a replica here is waiting.
            **({"nats.lease": {"ttl_s": _LEASE_TTL_S}} if len(nats) == 1 else {}),
            "http": {"host": HOST, "port": ports.http[place]},
            # One issuer: what one replica signs, each accepts.
            "sessions": {"issuer": f"http://{HOST}:{ports.http[0]}"},
            "identity.mail": {
                "host": HOST,
                "port": ports.mail_smtp,
                "security": "none",
                "sender": MAIL_SENDER,
            },
            "log": {"format": "text"},
            # Nobody balances load here, and whoever pressed Ctrl-C is waiting.
            "stop": {"drain_delay_s": 0, "finish_within_s": 1},
        }
    )


def to_toml(sections: Sections) -> str:
    """`sections` as TOML. Strings, numbers, booleans and lists of JSON are TOML's too."""
    lines: list[str] = []
    for name, values in sections.items():
        lines.append(f"[{name}]")
        # Escapes beyond ASCII are where the two part: TOML has no surrogate pairs.
        lines += [
            f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in values.items()
        ]
        lines.append("")
    return "\n".join(lines)
