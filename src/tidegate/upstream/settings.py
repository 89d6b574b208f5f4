"""What an operator chooses about calls to upstreams."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field


class Settings(BaseModel):
    """How patient to be with upstreams, and how much to take from them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    connect_timeout_s: float = Field(2.0, gt=0, description="How long connecting may take.")
    total_timeout_s: float = Field(
        10.0,
        gt=0,
        description="How long a call may take, retries included; the client may ask less.",
    )
    attempts: int = Field(3, ge=1, le=10, description="How often one request may be sent.")
    reconnect_wait_s: float = Field(
        3.0,
        ge=0,
        description="How long a request waits while no endpoint of its shard accepts connections.",
    )
    max_in_flight: int = Field(
        1000, ge=1, description="Calls at once per service kind; more are refused."
    )
    max_idle_channels: int = Field(
        512, ge=1, description="Aggregate endpoints kept connected while nothing calls them."
    )
    max_answer_bytes: int = Field(8 * 1024 * 1024, ge=1, description="Size of the largest answer.")
    ca_file: Path | None = Field(
        None,
        description="Certificate authority of nodes behind TLS; without one, the system's.",
    )
