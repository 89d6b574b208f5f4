import asyncio

import pytest

from tidegate.kernel.lifecycle import Ready, start


class Broken(Exception):
    pass


async def test_it_returns_when_the_service_is_ready_and_leaves_it_running() -> None:
    async def run(ready: Ready) -> None:
        ready()
        await asyncio.Event().wait()

    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        task = await start(group, "service", run)
        assert not task.done()
        assert task.get_name() == "service"
        task.cancel()
    assert task.cancelled()


async def test_it_waits_for_readiness() -> None:
    proceed = asyncio.Event()

    async def run(ready: Ready) -> None:
        await proceed.wait()
        ready()

    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        starting = group.create_task(start(group, "service", run))
        for _ in range(10):
            await asyncio.sleep(0)
        assert not starting.done()
        proceed.set()
        await starting


async def test_a_service_that_fails_before_it_is_ready_ends_the_group_with_its_exception() -> None:
    async def run(_: Ready) -> None:
        raise Broken

    reached = False

    async def begin() -> None:
        nonlocal reached
        async with asyncio.timeout(5), asyncio.TaskGroup() as group:
            await start(group, "service", run)
            reached = True

    with pytest.raises(ExceptionGroup) as caught:
        await begin()
    assert [type(exc) for exc in caught.value.exceptions] == [Broken]
    assert not reached


async def test_a_service_that_ends_before_it_is_ready_ends_the_group() -> None:
    async def run(_: Ready) -> None:
        return

    with pytest.raises(ExceptionGroup) as caught:
        async with asyncio.timeout(5), asyncio.TaskGroup() as group:
            await start(group, "feed", run)
    [error] = caught.value.exceptions
    assert isinstance(error, RuntimeError)
    assert str(error) == "feed ended before it was ready"


async def test_a_service_that_fails_later_ends_the_group() -> None:
    fail = asyncio.Event()

    async def run(ready: Ready) -> None:
        ready()
        await fail.wait()
        raise Broken

    bystanders: list[asyncio.Task[bool]] = []

    async def begin() -> None:
        async with asyncio.timeout(5), asyncio.TaskGroup() as group:
            bystanders.append(group.create_task(asyncio.Event().wait()))
            await start(group, "service", run)
            fail.set()

    with pytest.raises(ExceptionGroup) as caught:
        await begin()
    assert [type(exc) for exc in caught.value.exceptions] == [Broken]
    assert bystanders[0].cancelled()


async def test_giving_up_a_start_ends_the_service_and_leaves_no_task() -> None:
    ended = False

    async def run(_: Ready) -> None:
        nonlocal ended
        try:
            await asyncio.Event().wait()
        finally:
            ended = True

    async def begin() -> None:
        async with asyncio.TaskGroup() as group:
            await start(group, "service", run)

    beginning = asyncio.create_task(begin())
    for _ in range(10):
        await asyncio.sleep(0)
    beginning.cancel()
    with pytest.raises(asyncio.CancelledError):
        await beginning
    await asyncio.sleep(0)
    assert ended
    assert asyncio.all_tasks() == {asyncio.current_task()}
