"""Many users, in the keys and values of the product, written by its own commits.

Who is who follows from the number alone, so a stored population is used again by naming it.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from tidegate.authz import model as authz
from tidegate.config import Settings
from tidegate.identity import model as identity
from tidegate.identity.model import User, UserStatus
from tidegate.kernel.ids import PrincipalId, TenantId, uuid7
from tidegate.store.changes import MAX_MESSAGES, Committed, Put
from tidegate.store.commit import Committer
from tidegate.store.connection import connect
from tidegate.store.keyring import DataKey

ROLE = "tenant-member"
_MADE = "population.json"
_FIRST_MS = 1_750_000_000_000
_SPREAD = 0x9E3779B97F4A7C15F
_COMMITS_AT_ONCE = 4
_DEADLINE_S = 60


@dataclass(frozen=True, slots=True)
class Population:
    """So many users, each with a role in one of so many tenants."""

    users: int
    tenants: int

    def __str__(self) -> str:
        return f"{self.users}-users-in-{self.tenants}-tenants"

    def user_id(self, number: int) -> PrincipalId:
        return PrincipalId(uuid7(_FIRST_MS + number, number * _SPREAD % (1 << 74)))

    def tenant_id(self, number: int) -> TenantId:
        """The tenant of a user, by the user's number."""
        return TenantId(f"tenant-{number % self.tenants}")

    async def stored(self, folder: Path, settings: Settings, tell: Callable[[str], None]) -> None:
        """Returns once `folder` holds it, which is made when it is not there yet."""
        made = folder / _MADE
        if made.exists():
            if json.loads(made.read_text()) != asdict(self):
                raise ValueError(f"{folder} holds another population")
            return
        began_s = time.monotonic()
        async with connect(settings.nats, "bench") as connection:
            committer = Committer(connection, "iam", _DEADLINE_S)
            slots = asyncio.Semaphore(_COMMITS_AT_ONCE)

            async def commit(changes: list[Put]) -> None:
                try:
                    result = await committer.commit(changes, [])
                finally:
                    slots.release()
                if not isinstance(result, Committed):
                    raise TypeError(f"storing the population: {result}")

            async with asyncio.TaskGroup() as group:
                for changes in self._commits():
                    await slots.acquire()
                    group.create_task(commit(changes))
        made.write_text(json.dumps(asdict(self)))
        tell(f"stored {self} in {time.monotonic() - began_s:.0f} s")

    def _commits(self) -> Iterator[list[Put]]:
        changes: list[Put] = []
        for change in self._changes():
            changes.append(change)
            if len(changes) == MAX_MESSAGES:
                yield changes
                changes = []
        if changes:
            yield changes

    def _changes(self) -> Iterator[Put]:
        data_key = DataKey.fresh()
        for number in range(self.tenants):
            key = authz.tenant_key(self.tenant_id(number))
            value = {"v": 1, "name": f"Tenant {number}", "status": "active", "created_at": 0.0}
            yield Put(key, value, 0)
        for number in range(self.users):
            user_id = self.user_id(number)
            user = User(
                id=user_id,
                email=f"user-{number}@example.org",
                email_verified=True,
                display_name=f"User {number}",
                status=UserStatus.ACTIVE,
                session_epoch=0,
                created_at_s=0.0,
            )
            yield Put(identity.user_key(user_id), identity.encode_user(user, data_key), 0)
            given = f"{self.tenant_id(number)}.{user_id}.{ROLE}"
            yield Put(authz.assignment_key(given), {"v": 1, "exp": None, "created_at": 0.0}, 0)
