"""The schema of the stored state: which migrations there are, and which have run.

Invariants
- Streams are created by migrations only. Serving refuses when one is missing: a server with
  the wrong encryption key looks just as if its streams had never been, and creating them anew
  would destroy what is there.
- One migrates at a time, under a lock entry. The first migration makes the bucket that holds
  the lock, so it alone runs without; creating a stream that is there already is a no-op.
- Each migration may be run again after dying half way, and suits the version still serving.
"""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import math
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tidegate.kernel.clock import rfc3339
from tidegate.kernel.ids import new_id
from tidegate.store import reading
from tidegate.store.changes import Committed, Conflict, Delete, Entry, Put
from tidegate.store.commit import Committer
from tidegate.store.connection import ApiError, Connection, StoreError
from tidegate.store.settings import Settings

log = logging.getLogger(__name__)

_STREAM_NOT_FOUND = 10059
_STREAMS = ("KV_iam", "KV_routing", "AUDIT", "MAIL", "LIMITS", "QUOTA")
_VERSION_KEY = "schema.version"
_LOCK_KEY = "schema.lock"
_LOCK_TTL_S = 60
_LOCK_PATIENCE_S = 90
_FILE = re.compile(r"(\d{4})_([a-z0-9_]+)\.py")


class SchemaError(StoreError):
    """The stored state does not suit this program; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Context:
    """What a migration works with."""

    connection: Connection
    settings: Settings
    iam: Committer


@dataclass(frozen=True, slots=True)
class Migration:
    """One step of the schema: its place from 1, its name, and what it does."""

    number: int
    name: str
    apply: Callable[[Context], Awaitable[None]]


def migrations_folder() -> Path:
    """Where the migrations are: in the installed package, or at the top of a checkout."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "_migrations"
    return installed if installed.is_dir() else package.parents[1] / "migrations"


def load_migrations(folder: Path) -> tuple[Migration, ...]:
    """All migrations in order. Raises SchemaError unless they are numbered from 1 on."""
    found: list[Migration] = []
    for path in sorted(folder.glob("[0-9]*.py")):
        match = _FILE.fullmatch(path.name)
        spec = importlib.util.spec_from_file_location(f"migration_{path.stem}", path)
        if match is None or spec is None or spec.loader is None:
            raise SchemaError(f"{path.name} is not named like a migration")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        if not callable(getattr(module, "apply", None)):
            raise SchemaError(f"{path.name} has no function `apply`")
        found.append(Migration(int(match[1]), match[2], module.apply))
    if [migration.number for migration in found] != list(range(1, len(found) + 1)) or not found:
        raise SchemaError(f"the migrations in {folder.name} are not numbered 1, 2, 3 …")
    return tuple(found)


async def stored_version(connection: Connection) -> int:
    """The version of the stored schema; 0 when there is no state at all."""
    return _version_in(await _version_entry(connection))


async def check(connection: Connection, migrations: Sequence[Migration]) -> None:
    """Raises SchemaError unless all is there and the stored schema is exactly the program's."""
    stored, known = await stored_version(connection), len(migrations)
    if stored == 0:
        raise SchemaError(
            "JetStream holds no tidegate state. If this is a new installation, run "
            "`tidegate migrate`. If it is not, check the server's storage and encryption key "
            "first: creating the streams anew would destroy what is there."
        )
    if stored > known:
        raise SchemaError(
            f"the stored schema has version {stored}, this program knows {known}: it is too old"
        )
    if stored < known:
        raise SchemaError(
            f"the stored schema has version {stored}, this program needs {known}: "
            "run `tidegate migrate`"
        )
    for stream in _STREAMS:
        if not await _exists(connection, stream):
            raise SchemaError(
                f"the stream {stream} is missing, though the rest of the state is there. Restore "
                "it from a backup: creating it anew would lose what it held."
            )


async def migrate(
    connection: Connection, settings: Settings, migrations: Sequence[Migration]
) -> list[Migration]:
    """Runs what has not run yet and returns it. Raises SchemaError."""
    context = Context(
        connection, settings, Committer(connection, "iam", settings.commit_deadline_s)
    )
    ran: list[Migration] = []
    if await stored_version(connection) == 0:
        await migrations[0].apply(context)
    async with _lock(context) as check_held:
        recorded = await _version_entry(connection)
        version = _version_in(recorded)
        if version > len(migrations):
            raise SchemaError(f"the stored schema has version {version}: this program is too old")
        for migration in migrations[version:]:
            if migration.number > 1:
                await migration.apply(context)
            check_held()
            recorded = await _record(context, migration, recorded)
            log.info("migrated to %04d %s", migration.number, migration.name)
            ran.append(migration)
    return ran


async def _version_entry(connection: Connection) -> Entry:
    try:
        return await reading.read_leader(connection, "iam", _VERSION_KEY)
    except ApiError as exc:
        if exc.err_code == _STREAM_NOT_FOUND:
            return Entry(_VERSION_KEY, None, 0)
        raise


def _version_in(entry: Entry) -> int:
    return int(entry.value["version"]) if entry.value is not None else 0


async def _exists(connection: Connection, stream: str) -> bool:
    try:
        await connection.api(f"STREAM.INFO.{stream}")
    except ApiError as exc:
        if exc.err_code == _STREAM_NOT_FOUND:
            return False
        raise
    return True


async def _record(context: Context, migration: Migration, recorded: Entry) -> Entry:
    """Replaces `recorded`, which was read under the lock: who lost the lock since is refused."""
    applied = list(recorded.value["applied"]) if recorded.value is not None else []
    applied.append({"name": migration.name, "at": rfc3339(time.time())})
    value = {"v": 1, "version": migration.number, "applied": applied}
    result = await context.iam.commit([Put(_VERSION_KEY, value, recorded.revision)], [])
    if not isinstance(result, Committed):
        raise SchemaError(f"recording migration {migration.number:04} failed: {result}")
    return Entry(_VERSION_KEY, value, result.revision)


@asynccontextmanager
async def _lock(context: Context) -> AsyncIterator[Callable[[], None]]:
    """Holds the lock for the length of the block, renewing it; gives a check that it is held.

    Raises SchemaError when it cannot be had, as does the check when it was lost.
    """
    holder = new_id()
    revision = 0
    deadline = time.monotonic() + _LOCK_PATIENCE_S
    while revision == 0:
        result = await context.iam.commit([await _lock_free(context, holder)], [])
        if isinstance(result, Committed):
            revision = result.revision
        elif not isinstance(result, Conflict) or time.monotonic() > deadline:
            raise SchemaError(f"the migration lock cannot be had: {result}")
        else:
            await asyncio.sleep(0.5)

    async def renew() -> None:
        nonlocal revision
        while True:
            await asyncio.sleep(_LOCK_TTL_S / 3)
            try:
                result = await context.iam.commit([_lock_put(holder, revision)], [])
            except StoreError:
                return
            if not isinstance(result, Committed):
                return
            revision = result.revision

    renewing = asyncio.create_task(renew())

    def check_held() -> None:
        if renewing.done():
            raise SchemaError("the migration lock was lost; run the migration again")

    try:
        yield check_held
    finally:
        renewing.cancel()
        await asyncio.wait({renewing})
        await context.iam.commit([Delete(_LOCK_KEY, revision)], [])


async def _lock_free(context: Context, holder: str) -> Put:
    """The change that takes the lock: over nothing, or over one that its holder left to expire."""
    held = await reading.read_leader(context.connection, "iam", _LOCK_KEY)
    expired = held.value is not None and held.value.get("exp", math.inf) < time.time()
    return _lock_put(holder, held.revision if expired else 0)


def _lock_put(holder: str, expected: int) -> Put:
    value = {"v": 1, "holder": holder, "exp": time.time() + _LOCK_TTL_S}
    return Put(_LOCK_KEY, value, expected, _LOCK_TTL_S)
