"""What an operator chooses about tokens and sessions."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Settings(BaseModel):
    """Lifetimes and names in tokens."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    issuer: str = Field("http://localhost", description="`iss` of access tokens: our public URL.")
    audience: str = Field("tidegate", description="`aud` of access tokens.")
    access_ttl_s: int = Field(600, ge=30, description="Lifetime of an access token.")
    idle_ttl_s: int = Field(
        30 * 24 * 3600, ge=600, description="A session ends when not refreshed for this long."
    )
    absolute_ttl_s: int = Field(
        180 * 24 * 3600, ge=600, description="A session ends this long after sign-in."
    )
    jwks_max_age_s: int = Field(
        300, ge=0, description="How long others may cache our public signing keys."
    )
