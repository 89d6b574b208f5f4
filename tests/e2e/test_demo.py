"""`tidegate demo`: the guided tour, as a pipe sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tidegate.devstack.tour import STEPS

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.conftest import Tidegate

pytestmark = pytest.mark.e2e


def left_in(folder: Path) -> list[Path]:
    return list(folder.iterdir())


async def test_every_step_of_the_tour_holds(tidegate: Tidegate, tmp_path: Path) -> None:
    done = await tidegate("demo")
    assert done.status == 0, done.out + done.err
    for number, step in enumerate(STEPS, start=1):
        assert f"✓ {number:2}. {step.__doc__}" in done.out
    assert f"{len(STEPS)} of {len(STEPS)} steps held" in done.out
    assert "\x1b" not in done.out
    assert left_in(tmp_path) == []
