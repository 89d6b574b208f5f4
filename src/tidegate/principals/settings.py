"""What an operator chooses about principals in memory."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Settings(BaseModel):
    """How much to keep."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cached_max: int = Field(
        50_000,
        ge=1,
        description="How many principals are kept in memory; the one longest unused goes first.",
    )
