"""The replica that the tests of admission ask."""

from __future__ import annotations

import pytest
from harness.admission import Replica

from tidegate.store import reading


@pytest.fixture
def replica(monkeypatch: pytest.MonkeyPatch) -> Replica:
    made = Replica()
    monkeypatch.setattr(reading, "snapshot", made.stream.snapshot)
    return made
