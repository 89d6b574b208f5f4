"""What an operator chooses about the connection to JetStream."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field


class LeaseSettings(BaseModel):
    """How long a replica may decide from what it last heard."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ttl_s: float = Field(
        15.0,
        ge=1,
        description="How long a replica serves that cannot follow the changes, and so how long a "
        "take-away may have to wait for it. Longer than the election of a NATS leader (4 to 9 s).",
    )
    serve_beyond_s: float = Field(
        0.0,
        ge=0,
        description="How much longer a replica serves from memory when its lease has ended: "
        "availability over strictness, for a take-away does not wait for that.",
    )


class Settings(BaseModel):
    """Where JetStream is and how patient to be with it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    servers: tuple[str, ...] = Field(
        ("nats://127.0.0.1:4222",),
        description="Servers of the cluster; any one is enough to find the others.",
    )
    user: str | None = Field(None, description="User name, when the servers ask for one.")
    password_file: Path | None = Field(None, description="File with that user's password.")
    credentials_file: Path | None = Field(None, description="NATS credentials (JWT and nkey).")
    nkey_seed_file: Path | None = Field(None, description="NATS nkey seed.")
    ca_file: Path | None = Field(None, description="Certificate authority of TLS servers.")
    certificate_file: Path | None = Field(None, description="Client certificate for mutual TLS.")
    key_file: Path | None = Field(None, description="Private key of that certificate.")
    replicas: int = Field(
        3, ge=1, le=5, description="Copies of each stream; a single server holds one: 1."
    )
    request_timeout_s: float = Field(2.0, gt=0, description="How long one request may take.")
    commit_deadline_s: float = Field(5.0, gt=0, description="How long one commit may take in all.")
    audit_max_age_days: int = Field(365, ge=1, description="Age at which audit records leave.")
    wrapping_keys_file: Path | None = Field(
        None,
        description="Key ring that encrypts secrets at rest: one `<id> <base64 of 32 bytes>` a "
        "line, the first is used for new values.",
    )
    peppers_file: Path | None = Field(
        None,
        description="Key ring for keyed hashes and MACs, in the same form.",
    )
    lease: LeaseSettings = LeaseSettings()
