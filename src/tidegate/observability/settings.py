"""What an operator chooses about logs."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Settings(BaseModel):
    """Logs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severe lines that are written."
    )
    format: Literal["auto", "json", "text"] = Field(
        "auto", description="One JSON object a line, or text for people; auto: text in a terminal."
    )
