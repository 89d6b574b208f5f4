"""The standing of users, as admission sees it."""

from __future__ import annotations

from typing import Any

import pytest

from tidegate.identity import model
from tidegate.identity.view import Standing, UserView
from tidegate.kernel.ids import PrincipalId, new_id
from tidegate.store.changes import Entry

USER = PrincipalId(new_id())


def entry(value: dict[str, Any] | None, user: PrincipalId = USER) -> Entry:
    return Entry(model.user_key(user), value, 1)


def test_a_user_stands_as_its_entry_says() -> None:
    view = UserView()
    assert view.standing(USER) is None
    view.apply([entry({"status": "active", "session_epoch": 2})])
    assert view.standing(USER) == Standing(active=True, session_epoch=2)
    view.apply([entry({"status": "disabled", "session_epoch": 3})])
    assert view.standing(USER) == Standing(active=False, session_epoch=3)
    view.apply([entry(None)])
    assert view.standing(USER) is None


def test_loading_replaces_everything() -> None:
    view = UserView()
    other = PrincipalId(new_id())
    view.apply([entry({"status": "active", "session_epoch": 0})])
    view.load([entry({"status": "active", "session_epoch": 0}, other)])
    assert view.standing(USER) is None
    assert view.standing(other) is not None


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"status": "active"},
        {"session_epoch": 1},
        {"status": "sleeping", "session_epoch": 1},
        {"status": "active", "session_epoch": None},
        {"status": "active", "session_epoch": "many"},
        {"status": ["active"], "session_epoch": 1},
    ],
)
def test_a_user_that_cannot_be_read_may_not_act(value: dict[str, Any]) -> None:
    view = UserView()
    other = PrincipalId(new_id())
    view.apply([entry({"status": "active", "session_epoch": 0})])
    view.apply([entry(value), entry({"status": "active", "session_epoch": 0}, other)])
    assert view.standing(USER) is None
    assert view.standing(other) is not None
