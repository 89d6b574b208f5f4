import asyncio
import signal
from contextlib import suppress

import pytest

from tidegate.devstack import supervision
from tidegate.devstack.managed_program import ProgramError
from tidegate.devstack.supervision import ending, keep_running, pause_s


class Part:
    """Ends at once as often as told, then runs on; its first starts may fail."""

    def __init__(self, ends: int, failing_starts: int = 0) -> None:
        self.pid = 1
        self.starts = 0
        self.runs_on = asyncio.Event()
        self._ends = ends
        self._failing_starts = failing_starts

    async def wait(self) -> int:
        if self.pid <= self._ends:
            return -signal.SIGKILL
        self.runs_on.set()
        await asyncio.Event().wait()
        return 0

    async def restart(self) -> None:
        self.starts += 1
        if self.starts <= self._failing_starts:
            raise ProgramError("gateway 1 exited with 1 while starting; its log ends with:\n  x")
        self.pid += 1


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervision, "_FIRST_PAUSE_S", 0.0)


async def supervised(part: Part) -> tuple[list[str], list[str]]:
    """Run the supervision until the part runs on; what it told, and which restarts it reported."""
    told: list[str] = []
    restarted: list[str] = []
    running = asyncio.create_task(keep_running("gateway 1", part, told.append, restarted.append))
    runs_on = asyncio.create_task(part.runs_on.wait())
    await asyncio.wait({running, runs_on}, return_when=asyncio.FIRST_COMPLETED)
    runs_on.cancel()
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    return told, restarted


async def test_a_part_that_ends_is_started_again_however_often() -> None:
    part = Part(ends=30)
    told, restarted = await supervised(part)
    assert restarted == ["gateway 1"] * 30
    assert told[:2] == [
        "gateway 1 was ended by SIGKILL",
        "gateway 1 runs again as process 2",
    ]


async def test_a_start_that_fails_is_tried_again_and_told_in_one_line() -> None:
    part = Part(ends=1, failing_starts=9)
    told, restarted = await supervised(part)
    assert restarted == ["gateway 1"]
    assert told[1] == ("gateway 1 did not start again: gateway 1 exited with 1 while starting")


async def test_ten_failed_starts_in_a_row_end_the_supervision() -> None:
    part = Part(ends=1, failing_starts=10)
    with pytest.raises(ProgramError):
        await supervised(part)
    assert part.starts == 10


def test_pauses_double_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervision, "_FIRST_PAUSE_S", 0.1)
    assert [pause_s(failures) for failures in (0, 1, 2, 5, 6, 50)] == [0.1, 0.2, 0.4, 3.2, 5, 5]


@pytest.mark.parametrize(
    ("status", "words"), [(0, "exited with 0"), (3, "exited with 3"), (-9, "was ended by SIGKILL")]
)
def test_an_ending_is_told_in_words(status: int, words: str) -> None:
    assert ending(status) == words
