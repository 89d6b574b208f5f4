"""Which sessions count as revoked, and that the view does not grow for ever."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from tidegate.kernel.ids import PrincipalId, SessionId
from tidegate.sessions.view import RevocationView
from tidegate.store.changes import Entry, Value

PRINCIPAL = PrincipalId("p")


@dataclass
class SetClock:
    now: float = 1000.0

    def now_s(self) -> float:
        return self.now

    def monotonic_s(self) -> float:
        return self.now

    def boottime_s(self) -> float:
        return self.now


def revocation(session: str, value: Value | None) -> Entry:
    return Entry(f"revocation.{PRINCIPAL}.{session}", value, 1)


def test_a_session_is_revoked_from_the_change_on() -> None:
    view = RevocationView(SetClock())
    assert not view.revoked(PRINCIPAL, SessionId("s"))
    view.apply([revocation("s", {"exp": 2000.0})])
    assert view.revoked(PRINCIPAL, SessionId("s"))
    assert not view.revoked(PRINCIPAL, SessionId("other"))
    assert not view.revoked(PrincipalId("other"), SessionId("s"))


def test_a_removed_revocation_no_longer_counts() -> None:
    view = RevocationView(SetClock())
    view.apply([revocation("s", {"exp": 2000.0}), revocation("s", None)])
    assert not view.revoked(PRINCIPAL, SessionId("s"))


def test_loading_replaces_everything() -> None:
    view = RevocationView(SetClock())
    view.apply([revocation("old", {"exp": 2000.0})])
    view.load([revocation("new", {"exp": 2000.0})])
    assert not view.revoked(PRINCIPAL, SessionId("old"))
    assert view.revoked(PRINCIPAL, SessionId("new"))


@pytest.mark.parametrize("value", [{}, {"exp": None}, {"exp": "soon"}, {"exp": []}])
def test_a_revocation_that_cannot_be_read_revokes(value: Value) -> None:
    view = RevocationView(SetClock())
    view.apply([revocation("s", value), revocation("t", {"exp": 2000.0})])
    assert view.revoked(PRINCIPAL, SessionId("s"))
    assert view.revoked(PRINCIPAL, SessionId("t"))


def test_expired_revocations_are_swept_and_living_ones_stay() -> None:
    clock = SetClock()
    view = RevocationView(clock)
    for number in range(5000):
        clock.now += 1
        view.apply([revocation(str(number), {"exp": clock.now + 100})])
    assert len(view._until_s) < 2048
    assert all(view.revoked(PRINCIPAL, SessionId(str(number))) for number in range(4900, 5000))


def test_sweeping_never_drops_what_is_still_alive() -> None:
    view = RevocationView(SetClock())
    view.apply([revocation(str(number), {"exp": 2000.0}) for number in range(5000)])
    assert all(view.revoked(PRINCIPAL, SessionId(str(number))) for number in range(5000))
