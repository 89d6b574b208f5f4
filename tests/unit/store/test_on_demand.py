"""What is loaded on demand: when an answer may be believed, who shares it, how much is kept."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import orjson
import pytest
from harness.memory import SetClock
from prometheus_client import REGISTRY

from tidegate.store import on_demand, reading
from tidegate.store.changes import Entry
from tidegate.store.connection import Connection, Disconnected, StoreError
from tidegate.store.encoding import COMMIT_HEADER, Marker
from tidegate.store.on_demand import NotLoaded, OnDemand, Source
from tidegate.store.reading import Snapshot, Stored
from tidegate.store.views import Progress

DEADLINE_S = 10
OWN_KEY = "replica.me"
Made = tuple[str, str, dict[str, Any]]


def build(owner: str, part: str, entries: Sequence[Entry]) -> Made:
    return owner, part, {entry.key: entry.value for entry in entries}


SOURCE: Source[Made] = Source(
    name="things",
    bucket="iam",
    kinds=frozenset({"thing"}),
    keys=lambda owner, part: [f"thing.{owner}.{part}", f"thing.{owner}.{part}.*"],
    build=build,
    owner=lambda entry: entry.key.split(".")[1],
)


def stored(key: str, sequence: int, payload: Any, marker: Marker | None = None) -> Stored:
    headers = {} if marker is None else {COMMIT_HEADER: str(marker)}
    raw = payload if isinstance(payload, bytes) else orjson.dumps(payload)
    return Stored(f"$KV.iam.{key}", raw, headers, sequence)


def answer(up_to: int, *messages: Stored) -> Snapshot:
    return Snapshot((stored(OWN_KEY, 1, {}), *messages), up_to)


@dataclass(frozen=True)
class Question:
    """A read that has been sent; it is answered when the test wants."""

    subjects: Sequence[str]
    answered: asyncio.Future[Snapshot]

    def answer(self, found: Snapshot | Exception) -> None:
        if isinstance(found, Exception):
            self.answered.set_exception(found)
        else:
            self.answered.set_result(found)


class Server:
    """Takes the place of the connection: reads wait here for their answers."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._questions: asyncio.Queue[Question] = asyncio.Queue()
        self.most_at_once = 0
        self._at_once = 0
        monkeypatch.setattr(reading, "snapshot", self._snapshot)

    async def _snapshot(self, _: Connection, __: str, subjects: Sequence[str]) -> Snapshot:
        question = Question(subjects, asyncio.get_running_loop().create_future())
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            self._questions.put_nowait(question)
            return await question.answered
        finally:
            self._at_once -= 1

    async def asked(self) -> Question:
        async with asyncio.timeout(DEADLINE_S):
            return await self._questions.get()

    @property
    def silent(self) -> bool:
        """Whether nothing more has been asked."""
        return self._questions.empty()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    return Server(monkeypatch)


@pytest.fixture
def progress() -> Progress:
    made = Progress(SetClock())
    made.reached(10)
    return made


@pytest.fixture
def things(server: Server, progress: Progress) -> OnDemand[Made]:
    return make(progress)


def make(progress: Progress, capacity: int = 3) -> OnDemand[Made]:
    nobody: Any = None
    return OnDemand(nobody, SOURCE, progress, lambda: OWN_KEY, capacity)


@asynccontextmanager
async def loading(
    things: OnDemand[Made], owner: str = "ada", part: str = "acme"
) -> AsyncIterator[asyncio.Task[Made]]:
    """A load at work, which must be over by the end of the block, or is then cancelled."""
    load = asyncio.create_task(things.load(owner, part))
    try:
        async with asyncio.timeout(DEADLINE_S):
            yield load
    finally:
        load.cancel()
        await asyncio.wait({load})


async def keep(
    things: OnDemand[Made], server: Server, owner: str = "ada", part: str = "acme"
) -> Made:
    """Loads it at the first attempt."""
    async with loading(things, owner, part) as load:
        (await server.asked()).answer(answer(10))
        return await load


async def spin() -> None:
    """Lets every task run that can."""
    for _ in range(10):
        await asyncio.sleep(0)


def touch(things: OnDemand[Made], owner: str = "ada", value: Any = None) -> None:
    things.apply([Entry(f"thing.{owner}.acme", value, 99)])


# --- what is read ---


async def test_it_is_unknown_until_it_is_loaded_and_then_known(
    things: OnDemand[Made], server: Server
) -> None:
    assert things.get("ada", "acme") is None
    async with loading(things) as load:
        question = await server.asked()
        assert things.get("ada", "acme") is None
        question.answer(answer(10, stored("thing.ada.acme", 7, {"n": 1})))
        made = await load
    assert made == ("ada", "acme", {"thing.ada.acme": {"n": 1}})
    assert things.get("ada", "acme") is made
    assert await things.load("ada", "acme") is made
    assert server.silent


async def test_its_keys_are_read_in_one_together_with_the_replicas_own(
    things: OnDemand[Made], server: Server
) -> None:
    """An empty answer would not say how old it is."""
    async with loading(things):
        question = await server.asked()
        assert question.subjects == [
            "$KV.iam.replica.me",
            "$KV.iam.thing.ada.acme",
            "$KV.iam.thing.ada.acme.*",
        ]


async def test_what_is_not_there_is_known_as_well(things: OnDemand[Made], server: Server) -> None:
    async with loading(things) as load:
        (await server.asked()).answer(answer(10, stored("thing.ada.acme", 7, b"")))
        assert await load == ("ada", "acme", {})
    assert things.get("ada", "acme") == ("ada", "acme", {})


@pytest.mark.parametrize("payload", [b"\xff", b"[]", b"null"])
async def test_an_entry_that_cannot_be_read_is_there_but_says_nothing(
    payload: bytes, things: OnDemand[Made], server: Server
) -> None:
    async with loading(things) as load:
        good = stored("thing.ada.acme.1", 8, {"n": 1})
        (await server.asked()).answer(answer(10, stored("thing.ada.acme", 7, payload), good))
        assert (await load)[2] == {"thing.ada.acme": {}, "thing.ada.acme.1": {"n": 1}}


# --- which answers may be believed ---

_OF_A_BATCH = stored("thing.ada.acme", 12, {"n": 1}, Marker("c", 2, 4))
_NOT_TO_BE_BELIEVED = {
    "nothing at all": reading.NOTHING,
    "older than applied": answer(9, stored("thing.ada.acme", 7, {"old": True})),
    "ends within a commit": answer(12, _OF_A_BATCH),
    "ends before the last of a commit": answer(13, _OF_A_BATCH),
}
_TO_BE_BELIEVED = {
    "as new as applied": answer(10, stored("thing.ada.acme", 7, {"n": 1})),
    "newer": answer(99, stored("thing.ada.acme", 7, {"n": 1})),
    "ends with a commit": answer(14, _OF_A_BATCH),
    "of another tool": answer(10, stored("thing.ada.acme", 10, {"n": 1})),
}


@pytest.mark.parametrize("found", _NOT_TO_BE_BELIEVED.values(), ids=_NOT_TO_BE_BELIEVED)
async def test_an_answer_that_may_not_be_believed_has_it_asked_again(
    found: Snapshot, things: OnDemand[Made], server: Server
) -> None:
    async with loading(things) as load:
        for _ in range(3):
            (await server.asked()).answer(found)
        question = await server.asked()
        assert things.get("ada", "acme") is None
        question.answer(answer(14, stored("thing.ada.acme", 12, {"new": True})))
        assert (await load)[2] == {"thing.ada.acme": {"new": True}}


@pytest.mark.parametrize("found", _TO_BE_BELIEVED.values(), ids=_TO_BE_BELIEVED)
async def test_an_answer_that_may_be_believed_is_taken_at_once(
    found: Snapshot, things: OnDemand[Made], server: Server
) -> None:
    async with loading(things) as load:
        (await server.asked()).answer(found)
        assert (await load)[2] == {"thing.ada.acme": {"n": 1}}
    assert server.silent


async def test_a_commit_that_only_the_own_key_is_of_must_be_whole_too(
    things: OnDemand[Made], server: Server
) -> None:
    """Which of its messages were asked for does not matter: others may belong to the thing."""
    half = Snapshot((stored(OWN_KEY, 20, {}, Marker("c", 1, 2)),), 20)
    async with loading(things) as load:
        (await server.asked()).answer(half)
        (await server.asked()).answer(Snapshot(half.messages, 21))
        await load


async def test_it_must_be_as_new_as_what_was_applied_when_it_was_asked_for(
    things: OnDemand[Made], server: Server, progress: Progress
) -> None:
    """What was applied since does not concern it, or it was touched."""
    async with loading(things) as load:
        question = await server.asked()
        progress.reached(50)
        question.answer(answer(10))
        await load
    async with loading(things, part="globex") as load:
        (await server.asked()).answer(answer(49))
        (await server.asked()).answer(answer(50))
        await load


@pytest.mark.parametrize("value", [None, {"n": 2}], ids=["removed", "changed"])
async def test_what_the_feed_touched_meanwhile_is_asked_for_again(
    value: Any, things: OnDemand[Made], server: Server, progress: Progress
) -> None:
    async with loading(things) as load:
        question = await server.asked()
        touch(things, value=value)
        progress.reached(99)
        # However new it says it is: a copy may have answered before the change.
        question.answer(answer(99, stored("thing.ada.acme", 7, {"old": True})))
        (await server.asked()).answer(answer(99, stored("thing.ada.acme", 99, {"new": True})))
        assert (await load)[2] == {"thing.ada.acme": {"new": True}}


async def test_a_touch_voids_the_loads_of_all_parts(things: OnDemand[Made], server: Server) -> None:
    async with loading(things, part="acme") as acme, loading(things, part="globex") as globex:
        questions = [await server.asked(), await server.asked()]
        touch(things)
        for question in questions:
            question.answer(answer(10))
        await spin()
        assert [load.done() for load in (acme, globex)] == [False, False]
        for _ in range(2):
            (await server.asked()).answer(answer(10))
        await asyncio.gather(acme, globex)


async def test_a_touch_of_another_owner_voids_nothing(
    things: OnDemand[Made], server: Server
) -> None:
    kept = await keep(things, server)
    async with loading(things, part="globex") as load:
        question = await server.asked()
        touch(things, "eve")
        question.answer(answer(10))
        await load
    assert things.get("ada", "acme") is kept
    assert server.silent


async def test_a_touch_voids_one_attempt_and_not_the_next(
    things: OnDemand[Made], server: Server
) -> None:
    async with loading(things) as load:
        question = await server.asked()
        touch(things)
        question.answer(answer(10))
        (await server.asked()).answer(answer(10))
        await load
    assert server.silent


async def test_a_feed_that_starts_anew_voids_what_is_being_loaded(
    things: OnDemand[Made], server: Server
) -> None:
    async with loading(things) as load:
        question = await server.asked()
        things.clear()
        question.answer(answer(10, stored("thing.ada.acme", 7, {"old": True})))
        (await server.asked()).answer(answer(10))
        assert (await load)[2] == {}


async def test_a_copy_that_never_catches_up_is_given_up(
    things: OnDemand[Made], server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(on_demand, "_DEADLINE_S", 0.05)
    async with loading(things) as load, loading(things) as joiner:
        while not load.done():
            asking = asyncio.create_task(server.asked())
            await asyncio.wait({load, asking}, return_when=asyncio.FIRST_COMPLETED)
            if asking.done():
                asking.result().answer(answer(9))
            else:
                asking.cancel()
        for each in (load, joiner):
            with pytest.raises(NotLoaded, match="new enough in time"):
                await each
    assert things.get("ada", "acme") is None


# --- who shares a load ---


async def test_one_load_serves_all_who_ask_meanwhile(
    things: OnDemand[Made], server: Server
) -> None:
    async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as group:
        loads = [group.create_task(things.load("ada", "acme")) for _ in range(20)]
        question = await server.asked()
        await spin()
        assert server.silent
        question.answer(answer(10))
    assert len({id(load.result()) for load in loads}) == 1


async def test_parts_and_owners_are_loaded_each_for_itself(
    things: OnDemand[Made], server: Server
) -> None:
    wanted = [("ada", "acme"), ("ada", "globex"), ("eve", "acme")]
    async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as group:
        loads = [group.create_task(things.load(*each)) for each in wanted]
        for _ in wanted:
            (await server.asked()).answer(answer(10))
    assert [load.result()[:2] for load in loads] == wanted


async def test_who_joined_a_load_that_is_cancelled_loads_it_himself(
    things: OnDemand[Made], server: Server
) -> None:
    async with loading(things) as first, loading(things) as second, loading(things) as third:
        await server.asked()
        await spin()
        first.cancel()
        question = await server.asked()
        await spin()
        assert server.silent
        question.answer(answer(10))
        assert await second is await third
    assert first.cancelled()


async def test_who_joined_and_is_cancelled_disturbs_nobody(
    things: OnDemand[Made], server: Server
) -> None:
    async with loading(things) as first, loading(things) as second:
        question = await server.asked()
        await spin()
        second.cancel()
        await asyncio.wait({second})
        assert second.cancelled()
        question.answer(answer(10))
        await first


@pytest.mark.parametrize("error", [Disconnected("no JetStream answers"), StoreError("too many")])
async def test_an_error_reaches_everybody_and_is_not_kept(
    error: StoreError, things: OnDemand[Made], server: Server
) -> None:
    async with loading(things) as first, loading(things) as second:
        question = await server.asked()
        await spin()
        question.answer(error)
        with pytest.raises(type(error)) as caught:
            await first
        assert caught.value is error
        with pytest.raises(NotLoaded, match=str(error)):
            await second
    assert things.get("ada", "acme") is None
    await keep(things, server)


async def test_who_joins_a_load_that_was_touched_gets_what_came_after(
    things: OnDemand[Made], server: Server
) -> None:
    async with loading(things) as first:
        question = await server.asked()
        touch(things)
        async with loading(things) as second:
            await spin()
            question.answer(answer(10, stored("thing.ada.acme", 7, {"old": True})))
            (await server.asked()).answer(answer(10))
            assert await first is await second
            assert (await second)[2] == {}


# --- how much ---


async def test_the_owner_longest_unused_goes_first(things: OnDemand[Made], server: Server) -> None:
    for owner in ("ada", "bob", "eve"):
        await keep(things, server, owner)
    assert things.get("ada", "acme") is not None
    await keep(things, server, "joe")
    assert things.get("bob", "acme") is None
    assert [things.get(owner, "acme") is not None for owner in ("ada", "eve", "joe")] == [True] * 3


async def test_an_owner_goes_with_all_parts_and_counts_once(server: Server) -> None:
    progress = Progress(SetClock())
    progress.reached(10)
    things = make(progress, capacity=1)
    for part in ("acme", "globex"):
        await keep(things, server, "ada", part)
    assert things.get("ada", "acme") is not None
    await keep(things, server, "eve")
    assert [things.get("ada", part) for part in ("acme", "globex")] == [None, None]


async def test_of_one_owner_so_many_parts_are_kept(things: OnDemand[Made], server: Server) -> None:
    """Else one principal of many tenants would hold the memory of many."""
    parts = [f"t{n}" for n in range(65)]
    for part in parts:
        await keep(things, server, "ada", part)
    assert things.get("ada", parts[0]) is None
    assert all(things.get("ada", part) is not None for part in parts[1:])


@pytest.mark.parametrize(
    "forget", [touch, OnDemand.clear], ids=["the owner is touched", "the feed starts anew"]
)
async def test_what_may_be_old_is_forgotten_in_all_parts(
    forget: Callable[[OnDemand[Made]], None], things: OnDemand[Made], server: Server
) -> None:
    for part in ("acme", "globex"):
        await keep(things, server, "ada", part)
    forget(things)
    assert [things.get("ada", part) for part in ("acme", "globex")] == [None, None]
    await keep(things, server)


async def test_too_many_loads_are_refused_and_those_at_work_go_on(
    things: OnDemand[Made], server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(on_demand, "_MOST_LOADING", 2)
    async with loading(things, "ada") as ada, loading(things, "bob") as bob:
        questions = [await server.asked(), await server.asked()]
        with pytest.raises(NotLoaded, match="too many"):
            await things.load("eve", "acme")
        async with loading(things, "ada") as joiner:
            await spin()
            for question in questions:
                question.answer(answer(10))
            assert await joiner is await ada
            await bob
    await keep(things, server, "eve")


def counted(result: str) -> float:
    labels = {"view": "things", "result": result}
    return REGISTRY.get_sample_value("tidegate_on_demand_loads_total", labels) or 0.0


@pytest.mark.parametrize(
    ("ending", "result"), [("answered", "loaded"), ("failed", "failed"), ("cancelled", "failed")]
)
async def test_every_end_of_a_load_makes_room_for_another_and_is_counted(
    ending: str,
    result: str,
    things: OnDemand[Made],
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = {each: counted(each) for each in ("loaded", "failed")}
    monkeypatch.setattr(on_demand, "_MOST_LOADING", 1)
    async with loading(things) as load:
        question = await server.asked()
        match ending:
            case "answered":
                question.answer(answer(10))
            case "failed":
                question.answer(Disconnected("gone"))
            case _:
                load.cancel()
        await asyncio.wait({load})
    grown = {each for each in before if counted(each) == before[each] + 1}
    assert grown == {result}
    touch(things)
    await keep(things, server)


async def test_only_so_many_are_read_at_once_and_all_come_to_their_turn(
    things: OnDemand[Made], server: Server
) -> None:
    async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as group:
        for n in range(200):
            group.create_task(things.load(f"u{n}", "acme"))
        await spin()
        for _ in range(200):
            (await server.asked()).answer(answer(10))
    assert server.most_at_once == 64
