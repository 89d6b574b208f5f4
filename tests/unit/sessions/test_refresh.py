"""Refresh tokens: the format, and what each use of one comes to."""

from __future__ import annotations

import base64
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tidegate.kernel.ids import PrincipalId, SessionId, new_id
from tidegate.kernel.secret import Secret
from tidegate.sessions import refresh
from tidegate.sessions.refresh import (
    PREFIX,
    Ended,
    Raced,
    RefreshToken,
    Reused,
    Rotated,
    Session,
    Stale,
)
from tidegate.sessions.settings import Settings
from tidegate.store.changes import Delete, Entry, Put
from tidegate.store.keyring import KeyRing, Peppers, digest

NOW_S = 1_700_000_000.0
DAY_S = 24 * 3600
SECRET = Secret(b"s" * 32)
NEXT = Secret(b"n" * 32)
TOKEN = RefreshToken(PrincipalId(new_id()), SessionId(new_id()), 5, SECRET)
SESSION = Session(
    principal_id=TOKEN.principal_id,
    id=TOKEN.session_id,
    session_epoch=2,
    counter=5,
    secret_hash=digest(SECRET),
    created_at_s=NOW_S - 3600,
    rotated_at_s=NOW_S - 5,
    expires_at_s=NOW_S + DAY_S,
    amr=("pwd",),
    acr="1",
    device_name="laptop",
    address="192.0.2.1",
)

with_fixtures = hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def entry_of(session: Session, revision: int = 9) -> Entry:
    key = refresh.session_key(session.principal_id, session.id)
    return Entry(key, refresh.encode(session), revision)


@given(counter=st.integers(0, 2**32 - 1), secret=st.binary(min_size=32, max_size=32))
@with_fixtures
def test_a_token_says_what_it_was_made_of(counter: int, secret: bytes, peppers: Peppers) -> None:
    token = replace(TOKEN, counter=counter, secret=Secret(secret))
    text = token.encode(peppers).reveal_text()
    assert text.startswith(PREFIX)
    assert refresh.parse(text, peppers) == token


def test_a_token_is_one_word_that_urls_and_cookies_can_carry(peppers: Peppers) -> None:
    text = TOKEN.encode(peppers).reveal_text()
    assert text.isascii()
    assert text.replace("_", "").replace("-", "").isalnum()
    assert len(text) < 300


def test_a_token_with_any_one_bit_flipped_is_void(peppers: Peppers) -> None:
    encoded = TOKEN.encode(peppers).reveal_text()[len(PREFIX) :]
    raw = base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4))
    for bit in range(8 * len(raw)):
        flipped = bytearray(raw)
        flipped[bit // 8] ^= 1 << bit % 8
        text = PREFIX + base64.urlsafe_b64encode(bytes(flipped)).rstrip(b"=").decode()
        assert refresh.parse(text, peppers) is None, f"bit {bit}"


@given(text=st.text(max_size=400) | st.text("ABCabc019-_=", max_size=310).map(PREFIX.__add__))
@with_fixtures
def test_what_is_not_ours_is_void(text: str, peppers: Peppers) -> None:
    assert refresh.parse(text, peppers) is None


@pytest.mark.parametrize("cut", [1, 2, 4, 43, 44, 60, 100])
def test_a_token_cut_short_or_made_longer_is_void(cut: int, peppers: Peppers) -> None:
    text = TOKEN.encode(peppers).reveal_text()
    assert refresh.parse(text[:-cut], peppers) is None
    assert refresh.parse(text + "A" * cut, peppers) is None


def test_a_token_outlives_the_rotation_of_the_peppers_but_not_their_removal() -> None:
    old, new = Secret(b"o" * 32), Secret(b"m" * 32)
    text = TOKEN.encode(Peppers(KeyRing("old", {"old": old}))).reveal_text()
    both = Peppers(KeyRing("new", {"new": new, "old": old}))
    assert refresh.parse(text, both) == TOKEN
    assert refresh.parse(text, Peppers(KeyRing("new", {"new": new}))) is None
    # The id alone is no proof: another key under the same id does not verify it.
    assert refresh.parse(text, Peppers(KeyRing("old", {"old": new}))) is None


def test_a_token_does_not_show_its_secret() -> None:
    assert "ssss" not in repr(TOKEN)


def test_a_session_is_read_back_as_it_was_written() -> None:
    assert refresh.decode(entry_of(SESSION), NOW_S) == SESSION


def test_what_a_newer_version_wrote_into_a_session_survives_a_rotation() -> None:
    stored = Entry(
        refresh.session_key(SESSION.principal_id, SESSION.id),
        {**refresh.encode(SESSION), "binding": {"jkt": "x"}},
        9,
    )
    change = refresh.put(SESSION, stored, NOW_S)
    assert change.value["binding"] == {"jkt": "x"}
    assert change.expected == 9


def test_the_stored_session_holds_no_secret() -> None:
    stored = str(refresh.encode(SESSION))
    for form in (SECRET.reveal().decode(), SECRET.reveal().hex()):
        assert form not in stored


def test_a_new_session_must_not_exist_yet() -> None:
    assert refresh.put(SESSION, None, NOW_S).expected == 0


def test_the_server_keeps_a_session_just_longer_than_it_lives() -> None:
    ttl_s = refresh.put(SESSION, None, NOW_S).ttl_s
    assert ttl_s is not None
    assert NOW_S + ttl_s > SESSION.expires_at_s
    assert ttl_s <= SESSION.expires_at_s - NOW_S + 1


@pytest.mark.parametrize("late_s", [0, 0.001, 10**9])
def test_an_expired_session_counts_as_ended(late_s: float) -> None:
    assert refresh.decode(entry_of(SESSION), SESSION.expires_at_s + late_s) is None


def test_a_deleted_session_has_ended() -> None:
    assert refresh.decode(replace(entry_of(SESSION), value=None), NOW_S) is None


@pytest.mark.parametrize(
    ("age_s", "expected_s"),
    [
        (0, 30 * DAY_S),
        (149 * DAY_S, 30 * DAY_S),
        (150 * DAY_S, 30 * DAY_S),
        (151 * DAY_S, 29 * DAY_S),
        (179 * DAY_S, DAY_S),
        (180 * DAY_S, 0),
    ],
)
def test_a_session_ends_idle_or_too_old_whichever_is_first(
    age_s: float, expected_s: float, settings: Settings
) -> None:
    assert refresh.expiry(NOW_S - age_s, NOW_S, settings) == NOW_S + expected_s


def test_the_current_token_is_traded_for_its_successor(settings: Settings) -> None:
    rotation = refresh.rotate(SESSION, TOKEN, NEXT, NOW_S, settings)
    assert isinstance(rotation, Rotated)
    assert rotation.token == replace(TOKEN, counter=6, secret=NEXT)
    assert rotation.session == replace(
        SESSION,
        counter=6,
        secret_hash=digest(NEXT),
        rotated_at_s=NOW_S,
        expires_at_s=NOW_S + settings.idle_ttl_s,
    )


@pytest.mark.parametrize("age_s", [0, 1, 10])
def test_the_immediate_predecessor_has_just_lost_a_race(age_s: float, settings: Settings) -> None:
    session = replace(SESSION, rotated_at_s=NOW_S - age_s)
    token = replace(TOKEN, counter=4)
    assert refresh.rotate(session, token, NEXT, NOW_S, settings) == Raced()


def test_a_clock_that_is_behind_the_rotation_is_no_reuse(settings: Settings) -> None:
    session = replace(SESSION, rotated_at_s=NOW_S + 2)
    token = replace(TOKEN, counter=4)
    assert refresh.rotate(session, token, NEXT, NOW_S, settings) == Raced()


def test_the_immediate_predecessor_is_reuse_later_on(settings: Settings) -> None:
    session = replace(SESSION, rotated_at_s=NOW_S - 10.001)
    token = replace(TOKEN, counter=4)
    assert refresh.rotate(session, token, NEXT, NOW_S, settings) == Reused()


@pytest.mark.parametrize("counter", [0, 1, 3])
@pytest.mark.parametrize("age_s", [0.0, 3600.0])
def test_an_older_token_is_reuse_whenever(counter: int, age_s: float, settings: Settings) -> None:
    session = replace(SESSION, rotated_at_s=NOW_S - age_s)
    token = replace(TOKEN, counter=counter)
    assert refresh.rotate(session, token, NEXT, NOW_S, settings) == Reused()


@pytest.mark.parametrize("counter", [6, 7, 2**32 - 1])
def test_a_newer_token_means_that_what_was_read_is_old(counter: int, settings: Settings) -> None:
    token = replace(TOKEN, counter=counter)
    assert refresh.rotate(SESSION, token, NEXT, NOW_S, settings) == Stale()


def test_the_current_counter_with_another_secret_is_reuse(settings: Settings) -> None:
    token = replace(TOKEN, secret=Secret(b"x" * 32))
    assert refresh.rotate(SESSION, token, NEXT, NOW_S, settings) == Reused()


def test_nothing_rotates_without_a_session(settings: Settings) -> None:
    assert refresh.rotate(None, TOKEN, NEXT, NOW_S, settings) == Ended()


def test_an_end_removes_the_session_and_voids_its_access_tokens(settings: Settings) -> None:
    entry = entry_of(SESSION)
    removed, revocation = refresh.end(entry, NOW_S, settings)
    assert removed == Delete(entry.key, entry.revision)
    assert isinstance(revocation, Put)
    assert revocation.key == f"revocation.{SESSION.principal_id}.{SESSION.id}"
    assert revocation.expected == 0


def test_a_revocation_outlives_every_access_token_of_its_session(settings: Settings) -> None:
    made = refresh.revocation(SESSION.principal_id, SESSION.id, NOW_S, settings)
    longest_s = settings.access_ttl_s
    assert made.value["exp"] > NOW_S + longest_s
    assert made.ttl_s is not None
    assert made.ttl_s > longest_s


@given(uses=st.lists(st.tuples(st.integers(0, 40), st.floats(0, 30)), max_size=40))
def test_of_all_uses_of_all_tokens_only_current_ones_rotate(
    uses: list[tuple[int, float]],
) -> None:
    """Against an adversary who keeps every token and replays any of them at any time."""
    settings = Settings()
    session, now_s = replace(SESSION, counter=0), NOW_S
    minted = [replace(TOKEN, counter=0)]
    for number, (place, pause_s) in enumerate(uses):
        now_s += pause_s
        shown = minted[min(place, len(minted) - 1)]
        fresh = Secret(number.to_bytes(32, "big"))
        rotation = refresh.rotate(session, shown, fresh, now_s, settings)
        newest = shown == minted[-1]
        assert isinstance(rotation, Rotated) is newest
        if isinstance(rotation, Rotated):
            session = rotation.session
            minted.append(rotation.token)
        elif isinstance(rotation, Raced):
            assert shown == minted[-2]
        else:
            assert rotation == Reused()
            return
