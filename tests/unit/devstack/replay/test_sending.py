import asyncio
from collections import defaultdict
from collections.abc import Iterator

import pytest

from tidegate.devstack.replay.rows import Command, InputError
from tidegate.devstack.replay.sending import send_all
from tidegate.devstack.replay.tally import Outcome, Result

ACCEPTED = Result(Outcome.ACCEPTED, 0.0, 1)


def commands(aggregates: int, each: int) -> list[Command]:
    return [
        Command(f"{aggregate}-{place}", "stamp", f"case-{aggregate}", {})
        for place in range(each)
        for aggregate in range(aggregates)
    ]


def ignore(_: Result) -> None:
    pass


async def test_commands_of_one_aggregate_never_overlap_and_keep_their_order() -> None:
    under_way: set[str] = set()
    done: defaultdict[str, list[str]] = defaultdict(list)

    async def send(command: Command) -> Result:
        assert command.aggregate_id not in under_way
        under_way.add(command.aggregate_id)
        # Later commands get their chance to overtake.
        for _ in range(int(command.command_id.rpartition("-")[2]) % 3):
            await asyncio.sleep(0)
        under_way.remove(command.aggregate_id)
        done[command.aggregate_id].append(command.command_id)
        return ACCEPTED

    await send_all(commands(20, 10), send, ignore, concurrency=8)
    assert done == {
        f"case-{aggregate}": [f"{aggregate}-{place}" for place in range(10)]
        for aggregate in range(20)
    }


async def test_aggregates_are_sent_at_the_same_time_but_not_more_than_asked_for() -> None:
    at_once = most = 0

    async def send(_: Command) -> Result:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0)
        at_once -= 1
        return ACCEPTED

    await send_all(commands(100, 3), send, ignore, concurrency=4)
    assert most == 4


async def test_a_long_file_is_read_only_as_fast_as_it_is_sent() -> None:
    read = sent = ahead = 0

    def endless() -> Iterator[Command]:
        nonlocal read
        for command in commands(50, 200):
            read += 1
            yield command

    async def send(_: Command) -> Result:
        nonlocal sent, ahead
        await asyncio.sleep(0)
        sent += 1
        ahead = max(ahead, read - sent)
        return ACCEPTED

    await send_all(endless(), send, ignore, concurrency=4)
    assert sent == 10_000
    # Four lanes of 64, and what each of them has in hand.
    assert 64 <= ahead <= 4 * 65 + 1


async def test_every_result_is_told() -> None:
    told: list[Result] = []

    async def send(_: Command) -> Result:
        return ACCEPTED

    await send_all(commands(3, 2), send, told.append, concurrency=2)
    assert told == [ACCEPTED] * 6


async def test_a_file_that_goes_bad_half_way_ends_the_sending() -> None:
    def broken() -> Iterator[Command]:
        yield from commands(2, 1)
        raise InputError("gone")

    async def send(_: Command) -> Result:
        await asyncio.Event().wait()
        return ACCEPTED

    with pytest.raises(ExceptionGroup) as caught:
        await send_all(broken(), send, ignore, concurrency=2)
    assert caught.group_contains(InputError)
