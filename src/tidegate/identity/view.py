"""What admission asks about users: may this one act, and which of its sessions count."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tidegate.identity.model import UserStatus
from tidegate.kernel.ids import PrincipalId
from tidegate.store.changes import Entry


@dataclass(frozen=True, slots=True)
class Standing:
    """Whether a user may act, and the epoch that its sessions must be of."""

    active: bool
    session_epoch: int


class UserView:
    """The standing of every user."""

    kinds = frozenset({"user"})

    def __init__(self) -> None:
        self._standings: dict[PrincipalId, Standing] = {}

    def standing(self, user_id: PrincipalId) -> Standing | None:
        return self._standings.get(user_id)

    def load(self, entries: Iterable[Entry]) -> None:
        standings: dict[PrincipalId, Standing] = {}
        for entry in entries:
            _apply(standings, entry)
        self._standings = standings

    def apply(self, changes: Sequence[Entry]) -> None:
        for entry in changes:
            _apply(self._standings, entry)


def _apply(standings: dict[PrincipalId, Standing], entry: Entry) -> None:
    user_id = PrincipalId(entry.key.rpartition(".")[2])
    if entry.value is None:
        standings.pop(user_id, None)
        return
    standings[user_id] = Standing(
        active=entry.value.get("status") == UserStatus.ACTIVE,
        session_epoch=int(entry.value.get("session_epoch", 0)),
    )
