"""What an operator chooses about users, passwords and mail."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class PasswordSettings(BaseModel):
    """Argon2id (RFC 9106) and what it may cost this process."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    memory_kib: int = Field(19 * 1024, ge=8, description="Argon2id memory in KiB.")
    iterations: int = Field(2, ge=1, description="Argon2id passes.")
    parallelism: int = Field(1, ge=1, description="Argon2id lanes.")
    threads: int = Field(
        default_factory=lambda: os.cpu_count() or 1, ge=1, description="Hashes at the same time."
    )
    queue: int = Field(32, ge=0, description="Hashes waiting; more are refused at once.")
    min_length: int = Field(15, ge=8, description="Shortest password, in characters.")
    max_length: int = Field(256, ge=64, description="Longest password, in characters.")


class MailSettings(BaseModel):
    """The SMTP server that sends our mail."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str = Field("127.0.0.1", description="SMTP server.")
    port: int = Field(587, ge=1, le=65535, description="Its port.")
    security: Literal["starttls", "tls", "none"] = Field(
        "starttls", description="How the connection is protected."
    )
    user: str | None = Field(None, description="User name, when the server asks for one.")
    password_file: Path | None = Field(None, description="File with that user's password.")
    sender: str = Field("no-reply@localhost", description="Address in From.")
    timeout_s: float = Field(10.0, gt=0, description="How long one delivery may take.")


class Settings(BaseModel):
    """Users."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    password: PasswordSettings = PasswordSettings()
    mail: MailSettings = MailSettings()
    verification_ttl_s: int = Field(
        24 * 3600, ge=600, description="How long a verification mail is good for."
    )
    verification_url: str | None = Field(
        None, description="Page that takes the token; `{token}` stands where the token goes."
    )
