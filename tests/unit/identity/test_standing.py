"""The standing of users, as admission sees it."""

from __future__ import annotations

from typing import Any

import pytest

from tidegate.identity import model
from tidegate.identity.standing import Standing, standing
from tidegate.kernel.ids import PrincipalId, new_id
from tidegate.store.changes import Entry

USER = PrincipalId(new_id())


def entry(value: Any) -> Entry:
    return Entry(model.user_key(USER), value, 1)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"status": "active", "session_epoch": 2}, Standing(active=True, session_epoch=2)),
        ({"status": "disabled", "session_epoch": 3}, Standing(active=False, session_epoch=3)),
        ({"v": 9, "more": 1, "status": "active", "session_epoch": 0}, Standing(True, 0)),
        (None, None),
    ],
)
def test_a_user_stands_as_its_entry_says(value: Any, expected: Standing | None) -> None:
    assert standing(entry(value)) == expected


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"status": "active"},
        {"session_epoch": 1},
        {"status": "sleeping", "session_epoch": 1},
        {"status": "ACTIVE", "session_epoch": 1},
        {"status": "active", "session_epoch": None},
        {"status": "active", "session_epoch": "many"},
        {"status": "active", "session_epoch": []},
        {"status": ["active"], "session_epoch": 1},
    ],
)
def test_a_user_that_cannot_be_read_may_not_act(value: dict[str, Any]) -> None:
    assert standing(entry(value)) is None
