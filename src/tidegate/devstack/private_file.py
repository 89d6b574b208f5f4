"""Files that only their owner may read, and that are there whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path


def write_private(path: Path, text: str) -> None:
    """Write `text` to `path`, replacing what is there in one step."""
    # A crash must not leave half a password behind, nor a reader see one.
    partial = path.with_name(path.name + ".partial")
    # Whatever is there may be readable by others, and opening it would keep that.
    partial.unlink(missing_ok=True)
    fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(fd, "w", encoding="utf-8") as file:
        file.write(text)
    partial.replace(path)
