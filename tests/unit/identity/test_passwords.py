"""Passwords: the policy, and hashing that cannot pile up."""

from __future__ import annotations

import asyncio
import threading
import unicodedata
from collections.abc import Iterator

import pytest
from argon2 import PasswordHasher
from hypothesis import given
from hypothesis import strategies as st

from tidegate.identity.passwords import Passwords, check_policy, normalize
from tidegate.identity.settings import PasswordSettings
from tidegate.kernel import errors
from tidegate.kernel.errors import Refusal
from tidegate.kernel.secret import Secret

CHEAP = PasswordSettings(memory_kib=8, iterations=1, threads=1, queue=2)
GOOD = "correct horse battery staple"


@pytest.fixture
def hashing() -> Iterator[Passwords]:
    made = Passwords(CHEAP)
    yield made
    made.close()


def problem(password: str, email: str = "ada@example.org") -> str | None:
    refusal = check_policy(password, email, CHEAP)
    if refusal is None:
        return None
    assert refusal.code is errors.INVALID
    (field,) = refusal.errors
    assert field.field == "/password"
    return field.problem


@pytest.mark.parametrize(
    "password",
    [
        "x" * 15,
        "x" * 256,
        GOOD,
        " " * 15,
        "пароль из пятнадцати букв",
        "密码" * 8,
        "🔑" * 15,
        "\x00" * 15,
        "no-digits-no-capitals",
    ],
)
def test_any_characters_will_do_when_there_are_enough(password: str) -> None:
    assert problem(password) is None


@pytest.mark.parametrize(
    ("password", "word"), [("", "15"), ("x" * 14, "15"), ("🔑" * 14, "15"), ("x" * 257, "256")]
)
def test_too_short_and_too_long_are_told_with_the_limit(password: str, word: str) -> None:
    assert word in (problem(password) or "")


def test_characters_are_counted_as_they_are_hashed() -> None:
    """A letter typed as letter and accent counts once, however the keyboard sends it."""
    decomposed = unicodedata.normalize("NFD", "é" * 14)
    assert len(decomposed) == 28
    assert problem(decomposed) is not None
    assert problem(unicodedata.normalize("NFD", "é" * 256)) is None


@pytest.mark.parametrize("password", ["i am lovelace of london", "I AM LOVELACE OF LONDON"])
def test_the_name_in_the_address_must_not_be_in_the_password(password: str) -> None:
    assert problem(password, "Lovelace@example.org") is not None
    assert problem(password, "other@example.org") is None


def test_a_very_short_name_may_be_in_the_password() -> None:
    assert problem("a password with ada in it", "ada@example.org") is None


@given(text=st.text(max_size=40))
def test_two_spellings_of_one_password_are_one_password(text: str) -> None:
    composed, decomposed = (unicodedata.normalize(form, text) for form in ("NFC", "NFD"))
    assert normalize(composed) == normalize(decomposed)


async def test_a_hash_verifies_its_password_and_no_other(hashing: Passwords) -> None:
    stored = await hashing.hash(Secret(GOOD))
    assert isinstance(stored, str)
    assert stored.startswith("$argon2id$")
    assert GOOD not in stored
    assert await hashing.verify(stored, Secret(GOOD)) is True
    assert await hashing.verify(stored, Secret(GOOD + " ")) is False


async def test_the_same_password_never_hashes_the_same(hashing: Passwords) -> None:
    assert await hashing.hash(Secret(GOOD)) != await hashing.hash(Secret(GOOD))


async def test_nothing_is_cut_off_silently(hashing: Passwords) -> None:
    stored = await hashing.hash(Secret("x" * 255 + "a"))
    assert isinstance(stored, str)
    assert await hashing.verify(stored, Secret("x" * 255 + "b")) is False


@pytest.mark.parametrize("stored", ["", "plain", "$argon2id$v=19$broken", "$2b$12$abcdefghijklmno"])
async def test_a_stored_value_that_is_no_hash_matches_nothing(
    stored: str, hashing: Passwords
) -> None:
    assert await hashing.verify(stored, Secret(GOOD)) is False


async def test_without_an_account_the_same_work_is_done_and_nothing_matches(
    hashing: Passwords, monkeypatch: pytest.MonkeyPatch
) -> None:
    worked: list[str] = []
    verify = PasswordHasher.verify

    def counted(self: PasswordHasher, stored: str | bytes, password: str | bytes) -> bool:
        worked.append(str(stored))
        return bool(verify(self, stored, password))

    monkeypatch.setattr(PasswordHasher, "verify", counted)
    stored = await hashing.hash(Secret(GOOD))
    assert isinstance(stored, str)
    await hashing.verify(stored, Secret("wrong"))
    assert await hashing.verify(None, Secret("wrong")) is False
    of_known, of_unknown = worked
    # The same parameters: algorithm, version, memory, passes, lanes.
    assert of_known.split("$")[:4] == of_unknown.split("$")[:4]


async def test_the_password_of_the_dummy_opens_nothing(hashing: Passwords) -> None:
    assert await hashing.verify(None, Secret("no account has this password")) is False


async def test_other_parameters_ask_for_another_hash(hashing: Passwords) -> None:
    stored = await hashing.hash(Secret(GOOD))
    assert isinstance(stored, str)
    assert not hashing.needs_rehash(stored)
    stronger = Passwords(CHEAP.model_copy(update={"iterations": 2}))
    assert stronger.needs_rehash(stored)
    assert await stronger.verify(stored, Secret(GOOD)) is True
    stronger.close()


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Hashing that does not end before the gate is opened."""
    opened = threading.Event()

    def hash_behind_gate(self: PasswordHasher, password: str | bytes) -> str:
        assert opened.wait(20)
        return "hash"

    monkeypatch.setattr(PasswordHasher, "hash", hash_behind_gate)
    yield opened
    opened.set()


async def test_beyond_threads_and_queue_a_hash_is_refused_at_once(
    hashing: Passwords, gate: threading.Event
) -> None:
    async with asyncio.TaskGroup() as group:
        admitted = [group.create_task(hashing.hash(Secret(GOOD))) for _ in range(3)]
        # The loop goes on while the thread is busy, or this would never be reached.
        await asyncio.sleep(0)
        refused: list[object] = [await hashing.hash(Secret(GOOD)) for _ in range(5)]
        refused.append(await hashing.verify("$x", Secret(GOOD)))
        assert not any(task.done() for task in admitted)
        gate.set()
    for refusal in refused:
        assert isinstance(refusal, Refusal)
        assert refusal.code is errors.OVERLOADED
        assert refusal.retry_after_s
    assert [task.result() for task in admitted] == ["hash"] * 3
    assert await hashing.hash(Secret(GOOD)) == "hash"


async def test_a_caller_that_gives_up_frees_its_place(
    hashing: Passwords, gate: threading.Event
) -> None:
    waiting = [asyncio.create_task(hashing.hash(Secret(GOOD))) for _ in range(3)]
    await asyncio.sleep(0)
    for task in waiting[1:]:
        task.cancel()
    await asyncio.wait(waiting[1:])
    again = asyncio.create_task(hashing.hash(Secret(GOOD)))
    await asyncio.sleep(0)
    gate.set()
    assert await again == "hash"
    assert await waiting[0] == "hash"


def test_closing_ends_the_threads() -> None:
    before = set(threading.enumerate())
    made = Passwords(CHEAP)
    asyncio.run(made.hash(Secret(GOOD)))
    made.close()
    left = set(threading.enumerate()) - before
    assert not any(thread.name.startswith("password") for thread in left)


def test_the_default_parameters_are_those_of_the_recommendation() -> None:
    settings = PasswordSettings()
    assert (settings.memory_kib, settings.iterations, settings.parallelism) == (19 * 1024, 2, 1)
