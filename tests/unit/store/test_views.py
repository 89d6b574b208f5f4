import asyncio

import pytest

from tidegate.store.views import Progress


class FakeClock:
    def __init__(self) -> None:
        self.at_s = 100.0

    def now_s(self) -> float:
        return self.at_s

    monotonic_s = boottime_s = now_s


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def progress(clock: FakeClock) -> Progress:
    return Progress(clock)


async def spin() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_age_counts_from_when_the_feed_was_last_heard(progress: Progress, clock: FakeClock) -> None:
    assert progress.age_s == float("inf")
    progress.heard()
    clock.at_s += 3
    assert progress.age_s == 3
    progress.heard()
    assert progress.age_s == 0


async def test_what_is_there_already_is_not_waited_for(progress: Progress) -> None:
    progress.reached(7)
    assert await progress.wait_for(7, deadline_s=0)
    assert await progress.wait_for(3, deadline_s=-1)


async def test_a_revision_wakes_exactly_those_who_wait_for_it_or_less(progress: Progress) -> None:
    waits = {
        revision: asyncio.create_task(progress.wait_for(revision, 5)) for revision in (9, 5, 6, 12)
    }
    await spin()
    progress.reached(8)
    await spin()
    assert {revision for revision, wait in waits.items() if wait.done()} == {5, 6}
    progress.reached(9)
    await spin()
    assert {revision for revision, wait in waits.items() if wait.done()} == {5, 6, 9}
    progress.reached(50)
    assert await asyncio.gather(*waits.values()) == [True] * 4


async def test_two_may_wait_for_the_same_revision(progress: Progress) -> None:
    waits = [asyncio.create_task(progress.wait_for(5, 5)) for _ in range(3)]
    await spin()
    progress.reached(5)
    assert await asyncio.gather(*waits) == [True] * 3


@pytest.mark.parametrize("deadline_s", [0.01, 0, -1])
async def test_a_deadline_ends_the_wait(progress: Progress, deadline_s: float) -> None:
    assert not await progress.wait_for(5, deadline_s)
    progress.reached(5)
    assert await progress.wait_for(5, deadline_s)


async def test_a_wait_that_ends_early_leaves_nothing_behind(progress: Progress) -> None:
    """Clients choose what to wait for, so a revision that never comes must not be kept."""
    for _ in range(3):
        assert not await progress.wait_for(2**62, 0)
    cancelled = [asyncio.create_task(progress.wait_for(2**62 + n, 60)) for n in range(3)]
    await spin()
    assert len(progress._waiting) == 3
    for wait in cancelled:
        wait.cancel()
    results = await asyncio.gather(*cancelled, return_exceptions=True)
    assert all(isinstance(result, asyncio.CancelledError) for result in results)
    assert progress._waiting == []
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_cancelled_wait_does_not_disturb_the_others(progress: Progress) -> None:
    waits = [asyncio.create_task(progress.wait_for(5, 5)) for _ in range(3)]
    await spin()
    waits[1].cancel()
    # Reached before the cancelled one had its turn to leave.
    progress.reached(5)
    with pytest.raises(asyncio.CancelledError):
        await waits[1]
    assert await waits[0]
    assert await waits[2]


async def test_another_stream_starts_anew(progress: Progress) -> None:
    progress.reached(100)
    progress.restarted(3)
    assert progress.revision == 3
    assert not await progress.wait_for(4, 0)
    progress.reached(4)
    assert await progress.wait_for(4, 0)
