"""The secrets of one stack: made at its first start, used again whenever its data is.

Server keys encrypt what is stored, so they belong to the data directory: with other keys the
stored state could not be read any more.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tidegate.devstack.private_file import write_private
from tidegate.store.keyring import new_ring_text

_KEY_ID = "dev"
_PASSWORD_BYTES = 15


@dataclass(frozen=True, slots=True)
class SecretsDir:
    """Where each secret is."""

    wrapping_keys: Path
    peppers: Path
    nats_password: Path
    admin_password: Path

    @classmethod
    def prepare(cls, folder: Path, nats_password: str) -> Self:
        """Make what is missing."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        files = cls(
            wrapping_keys=folder / "wrapping-keys",
            peppers=folder / "peppers",
            nats_password=folder / "nats-password",
            admin_password=folder / "admin-password",
        )
        for ring in (files.wrapping_keys, files.peppers):
            if not ring.exists():
                write_private(ring, new_ring_text(_KEY_ID))
        if not files.admin_password.exists():
            write_private(files.admin_password, secrets.token_urlsafe(_PASSWORD_BYTES))
        write_private(files.nats_password, nats_password)
        return files
