"""What admission asks about users: may this one act, and which of its sessions count."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tidegate.identity.model import UserStatus
from tidegate.kernel.ids import PrincipalId
from tidegate.observability import metrics
from tidegate.store.changes import Entry

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Standing:
    """Whether a user may act, and the epoch that its sessions must be of."""

    active: bool
    session_epoch: int


class UserView:
    """The standing of every user. One that cannot be read has none: it may not act."""

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
    standings.pop(user_id, None)
    if entry.value is None:
        return
    try:
        standings[user_id] = Standing(
            active=UserStatus(entry.value["status"]) is UserStatus.ACTIVE,
            session_epoch=int(entry.value["session_epoch"]),
        )
    except (KeyError, TypeError, ValueError):
        metrics.VIEW_REJECTED.labels(view="iam").inc()
        log.exception("%s cannot be read and counts as absent", entry.key)
