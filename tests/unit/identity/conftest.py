"""Server keys that the tests of identity share."""

from __future__ import annotations

import pytest

from tidegate.identity.accounts import Keys
from tidegate.kernel.secret import Secret
from tidegate.store.keyring import KeyRing, Peppers, Wrapping


@pytest.fixture
def keys() -> Keys:
    return Keys(
        Wrapping(KeyRing("w1", {"w1": Secret(b"w" * 32)})),
        Peppers(KeyRing("p2", {"p2": Secret(b"p" * 32), "p1": Secret(b"q" * 32)})),
    )
