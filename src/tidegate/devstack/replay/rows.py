"""A CSV file as commands. Pure but for reading the file.

Invariant: the same file gives the same commands with the same ids, whatever its name, so that a
file can be sent again without anything happening twice.
"""

from __future__ import annotations

import csv
import json
import re
import unicodedata
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

_NAMESPACE = uuid.UUID("6f3d5b0e-2c1a-5c39-9d0e-7a5f1e0c4b62")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_NOT_IN_NAME = re.compile(r"[^A-Za-z0-9._-]+")
_MAX_ID_CHARS = 256
# What an aggregate id may hold unchanged: visible ASCII without the slash, and without the
# percent sign, which marks everything else.
_SAFE_IN_ID = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in "/%")


class InputError(Exception):
    """The file cannot be replayed; the message says where and why."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Which column means what."""

    aggregate_type: str
    id_column: str
    type_column: str
    command_id_column: str | None = None


@dataclass(frozen=True, slots=True)
class Command:
    command_id: str
    command_type: str
    aggregate_id: str
    payload: dict[str, str]

    def body(self) -> dict[str, Any]:
        return {
            "command_id": self.command_id,
            "command_type": self.command_type,
            "payload": self.payload,
        }


# Aggregate id -> command type -> how many.
Counts = dict[str, Counter[str]]


@dataclass(frozen=True, slots=True)
class Survey:
    """What a file holds: its rows, and what its distinct commands amount to."""

    rows: int
    counts: Counts


def survey(path: Path, layout: Layout) -> Survey:
    """Read the whole file. Raises InputError when any of it cannot be replayed."""
    if _NAME.fullmatch(layout.aggregate_type) is None:
        raise InputError(f"{layout.aggregate_type!r} cannot be an aggregate type")
    rows = 0
    counts: Counts = {}
    known: set[str] = set()
    for command in read(path, layout):
        rows += 1
        if command.command_id not in known:
            known.add(command.command_id)
            counts.setdefault(command.aggregate_id, Counter())[command.command_type] += 1
    if not rows:
        raise InputError(f"{path} has no rows")
    return Survey(rows, counts)


def read(path: Path, layout: Layout) -> Iterator[Command]:
    """The file's commands in its order. Raises InputError."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = csv.reader(file, strict=True)
            header = next(lines, None)
            _check_header(path, header, layout)
            for number, values in enumerate((row for row in lines if row), start=1):
                try:
                    yield to_command(header or [], values, number, layout)
                except InputError as error:
                    raise InputError(f"{path}, line {lines.line_num}: {error}") from None
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8") from error
    except csv.Error as error:
        raise InputError(f"{path} is not CSV: line {lines.line_num}: {error}") from error


def to_command(
    header: Sequence[str], values: Sequence[str], number: int, layout: Layout
) -> Command:
    """The command of one row, the `number`-th from 1. Raises InputError."""
    if len(values) != len(header):
        raise InputError(f"{len(values)} values for {len(header)} columns")
    row = dict(zip(header, values, strict=True))
    aggregate_id = _aggregate_id(row[layout.id_column])
    command_type = _command_type(row[layout.type_column])
    if layout.command_id_column is None:
        # The content too: row 1 of another file is another command.
        identity: object = [number, row]
    else:
        identity = row[layout.command_id_column]
        if not identity:
            raise InputError(f"{layout.command_id_column} is empty")
    left_out = {layout.id_column, layout.command_id_column}
    name = json.dumps([layout.aggregate_type, aggregate_id, identity])
    return Command(
        command_id=str(uuid.uuid5(_NAMESPACE, name)),
        command_type=command_type,
        aggregate_id=aggregate_id,
        payload={column: value for column, value in row.items() if column not in left_out},
    )


def _check_header(path: Path, header: list[str] | None, layout: Layout) -> None:
    if not header:
        raise InputError(f"{path} is empty")
    twice = [column for column, count in Counter(header).items() if count > 1]
    if twice:
        raise InputError(f"{path} has the column {twice[0]!r} twice")
    for column in (layout.id_column, layout.type_column, layout.command_id_column):
        if column is not None and column not in header:
            raise InputError(f"{path} has no column {column!r}; it has {', '.join(header)}")


def _aggregate_id(text: str) -> str:
    found = quote(text, safe=_SAFE_IN_ID)
    if not 1 <= len(found) <= _MAX_ID_CHARS:
        raise InputError(f"{text[:40]!r} is empty or too long for an aggregate's id")
    return found


def _command_type(text: str) -> str:
    """`text`, if need be in the letters of a command type: "T02 Check" becomes "T02-Check"."""
    if _NAME.fullmatch(text):
        return text
    ascii_text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    found = _NOT_IN_NAME.sub("-", ascii_text).lstrip("-._").rstrip("-")
    if _NAME.fullmatch(found) is None:
        raise InputError(f"{text[:40]!r} cannot be turned into a command type")
    return found
