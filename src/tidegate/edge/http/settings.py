"""What an operator chooses about the HTTP listener."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


def _network(value: object) -> IPv4Network | IPv6Network:
    try:
        return ip_network(value)  # type: ignore[arg-type]  # what is no network raises
    except ValueError:
        raise ValueError("must be a network, such as 10.0.0.0/8") from None


Network = Annotated[IPv4Network | IPv6Network, BeforeValidator(_network)]


class Settings(BaseModel):
    """The HTTP listener."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8080, ge=0, le=65535, description="Port to listen on.")
    trusted_proxies: tuple[Network, ...] = Field(
        (), description="Networks of proxies whose x-forwarded-for is believed."
    )
    max_body_bytes: int = Field(1024 * 1024, ge=1024, description="Largest request body, in bytes.")
    idle_timeout_s: int = Field(
        75, ge=1, description="Keep-alive connections idle for longer close."
    )
    min_revision_wait_s: float = Field(
        2.5, gt=0, description="How long x-tidegate-min-revision is waited for."
    )
