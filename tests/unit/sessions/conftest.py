"""Keys and settings that the tests of sessions share."""

from __future__ import annotations

import pytest

from tidegate.kernel.secret import Secret
from tidegate.sessions import keys
from tidegate.sessions.keys import ENTRY_KEY, KeyState, SigningKey, SigningKeyView
from tidegate.sessions.settings import Settings
from tidegate.store.changes import Entry
from tidegate.store.keyring import KeyRing, Peppers, Wrapping


@pytest.fixture
def settings() -> Settings:
    return Settings(issuer="https://gateway.example.org", audience="tidegate")


@pytest.fixture
def wrapping() -> Wrapping:
    return Wrapping(KeyRing("w1", {"w1": Secret(b"w" * 32)}))


@pytest.fixture
def peppers() -> Peppers:
    return Peppers(KeyRing("p1", {"p1": Secret(b"p" * 32), "p0": Secret(b"q" * 32)}))


@pytest.fixture
def signing_key() -> SigningKey:
    return keys.generate(KeyState.ACTIVE)


@pytest.fixture
def view(signing_key: SigningKey, wrapping: Wrapping) -> SigningKeyView:
    made = SigningKeyView(wrapping)
    made.load([Entry(ENTRY_KEY, {"keys": [keys.encode(signing_key, wrapping, 0)]}, 1)])
    return made
