"""What admission asks about a user: may it act, and which of its sessions count."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from tidegate.identity.model import UserStatus
from tidegate.observability import metrics
from tidegate.store.changes import Entry

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Standing:
    """Whether a user may act, and the epoch that its sessions must be of."""

    active: bool
    session_epoch: int


def standing(entry: Entry) -> Standing | None:
    """The standing that an entry of kind `user` tells. One that cannot be read has none."""
    if entry.value is None:
        return None
    try:
        return Standing(
            active=UserStatus(entry.value["status"]) is UserStatus.ACTIVE,
            session_epoch=int(entry.value["session_epoch"]),
        )
    except (KeyError, TypeError, ValueError):
        metrics.VIEW_REJECTED.labels(view="iam").inc()
        log.exception("%s cannot be read and counts as absent", entry.key)
        return None
