"""The calling loop, with attempts that only pretend."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable

import pytest
from prometheus_client import REGISTRY

from tidegate.kernel import errors
from tidegate.kernel.errors import Refusal
from tidegate.routing.model import Endpoint, ServiceKind, Transport
from tidegate.upstream.caller import Caller
from tidegate.upstream.retry import Failed
from tidegate.upstream.settings import Settings

NODES = (Endpoint("a:1", Transport.GRPC), Endpoint("b:1", Transport.GRPC))
REJECTED = Refusal(errors.COMMAND_REJECTED, "no")


class Clock:
    """Stands still unless told otherwise."""

    def __init__(self) -> None:
        self.at_s = 1000.0

    def now_s(self) -> float:
        return self.at_s

    monotonic_s = boottime_s = now_s


class Script:
    """Attempts that come out as written, and what they were made with."""

    def __init__(self, clock: Clock, outcomes: Iterable[str | Refusal | Failed]) -> None:
        self._clock = clock
        self._outcomes = iter(outcomes)
        self.took_s = 0.0
        self.tried: list[str] = []
        self.remaining_s: list[float] = []

    async def attempt(self, endpoint: Endpoint, remaining_s: float) -> str | Refusal | Failed:
        self.tried.append(endpoint.address)
        self.remaining_s.append(remaining_s)
        self._clock.at_s += self.took_s
        return next(self._outcomes)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def caller(clock: Clock, **settings: float) -> Caller[str]:
    return Caller(ServiceKind.AGGREGATE, Settings(**settings), clock, random.Random(7))


def counted(result: str) -> float:
    labels = {"kind": "aggregate", "result": result}
    return REGISTRY.get_sample_value("tidegate_upstream_requests_total", labels) or 0.0


def repeated() -> float:
    return REGISTRY.get_sample_value("tidegate_upstream_retries_total", {"kind": "aggregate"}) or 0


async def test_an_answer_is_an_answer(clock: Clock):
    before = counted("answered")
    script = Script(clock, ["done"])
    assert await caller(clock).call(NODES, 5, script.attempt) == "done"
    assert script.remaining_s == [5]
    assert counted("answered") == before + 1


async def test_a_refusal_is_not_tried_again(clock: Clock):
    before = counted("command_rejected")
    script = Script(clock, [REJECTED])
    assert await caller(clock).call(NODES, 5, script.attempt) is REJECTED
    assert len(script.tried) == 1
    assert counted("command_rejected") == before + 1


async def test_a_failed_attempt_moves_to_the_other_endpoint(clock: Clock):
    before = repeated()
    script = Script(clock, [Failed(sent=True), "done"])
    assert await caller(clock).call(NODES, 5, script.attempt) == "done"
    assert set(script.tried) == {"a:1", "b:1"}
    assert repeated() == before + 1


async def test_it_gives_up_after_a_few_times(clock: Clock):
    script = Script(clock, [Failed(sent=True)] * 9)
    refusal = await caller(clock).call(NODES, 5, script.attempt)
    assert isinstance(refusal, Refusal)
    assert refusal.code is errors.NO_ENDPOINT
    assert refusal.retry_after_s == 1
    assert len(script.tried) == 3


async def test_operators_learn_why_it_gave_up_and_clients_do_not(
    clock: Clock, caplog: pytest.LogCaptureFixture
):
    script = Script(
        clock, [Failed(sent=False, why="certificate expired")] + [Failed(sent=False)] * 9
    )
    refusal = await caller(clock, reconnect_wait_s=0).call(NODES[:1], 5, script.attempt)
    assert isinstance(refusal, Refusal)
    assert "expired" not in repr(refusal)
    assert "a:1: certificate expired" in caplog.text


async def test_the_shorter_deadline_holds_and_shrinks(clock: Clock):
    script = Script(clock, [Failed(sent=True), "done"])
    script.took_s = 1.5
    await caller(clock, total_timeout_s=4).call(NODES, 60, script.attempt)
    assert script.remaining_s == [4, 2.5]


async def test_nothing_is_attempted_when_no_time_is_left(clock: Clock):
    script = Script(clock, [])
    refusal = await caller(clock).call(NODES, 0, script.attempt)
    assert isinstance(refusal, Refusal)
    assert refusal.code is errors.DEADLINE
    assert not script.tried


async def test_beyond_the_limit_a_call_is_refused_at_once(clock: Clock):
    busy = caller(clock, max_in_flight=1)
    going, may_end = asyncio.Event(), asyncio.Event()

    async def slow(endpoint: Endpoint, remaining_s: float) -> str:
        going.set()
        await may_end.wait()
        return "done"

    async with asyncio.TaskGroup() as group:
        first = group.create_task(busy.call(NODES, 5, slow))
        await going.wait()
        refusal = await busy.call(NODES, 5, slow)
        assert isinstance(refusal, Refusal)
        assert refusal.code is errors.OVERLOADED
        may_end.set()
    assert first.result() == "done"
    assert await busy.call(NODES, 5, slow) == "done"


async def test_a_cancelled_call_makes_room_again(clock: Clock):
    busy = caller(clock, max_in_flight=1)
    going = asyncio.Event()

    async def endless(endpoint: Endpoint, remaining_s: float) -> str:
        going.set()
        await asyncio.Event().wait()
        return "never"

    before = counted("aborted")
    call = asyncio.create_task(busy.call(NODES, 5, endless))
    await going.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert counted("aborted") == before + 1
    assert await busy.call(NODES, 5, Script(clock, ["done"]).attempt) == "done"
