"""The ready file: where everything of a running stack is, for scripts and for `tidegate replay`.

It holds the admin's password, so only its owner may read it. It is replaced in one step when a
part was restarted, and removed when the stack stops.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Self

from tidegate.devstack.private_file import write_private

DEFAULT_PATH = Path(".tidegate-dev.json")


class ReadyFileError(Exception):
    """There is no usable ready file; the message says which and why."""


@dataclass(frozen=True, slots=True)
class Replica:
    """One gateway replica. `grpc` is None when it has no such listener."""

    http: str
    grpc: str | None
    pid: int


@dataclass(frozen=True, slots=True)
class Nats:
    """The servers. `url` is the first one's, for who needs only one."""

    urls: tuple[str, ...] = field(repr=False)
    pids: tuple[int, ...]

    @property
    def url(self) -> str:
        return self.urls[0]


@dataclass(frozen=True, slots=True)
class Mail:
    http: str


@dataclass(frozen=True, slots=True)
class Node:
    kind: str
    address: str
    pid: int


@dataclass(frozen=True, slots=True)
class Admin:
    email: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Running:
    """A stack in which everything answers."""

    replicas: tuple[Replica, ...]
    nats: Nats
    mail: Mail
    nodes: tuple[Node, ...]
    admin: Admin
    tenants: tuple[str, ...]

    def to_json(self) -> str:
        fields = asdict(self)
        fields["nats"] = {"url": self.nats.url, **fields["nats"]}
        return json.dumps(fields, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Raises ValueError, TypeError or KeyError when `text` is something else."""
        stored = json.loads(text)
        return cls(
            replicas=tuple(Replica(**replica) for replica in stored["replicas"]),
            nats=Nats(tuple(stored["nats"]["urls"]), tuple(stored["nats"]["pids"])),
            mail=Mail(**stored["mail"]),
            nodes=tuple(Node(**node) for node in stored["nodes"]),
            admin=Admin(**stored["admin"]),
            tenants=tuple(stored["tenants"]),
        )


def read(path: Path) -> Running:
    """The stack that a ready file tells of. Raises ReadyFileError."""
    try:
        return Running.from_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ReadyFileError(
            f"{path} is not there: start `tidegate dev` in this directory, "
            "or name its file with --ready-file"
        ) from error
    except OSError as error:
        raise ReadyFileError(f"{path}: {error.strerror}") from error
    except (ValueError, TypeError, KeyError) as error:
        raise ReadyFileError(f"{path} is not a ready file of `tidegate dev`") from error


class ReadyFile:
    """The file of one running stack, at one path."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._written: str | None = None

    def write(self, running: Running) -> None:
        """Raises ReadyFileError when the file cannot be written."""
        text = running.to_json()
        try:
            write_private(self._path, text)
        except OSError as error:
            raise ReadyFileError(f"{self._path} cannot be written: {error.strerror}") from error
        self._written = text

    def remove(self) -> None:
        """Remove the file, unless another stack has put its own there meanwhile."""
        try:
            if self._written == self._path.read_text(encoding="utf-8"):
                self._path.unlink()
        except (OSError, UnicodeDecodeError):
            # Gone, or no longer ours: either way there is nothing of us to take away.
            return
